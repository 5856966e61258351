"""
From logits to a token: temperature, then top-k, then top-p on what top-k left.

Source: temperature as in Ackley, Hinton & Sejnowski 1985; top-k: Fan et al. 2018, arXiv:1805.04833; top-p (nucleus):
        Holtzman et al. 2019, arXiv:1904.09751.
Cost:   a few passes over the V logits; only those that may be chosen are sorted.
"""

from __future__ import annotations

import numpy as np

from tinygpt.files.one_line import brief

_BLOCK = 64  # logits per block: the largest of each is found before any is sorted
NOT_FINITE = (
    "sample: the logits must be finite, got NaN or infinity: training of this model diverged, or its file is damaged; "
    "train again with a lower --lr, or use another checkpoint"
)
_FIRST_K = 256  # how many are sorted at first where top-p alone limits them


def sample(
    logits: np.ndarray,
    rng: np.random.Generator,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> int:
    """
    Sample one token: temperature first, then top-k, then top-p on what top-k left.

    Parameters
    ----------
    logits : array, shape (V,)
    rng : np.random.Generator
    temperature, top_k, top_p
        As in `generate_batch`. Of equal logits at a limit, those with lower ids are kept.

    Returns
    -------
    int

    Raises
    ------
    ValueError
        If the logits are not finite.

    Examples
    --------
    >>> sample(np.array([0.0, 3.0, 1.0]), np.random.default_rng(0), temperature=0)
    1
    """
    return choose(logits, rng.random() if temperature > 0 else 0.0, temperature, top_k, top_p)


def choose(
    logits: np.ndarray,
    uniform: float,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> int:
    """
    The token that `sample` samples for a uniform random number, by inverting the cumulative distribution.

    kernels/sampling.py is its twin, and chooses the same tokens.

    Parameters
    ----------
    logits, temperature, top_k, top_p
        As for `sample`.
    uniform : float
        From 0 up to, but not including, 1. Where the temperature is 0 it makes no difference.

    Returns
    -------
    int

    Raises
    ------
    ValueError
        If the logits are not finite.

    Examples
    --------
    >>> logits = np.log([0.5, 0.3, 0.2])
    >>> [choose(logits, uniform) for uniform in (0.1, 0.6, 0.9)]
    [0, 1, 2]
    """
    logits = np.asarray(logits)
    if not np.isfinite(logits).all():
        raise ValueError(NOT_FINITE)
    if temperature == 0:
        return int(np.argmax(logits))
    limited = top_k is not None and top_k < len(logits)
    order = top_k_ids(logits, top_k) if top_k is not None and limited else np.arange(len(logits))
    p = np.exp((np.asarray(logits[order], np.float64) - logits.max()) / temperature)
    if top_p is not None and top_p < 1:
        needed = top_p * p.sum() * (1 - 1e-12)  # sums round
        if not limited:
            order = _top_ids_reaching(p, needed)
            p = p[order]
        p = p[: np.searchsorted(np.cumsum(p), needed) + 1]
    cumulative = np.cumsum(p)
    return int(order[np.searchsorted(cumulative, uniform * cumulative[-1], side="right")])


def top_k_ids(logits: np.ndarray, k: int) -> np.ndarray:
    """
    The ids of the k highest logits, the highest first; of equal ones, the lower id first.

    Parameters
    ----------
    logits : array, shape (V,)
    k : int

    Returns
    -------
    ndarray of int, shape (min(k, V),)

    Examples
    --------
    >>> top_k_ids(np.array([1.0, 3.0, 2.0, 3.0]), 3)
    array([1, 3, 2])
    """
    k = min(k, len(logits))
    blocks = logits[: len(logits) // _BLOCK * _BLOCK].reshape(-1, _BLOCK).max(axis=1)
    # The maxima of k blocks are at least `limit`, so at least k logits are: the others cannot be among the top k.
    limit = np.partition(blocks, len(blocks) - k)[len(blocks) - k] if k <= len(blocks) else -np.inf
    candidates = np.flatnonzero(logits >= limit)
    return candidates[np.argsort(-logits[candidates], kind="stable")][:k]


def logprob(logits: np.ndarray, token: int) -> float:
    """Natural logarithm of a token's probability under the model itself: before temperature, top-k and top-p."""
    shifted = np.asarray(logits, np.float64) - np.max(logits)
    return float(shifted[token] - np.log(np.exp(shifted).sum()))


def _top_ids_reaching(p: np.ndarray, needed: float) -> np.ndarray:
    """The ids of the largest p, enough of them for a sum of `needed`; few more than these are sorted."""
    k = _FIRST_K
    while True:
        order = top_k_ids(p, k)
        if k >= len(p) or p[order].sum() >= needed:
            return order
        k *= 8


def check_sampling(temperature: float, top_k: int | None, top_p: float | None) -> None:
    """Raise TypeError or ValueError unless the options are possible."""
    for name, value in (("temperature", temperature), ("top_p", 1.0 if top_p is None else top_p)):
        if not isinstance(value, (int, float, np.integer, np.floating)):
            raise TypeError(f"generate: {name} must be a number, got {brief(value)}; 1 changes nothing")
    if not 0 <= temperature < np.inf:
        raise ValueError(
            f"generate: temperature must be at least 0 and finite, got {temperature}; 0 takes the most probable token"
        )
    if top_k is not None and not isinstance(top_k, (int, np.integer)):
        raise TypeError(f"generate: top_k must be an integer, got {top_k!r}; None is without a limit")
    if top_k is not None and top_k < 1:
        raise ValueError(f"generate: top_k must be at least 1, got {top_k}; None is without a limit")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"generate: top_p must be above 0 and at most 1, got {top_p}; 1 is without a limit")

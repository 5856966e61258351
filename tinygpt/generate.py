"""
From scores to text: choose the next token, append it, ask again.

Source: temperature as in Ackley, Hinton & Sejnowski 1985; top-k: Fan et al. 2018, arXiv:1805.04833; top-p (nucleus):
        Holtzman et al. 2019, arXiv:1904.09751.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from tinygpt.autograd import no_grad
from tinygpt.ops.embedding import check_ids
from tinygpt.ops.reductions import softmax_forward


def generate(
    model: Any,
    ids: Any,
    *,
    max_tokens: int = 100,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    stop_ids: Any = (),
) -> Iterator[int]:
    """
    Continue a text, one token at a time.

    Parameters
    ----------
    model : GPT
        Anything with `config.n_positions`, `config.vocab_size`, `hidden(tokens)`, `head(hidden)`, and a `training` flag
        that `train(mode)` sets. Dropout is off while it computes.
    ids : sequence of int
        The prompt, at least one token. Of a text longer than the context only the last `n_positions` are seen.
    max_tokens : int
        How many to generate at most.
    temperature : float
        0: always the most probable token. 1: the model's own probabilities. Above: flatter.
    top_k : int, optional
        Choose among the k most probable only.
    top_p : float, optional
        Choose among the most probable that together reach probability p, in (0, 1].
    seed : int, optional
        The same seed gives the same text; without one, every run differs.
    stop_ids : collection of int
        End before any of these (the end-of-text token, say).

    Yields
    ------
    int

    Raises
    ------
    TypeError, ValueError
        If the prompt is empty or out of range, or an option is. At the call, before the first token is asked for.

    Examples
    --------
    >>> from tinygpt import GPT, GPTConfig
    >>> model = GPT(GPTConfig(vocab_size=11, n_positions=8, n_embd=4, n_layer=1, n_head=2))
    >>> len(list(model.generate([1, 2], max_tokens=5, seed=0)))
    5
    """
    ids = check_ids("generate: ids", ids, model.config.vocab_size).reshape(-1).tolist()
    if not ids:
        raise ValueError("generate: the prompt must have at least one token, got none")
    if not isinstance(max_tokens, (int, np.integer)):
        raise TypeError(f"generate: max_tokens must be an integer, got {max_tokens!r}")
    if max_tokens < 0:
        raise ValueError(f"generate: max_tokens must be at least 0, got {max_tokens}")
    check_sampling(temperature, top_k, top_p)
    rng = np.random.default_rng(seed)
    stop_ids = frozenset(stop_ids)

    def tokens() -> Iterator[int]:
        for _ in range(max_tokens):
            token = sample(next_logits(model, ids[-model.config.n_positions :]), rng, temperature, top_k, top_p)
            if token in stop_ids:
                return
            ids.append(token)
            yield token

    return tokens()


def next_logits(model: Any, ids: list[int]) -> np.ndarray:
    """The scores (V,) of the token that follows `ids`, dropout off and nothing recorded."""
    was_training = model.training
    model.eval()
    try:
        with no_grad():
            hidden = model.hidden(np.array([ids]))  # (1, T, C)
            return model.head(hidden[:, -1]).data[0]  # (V,): the head is asked about the last token only
    finally:
        model.train(was_training)


def sample(
    logits: np.ndarray,
    rng: np.random.Generator,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> int:
    """
    Choose one token. First the temperature, then top-k, then top-p on what top-k left.

    Parameters
    ----------
    logits : array, shape (V,)
    rng, temperature, top_k, top_p
        As in `generate`. Equal scores at a limit are kept in order of their ids.

    Returns
    -------
    int

    Raises
    ------
    ValueError
        If the scores are not finite.

    Examples
    --------
    >>> sample(np.array([0.0, 3.0, 1.0]), np.random.default_rng(0), temperature=0)
    1
    """
    logits = np.asarray(logits, np.float64)
    if not np.isfinite(logits).all():
        raise ValueError("sample: the scores must be finite, got NaN or infinity; the weights are damaged")
    if temperature == 0:
        return int(np.argmax(logits))
    order = np.argsort(-logits, kind="stable")[: top_k or len(logits)]  # the most probable first
    p, _ = softmax_forward((logits[order] - logits[order[0]]) / temperature)
    if top_p is not None:
        reached = np.cumsum(p)
        p = p[: np.searchsorted(reached, top_p * reached[-1] * (1 - 1e-12)) + 1]  # 1e-12: sums round
    cumulative = np.cumsum(p)
    choice = np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right")
    return int(order[choice])


def check_sampling(temperature: float, top_k: int | None, top_p: float | None) -> None:
    """Raise TypeError or ValueError unless the options are possible."""
    if not 0 <= temperature < np.inf:
        raise ValueError(f"generate: temperature must be at least 0 and finite, got {temperature}")
    if top_k is not None and not isinstance(top_k, (int, np.integer)):
        raise TypeError(f"generate: top_k must be an integer, got {top_k!r}")
    if top_k is not None and top_k < 1:
        raise ValueError(f"generate: top_k must be at least 1, got {top_k}")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"generate: top_p must be above 0 and at most 1, got {top_p}")

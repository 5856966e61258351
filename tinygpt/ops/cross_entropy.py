"""
Cross-entropy: how surprised the model is by the token that came next, averaged over all tokens.

Throughout this file
    logits         (N, V)           one number per token of the vocabulary; N = all leading axes together
    shifted        (N, V)           the logits, the largest of each row moved to 0; v counts the vocabulary
    p              (N, V)           the model's probabilities        z     (N, 1)    what makes them sum to 1
    targets, nll   (N,)             the id that came next, and -ln of its probability
    counted        (N,)             1, or 0 where the target is `ignore_index`
    M, loss        ()               how many targets count; the mean, in nats: e^loss is the perplexity
    counted = 1[targets != ignore_index]                             M = sum_N(counted)

Forward                                              Backward, read upwards
    (1) shifted = logits - max_V(logits)
    (2) z = sum_V(e^shifted),  p = e^shifted / z     (3, 2) dlogits = (p - 1[v = targets]) * dnll
    (3) nll = ln(z) - shifted[v = targets]
    (4) loss = sum_N(counted * nll) / M              (4)    dnll = counted / M * dloss

Step (4). The mean gives each counted token the same share, dnll_n = dloss / M.
Step (3). nll = ln z - s_y, with s the shifted logits of one token and y its target. For any v:
    d nll / d s_v = d ln z / d s_v - 1[v = y]
Step (2). z = sum_j e^{s_j}, so
    d ln z / d s_v = (1 / z) e^{s_v} = p_v
    hence d nll / d s_v = p_v - 1[v = y]:  what was predicted minus what happened.
Step (1). s_v = l_v - m with m = max_j l_j. The share that reaches m is -sum_v (p_v - 1[v = y]) = -(1 - 1) = 0, so
    whichever logit was the largest receives nothing extra, and dlogits = dshifted: the step needs no line in backward.

What surprises people here
    The gradient is as simple as it looks, p minus one at the target, and each row of it sums to zero. Tokens that are
    not counted get none, and the mean divides by the number of those that are: padding does not weaken the gradient.

Source: Bishop, Pattern Recognition and Machine Learning, 2006, eq. 4.108-4.109 (softmax and its gradient).
Cost:   reads the logits, writes p; with GPT-2's vocabulary that is most of the memory of a training step.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinygpt.autograd import Op, Tensor, apply
from tinygpt.ops.basic import floating
from tinygpt.ops.choices import where
from tinygpt.ops.embedding import integers, require_ids
from tinygpt.ops.losses import check_reduction
from tinygpt.ops.reductions import log_softmax
from tinygpt.ops.shapes import as_tensor
from tinygpt.runtime.aliases import aliases
from tinygpt.runtime.memory import copied


# fmt: off
def cross_entropy_forward(logits, targets, ignore_index=-100):
    rows = np.arange(len(targets))
    counted = targets != ignore_index
    target = np.where(counted, targets, 0)                  # any valid id where the target is ignored
    count = max(counted.sum(), 1)                           # M
    shifted = logits - logits.max(axis=-1, keepdims=True)   # (1) (N, V)
    p = np.exp(shifted)                                     # (2) (N, V)
    z = p.sum(axis=-1, keepdims=True)                       # (2) (N, 1)
    p /= z                                                  # (2) (N, V)
    nll = np.log(z[:, 0]) - shifted[rows, target]           # (3) (N,)
    loss = nll[counted].sum() / count.astype(logits.dtype)  # (4) ()
    return loss, (p, target, counted, count)


def cross_entropy_backward(dloss, saved):
    p, target, counted, count = saved
    rows = np.arange(len(target))
    dnll = (counted / count * dloss).astype(p.dtype)  # (4) (N,)
    dlogits = p * dnll[:, None]                       # (2) (N, V)
    dlogits[rows, target] -= dnll                     # (3) (N, V)
    return (dlogits,)
# fmt: on


def check_cross_entropy(logits, targets, ignore_index=-100):
    """The attributes as forward takes them, or an error that says what does not fit."""
    if logits.ndim != 2 or logits.shape[1] == 0:
        raise ValueError(f"cross_entropy: logits must have shape (N, V) with V >= 1, got {logits.shape}")
    targets = check_targets("cross_entropy", targets, logits.shape[:1], logits.shape[1], ignore_index)
    return {"targets": targets, "ignore_index": ignore_index}


def check_targets(who: str, targets: Any, shape: tuple[int, ...], n_vocab: int, ignore_index: int) -> np.ndarray:
    """A copy of `targets` of this shape in int64; an error names invalid ones."""
    if isinstance(ignore_index, bool) or not isinstance(ignore_index, (int, np.integer)):
        raise TypeError(f"{who}: ignore_index must be an integer, got {ignore_index!r}")
    if not -(2**63) <= ignore_index < 2**63:
        raise ValueError(f"{who}: ignore_index must fit into int64, got {ignore_index}")
    targets = integers(f"{who}: targets", targets)
    if targets.shape != shape:
        remedy = _remedy_of_shape(targets.shape, (*shape, n_vocab))
        raise ValueError(f"{who}: targets must have shape {shape}, one per row of logits, got {targets.shape}{remedy}")
    counted = targets[targets != int(ignore_index)]  # in their own dtype: as int64 a huge unsigned one is negative
    if counted.size == 0:
        found = f"all {targets.size} are ignore_index = {ignore_index}" if targets.size else "there are none"
        raise ValueError(f"{who}: no target counts: {found}; leave such a batch out, for it has no mean")
    remedy = f"; a target is a column of logits, counted from 0, or ignore_index, which is {ignore_index}"
    require_ids(f"{who}: targets", counted, n_vocab, remedy)
    return copied(targets, np.int64)


def _remedy_of_shape(targets: tuple[int, ...], logits: tuple[int, ...]) -> str:
    """The end of an error about targets of a shape that does not fit; empty where the reason cannot be guessed."""
    rows = logits[:-1]
    if targets == logits:
        return "; of one-hot targets pass targets.argmax(axis=-1)"
    if math.prod(targets) == math.prod(rows) and 1 in (len(targets), len(rows)):
        return f"; write targets.reshape({rows})"
    for axis in range(len(rows)):
        if targets == logits[:axis] + logits[axis + 1 :]:
            order = [*range(axis), *range(axis + 1, len(logits)), axis]
            return (
                f"; the classes are on the last axis of the logits, not on axis {axis}: write logits.transpose({order})"
            )
    return ""


CROSS_ENTROPY = Op(
    "cross_entropy",
    cross_entropy_forward,
    cross_entropy_backward,
    kernel="tinygpt.kernels.cross_entropy",
    check=check_cross_entropy,
)


@aliases(input="logits", target="targets")
def cross_entropy(logits: Tensor, targets: Any, ignore_index: int = -100, reduction: str = "mean") -> Tensor:
    """
    Mean of -ln softmax(logits)[target] over the targets that are not `ignore_index`, in nats.

    The mean is one operation, with a kernel; the other reductions are composed, and keep more memory.

    Parameters
    ----------
    logits : Tensor, shape (..., V), float32 or float64
    targets : integer array, shape (...)
        From 0 to V - 1, or `ignore_index`.
    ignore_index : int
        Targets with this value do not count, neither in the sum nor in the mean.
    reduction : {"mean", "sum", "none"}
        "none" returns one number per target, 0 where it does not count.

    Returns
    -------
    Tensor, shape (), or (...) without reduction

    Raises
    ------
    TypeError
        If `targets` are not integers.
    ValueError
        If the shapes do not fit, a target is out of range, no target counts, or `reduction` is none of these.

    Examples
    --------
    >>> cross_entropy(Tensor(np.zeros((2, 3, 50257), np.float32)), np.zeros((2, 3), int))
    Tensor(10.824905, dtype=float32)
    """
    check_reduction("cross_entropy", reduction)
    logits = as_tensor(logits)
    if logits.ndim == 0:
        raise ValueError("cross_entropy: logits must have shape (..., V), got a scalar")
    if logits.dtype.kind != "f" and getattr(targets, "dtype", logits.dtype).kind == "f":
        raise TypeError(
            f"cross_entropy: logits must be floats and targets integers, got {logits.dtype} and {targets.dtype}; "
            "the order is cross_entropy(logits, targets)"
        )
    n_vocab = logits.shape[-1]
    targets = check_targets("cross_entropy", targets, logits.shape[:-1], n_vocab, ignore_index)
    if reduction != "mean":
        return nll_loss(log_softmax(logits), targets, ignore_index, reduction)
    flat = logits if logits.ndim == 2 else logits.reshape(-1, n_vocab)
    return apply(CROSS_ENTROPY, floating(flat), targets=targets.reshape(-1), ignore_index=ignore_index)


def nll_loss(log_probs: Tensor, targets: Any, ignore_index: int = -100, reduction: str = "mean") -> Tensor:
    """
    Mean of -log_probs[target] over the targets that are not `ignore_index`: cross-entropy after `log_softmax`.

    Parameters
    ----------
    log_probs : Tensor, shape (..., V), float32 or float64
        Logarithms of probabilities.
    targets, ignore_index, reduction
        As `cross_entropy` takes them. What is returned and raised is the same, too.

    Examples
    --------
    >>> nll_loss(Tensor([[-0.5, -2.0], [-3.0, -0.1]]), [1, 0])
    Tensor(2.5, dtype=float32)
    """
    check_reduction("nll_loss", reduction)
    log_probs = as_tensor(log_probs)
    if log_probs.ndim == 0:
        raise ValueError("nll_loss: log_probs must have shape (..., V), got a scalar")
    n_vocab = log_probs.shape[-1]
    targets = check_targets("nll_loss", targets, log_probs.shape[:-1], n_vocab, ignore_index)
    counted = targets != ignore_index
    target = np.where(counted, targets, 0)
    rows = log_probs.reshape(-1, n_vocab)[np.arange(target.size), target.reshape(-1)].reshape(*target.shape)
    nll = where(counted, -rows, 0.0)
    if reduction == "none":
        return nll
    return nll.sum() if reduction == "sum" else nll.sum() / counted.sum()

"""
GPT-2's head and its loss in one: a logit per token of the vocabulary, then cross-entropy. One op, because the logits
are by far the largest array of a training step, and only the loss needs them.

Throughout this file
    x              (N, C)           the last hidden state of each token
    weight         (V, C)           one row per token of the vocabulary: GPT-2's embedding table
    logits         (N, V)           one number per token of the vocabulary
    shifted        (N, V)           the logits, the largest of each row moved to 0; v counts the vocabulary
    p              (N, V)           the model's probabilities        z     (N, 1)    what makes them sum to 1
    targets, nll   (N,)             the id that came next, and -ln of its probability
    counted        (N,)             1, or 0 where the target is `ignore_index`
    M, loss        ()               how many targets count; the mean, in nats: e^loss is the perplexity
    counted = 1[targets != ignore_index]                             M = sum_N(counted)

Forward                                              Backward, read upwards
    (1) logits = x @ weight^T                        (1)    dx = dlogits @ weight,  dweight = dlogits^T @ x
    (2) shifted = logits - max_V(logits)
        z = sum_V(e^shifted),  p = e^shifted / z     (3, 2) dlogits = (p - 1[v = targets]) * dnll
    (3) nll = ln(z) - shifted[v = targets]
    (4) loss = sum_N(counted * nll) / M              (4)    dnll = counted / M * dloss

Steps (4) to (2) are those of cross_entropy.py, derived there.
Step (1). logits_nv = sum_c x_nc weight_vc, so
    d logits_nv / d x_nc      = weight_vc   and   dx_nc      = sum_v dlogits_nv weight_vc = (dlogits weight)_nc
    d logits_nv / d weight_vc = x_nc        and   dweight_vc = sum_n dlogits_nv x_nc      = (dlogits^T x)_vc

Row n of dlogits depends on row n of x only, up to the factor dloss. So the kernel goes through the rows in chunks, and
has loss, dx and dweight of a chunk before it forgets its logits: (N, V) never exists. This reference keeps p.

What surprises people here
    The kernel has the gradient before backward begins: while it holds a chunk of logits, it also makes dlogits and the
    two products of step (1). Backward only multiplies by dloss, which is usually 1.

Source: steps (2) to (4) Bishop, Pattern Recognition and Machine Learning, 2006, eq. 4.108-4.109; head tied to the
        embedding: Press & Wolf 2017, arXiv:1608.05859. The chunks: Wijmans et al. 2024, arXiv:2411.09009, in spirit.
Cost:   6 N V C operations: a third of a training step at GPT-2's size with a short context.
"""

from __future__ import annotations

from typing import Any

from tinygpt.autograd import Op, Tensor, apply
from tinygpt.ops.basic import floating
from tinygpt.ops.cross_entropy import check_targets, cross_entropy_backward, cross_entropy_forward
from tinygpt.ops.shapes import operands


# fmt: off
def linear_cross_entropy_forward(x, weight, targets, ignore_index=-100):
    logits = x @ weight.T                                                       # (1) (N, V)
    loss, probabilities = cross_entropy_forward(logits, targets, ignore_index)  # (2, 3, 4)
    return loss, (x, weight, probabilities)


def linear_cross_entropy_backward(dloss, saved):
    x, weight, probabilities = saved
    (dlogits,) = cross_entropy_backward(dloss, probabilities)  # (4, 3, 2) (N, V)
    dx = dlogits @ weight                                      # (1) (N, C)
    dweight = dlogits.T @ x                                    # (1) (V, C)
    return dx, dweight
# fmt: on


def check_linear_cross_entropy(x, weight, targets, ignore_index=-100):
    """The attributes as forward takes them, or an error that says what does not fit."""
    if x.ndim != 2:
        raise ValueError(f"linear_cross_entropy: x must have shape (N, C), got {x.shape}")
    check_head(x, weight)
    targets = check_targets("linear_cross_entropy", targets, x.shape[:1], len(weight), ignore_index)
    return {"targets": targets, "ignore_index": ignore_index}


def check_head(x: Any, weight: Any) -> None:
    """Raise unless the shapes fit together."""
    if weight.ndim != 2 or weight.size == 0:
        raise ValueError(f"linear_cross_entropy: weight must have shape (V, C) with V, C >= 1, got {weight.shape}")
    if x.ndim == 0 or x.shape[-1] != weight.shape[1]:
        raise ValueError(f"linear_cross_entropy: x must have shape (..., C) = (..., {weight.shape[1]}), got {x.shape}")


LINEAR_CROSS_ENTROPY = Op(
    "linear_cross_entropy",
    linear_cross_entropy_forward,
    linear_cross_entropy_backward,
    kernel="tinygpt.kernels.linear_cross_entropy",
    check=check_linear_cross_entropy,
)


def linear_cross_entropy(x: Tensor, weight: Tensor, targets: Any, ignore_index: int = -100) -> Tensor:
    """
    ``cross_entropy(x @ weight.T, targets)`` without the memory of the logits.

    Parameters
    ----------
    x : Tensor, shape (..., C), float32 or float64
    weight : Tensor, shape (V, C)
    targets : integer array, shape (...)
        From 0 to V - 1, or `ignore_index`.
    ignore_index : int
        Targets with this value do not count, neither in the sum nor in the mean.

    Returns
    -------
    Tensor, shape ()

    Raises
    ------
    TypeError
        If `targets` are not integers.
    ValueError
        If the shapes do not fit, a target is out of range, or no target counts.

    Examples
    --------
    >>> x, weight = Tensor([[1.0, 0.0]]), Tensor([[0.0, 5.0], [0.0, 7.0], [0.0, 9.0]])
    >>> linear_cross_entropy(x, weight, [2])  # all three logits are 0: ln 3
    Tensor(1.0986123, dtype=float32)
    """
    x, weight = map(floating, operands(x, weight))
    check_head(x, weight)
    n_vocab, n_embd = weight.shape
    if x.ndim != 2:  # else the op's own check is enough
        targets = check_targets("linear_cross_entropy", targets, x.shape[:-1], n_vocab, ignore_index).reshape(-1)
        x = x.reshape(-1, n_embd)
    return apply(LINEAR_CROSS_ENTROPY, x, weight, targets=targets, ignore_index=ignore_index)

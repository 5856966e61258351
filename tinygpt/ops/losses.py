"""
Losses composed of other operations, of predicted numbers and of answers "yes" or "no", and their reductions.

What surprises people here
    mse_loss    Predictions of shape (N, 1) and targets of shape (N,) would be broadcast to (N, N), and the loss would
                fall until all predictions are the mean of the targets. So the shapes must be equal.
    binary_cross_entropy_with_logits
                Its gradient is sigmoid(input) - target, as simple as that of mse_loss. Composed of log and sigmoid, it
                would be NaN where the sigmoid has underflowed to 0.
"""

from __future__ import annotations

from typing import Any

from tinygpt.autograd import Tensor
from tinygpt.ops.basic import floating, mul, neg, sub
from tinygpt.ops.choices import softplus
from tinygpt.ops.elementwise import abs
from tinygpt.ops.shapes import operands

REDUCTIONS = ("mean", "sum", "none")


def check_reduction(who: str, reduction: Any) -> None:
    """Raise ValueError unless `reduction` is one of `REDUCTIONS`."""
    if reduction not in REDUCTIONS:
        raise ValueError(f'{who}: reduction must be "mean", "sum" or "none", got {reduction!r}')


def mse_loss(input: Any, target: Any, reduction: str = "mean") -> Tensor:
    """
    The squared difference, its mean by default.

    Parameters
    ----------
    input : Tensor, any shape
    target : Tensor or array, same shape
    reduction : {"mean", "sum", "none"}
        What becomes of the losses of all elements; "none" returns them as they are.

    Returns
    -------
    Tensor, shape (), or that of `input`

    Raises
    ------
    ValueError
        If the shapes differ, or `reduction` is none of these.

    Examples
    --------
    >>> mse_loss(Tensor([1.0, 2.0]), [0.0, 4.0])
    Tensor(2.5, dtype=float32)
    """
    difference = sub(*_pair("mse_loss", input, target, reduction))
    return _reduced(mul(difference, difference), reduction)


def l1_loss(input: Any, target: Any, reduction: str = "mean") -> Tensor:
    """
    The absolute difference, its mean by default. Parameters and errors are those of `mse_loss`.

    Examples
    --------
    >>> l1_loss(Tensor([1.0, 2.0]), [0.0, 4.0])
    Tensor(1.5, dtype=float32)
    """
    return _reduced(abs(sub(*_pair("l1_loss", input, target, reduction))), reduction)


def binary_cross_entropy_with_logits(
    input: Any, target: Any, reduction: str = "mean", pos_weight: Any = None
) -> Tensor:
    """
    -target * ln(sigmoid(input)) - (1 - target) * ln(1 - sigmoid(input)), without overflow; its mean by default.

    Parameters
    ----------
    input : Tensor, any shape
        Logits: a positive one means "yes".
    target : Tensor or array, same shape
        1 for "yes", 0 for "no", or a probability.
    reduction : {"mean", "sum", "none"}
        What becomes of the losses of all elements; "none" returns them as they are.
    pos_weight : number, array or Tensor, optional
        How much a "yes" counts, compared with a "no".

    Returns
    -------
    Tensor, shape (), or that of `input`

    Raises
    ------
    ValueError
        If the shapes differ, or `reduction` is none of these.

    Examples
    --------
    >>> binary_cross_entropy_with_logits(Tensor([0.0, 100.0]), [1.0, 1.0], reduction="none").data.round(4)
    array([0.6931, 0.    ], dtype=float32)
    """
    input, target = _pair("binary_cross_entropy_with_logits", input, target, reduction)
    yes, no = mul(target, softplus(neg(input))), mul(sub(1, target), softplus(input))
    return _reduced((yes if pos_weight is None else mul(yes, pos_weight)) + no, reduction)


def _pair(who: str, input: Any, target: Any, reduction: str) -> list[Tensor]:
    """Input and target as tensors of one float type and one shape."""
    check_reduction(who, reduction)
    input, target = map(floating, operands(input, target))
    if input.shape != target.shape:
        raise ValueError(f"{who}: input and target must have the same shape, got {input.shape} and {target.shape}; "
                         "reshape one of them")  # fmt: skip
    return [input, target]


def _reduced(losses: Tensor, reduction: str) -> Tensor:
    return losses.mean() if reduction == "mean" else losses.sum() if reduction == "sum" else losses

"""Losses as modules: functions of `tinygpt.functional` with their options."""

from __future__ import annotations

from typing import Any

from tinygpt.autograd import Tensor
from tinygpt.nn.module import Module
from tinygpt.ops.cross_entropy import cross_entropy, nll_loss
from tinygpt.ops.losses import binary_cross_entropy_with_logits, check_reduction, l1_loss, mse_loss
from tinygpt.runtime.aliases import aliases


class _Loss(Module):
    """A loss whose elements are averaged, summed, or returned as they are."""

    def __init__(self, *, reduction: str = "mean") -> None:
        check_reduction(type(self).__name__, reduction)
        self.reduction = reduction

    def extra_repr(self) -> str:
        return "" if self.reduction == "mean" else f"reduction={self.reduction!r}"


class MSELoss(_Loss):
    """
    The squared difference: see `mse_loss`.

    Examples
    --------
    >>> MSELoss()(Tensor([1.0, 2.0]), [0.0, 4.0])
    Tensor(2.5, dtype=float32)
    """

    def forward(self, input: Any, target: Any) -> Tensor:
        return mse_loss(input, target, self.reduction)


class L1Loss(_Loss):
    """
    The absolute difference: see `l1_loss`.

    Examples
    --------
    >>> L1Loss(reduction="sum")(Tensor([1.0, 2.0]), [0.0, 4.0])
    Tensor(3., dtype=float32)
    """

    def forward(self, input: Any, target: Any) -> Tensor:
        return l1_loss(input, target, self.reduction)


class BCEWithLogitsLoss(_Loss):
    """
    The cross-entropy of answers "yes" or "no": see `binary_cross_entropy_with_logits`.

    Examples
    --------
    >>> BCEWithLogitsLoss()(Tensor([0.0]), [1.0])
    Tensor(0.6931472, dtype=float32)
    """

    pos_weight: Tensor | None

    def __init__(self, *, reduction: str = "mean", pos_weight: Any = None) -> None:
        super().__init__(reduction=reduction)
        self.register_buffer("pos_weight", pos_weight)

    def forward(self, input: Any, target: Any) -> Tensor:
        return binary_cross_entropy_with_logits(input, target, self.reduction, self.pos_weight)


class CrossEntropyLoss(_Loss):
    """
    The cross-entropy of logits (..., V) and targets (...): see `cross_entropy`.

    The classes are on the last axis, also where there are more than two; PyTorch has them on the second.

    Examples
    --------
    >>> CrossEntropyLoss()(Tensor([[0.0, 0.0], [0.0, 0.0]]), [1, -100])
    Tensor(0.6931472, dtype=float32)
    """

    @aliases()
    def __init__(self, *, ignore_index: int = -100, reduction: str = "mean") -> None:
        super().__init__(reduction=reduction)
        self.ignore_index = ignore_index

    def forward(self, input: Tensor, target: Any) -> Tensor:
        return cross_entropy(input, target, self.ignore_index, self.reduction)


class NLLLoss(CrossEntropyLoss):
    """
    Minus the logarithm of a probability, from log-probabilities (..., V) and targets (...): see `nll_loss`.

    Examples
    --------
    >>> NLLLoss()(Tensor([[-0.5, -2.0]]), [1])
    Tensor(2., dtype=float32)
    """

    def forward(self, input: Tensor, target: Any) -> Tensor:
        return nll_loss(input, target, self.ignore_index, self.reduction)

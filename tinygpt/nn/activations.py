"""Activations as modules: functions of `tinygpt.functional` that `Sequential` can hold."""

from __future__ import annotations

from tinygpt.autograd import Tensor
from tinygpt.nn.module import Module
from tinygpt.ops.elementwise import relu, sigmoid, silu, tanh
from tinygpt.ops.gelu import gelu
from tinygpt.ops.reductions import log_softmax, softmax


class ReLU(Module):
    """
    max(x, 0).

    Examples
    --------
    >>> ReLU()(Tensor([-1.0, 2.0]))
    Tensor([0., 2.], dtype=float32)
    """

    def __init__(self, inplace: bool = False) -> None:
        check_not_inplace("ReLU", inplace)

    def forward(self, x: Tensor) -> Tensor:
        return relu(x)


class Tanh(Module):
    """
    The hyperbolic tangent.

    Examples
    --------
    >>> Tanh()(Tensor([0.0, 1.0]))
    Tensor([0.       , 0.7615942], dtype=float32)
    """

    def forward(self, x: Tensor) -> Tensor:
        return tanh(x)


class Sigmoid(Module):
    """
    1 / (1 + e^(-x)): numbers from 0 to 1.

    Examples
    --------
    >>> Sigmoid()(Tensor([0.0, 1.0]))
    Tensor([0.5      , 0.7310586], dtype=float32)
    """

    def forward(self, x: Tensor) -> Tensor:
        return sigmoid(x)


class SiLU(Module):
    """
    x times its sigmoid.

    Examples
    --------
    >>> SiLU()(Tensor([0.0, 1.0]))
    Tensor([0.       , 0.7310586], dtype=float32)
    """

    def __init__(self, inplace: bool = False) -> None:
        check_not_inplace("SiLU", inplace)

    def forward(self, x: Tensor) -> Tensor:
        return silu(x)


class GELU(Module):
    """
    GELU in its tanh approximation, the one that GPT-2 uses.

    Parameters
    ----------
    approximate : {"tanh"}
        To be written out: without it, PyTorch's GELU is the exact one, which differs from this by up to 0.0005.

    Raises
    ------
    ValueError
        If it is anything else.

    Examples
    --------
    >>> GELU(approximate="tanh")(Tensor([0.0, 1.0]))
    Tensor([0.      , 0.841192], dtype=float32)
    """

    def __init__(self, approximate: str = "none") -> None:
        if approximate != "tanh":
            raise ValueError(f"GELU: approximate must be 'tanh', got {approximate!r}: the exact GELU is not here; "
                             "write GELU(approximate='tanh'), which differs by up to 0.0005")  # fmt: skip
        self.approximate = approximate

    def forward(self, x: Tensor) -> Tensor:
        return gelu(x)

    def extra_repr(self) -> str:
        return f"approximate={self.approximate!r}"


class Softmax(Module):
    """
    The softmax along an axis: numbers from 0 to 1 whose sum is 1.

    Parameters
    ----------
    dim : int
        The axis.

    Examples
    --------
    >>> Softmax(dim=-1)(Tensor([0.0, 0.0]))
    Tensor([0.5, 0.5], dtype=float32)
    """

    def __init__(self, dim: int) -> None:
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        return softmax(x, self.dim)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


class LogSoftmax(Softmax):
    """
    The logarithm of the softmax along an axis.

    Parameters
    ----------
    dim : int
        The axis.

    Examples
    --------
    >>> LogSoftmax(dim=-1)(Tensor([0.0, 0.0]))
    Tensor([-0.6931472, -0.6931472], dtype=float32)
    """

    def forward(self, x: Tensor) -> Tensor:
        return log_softmax(x, self.dim)


def check_not_inplace(who: str, inplace: bool) -> None:
    """Raise ValueError if a module is to overwrite its input: backward may need it."""
    if inplace:
        raise ValueError(f"{who}: inplace must be False, as backward may need the input; write {who}()")

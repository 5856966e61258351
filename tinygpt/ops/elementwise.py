"""
Functions of one number, element by element: exp, log, sqrt, tanh, relu.

Such a function has a diagonal Jacobian: its backward multiplies by the slope. Where the slope is cheaper to write with
the output than with the input (exp, sqrt, tanh), the output is what is saved.

Operation   Forward              Backward
    exp     out = e^a            da = dout * out
    log     out = ln(a)          da = dout / a
    sqrt    out = a^(1/2)        da = dout / (2 * out)
    tanh    out = tanh(a)        da = dout * (1 - out^2)
    relu    out = max(a, 0)      da = dout * 1[a > 0]

What surprises people here
    exp     The slope of e^a is e^a: the output is all that backward needs.
    log     The logarithm of a negative number is NaN, and yet its gradient dout / a is an ordinary number.
    sqrt    The slope at 0 is infinite: the gradient of sqrt(sum(x * x)) at x = 0 is infinity times 0, which is NaN.
    tanh    For |a| > 10 the output is exactly 1 or -1 in float32, and the gradient is exactly zero.
    relu    There is no slope at a = 0; by convention it is 0 here. A unit below 0 for every input stops learning.
"""

from __future__ import annotations

import numpy as np

from tinygpt.autograd import Op, Tensor, apply


def exp_forward(a):
    out = np.exp(a)
    return out, out


def exp_backward(dout, out):
    return (dout * out,)


EXP = Op("exp", exp_forward, exp_backward)


def exp(a: Tensor) -> Tensor:
    """
    e to the power a.

    Examples
    --------
    >>> exp(Tensor([0.0, 1.0]))
    Tensor([1.      , 2.718282], dtype=float32)
    """
    return apply(EXP, a)


def log_forward(a):
    return np.log(a), a


def log_backward(dout, a):
    return (dout / a,)


LOG = Op("log", log_forward, log_backward)


def log(a: Tensor) -> Tensor:
    """
    Natural logarithm.

    Examples
    --------
    >>> log(Tensor([1.0, 2.0]))
    Tensor([0.       , 0.6931472], dtype=float32)
    """
    return apply(LOG, a)


def sqrt_forward(a):
    out = np.sqrt(a)
    return out, out


def sqrt_backward(dout, out):
    return (dout / (2 * out),)


SQRT = Op("sqrt", sqrt_forward, sqrt_backward)


def sqrt(a: Tensor) -> Tensor:
    """
    Square root; its gradient at 0 is infinite, as the curve's slope is.

    Examples
    --------
    >>> sqrt(Tensor([4.0, 9.0]))
    Tensor([2., 3.], dtype=float32)
    """
    return apply(SQRT, a)


def tanh_forward(a):
    out = np.tanh(a)
    return out, out


def tanh_backward(dout, out):
    return (dout * (1 - out * out),)


TANH = Op("tanh", tanh_forward, tanh_backward)


def tanh(a: Tensor) -> Tensor:
    """
    Hyperbolic tangent.

    Examples
    --------
    >>> tanh(Tensor([0.0, 1.0]))
    Tensor([0.       , 0.7615942], dtype=float32)
    """
    return apply(TANH, a)


def relu_forward(a):
    return np.maximum(a, 0), a > 0


def relu_backward(dout, positive):
    return (dout * positive,)


RELU = Op("relu", relu_forward, relu_backward)


def relu(a: Tensor) -> Tensor:
    """
    max(a, 0); the gradient at 0 is 0.

    Examples
    --------
    >>> relu(Tensor([-1.0, 2.0]))
    Tensor([0., 2.], dtype=float32)
    """
    return apply(RELU, a)

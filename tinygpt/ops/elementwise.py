"""
Functions and choices, element by element: exp, log, sqrt, tanh, relu, maximum, minimum, where.

A function of one number per element has a diagonal Jacobian: its backward multiplies by the slope. Where the slope is
cheaper to write with the output than with the input (exp, sqrt, tanh), the output is what is saved. Where broadcasting
stretched an operand, its gradient is summed over its uses; the table leaves this sum out.

Operation   Forward                         Backward
    exp     out = e^a                       da = dout * out
    log     out = ln(a)                     da = dout / a
    sqrt    out = a^(1/2)                   da = dout / (2 * out)
    tanh    out = tanh(a)                   da = dout * (1 - out^2)
    relu    out = max(a, 0)                 da = dout * 1[a > 0]
    maximum out = max(a, b)                 da = dout * (1[a > b] + 1[a = b]/2)
                                            db = dout * (1[b > a] + 1[a = b]/2)
    where   out = where(condition, a, b)    da = where(condition, dout, 0)
                                            db = where(condition, 0, dout)

`minimum` is -maximum(-a, -b).

What surprises people here
    exp     The slope of e^a is e^a: the output is all that backward needs.
    log     The logarithm of a negative number is NaN, and yet its gradient dout / a is an ordinary number.
    sqrt    The slope at 0 is infinite: the gradient of sqrt(sum(x * x)) at x = 0 is infinity times 0, which is NaN.
    tanh    For |a| > 10 the output is exactly 1 or -1 in float32, and the gradient is exactly zero.
    relu    There is no slope at a = 0; by convention it is 0 here. A unit below 0 for every input stops learning.
    maximum Equal operands receive half of the gradient each, so maximum(x, x) has the gradient of x.
    where   The branch not taken receives 0, which an infinite slope turns into NaN: where(x > 0, sqrt(x), 0) at x = 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygpt.autograd import Op, Tensor, apply
from tinygpt.ops.shapes import apply_broadcast, operands, unbroadcast


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


def maximum_forward(a, b):
    return np.maximum(a, b), (a, b)


def maximum_backward(dout, saved):
    a, b = saved
    share = (a > b) + 0.5 * (a == b)
    share = share.astype(dout.dtype)
    return unbroadcast(dout * share, a.shape), unbroadcast(dout * (1 - share), b.shape)


MAXIMUM = Op("maximum", maximum_forward, maximum_backward)


def maximum(a: Any, b: Any) -> Tensor:
    """
    The larger of a and b, element by element; where they are equal each receives half of the gradient.

    Examples
    --------
    >>> maximum(Tensor([1.0, 5.0]), 3.0)
    Tensor([3., 5.], dtype=float32)
    """
    return apply_broadcast(MAXIMUM, a, b)


def minimum(a: Any, b: Any) -> Tensor:
    """
    The smaller of a and b, element by element: -maximum(-a, -b), ties included.

    Examples
    --------
    >>> minimum(Tensor([1.0, 5.0]), 3.0)
    Tensor([1., 3.], dtype=float32)
    """
    a, b = operands(a, b)
    if not a.dtype.kind == b.dtype.kind == "f":
        return Tensor(np.minimum(a.data, b.data))  # -a of an unsigned integer wraps around
    return -maximum(-a, -b)


def where_forward(a, b, condition):
    return np.where(condition, a, b), (condition, a.shape, b.shape)


def where_backward(dout, saved):
    condition, a_shape, b_shape = saved
    zero = dout.dtype.type(0)
    da, db = np.where(condition, dout, zero), np.where(condition, zero, dout)
    return unbroadcast(da, a_shape), unbroadcast(db, b_shape)


WHERE = Op("where", where_forward, where_backward)


def where(condition: Any, a: Any, b: Any) -> Tensor:
    """
    a where `condition` (a boolean array or tensor) holds, else b.

    Examples
    --------
    >>> where([True, False], Tensor([1.0, 2.0]), 0.0)
    Tensor([1., 0.], dtype=float32)
    """
    condition = np.asarray(condition, dtype=bool)
    return apply_broadcast(WHERE, a, b, condition=condition)

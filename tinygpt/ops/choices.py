"""
Choices between values, element by element: maximum, minimum, where, clip, and logaddexp, a smooth maximum.

The gradient goes to the value that was taken. Where broadcasting stretched an operand, its gradient is summed over its
uses; the table leaves this sum out.

Operation     Forward                         Backward
    maximum   out = max(a, b)                 da = dout * (1 - 1[a < b] - 1[a = b]/2)
                                              db = dout * (1 - 1[b < a] - 1[a = b]/2)
    where     out = where(condition, a, b)    da = where(condition, dout, 0)
                                              db = where(condition, 0, dout)
    clip      out = min(max(a, low), high)    da = dout * 1[a >= low] * 1[a <= high]
    logaddexp out = ln(e^a + e^b)             da = dout / (1 + e^(b - a)),  db = dout / (1 + e^(a - b))

`minimum` is -maximum(-a, -b). `softplus` is logaddexp(a, 0), a smooth relu; `leaky_relu` and `relu6` are choices by
where.

maximum, clip. The code selects dout or 0 where the table multiplies by 1 or 0: zero times infinity is NaN, and dout is
    infinite in sqrt(maximum(x, 0)), for one.

logaddexp. d out / d a = e^a / (e^a + e^b) = 1 / (1 + e^(b - a)), the sigmoid of a - b. Both slopes sum to 1: where
    maximum takes one operand, this takes shares, those of a softmax of two.

What surprises people here
    maximum   Equal operands receive half of the gradient each, so maximum(x, x) has the gradient of x. NaN is neither
              smaller nor equal: both receive all of the gradient, as in PyTorch, and its fault is seen in backward.
    where     The branch not taken receives 0, which an infinite slope turns into NaN: where(x > 0, sqrt(x), 0) at
              x = 0.
    clip      Outside the bounds the gradient is 0, so it never pulls a value back inside. At a bound it passes.
    logaddexp e^a overflows from a = 89 on in float32, so the code takes the larger of a and b out of the logarithm. The
              slopes are those of the difference: e^(a - out), the same number, is NaN for an infinite a.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygpt.autograd import Op, Tensor
from tinygpt.ops.basic import floating, mul
from tinygpt.ops.elementwise import relu, sigmoid_forward
from tinygpt.ops.shapes import apply_broadcast, operands, unbroadcast
from tinygpt.runtime.aliases import aliases


def maximum_forward(a, b):
    return np.maximum(a, b), (a, b)


def maximum_backward(dout, saved):
    a, b = saved
    share = np.where(a == b, dout / 2, dout)
    return unbroadcast(np.where(a < b, 0, share), a.shape), unbroadcast(np.where(b < a, 0, share), b.shape)


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


def where(condition: Any, a: Any = None, b: Any = None) -> Tensor:
    """
    a where `condition` (a boolean array or tensor) holds, else b.

    Raises
    ------
    TypeError
        For ``where(condition)``, the places: that is ``np.nonzero(condition)``.

    Examples
    --------
    >>> where([True, False], Tensor([1.0, 2.0]), 0.0)
    Tensor([1., 0.], dtype=float32)
    """
    if a is None or b is None:
        raise TypeError("where: needs a condition, a and b; for the places where it holds write np.nonzero(condition)")
    condition = np.asarray(condition, dtype=bool)
    return apply_broadcast(WHERE, a, b, condition=condition)


def clip_forward(a, low, high):
    return np.minimum(np.maximum(a, low), high), (a, low, high)


def clip_backward(dout, saved):
    a, low, high = saved
    return (unbroadcast(np.where((a >= low) & (a <= high), dout, 0), a.shape),)


CLIP = Op("clip", clip_forward, clip_backward)


@aliases(min="low", max="high")
def clip(a: Any, low: Any = None, high: Any = None) -> Tensor:
    """
    a, but at least `low` and at most `high`: min(max(a, low), high).

    Parameters
    ----------
    a : Tensor
    low, high : numbers, arrays or None
        The bounds, which broadcast; at least one of them. `min` and `max` are other names of them. Where one of them
        requires a gradient, the result is minimum(maximum(a, low), high), and at a bound each receives half.

    Raises
    ------
    TypeError
        If no bound is given.

    Examples
    --------
    >>> clip(Tensor([-2.0, 0.5, 3.0]), -1, 1)
    Tensor([-1. ,  0.5,  1. ], dtype=float32)
    >>> clip(Tensor([-2.0, 0.5, 3.0]), min=0)
    Tensor([0. , 0.5, 3. ], dtype=float32)
    """
    bounds = {name: bound for name, bound in (("low", low), ("high", high)) if bound is not None}
    if not bounds:
        raise TypeError("clip: needs a low bound, a high bound or both, got neither")
    if any(isinstance(bound, Tensor) and bound.requires_grad for bound in bounds.values()):
        raised = a if low is None else maximum(a, low)
        return raised if high is None else minimum(raised, high)
    a, *tensors = operands(a, *bounds.values())
    arrays = dict(zip(bounds, (tensor.data for tensor in tensors), strict=True))
    if a.dtype.kind != "f":
        return Tensor(np.clip(a.data, arrays.get("low"), arrays.get("high")))
    return apply_broadcast(CLIP, a, low=arrays.get("low", -np.inf), high=arrays.get("high", np.inf))


clamp = clip


def logaddexp_forward(a, b):
    return np.logaddexp(a, b), (a, b)


def logaddexp_backward(dout, saved):
    a, b = saved
    da, db = dout * sigmoid_forward(a - b)[0], dout * sigmoid_forward(b - a)[0]
    return unbroadcast(da, a.shape), unbroadcast(db, b.shape)


LOGADDEXP = Op("logaddexp", logaddexp_forward, logaddexp_backward)


def logaddexp(a: Any, b: Any) -> Tensor:
    """
    ln(e^a + e^b), with broadcasting and without overflow: the sum of two numbers whose logarithms are a and b.

    Examples
    --------
    >>> logaddexp(Tensor([0.0, 1000.0]), 1000.0)
    Tensor([1000.    , 1000.6932], dtype=float32)
    """
    a, b = operands(a, b)
    return apply_broadcast(LOGADDEXP, floating(a), b)


def softplus(a: Any) -> Tensor:
    """
    ln(1 + e^a), without overflow: a smooth relu. -softplus(-a) is the logarithm of sigmoid(a).

    Examples
    --------
    >>> softplus(Tensor([-100.0, 0.0, 1.0, 100.0])).data.round(4)
    array([  0.    ,   0.6931,   1.3133, 100.    ], dtype=float32)
    """
    return logaddexp(a, 0.0)


def leaky_relu(a: Any, negative_slope: float = 0.01) -> Tensor:
    """
    a where it is above 0, else negative_slope * a; so is the gradient.

    Examples
    --------
    >>> leaky_relu(Tensor([-2.0, 3.0]), 0.1)
    Tensor([-0.2,  3. ], dtype=float32)
    """
    (a,) = operands(a)
    return where(a > 0, a, mul(a, negative_slope))


def relu6(a: Any) -> Tensor:
    """
    min(max(a, 0), 6); the gradient at 0 and at 6 is 0, as in PyTorch.

    Examples
    --------
    >>> relu6(Tensor([-2.0, 3.0, 7.0]))
    Tensor([0., 3., 6.], dtype=float32)
    """
    (a,) = operands(a)
    return where(a >= 6, 6, relu(a))

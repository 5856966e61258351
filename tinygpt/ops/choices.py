"""
Choices between values, element by element: maximum, minimum, where.

The gradient goes to the value that was taken. Where broadcasting stretched an operand, its gradient is summed over its
uses; the table leaves this sum out.

Operation   Forward                         Backward
    maximum out = max(a, b)                 da = dout * (1[a > b] + 1[a = b]/2)
                                            db = dout * (1[b > a] + 1[a = b]/2)
    where   out = where(condition, a, b)    da = where(condition, dout, 0)
                                            db = where(condition, 0, dout)

`minimum` is -maximum(-a, -b).

What surprises people here
    maximum Equal operands receive half of the gradient each, so maximum(x, x) has the gradient of x.
    where   The branch not taken receives 0, which an infinite slope turns into NaN: where(x > 0, sqrt(x), 0) at x = 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygpt.autograd import Op, Tensor
from tinygpt.ops.shapes import apply_broadcast, operands, unbroadcast


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

"""
The same values in another arrangement: reshaped, transposed, selected, joined, or in another precision.

An operation that only moves values has a backward that only moves them back. Where a value is used several times, by
broadcasting or by a repeated index, it collects the sum of the gradients of its uses.

Forwards return views where NumPy does: no copy is made.

Operation        Forward                             Backward
    astype       out = astype(a, dtype)              da = astype(dout, a.dtype)
    reshape      out = reshape(x, shape)             dx = reshape(dout, x.shape)
    transpose    out = transpose(x, axes)            dx = transpose(dout, argsort(axes))
    broadcast_to out = broadcast_to(x, shape)        dx = unbroadcast(dout, x.shape)
    getitem      out = x[index]                      dx = scatter_add(dout, index, x.shape)
    concatenate  out = concatenate(arrays, axis)     darrays = split(dout, arrays, axis)

`squeeze` and `expand_dims` are reshapes, `swapaxes` is a transpose, `stack` concatenates reshaped tensors.

What surprises people here
    astype       The gradient comes back in the dtype of a: a float64 gradient is rounded where a is float32.
    reshape      It is a view: a weight and its reshaped form are the same memory.
    transpose    The gradient takes the inverse order, which is another one from three axes on: (2, 0, 1) undoes
                 (1, 2, 0).
    broadcast_to What is a stretch forward is a sum backward; a sum's backward is a stretch.
    getitem      An index that occurs twice collects two gradients; NumPy's dx[index] += dout would add only one.
    concatenate  The gradients are views of dout, one slice per input: nothing is computed, nothing is copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tinygpt.autograd import Op, Tensor, apply


def unbroadcast(gradient: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """
    Sum a gradient over the axes that broadcasting stretched, back to `shape`.

    Examples
    --------
    >>> unbroadcast(np.ones((2, 3)), (3,))
    array([2., 2., 2.])
    >>> unbroadcast(np.ones((2, 3)), (2, 1))
    array([[3.],
           [3.]])
    """
    new_axes = gradient.ndim - len(shape)
    stretched = tuple(new_axes + i for i, n in enumerate(shape) if n == 1 and gradient.shape[new_axes + i] != 1)
    axes = tuple(range(new_axes)) + stretched
    return gradient.sum(axis=axes, keepdims=True).reshape(shape) if axes else gradient


def operands(*values: Any) -> list[Tensor]:
    """
    The values as tensors of one float type.

    Tensors and float arrays decide it, as in NumPy (float32 with float64 gives float64). Python numbers, NumPy scalars
    and integer arrays follow: `x * 2`, `x / np.sqrt(d)` and `x * mask` stay float32 where x is.
    """
    arrays = [value.data if isinstance(value, Tensor) else value for value in values]
    deciding = [a.dtype for a in arrays if isinstance(a, np.ndarray) and a.dtype.kind == "f"]
    if not deciding and any(isinstance(value, float) for value in values):
        deciding = [np.dtype(np.float32)]  # integers and a Python float
    dtype = np.result_type(*deciding) if deciding else None
    tensors = []
    for value in values:
        if not isinstance(value, Tensor):
            tensors.append(Tensor(value, dtype=dtype))
        elif dtype is not None and value.dtype != dtype:
            tensors.append(astype(value, dtype))
        else:
            tensors.append(value)
    return tensors


def apply_broadcast(op: Op, *values: Any, **attrs: Any) -> Tensor:
    """
    Run an operation on operands of shapes that broadcast; attributes that are arrays broadcast, too.

    Raises
    ------
    ValueError
        If the shapes do not broadcast. They are looked at once the forward has failed, so that the others pay nothing.

    Examples
    --------
    >>> plus = Op("plus", lambda a, b: (a + b, None), lambda dout, saved: (dout, dout))
    >>> apply_broadcast(plus, [1.0, 2.0], [3.0, 4.0, 5.0])
    Traceback (most recent call last):
    ...
    ValueError: plus: needs shapes that broadcast, equal or 1 from the right, got (2,) and (3,); reshape one of them
    """
    tensors = operands(*values)
    try:
        return apply(op, *tensors, **attrs)
    except ValueError:
        check_broadcast(op.name, *(np.shape(value) for value in (*tensors, *attrs.values())))
        raise


def check_broadcast(who: str, *shapes: tuple[int, ...]) -> None:
    """Raise ValueError unless arrays of these shapes broadcast."""
    try:
        np.broadcast_shapes(*shapes)
    except ValueError:
        got = " and ".join(map(str, shapes))
        raise ValueError(
            f"{who}: needs shapes that broadcast, equal or 1 from the right, got {got}; reshape one of them"
        ) from None


def astype_forward(a, dtype):
    return a.astype(dtype), a.dtype


def astype_backward(dout, saved):
    return (dout.astype(saved),)


ASTYPE = Op("astype", astype_forward, astype_backward)


def astype(a: Tensor, dtype: Any) -> Tensor:
    """
    `a` in another dtype, one that a Tensor can have; the gradient of a float arrives in `a`'s own dtype.

    Examples
    --------
    >>> astype(Tensor([1.0]), np.float64).dtype
    dtype('float64')
    """
    dtype = np.dtype(dtype).newbyteorder("=")
    Tensor(np.empty(0, dtype))  # raises unless it is one that a tensor has
    return apply(ASTYPE, a, dtype=dtype)


def reshape_forward(x, shape):
    return x.reshape(shape), x.shape


def reshape_backward(dout, x_shape):
    return (dout.reshape(x_shape),)


RESHAPE = Op("reshape", reshape_forward, reshape_backward)


def reshape(x: Tensor, *shape: Any) -> Tensor:
    """
    The same values in another shape; one size may be -1.

    Examples
    --------
    >>> reshape(Tensor([1.0, 2.0, 3.0, 4.0]), 2, -1).shape
    (2, 2)
    """
    return apply(RESHAPE, x, shape=_unpacked(shape))


def squeeze(x: Tensor, axis: int | tuple[int, ...] | None = None) -> Tensor:
    """
    Without the axes of size 1 (all of them, or those named).

    Examples
    --------
    >>> squeeze(Tensor([[1.0], [2.0]])).shape
    (2,)
    """
    return reshape(x, np.squeeze(x.data, axis).shape)


def expand_dims(x: Tensor, axis: int | tuple[int, ...]) -> Tensor:
    """
    With new axes of size 1, which are at these places in the result.

    Examples
    --------
    >>> expand_dims(Tensor([1.0, 2.0]), 0).shape
    (1, 2)
    """
    return reshape(x, np.expand_dims(x.data, axis).shape)


def transpose_forward(x, axes):
    return x.transpose(axes), axes


def transpose_backward(dout, axes):
    return (dout.transpose(np.argsort(axes)),)


TRANSPOSE = Op("transpose", transpose_forward, transpose_backward)


def transpose(x: Tensor, *axes: Any) -> Tensor:
    """
    The axes in another order; without arguments, reversed.

    Examples
    --------
    >>> transpose(Tensor([[1.0, 2.0], [3.0, 4.0]]))
    Tensor([[1., 3.],
            [2., 4.]], dtype=float32)
    """
    order = _unpacked(axes) if axes else tuple(reversed(range(x.ndim)))
    positive = tuple(axis + x.ndim if axis < 0 else axis for axis in order)
    if sorted(positive) != list(range(x.ndim)):
        raise ValueError(f"transpose: axes must be a permutation of the {x.ndim} axes of {x.shape}, got {order}")
    return apply(TRANSPOSE, x, axes=positive)


def swapaxes(x: Tensor, axis1: int, axis2: int) -> Tensor:
    """
    Two axes exchanged.

    Examples
    --------
    >>> swapaxes(Tensor(np.ones((2, 3, 4))), 0, 1).shape
    (3, 2, 4)
    """
    order = list(range(x.ndim))
    order[axis1], order[axis2] = order[axis2], order[axis1]
    return transpose(x, order)


def broadcast_to_forward(x, shape):
    return np.broadcast_to(x, shape), x.shape


def broadcast_to_backward(dout, x_shape):
    return (unbroadcast(dout, x_shape),)


BROADCAST_TO = Op("broadcast_to", broadcast_to_forward, broadcast_to_backward)


def broadcast_to(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """
    Stretched to `shape` by NumPy's rule, without a copy.

    Examples
    --------
    >>> broadcast_to(Tensor([1.0, 2.0]), (3, 2)).shape
    (3, 2)
    """
    return apply(BROADCAST_TO, x, shape=tuple(shape))


def getitem_forward(x, index):
    return x[index], (x.shape, index)


def getitem_backward(dout, saved):
    x_shape, index = saved
    dx = np.zeros(x_shape, dout.dtype)
    np.add.at(dx, index, dout)  # dx[index] += dout would add a repeated index only once
    return (dx,)


GETITEM = Op("getitem", getitem_forward, getitem_backward)


def getitem(x: Tensor, index: Any) -> Tensor:
    """
    x[index] with NumPy's indices: integers, slices, None, ..., integer arrays (repeats allowed) and boolean masks.

    Raises
    ------
    IndexError
        As NumPy: an index out of bounds, or too many.

    Examples
    --------
    >>> x = Tensor([1.0, 2.0, 3.0], requires_grad=True)
    >>> x[np.array([0, 0, 2])].backward(np.ones(3, np.float32))
    >>> x.grad
    array([2., 0., 1.], dtype=float32)
    """
    parts = index if isinstance(index, tuple) else (index,)
    index = tuple(part.data if isinstance(part, Tensor) else part for part in parts)
    return apply(GETITEM, x, index=index)


def concatenate_forward(*arrays, axis):
    return np.concatenate(arrays, axis), ([array.shape[axis] for array in arrays], axis)


def concatenate_backward(dout, saved):
    sizes, axis = saved
    return tuple(np.split(dout, np.cumsum(sizes)[:-1], axis))


CONCATENATE = Op("concatenate", concatenate_forward, concatenate_backward)


def concatenate(tensors: Sequence[Any], axis: int = 0) -> Tensor:
    """
    The tensors one after the other along an existing axis.

    Examples
    --------
    >>> concatenate([Tensor([1.0]), Tensor([2.0, 3.0])])
    Tensor([1., 2., 3.], dtype=float32)
    """
    _check_list("concatenate", tensors)
    if not len(tensors):
        raise ValueError("concatenate: needs at least one tensor, got none")
    return apply(CONCATENATE, *operands(*tensors), axis=axis)


def stack(tensors: Sequence[Any], axis: int = 0) -> Tensor:
    """
    The tensors one after the other along a new axis.

    Examples
    --------
    >>> stack([Tensor([1.0, 2.0]), Tensor([3.0, 4.0])]).shape
    (2, 2)
    """
    _check_list("stack", tensors)
    return concatenate([expand_dims(tensor, axis) for tensor in operands(*tensors)], axis)


def _check_list(who: str, tensors: Any) -> None:
    if isinstance(tensors, (Tensor, str)):
        got = f"one of shape {tensors.shape}" if isinstance(tensors, Tensor) else repr(tensors)
        raise TypeError(f"{who}: needs a list of tensors, got {got}; write {who}([a, b])")


def _unpacked(sizes: tuple[Any, ...]) -> tuple[int, ...]:
    """x.reshape(2, 3) and x.reshape((2, 3)) mean the same, as in NumPy."""
    return tuple(sizes[0]) if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)) else tuple(sizes)

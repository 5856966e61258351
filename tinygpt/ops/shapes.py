"""
The same values in another arrangement: reshaped, transposed, selected, joined, padded, or in another precision.

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
    pad          out = pad(x, widths, value)         dx = cut(dout, widths)

`squeeze`, `expand_dims` and `flatten` are reshapes, `swapaxes` is a transpose, `expand` is broadcast_to, `stack`
concatenates reshaped tensors.

What surprises people here
    astype       The gradient comes back in the dtype of a: a float64 gradient is rounded where a is float32.
    reshape      It is a view: a weight and its reshaped form are the same memory.
    transpose    The gradient takes the inverse order, which is another one from three axes on: (2, 0, 1) undoes
                 (1, 2, 0).
    broadcast_to What is a stretch forward is a sum backward; a sum's backward is a stretch.
    getitem      An index that occurs twice collects two gradients; NumPy's dx[index] += dout would add only one.
    concatenate  The gradients are views of dout, one slice per input: nothing is computed, nothing is copied.
    pad          The padding has a gradient in dout too, but is a constant: backward cuts it off.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.exceptions import AxisError

from tinygpt.autograd import Op, Tensor, apply
from tinygpt.autograd.conversion import numpy_dtype
from tinygpt.runtime.aliases import aliases


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


def as_tensor(x: Any) -> Tensor:
    """
    A tensor as it is, or one of an array, a list or a number.

    Examples
    --------
    >>> as_tensor([1.0, 2.0])
    Tensor([1., 2.], dtype=float32)
    """
    return x if isinstance(x, Tensor) else Tensor(x)


def operands(*values: Any) -> list[Tensor]:
    """
    The values as tensors of one float type.

    Tensors and float arrays decide it, as in NumPy (float32 with float64 gives float64). Python numbers and lists of
    them, NumPy scalars and integer arrays follow: `x * 2`, `x / np.sqrt(d)` and `x * mask` stay float32 where x is.
    """
    dtypes = {value.dtype if isinstance(value, Tensor) else None for value in values}
    if len(dtypes) == 1 and None not in dtypes:
        return list(values)  # of one dtype already
    arrays = [value for value in values if isinstance(value, (Tensor, np.ndarray))]
    deciding = [array.dtype for array in arrays if array.dtype.kind == "f"]
    if not deciding and any(
        isinstance(value, (float, np.floating, list, tuple)) and as_tensor(value).dtype.kind == "f" for value in values
    ):
        deciding = [np.dtype(np.float32)]  # integers and Python floats
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


def checked_axis(who: str, axis: Any, ndim: int) -> Any:
    """
    An axis, or a tuple of axes, of an array of `ndim` axes, counted from 0; None stays None.

    A 0-d array may be given 0 or -1, as in PyTorch. It has no such axis: the answer is ().

    Raises
    ------
    TypeError
        If it is not an integer, nor a tuple of them.
    ValueError
        If an axis is not there (NumPy's AxisError), or is named twice.

    Examples
    --------
    >>> checked_axis("sum", -1, 3), checked_axis("sum", (0, -1), 3), checked_axis("sum", -1, 0)
    (2, (0, 2), ())
    """
    if axis is None:
        return None
    size = ndim or 1
    axes = axis if isinstance(axis, (tuple, list)) else (axis,)
    for each in axes:
        if isinstance(each, bool) or not isinstance(each, (int, np.integer)):
            raise TypeError(f"{who}: axis must be an integer or a tuple of integers, got {_told(each)}")
        if not -size <= each < size:
            raise AxisError(
                f"{who}: axis must be from {-size} to {size - 1} for a tensor of {ndim} axes, got {each}; "
                "axes count from 0, and -1 is the last"
            )
    places = tuple([int(each) % size for each in axes])
    if len(set(places)) < len(places):
        raise ValueError(f"{who}: each axis may be named once, got {axis} for a tensor of {ndim} axes")
    return () if not ndim else places if axes is axis else places[0]


def _told(value: Any) -> str:
    return f"one of shape {value.shape}" if isinstance(value, (Tensor, np.ndarray)) else repr(value)


def one_axis(who: str, axis: Any, ndim: int) -> int:
    """One axis, counted from 0; a 0-d array is taken as an array of one value, along axis 0."""
    if not isinstance(axis, (int, np.integer)):
        raise TypeError(f"{who}: axis must be an integer, got {_told(axis)}")
    return checked_axis(who, axis, ndim) or 0


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
    dtype = numpy_dtype("astype", dtype).newbyteorder("=")
    Tensor(np.empty(0, dtype))  # raises unless it is one that a tensor has
    return apply(ASTYPE, a, dtype=dtype)


def reshape_forward(x, shape):
    return x.reshape(shape), x.shape


def reshape_backward(dout, x_shape):
    return (dout.reshape(x_shape),)


def check_reshape(x, shape):
    """One size may be -1; the others are whole numbers, and multiply to the number of values."""
    sizes = checked_sizes("reshape", shape)
    known = math.prod(size for size in sizes if size != -1)
    fits = x.size % known == 0 if sizes.count(-1) == 1 and known else x.size == known and -1 not in sizes
    if not fits or min(sizes, default=0) < -1:
        raise ValueError(
            f"reshape: sizes must multiply to {x.size} for shape {x.shape}, and one may be -1, got {sizes}; "
            f"choose sizes whose product divides {x.size}"
        )
    return {"shape": sizes}


def checked_sizes(who: str, sizes: Sequence[Any]) -> tuple[int, ...]:
    """Sizes as Python's integers; TypeError if one is none."""
    try:
        return tuple([operator.index(size) for size in sizes])
    except TypeError:
        raise TypeError(f"{who}: sizes must be integers, got {', '.join(map(_told, sizes))}") from None


RESHAPE = Op("reshape", reshape_forward, reshape_backward, check=check_reshape)


def reshape(x: Tensor, *shape: Any) -> Tensor:
    """
    The same values in another shape; one size may be -1.

    It shares memory where NumPy's does, and copies where the values lie in another order, after a transpose.

    Raises
    ------
    ValueError
        If the sizes do not multiply to the number of values.

    Examples
    --------
    >>> reshape(Tensor([1.0, 2.0, 3.0, 4.0]), 2, -1).shape
    (2, 2)
    """
    return apply(RESHAPE, x, shape=unpacked(shape))


@aliases(dim="axis")
def squeeze(x: Tensor, axis: int | tuple[int, ...] | None = None) -> Tensor:
    """
    Without the axes of size 1 (all of them, or those named).

    Raises
    ------
    ValueError
        If an axis that is named has another size.

    Examples
    --------
    >>> squeeze(Tensor([[1.0], [2.0]])).shape
    (2,)
    """
    x = as_tensor(x)
    axis = checked_axis("squeeze", axis, x.ndim)
    if axis is None:
        return reshape(x, tuple([size for size in x.shape if size != 1]))
    dropped = axis if isinstance(axis, tuple) else (axis,)
    if any(x.shape[each] != 1 for each in dropped):
        raise ValueError(
            f"squeeze: axis {axis} must have size 1, got shape {x.shape}; without axis all such are dropped"
        )
    return reshape(x, tuple([size for i, size in enumerate(x.shape) if i not in dropped]))


@aliases(dim="axis")
def expand_dims(x: Tensor, axis: int | tuple[int, ...]) -> Tensor:
    """
    With new axes of size 1, which are at these places in the result.

    Examples
    --------
    >>> expand_dims(Tensor([1.0, 2.0]), 0).shape
    (1, 2)
    """
    x = as_tensor(x)
    new = axis if isinstance(axis, (tuple, list)) else (axis,)
    places = checked_axis("expand_dims", tuple(new), x.ndim + len(new))
    sizes = iter(x.shape)
    return reshape(x, tuple([1 if i in places else next(sizes) for i in range(x.ndim + len(new))]))


def flatten(x: Tensor, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    """
    The axes from `start_dim` to `end_dim`, both included, as one; by default all of them.

    Examples
    --------
    >>> flatten(Tensor(np.ones((2, 3, 4)))).shape, flatten(Tensor(np.ones((2, 3, 4))), 1).shape
    ((24,), (2, 12))
    """
    x = as_tensor(x)
    first, last = (one_axis("flatten", each, x.ndim) for each in (start_dim, end_dim))
    if first > last:
        raise ValueError(f"flatten: start_dim must not come after end_dim, got {start_dim} and {end_dim}")
    return reshape(x, (*x.shape[:first], math.prod(x.shape[first : last + 1]), *x.shape[last + 1 :]))


def transpose_forward(x, axes):
    return x.transpose(axes), axes


def transpose_backward(dout, axes):
    return (dout.transpose(np.argsort(axes)),)


TRANSPOSE = Op("transpose", transpose_forward, transpose_backward)


def transpose(x: Tensor, *axes: Any) -> Tensor:
    """
    The axes in another order; without arguments, reversed. Two axes of three or more are exchanged, as in PyTorch.

    Raises
    ------
    ValueError
        If the axes are neither two of more, nor all of the tensor's, each once.
    TypeError
        For `transpose(x, 0, 1)` of two axes: they are NumPy's order, which changes nothing, and PyTorch's exchange.

    Examples
    --------
    >>> transpose(Tensor([[1.0, 2.0], [3.0, 4.0]]))
    Tensor([[1., 3.],
            [2., 4.]], dtype=float32)
    """
    x = as_tensor(x)
    if len(axes) == 2 and x.ndim > 2:
        return swapaxes(x, *axes)  # NumPy, which takes all axes, has no meaning for it
    order = tuple(reversed(range(x.ndim))) if axes in ((), (None,)) else unpacked(axes)
    whole = all(isinstance(axis, (int, np.integer)) for axis in order)
    positive = tuple(axis + x.ndim if axis < 0 else axis for axis in order) if whole else ()
    if not whole or sorted(positive) != list(range(x.ndim)):
        raise ValueError(f"transpose: axes must be a permutation of the {x.ndim} axes of {x.shape}, got {order}")
    if len(axes) == 2 and positive == (0, 1):
        raise TypeError(
            f"transpose: {order} leaves the axes in place in NumPy and exchanges them in PyTorch; "
            f"write swapaxes{order} or x.T to exchange them"
        )
    return apply(TRANSPOSE, x, axes=positive)


def permute(x: Tensor, *axes: Any) -> Tensor:
    """
    `transpose` by PyTorch's name, where the axes are always the whole order.

    Examples
    --------
    >>> permute(Tensor(np.ones((2, 3, 4))), 2, 0, 1).shape
    (4, 2, 3)
    """
    return transpose(x, unpacked(axes))


@aliases(dim0="axis1", dim1="axis2")
def swapaxes(x: Tensor, axis1: int, axis2: int) -> Tensor:
    """
    Two axes exchanged.

    Examples
    --------
    >>> swapaxes(Tensor(np.ones((2, 3, 4))), 0, 1).shape
    (3, 2, 4)
    """
    x = as_tensor(x)
    order, axis1, axis2 = list(range(x.ndim)), *(one_axis("swapaxes", axis, x.ndim) for axis in (axis1, axis2))
    if order:
        order[axis1], order[axis2] = axis2, axis1
    return transpose(x, order)


def broadcast_to_forward(x, shape):
    return np.broadcast_to(x, shape), x.shape


def broadcast_to_backward(dout, x_shape):
    return (unbroadcast(dout, x_shape),)


def check_broadcast_to(x, shape):
    """As NumPy: sizes equal or 1, from the right."""
    shape = checked_sizes("broadcast_to", shape)
    fits = all(n in (1, size) for n, size in zip(x.shape[::-1], shape[::-1], strict=False))
    if not fits or x.ndim > len(shape) or min(shape, default=0) < 0:
        raise ValueError(f"broadcast_to: sizes must be equal or 1 from the right, got shape {x.shape} for {shape}")
    return {"shape": shape}


BROADCAST_TO = Op("broadcast_to", broadcast_to_forward, broadcast_to_backward, check=check_broadcast_to)


def broadcast_to(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """
    Stretched to `shape` by NumPy's rule, without a copy.

    Raises
    ------
    ValueError
        If the shape does not broadcast to it.

    Examples
    --------
    >>> broadcast_to(Tensor([1.0, 2.0]), (3, 2)).shape
    (3, 2)
    """
    return apply(BROADCAST_TO, x, shape=unpacked((shape,)))


def expand(x: Tensor, *sizes: Any) -> Tensor:
    """
    `broadcast_to` as PyTorch has it: a size of -1 keeps that of `x`.

    Examples
    --------
    >>> expand(Tensor([[1.0], [2.0]]), -1, 3).shape
    (2, 3)
    """
    x, shape = as_tensor(x), checked_sizes("expand", unpacked(sizes))
    if -1 in shape[: len(shape) - x.ndim]:
        raise ValueError(f"expand: -1 keeps the size of an axis, and a new one has none; got {shape} for {x.shape}")
    own = (-1,) * (len(shape) - x.ndim) + x.shape
    return broadcast_to(x, tuple([kept if size == -1 else size for size, kept in zip(shape, own, strict=False)]))


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
        If an index is out of bounds, there are too many, or one is not an integer, a slice or a mask.

    Examples
    --------
    >>> x = Tensor([1.0, 2.0, 3.0], requires_grad=True)
    >>> x[np.array([0, 0, 2])].backward(np.ones(3, np.float32))
    >>> x.grad
    array([2., 0., 1.], dtype=float32)
    """
    x = as_tensor(x)
    parts = index if isinstance(index, tuple) else (index,)
    index = tuple(part.data if isinstance(part, Tensor) else part for part in parts)
    try:
        return apply(GETITEM, x, index=index)
    except (IndexError, TypeError, ValueError) as error:
        for part in index:
            _check_index(part)
        if not isinstance(error, IndexError):
            raise
        raise IndexError(f"getitem: the index does not fit shape {x.shape}: {error}") from None


def _check_index(part: Any) -> None:
    """Raise IndexError unless this is something that an array may be indexed with."""
    if isinstance(part, slice):
        bounds = (part.start, part.stop, part.step)
        if part.step == 0 or not all(bound is None or hasattr(bound, "__index__") for bound in bounds):
            raise IndexError(f"getitem: a slice must have integers, and a step other than 0, got {part}")
    elif part is not None and part is not ...:
        try:
            array = np.asarray(part)
        except ValueError:
            raise IndexError(f"getitem: the rows of an index must have one length, got {part!r}") from None
        if array.size and array.dtype.kind not in "iub":
            remedy = "; write index.astype(int)" if array.dtype.kind == "f" and array.ndim else ""
            got = array.dtype if isinstance(part, np.ndarray) else repr(part)
            raise IndexError(f"getitem: an index must be of integers, slices or a mask, got {got}{remedy}")


def concatenate_forward(*arrays, axis):
    return np.concatenate(arrays, axis), ([array.shape[axis] for array in arrays], axis)


def concatenate_backward(dout, saved):
    sizes, axis = saved
    return tuple(np.split(dout, np.cumsum(sizes)[:-1], axis))


def check_concatenate(*arrays, axis):
    """Arrays whose sizes are the same along all axes but `axis`."""
    shapes, ndim = [array.shape for array in arrays], arrays[0].ndim
    got = " and ".join(map(str, dict.fromkeys(shapes)))
    if not all(shapes):
        raise ValueError(f"concatenate: needs tensors of at least one axis, got {got}; write stack")
    axis = one_axis("concatenate", axis, ndim)
    if len({(len(shape), *shape[:axis], *shape[axis + 1 :]) for shape in shapes}) > 1:
        raise ValueError(f"concatenate: the shapes must be equal but for axis {axis}, got {got}")
    return {"axis": axis}


CONCATENATE = Op("concatenate", concatenate_forward, concatenate_backward, check=check_concatenate)


@aliases(dim="axis")
def concatenate(tensors: Sequence[Any], axis: int = 0) -> Tensor:
    """
    The tensors one after the other along an existing axis.

    Raises
    ------
    ValueError
        If there is none, or their shapes differ along another axis.

    Examples
    --------
    >>> concatenate([Tensor([1.0]), Tensor([2.0, 3.0])])
    Tensor([1., 2., 3.], dtype=float32)
    """
    _check_list("concatenate", tensors)
    return apply(CONCATENATE, *operands(*tensors), axis=axis)


@aliases(dim="axis")
def stack(tensors: Sequence[Any], axis: int = 0) -> Tensor:
    """
    The tensors one after the other along a new axis.

    Raises
    ------
    ValueError
        If there is none, or their shapes differ.

    Examples
    --------
    >>> stack([Tensor([1.0, 2.0]), Tensor([3.0, 4.0])]).shape
    (2, 2)
    """
    _check_list("stack", tensors)
    tensors = operands(*tensors)
    shapes = dict.fromkeys([tensor.shape for tensor in tensors])
    if len(shapes) > 1:
        raise ValueError(f"stack: the shapes must be equal, got {' and '.join(map(str, shapes))}")
    axis = one_axis("stack", axis, tensors[0].ndim + 1)
    return concatenate([expand_dims(tensor, axis) for tensor in tensors], axis)


def pad_forward(x, widths, value):
    return np.pad(x, widths or 0, constant_values=value), (x.shape, widths)  # NumPy does not take () for no axes


def pad_backward(dout, saved):
    shape, widths = saved
    return (dout[tuple([slice(before, before + size) for size, (before, _) in zip(shape, widths, strict=True)])],)


PAD = Op("pad", pad_forward, pad_backward)


@aliases(value="constant_values")
def pad(x: Tensor, pad_width: Any, mode: str = "constant", constant_values: float = 0.0) -> Tensor:
    """
    With more elements before and after those of each axis, all of one value.

    Parameters
    ----------
    x : Tensor
    pad_width : int, or pairs of int
        ``((before, after), ...)``, a pair for each axis, or one pair in a tuple, or one number, for all of them.
    mode : "constant"
    constant_values : float

    Raises
    ------
    TypeError
        For the widths of PyTorch's `F.pad`, a flat list that begins with the last axis: it says how to write them here.

    Examples
    --------
    >>> pad(Tensor([1.0, 2.0]), ((1, 2),))
    Tensor([0., 1., 2., 0., 0.], dtype=float32)
    """
    x = as_tensor(x)
    if mode != "constant":
        raise ValueError(f"pad: mode must be 'constant', got {mode!r}")
    if np.ndim(constant_values) or np.asarray(constant_values).dtype.kind not in "fiub":
        raise TypeError(f"pad: constant_values must be one number, got {_told(constant_values)}")
    try:
        given = np.asarray(pad_width)
    except ValueError:  # rows of several lengths
        given = np.zeros(3, int)  # of no shape that is taken
    if (given.size and given.dtype.kind not in "iu") or given.min(initial=0) < 0:
        raise ValueError(f"pad: widths must be integers from 0 on, got {pad_width}")
    if given.ndim == 1 and not (x.ndim == 1 and given.size == 2):  # for NumPy a pair for all axes, for PyTorch no pair
        pairs = tuple(map(tuple, given.reshape(-1, 2)[::-1].tolist())) if given.size % 2 == 0 else ()
        here = ((0, 0),) * (x.ndim - len(pairs)) + pairs
        meant = f"; for PyTorch's list, the last axis first, write {here}" if pairs else ""
        raise TypeError(f"pad: needs a pair (before, after) for each of {x.ndim} axes, got {pad_width}{meant}")
    if given.shape not in ((), (2,), (1, 2), (x.ndim, 2)):
        raise ValueError(f"pad: needs a pair (before, after) for each of {x.ndim} axes, got {pad_width}")
    widths = tuple(map(tuple, np.broadcast_to(given, (x.ndim, 2)).tolist()))
    return apply(PAD, x, widths=widths, value=constant_values)


def _check_list(who: str, tensors: Any) -> None:
    if isinstance(tensors, (Tensor, str)):
        raise TypeError(f"{who}: needs a list of tensors, got {_told(tensors)}; write {who}([a, b])")
    if not len(tensors):
        raise ValueError(f"{who}: needs at least one tensor, got none")


def unpacked(sizes: tuple[Any, ...]) -> tuple[int, ...]:
    """x.reshape(2, 3) and x.reshape((2, 3)) mean the same, as in NumPy."""
    return tuple(sizes[0]) if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)) else tuple(sizes)

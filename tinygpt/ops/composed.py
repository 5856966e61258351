"""
Operations composed of others: parts and orders of the values, and repetitions.

Nothing is derived here: the gradients are those of the parts. `sort` and `topk` gather values by the indices that they
find, so their gradients go back by the same indices. What returns only indices or truth values (`argmax`, `argsort`,
`any`) has no gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tinygpt.autograd import Tensor
from tinygpt.ops.choices import where
from tinygpt.ops.reductions import Axis, sum
from tinygpt.ops.shapes import (
    as_tensor,
    broadcast_to,
    checked_axis,
    checked_sizes,
    getitem,
    one_axis,
    reshape,
    transpose,
    unpacked,
)
from tinygpt.runtime.aliases import aliases
from tinygpt.runtime.whole_number import whole_number


class Sorted(NamedTuple):
    """What `sort` and `topk` return: the values, with their gradient, and where they were, integers."""

    values: Tensor
    indices: Tensor


# indices and truth values


def _order(who: str, x: Tensor, axis: int, descending: bool) -> np.ndarray:
    """The places of the values in order; equal ones stay in theirs."""
    x = as_tensor(x)
    place, values = one_axis(who, axis, x.ndim), np.atleast_1d(x.data)
    if not descending:
        order = np.argsort(values, place, kind="stable")
    else:  # of the reversed array, read backwards: -x of an unsigned integer would wrap around
        reverse = np.flip(np.argsort(np.flip(values, place), place, kind="stable"), place)
        order = values.shape[place] - 1 - reverse
    return order.reshape(x.shape)


@aliases(dim="axis")
def argsort(x: Tensor, axis: int = -1, descending: bool = False) -> Tensor:
    """
    The indices that sort `x` along an axis; equal values stay in their order.

    Examples
    --------
    >>> argsort(Tensor([3.0, 1.0, 2.0]))
    Tensor([1, 2, 0], dtype=int64)
    """
    return Tensor(_order("argsort", x, axis, descending))


@aliases(dim="axis", keepdim="keepdims")
def argmax(x: Tensor, axis: int | None = None, keepdims: bool = False) -> Tensor:
    """
    The index of the largest value along an axis, the first of equal ones; without axis, among all values in a row.

    Examples
    --------
    >>> argmax(Tensor([[1.0, 3.0], [4.0, 2.0]]), axis=1)
    Tensor([1, 0], dtype=int64)
    """
    return _index_of("argmax", np.argmax, x, axis, keepdims)


@aliases(dim="axis", keepdim="keepdims")
def argmin(x: Tensor, axis: int | None = None, keepdims: bool = False) -> Tensor:
    """
    The index of the smallest value along an axis, the first of equal ones; without axis, among all values in a row.

    Examples
    --------
    >>> argmin(Tensor([[1.0, 3.0], [4.0, 2.0]]), axis=1)
    Tensor([0, 1], dtype=int64)
    """
    return _index_of("argmin", np.argmin, x, axis, keepdims)


def _index_of(who: str, find: Callable[..., Any], x: Tensor, axis: int | None, keepdims: bool) -> Tensor:
    x = as_tensor(x)
    place = None if axis is None else one_axis(who, axis, x.ndim)
    if (x.size if place is None or not x.ndim else x.shape[place]) == 0:
        raise ValueError(f"{who}: needs at least one value along axis {axis}, got shape {x.shape}")
    return Tensor(find(x.data, place, keepdims=keepdims))


@aliases(dim="axis", keepdim="keepdims")
def any(x: Tensor, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """
    Whether any value along the axes is true, that is, not 0.

    Examples
    --------
    >>> any(Tensor([[0.0, 2.0], [0.0, 0.0]]), axis=1)
    Tensor([ True, False], dtype=bool)
    """
    x = as_tensor(x)
    return Tensor(np.any(x.data, checked_axis("any", axis, x.ndim), keepdims=keepdims))


@aliases(dim="axis", keepdim="keepdims")
def all(x: Tensor, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """
    Whether all values along the axes are true, that is, not 0.

    Examples
    --------
    >>> all(Tensor([[1.0, 2.0], [0.0, 1.0]]), axis=1)
    Tensor([ True, False], dtype=bool)
    """
    x = as_tensor(x)
    return Tensor(np.all(x.data, checked_axis("all", axis, x.ndim), keepdims=keepdims))


# values by their indices


@aliases(dim="axis")
def gather(x: Tensor, axis: int, index: Any) -> Tensor:
    """
    The values at `index` along one axis, each at its own place along the others.

    Parameters
    ----------
    x : Tensor
    axis : int
    index : array or Tensor of integers
        Of as many axes as `x`; nowhere longer than it, except along `axis`.

    Examples
    --------
    >>> gather(Tensor([[1.0, 2.0], [3.0, 4.0]]), 1, [[1], [0]])
    Tensor([[2.],
            [3.]], dtype=float32)
    """
    x = as_tensor(x)
    index = np.asarray(index)
    if index.ndim != x.ndim:
        raise ValueError(f"gather: needs an index of {x.ndim} axes for shape {x.shape}, got shape {index.shape}")
    places, place = list(np.indices(index.shape, sparse=True)), one_axis("gather", axis, x.ndim)
    if places:
        places[place] = index
    return getitem(x, tuple(places))


@aliases(dim="axis")
def index_select(x: Tensor, axis: int, index: Any) -> Tensor:
    """
    The slices at these indices along an axis.

    Examples
    --------
    >>> index_select(Tensor([[1.0, 2.0], [3.0, 4.0]]), 1, [1, 1])
    Tensor([[2., 2.],
            [4., 4.]], dtype=float32)
    """
    x = as_tensor(x)
    return getitem(x, (*[slice(None)] * one_axis("index_select", axis, x.ndim), np.asarray(index)))


@aliases(dim="axis")
def sort(x: Tensor, axis: int = -1, descending: bool = False) -> Sorted:
    """
    The values in order along an axis, and their indices, as in PyTorch; `x` stays as it is.

    ``np.sort(x)`` gives the values alone.

    Examples
    --------
    >>> sort(Tensor([3.0, 1.0, 2.0])).values
    Tensor([1., 2., 3.], dtype=float32)
    """
    order = _order("sort", x, axis, descending)
    return Sorted(gather(x, axis, order), Tensor(order))


@aliases(dim="axis")
def topk(x: Tensor, k: int, axis: int = -1, largest: bool = True) -> Sorted:
    """
    The `k` largest values along an axis, the largest first, and their indices; or the smallest.

    Raises
    ------
    ValueError
        If there are not so many.

    Examples
    --------
    >>> values, indices = topk(Tensor([3.0, 1.0, 2.0]), 2)
    >>> values, indices
    (Tensor([3., 2.], dtype=float32), Tensor([0, 2], dtype=int64))
    """
    x = as_tensor(x)
    k, place = whole_number("topk: k", k), one_axis("topk", axis, x.ndim)
    size = x.shape[place] if x.ndim else 1
    if not 0 <= k <= size:
        raise ValueError(f"topk: k must be from 0 to {size}, the size of axis {axis} of shape {x.shape}, got {k}")
    order = _order("topk", x, axis, largest)[(*[slice(None)] * place, slice(k)) if x.ndim else ()]
    return Sorted(gather(x, axis, order), Tensor(order))


def masked_fill(x: Tensor, mask: Any, value: Any) -> Tensor:
    """
    `value` where the mask holds, else `x`.

    Raises
    ------
    ValueError
        If the mask does not broadcast to the shape of `x`.

    Examples
    --------
    >>> masked_fill(Tensor([1.0, 2.0]), [True, False], -np.inf)
    Tensor([-inf,   2.], dtype=float32)
    """
    x = as_tensor(x)
    mask = np.asarray(mask, bool)
    try:
        return where(np.broadcast_to(mask, x.shape), value, x)
    except ValueError:
        raise ValueError(f"masked_fill: the mask must broadcast to {x.shape}, got shape {mask.shape}") from None


# parts


@aliases(dim="axis", dims="axis")
def flip(x: Tensor, axis: Axis = None) -> Tensor:
    """
    The values in the opposite order along the axes (all of them by default).

    Examples
    --------
    >>> flip(Tensor([[1.0, 2.0], [3.0, 4.0]]), 1)
    Tensor([[2., 1.],
            [4., 3.]], dtype=float32)
    """
    x = as_tensor(x)
    places = checked_axis("flip", tuple(range(x.ndim)) if axis is None else axis, x.ndim)
    flipped = places if isinstance(places, tuple) else (places,)
    return getitem(x, tuple([slice(None, None, -1) if i in flipped else slice(None) for i in range(x.ndim)]))


@aliases(dim="axis", split_size_or_sections="size", split_size="size")
def split(x: Tensor, size: Any, axis: int = 0) -> tuple[Tensor, ...]:
    """
    Parts of this size along an axis, as PyTorch's; the last is smaller where it does not divide.

    ``np.split(x, n)`` has the number of parts in its place, and so has `chunk`.

    Parameters
    ----------
    x : Tensor
    size : int, or list of int
        The size of each part, or all of their sizes.
    axis : int

    Raises
    ------
    ValueError
        If the size is not positive, or the sizes are not those of the whole axis.

    Examples
    --------
    >>> [part.shape for part in split(Tensor(np.ones((5, 3))), 2)]
    [(2, 3), (2, 3), (1, 3)]
    """
    x = as_tensor(x)
    place = _axis_of_parts("split", axis, x)
    n = x.shape[place]
    if np.ndim(size):
        sizes = [whole_number("split: the size of a part", each) for each in size]
        if np.sum(sizes) != n or min(sizes, default=0) < 0:
            raise ValueError(f"split: the sizes must add up to {n}, the size of axis {axis}, got {sizes}")
    elif whole_number("split: the size of a part", size) < 1:
        raise ValueError(f"split: the size of a part must be at least 1, got {size}")
    else:
        sizes = [size] * (n // size) + [n % size] * (n % size > 0 or n == 0)
    ends = np.cumsum(sizes, dtype=int).tolist()
    before = (slice(None),) * place
    return tuple([getitem(x, (*before, slice(end - part, end))) for part, end in zip(sizes, ends, strict=True)])


@aliases(dim="axis")
def chunk(x: Tensor, chunks: int, axis: int = 0) -> tuple[Tensor, ...]:
    """
    At most so many parts of equal size along an axis, the last perhaps smaller, as PyTorch's.

    Examples
    --------
    >>> [part.shape for part in chunk(Tensor(np.ones(5)), 3)]
    [(2,), (2,), (1,)]
    """
    x = as_tensor(x)
    if whole_number("chunk: chunks", chunks) < 1:
        raise ValueError(f"chunk: needs at least one part, got {chunks}")
    n = x.shape[_axis_of_parts("chunk", axis, x)]
    return split(x, -(-n // chunks) if n else [0] * chunks, axis)


@aliases(dim="axis")
def unbind(x: Tensor, axis: int = 0) -> tuple[Tensor, ...]:
    """
    The slices along an axis, without it.

    Examples
    --------
    >>> unbind(Tensor([[1.0, 2.0], [3.0, 4.0]]), 1)
    (Tensor([1., 3.], dtype=float32), Tensor([2., 4.], dtype=float32))
    """
    x = as_tensor(x)
    place = _axis_of_parts("unbind", axis, x)
    return tuple([getitem(x, (*[slice(None)] * place, i)) for i in range(x.shape[place])])


def _axis_of_parts(who: str, axis: int, x: Tensor) -> int:
    if not x.ndim:
        raise ValueError(f"{who}: needs a tensor of at least one axis, got shape ()")
    return one_axis(who, axis, x.ndim)


@aliases(dim1="axis1", dim2="axis2")
def diagonal(x: Tensor, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Tensor:
    """
    The values whose index along `axis2` is that along `axis1` plus `offset`: the last axis of the result.

    Examples
    --------
    >>> diagonal(Tensor([[1.0, 2.0], [3.0, 4.0]]))
    Tensor([1., 4.], dtype=float32)
    """
    x, offset = as_tensor(x), whole_number("diagonal: offset", offset)
    rows, columns = (one_axis("diagonal", axis, x.ndim) for axis in (axis1, axis2))
    if x.ndim < 2 or rows == columns:
        raise ValueError(f"diagonal: needs two different axes, got {axis1} and {axis2} of shape {x.shape}")
    moved = transpose(x, [i for i in range(x.ndim) if i not in (rows, columns)] + [rows, columns])
    places = [np.diagonal(each, offset) for each in np.indices(moved.shape[-2:])]
    return getitem(moved, (..., *places))


@aliases(dim1="axis1", dim2="axis2")
def trace(x: Tensor, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Tensor:
    """
    The sum of a diagonal.

    Examples
    --------
    >>> trace(Tensor([[1.0, 2.0], [3.0, 4.0]]))
    Tensor(5., dtype=float32)
    """
    return sum(diagonal(x, offset, axis1, axis2), -1)


@aliases(diagonal="k")
def tril(x: Tensor, k: int = 0) -> Tensor:
    """
    The last two axes with 0 above their diagonal number `k`.

    Examples
    --------
    >>> tril(Tensor([[1.0, 2.0], [3.0, 4.0]]))
    Tensor([[1., 0.],
            [3., 4.]], dtype=float32)
    """
    return where(_below("tril", x, k), x, 0)


@aliases(diagonal="k")
def triu(x: Tensor, k: int = 0) -> Tensor:
    """
    The last two axes with 0 below their diagonal number `k`.

    Examples
    --------
    >>> triu(Tensor([[1.0, 2.0], [3.0, 4.0]]))
    Tensor([[1., 2.],
            [0., 4.]], dtype=float32)
    """
    return where(_below("triu", x, whole_number("triu: k", k) - 1), 0, x)


def _below(who: str, x: Tensor, k: int) -> np.ndarray:
    x = as_tensor(x)
    if x.ndim < 2:
        raise ValueError(f"{who}: needs at least two axes, got shape {x.shape}")
    return np.tri(x.shape[-2], x.shape[-1], whole_number(f"{who}: k", k), bool)


# repetitions


def tile(x: Tensor, *reps: Any) -> Tensor:
    """
    The whole tensor, repeated so many times along each axis, as NumPy's `tile` and PyTorch's `repeat`.

    Examples
    --------
    >>> tile(Tensor([1.0, 2.0]), 2)
    Tensor([1., 2., 1., 2.], dtype=float32)
    """
    x = as_tensor(x)
    times = checked_sizes("tile", unpacked(reps))
    ndim = max(len(times), x.ndim)
    times, shape = (1,) * (ndim - len(times)) + times, (1,) * (ndim - x.ndim) + x.shape
    apart = [size for n in shape for size in (1, n)]
    repeated = tuple([size for pair in zip(times, shape, strict=True) for size in pair])
    return reshape(broadcast_to(reshape(x, apart), repeated), [r * n for r, n in zip(times, shape, strict=True)])


@aliases(dim="axis")
def repeat_interleave(x: Tensor, repeats: Any, axis: int | None = None) -> Tensor:
    """
    Each value, or slice along an axis, repeated on the spot, as NumPy's `repeat`.

    Parameters
    ----------
    x : Tensor
    repeats : int, or an integer for each slice
    axis : int, optional
        Without it, all values in a row.

    Examples
    --------
    >>> repeat_interleave(Tensor([1.0, 2.0]), 2)
    Tensor([1., 1., 2., 2.], dtype=float32)
    """
    x = as_tensor(x)
    place = 0 if axis is None else one_axis("repeat_interleave", axis, x.ndim)
    x = reshape(x, -1) if axis is None or not x.ndim else x
    times = np.asarray(repeats)
    n = x.shape[place]
    if times.shape not in ((), (1,), (n,)) or times.dtype.kind not in "iu" or times.min(initial=0) < 0:
        raise ValueError(f"repeat_interleave: needs one integer from 0 on, or {n} for axis {axis}, got {repeats}")
    return index_select(x, place, np.repeat(np.arange(n), times))

"""
NumPy's functions and ufuncs that are operations of tinygpt, or are composed of them: `DIFFERENTIABLE` and `UFUNCS`.

Each takes NumPy's arguments, in NumPy's order and by NumPy's names, and refuses unsupported ones.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import math
import string
from collections.abc import Callable
from typing import Any

import numpy as np

from tinygpt.autograd import Tensor
from tinygpt.ops import basic, choices, composed, elementwise, products, reductions, shapes
from tinygpt.ops.shapes import as_tensor
from tinygpt.runtime.plural import counted
from tinygpt.runtime.whole_number import whole_number

_NO_VALUE = np._NoValue  # what NumPy's signatures have where nothing was given
DIFFERENTIABLE: dict[Any, Callable[..., Any]] = {}


def _mapped(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a function as what `np.name` means for tensors; arguments that it does not have must be left out."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        for name in names:
            module, _, last = name.rpartition(".")
            numpys = getattr(getattr(np, module) if module else np, last, None)
            if numpys is not None:  # NumPy adds names: permute_dims is one
                DIFFERENTIABLE[numpys] = functools.partial(_call, name, numpys, function)
        return function

    return register


def _call(name: str, numpys: Any, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call our function with the arguments of NumPy's: required ones by position, options by name."""
    known, required = inspect.signature(function).parameters, list(args)
    try:
        signature = inspect.signature(numpys)
    except ValueError:  # written in C
        if len(args) > len(known):
            raise TypeError(
                f"np.{name}: {counted(len(args), 'argument')} cannot be honoured where a tensor requires a gradient; "
                "pass x.detach()"
            ) from None
    else:
        given, required, kwargs = signature.bind(*args, **kwargs).arguments, [], {}
        for key, value in given.items():
            parameter = signature.parameters[key]
            if parameter.kind is parameter.VAR_POSITIONAL:
                required += value
            elif parameter.kind is parameter.VAR_KEYWORD:
                kwargs |= value
            elif parameter.default is parameter.empty:
                required.append(value)
            elif value is not parameter.default:
                kwargs[key] = value
    _refuse(name, {key: value for key, value in kwargs.items() if key not in known})
    return function(*required, **{k: value for k, value in kwargs.items() if k in known and value is not _NO_VALUE})


def _numpy_order(order: Any) -> None:
    if order not in (None, "C", "K", "A"):
        raise TypeError(f"np.reshape: order must be 'C' where a tensor requires a gradient, got {order!r}")


# joining and taking apart


@_mapped("concatenate")
def _concatenate(arrays: Any, axis: int | None = 0) -> Tensor:
    tensors = list(arrays)
    if axis is None:
        tensors, axis = [_ravel(as_tensor(tensor)) for tensor in tensors], 0
    return shapes.concatenate(tensors, axis)


@_mapped("stack")
def _stack(arrays: Any, axis: int = 0) -> Tensor:
    return shapes.stack(list(arrays), axis)


@_mapped("vstack")
def _vstack(tup: Any) -> Tensor:
    return shapes.concatenate([_at_least_2d(tensor) for tensor in map(as_tensor, tup)], 0)


@_mapped("hstack")
def _hstack(tup: Any) -> Tensor:
    tensors = [_at_least_1d(as_tensor(tensor)) for tensor in tup]
    return shapes.concatenate(tensors, 0 if tensors and tensors[0].ndim == 1 else 1)


@_mapped("dstack")
def _dstack(tup: Any) -> Tensor:
    return shapes.concatenate([_at_least_3d(as_tensor(tensor)) for tensor in tup], 2)


@_mapped("column_stack")
def _column_stack(tup: Any) -> Tensor:
    tensors = map(as_tensor, tup)
    return shapes.concatenate([tensor if tensor.ndim > 1 else tensor.reshape(-1, 1) for tensor in tensors], 1)


@_mapped("append")
def _append(arr: Any, values: Any, axis: int | None = None) -> Tensor:
    return _concatenate([arr, values], axis)


def _at_least_1d(tensor: Tensor) -> Tensor:
    return tensor if tensor.ndim else tensor.reshape(1)


def _at_least_2d(tensor: Tensor) -> Tensor:
    return tensor if tensor.ndim > 1 else tensor.reshape(1, -1)


def _at_least_3d(tensor: Tensor) -> Tensor:
    return tensor if tensor.ndim > 2 else shapes.expand_dims(_at_least_2d(tensor), 2)


def _each(function: Callable[[Tensor], Tensor]) -> Callable[..., Any]:
    """What gives one tensor for one, and a tuple for several."""

    def each(*arys: Any) -> Any:
        tensors = tuple([function(as_tensor(ary)) for ary in arys])
        return tensors if len(tensors) != 1 else tensors[0]

    return each


_mapped("atleast_1d")(_each(_at_least_1d))
_mapped("atleast_2d")(_each(_at_least_2d))
_mapped("atleast_3d")(_each(_at_least_3d))


@_mapped("split")
def _split(ary: Any, indices_or_sections: Any, axis: int = 0) -> list[Tensor]:
    parts = _array_split(ary, indices_or_sections, axis, "np.split")
    if not np.ndim(indices_or_sections) and parts[0].shape != parts[-1].shape:
        size = as_tensor(ary).shape[axis]
        raise ValueError(
            f"np.split: {len(parts)} parts must divide the size {size} of axis {axis}; write np.array_split"
        )
    return parts


@_mapped("array_split")
def _array_split(ary: Any, indices_or_sections: Any, axis: int = 0, who: str = "np.array_split") -> list[Tensor]:
    ary = as_tensor(ary)
    _check_axis(who, ary, axis)
    if not np.ndim(indices_or_sections) and whole_number(f"{who}: the number of parts", indices_or_sections) < 1:
        raise ValueError(f"{who}: needs at least one part, got {indices_or_sections}")
    place = shapes.one_axis(who, axis, ary.ndim)
    before = (slice(None),) * place
    return [
        ary[(*before, slice(part[0], part[-1] + 1) if len(part) else slice(0, 0))]
        for part in np.array_split(np.arange(ary.shape[place]), indices_or_sections)
    ]


def _check_axis(who: str, a: Tensor, axis: Any) -> None:
    """Raise where an axis of a 0-d tensor is named: PyTorch takes 0 and -1, these functions of NumPy do not."""
    if not a.ndim and axis is not None and np.size(axis):
        raise np.exceptions.AxisError(f"{who}: there is no axis {axis} in shape ()")


@_mapped("take")
def _take(a: Any, indices: Any, axis: int | None = None, mode: str = "raise") -> Tensor:
    if mode != "raise":
        raise TypeError(f"np.take: mode must be 'raise' where a tensor requires a gradient, got {mode!r}")
    a, indices = _at_least_1d(as_tensor(a)), np.asarray(indices)
    if not indices.size:
        indices = indices.astype(int)  # an empty list has no type of its own
    if axis is None:
        return _ravel(a)[indices]
    return a[(*(slice(None),) * shapes.one_axis("np.take", axis, a.ndim), indices)]


@_mapped("where")
def _where(condition: Any, x: Any, y: Any) -> Tensor:
    return choices.where(condition, x, y)


@_mapped("clip")
def _clip(a: Any, a_min: Any = None, a_max: Any = None, min: Any = None, max: Any = None) -> Tensor:
    return choices.clip(a, min if a_min is None else a_min, max if a_max is None else a_max)


@_mapped("take_along_axis")
def _take_along_axis(arr: Any, indices: Any, axis: int | None = -1) -> Tensor:
    arr, indices = as_tensor(arr), np.asarray(indices)
    _check_axis("np.take_along_axis", arr, axis)
    if axis is None:
        return composed.gather(_ravel(arr), 0, indices)
    places = shapes.one_axis("np.take_along_axis", axis, arr.ndim)
    alike = [(*shape[:places], 1, *shape[places + 1 :]) for shape in (arr.shape, indices.shape)]
    shape = list(np.broadcast_shapes(*alike))
    shape[places] = indices.shape[places]
    return composed.gather(arr, axis, np.broadcast_to(indices, shape))


@_mapped("sort")
def _sort(a: Any, axis: int | None = -1) -> Tensor:
    a = as_tensor(a)
    _check_axis("np.sort", a, axis)
    return composed.sort(_ravel(a) if axis is None else a, -1 if axis is None else axis).values


@_mapped("flip")
def _flip(m: Any, axis: Any = None) -> Tensor:
    m = as_tensor(m)
    _check_axis("np.flip", m, axis)
    return composed.flip(m, axis)


@_mapped("flipud")
def _flipud(m: Any) -> Tensor:
    return _flip(m, 0)


@_mapped("fliplr")
def _fliplr(m: Any) -> Tensor:
    return _flip(m, 1)


@_mapped("rot90")
def _rot90(m: Any, k: int = 1, axes: Any = (0, 1)) -> Tensor:
    m, turns = as_tensor(m), whole_number("np.rot90: k", k) % 4
    if turns >= 2:
        m = _flip(m, tuple(axes))
    return shapes.swapaxes(_flip(m, axes[1]), *axes) if turns % 2 else m


@_mapped("roll")
def _roll(a: Any, shift: Any, axis: Any = None) -> Tensor:
    a = as_tensor(a)
    if axis is None:
        return shapes.reshape(_roll(_ravel(a), sum(np.atleast_1d(shift).tolist()), 0), a.shape)
    _check_axis("np.roll", a, axis)
    for by, along in np.broadcast(shift, axis):
        n = a.shape[shapes.one_axis("np.roll", along, a.ndim)]
        last = whole_number("np.roll: shift", by) % n if n else 0
        a = shapes.concatenate(composed.split(a, [n - last, last], along)[::-1], along)
    return a


@_mapped("tile")
def _tile(A: Any, reps: Any) -> Tensor:
    return composed.tile(as_tensor(A), *np.atleast_1d(reps).tolist())


@_mapped("repeat")
def _repeat(a: Any, repeats: Any, axis: int | None = None) -> Tensor:
    return composed.repeat_interleave(as_tensor(a), repeats, axis)


@_mapped("pad")
def _pad(array: Any, pad_width: Any, mode: str = "constant", constant_values: Any = 0) -> Tensor:
    array = as_tensor(array)
    with contextlib.suppress(ValueError):  # shapes.pad says what is wrong
        pad_width = np.broadcast_to(pad_width, (array.ndim or 1, 2))  # one pair is for all axes
    return shapes.pad(array, pad_width, mode, constant_values)


@_mapped("diagonal")
def _diagonal(a: Any, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Tensor:
    return composed.diagonal(as_tensor(a), offset, axis1, axis2)


@_mapped("diag")
def _diag(v: Any, k: int = 0) -> Tensor:
    v = as_tensor(v)
    if v.ndim != 1:
        return composed.diagonal(v, k)
    row = shapes.pad(v, ((max(whole_number("np.diag: k", k), 0), max(-k, 0)),))
    return choices.where(np.eye(row.size, k=k, dtype=bool), row, 0)


@_mapped("trace")
def _trace(a: Any, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Tensor:
    return composed.trace(as_tensor(a), offset, axis1, axis2)


@_mapped("tril")
def _tril(m: Any, k: int = 0) -> Tensor:
    return composed.tril(as_tensor(m), k)


@_mapped("triu")
def _triu(m: Any, k: int = 0) -> Tensor:
    return composed.triu(as_tensor(m), k)


# other shapes


@_mapped("reshape")
def _reshape(a: Any, shape: Any = None, order: str = "C", newshape: Any = None, copy: Any = None) -> Tensor:
    _numpy_order(order)
    shape = newshape if shape is None else shape
    return shapes.reshape(as_tensor(a), *((shape,) if np.ndim(shape) == 0 else shape))


@_mapped("ravel")
def _ravel(a: Any, order: str = "C") -> Tensor:
    _numpy_order(order)
    return shapes.reshape(as_tensor(a), -1)


@_mapped("transpose", "permute_dims")
def _transpose(a: Any, axes: Any = None) -> Tensor:
    return shapes.transpose(as_tensor(a)) if axes is None else shapes.transpose(as_tensor(a), tuple(axes))


@_mapped("matrix_transpose")
def _matrix_transpose(x: Any) -> Tensor:
    return shapes.swapaxes(as_tensor(x), -1, -2)


@_mapped("moveaxis")
def _moveaxis(a: Any, source: Any, destination: Any) -> Tensor:
    a = as_tensor(a)
    sources, places = ([int(axis) for axis in np.atleast_1d(axes)] for axes in (source, destination))
    np.moveaxis(a.data, sources, places)  # raises for invalid axes
    moved = {axis % a.ndim for axis in sources}
    order = [axis for axis in range(a.ndim) if axis not in moved]
    for place, axis in sorted((place % a.ndim, axis % a.ndim) for place, axis in zip(places, sources, strict=True)):
        order.insert(place, axis)
    return shapes.transpose(a, order)


@_mapped("swapaxes")
def _swapaxes(a: Any, axis1: int, axis2: int) -> Tensor:
    _check_axis("np.swapaxes", as_tensor(a), axis1)
    return shapes.swapaxes(as_tensor(a), axis1, axis2)


@_mapped("expand_dims")
def _expand_dims(a: Any, axis: Any) -> Tensor:
    return shapes.expand_dims(as_tensor(a), axis)


@_mapped("squeeze")
def _squeeze(a: Any, axis: Any = None) -> Tensor:
    return shapes.squeeze(as_tensor(a), axis)


@_mapped("broadcast_to")
def _broadcast_to(array: Any, shape: Any) -> Tensor:
    return shapes.broadcast_to(as_tensor(array), (shape,) if np.ndim(shape) == 0 else shape)


# reductions and products


@_mapped("sum")
def _sum(a: Any, axis: Any = None, keepdims: bool = False) -> Tensor:
    return reductions.sum(as_tensor(a), axis, keepdims)


@_mapped("mean")
def _mean(a: Any, axis: Any = None, keepdims: bool = False) -> Tensor:
    _check_axis("np.mean", as_tensor(a), axis)
    return reductions.mean(as_tensor(a), axis, keepdims)


@_mapped("var")
def _var(a: Any, axis: Any = None, ddof: int = 0, keepdims: bool = False) -> Tensor:
    _check_axis("np.var", as_tensor(a), axis)
    return reductions.var(as_tensor(a), axis, ddof, keepdims)


@_mapped("std")
def _std(a: Any, axis: Any = None, ddof: int = 0, keepdims: bool = False) -> Tensor:
    _check_axis("np.std", as_tensor(a), axis)
    return reductions.std(as_tensor(a), axis, ddof, keepdims)


@_mapped("prod")
def _prod(a: Any, axis: Any = None, keepdims: bool = False) -> Tensor:
    return reductions.prod(as_tensor(a), axis, keepdims)


@_mapped("cumsum")
def _cumsum(a: Any, axis: int | None = None) -> Tensor:
    return reductions.cumsum(_at_least_1d(as_tensor(a)), axis)


@_mapped("diff")
def _diff(a: Any, n: int = 1, axis: int = -1) -> Tensor:
    a = as_tensor(a)
    _check_axis("np.diff", a, axis)
    before = (slice(None),) * shapes.one_axis("np.diff", axis, a.ndim)
    for _ in range(n):
        a = a[(*before, slice(1, None))] - a[(*before, slice(None, -1))]
    return a


@_mapped("ptp")
def _ptp(a: Any, axis: Any = None, keepdims: bool = False) -> Tensor:
    return _max(a, axis, keepdims) - _min(a, axis, keepdims)


@_mapped("linalg.norm")
def _norm(x: Any, ord: Any = None, axis: Any = None, keepdims: bool = False) -> Tensor:
    x = as_tensor(x)
    _check_axis("np.linalg.norm", x, axis)
    if ord not in (None, "fro") and (x.ndim if axis is None else np.size(axis)) != 1:
        raise TypeError(f"np.linalg.norm: a matrix norm, ord={ord!r}, has no gradient here; give one axis")
    return reductions.norm(x, 2 if ord is None else ord, axis, keepdims)


@_mapped("max", "amax")
def _max(a: Any, axis: Any = None, keepdims: bool = False) -> Tensor:
    return reductions.max(as_tensor(a), axis, keepdims)


@_mapped("min", "amin")
def _min(a: Any, axis: Any = None, keepdims: bool = False) -> Tensor:
    return reductions.min(as_tensor(a), axis, keepdims)


@_mapped("dot")
def _dot(a: Any, b: Any) -> Tensor:
    return _tensordot(a, b, (-1, -2), "np.dot") if np.ndim(a) and np.ndim(b) > 2 else products.dot(a, b)


@_mapped("vdot")
def _vdot(a: Any, b: Any) -> Tensor:
    return products.dot(_ravel(a), _ravel(b))


@_mapped("inner")
def _inner(a: Any, b: Any) -> Tensor:
    return _tensordot(a, b, (-1, -1), "np.inner") if np.ndim(a) and np.ndim(b) else basic.mul(a, b)


@_mapped("tensordot")
def _tensordot(a: Any, b: Any, axes: Any = 2, who: str = "np.tensordot") -> Tensor:
    a, b = shapes.operands(a, b)
    if np.ndim(axes) == 0:
        axes = range(a.ndim - axes, a.ndim), range(axes)
    left, right = ([shapes.one_axis(who, each, x.ndim) for each in np.atleast_1d(own).tolist()]
                   for own, x in zip(axes, (a, b), strict=True))  # fmt: skip
    if [a.shape[i] for i in left] != [b.shape[i] for i in right]:
        raise ValueError(f"{who}: the axes that are summed over must have the same sizes, got {left} of shape "
                         f"{a.shape} and {right} of shape {b.shape}")  # fmt: skip
    of_a, of_b = string.ascii_letters[: a.ndim], [*string.ascii_letters[a.ndim : a.ndim + b.ndim]]
    for i, j in zip(left, right, strict=True):
        of_b[j] = of_a[i]
    kept = [letter for letter in (*of_a, *of_b) if (letter in of_a) != (letter in of_b)]
    return products.einsum(f"{of_a},{''.join(of_b)}->{''.join(kept)}", a, b)


@_mapped("outer")
def _outer(a: Any, b: Any) -> Tensor:
    return products.outer(a, b)


@_mapped("einsum")
def _einsum(subscripts: Any, *operands: Any, optimize: Any = False) -> Tensor:
    return products.einsum(subscripts, *operands)


@_mapped("linalg.matmul")
def _matmul(x1: Any, x2: Any) -> Tensor:
    return basic.matmul(x1, x2)


# values


@_mapped("copy")
def _copy(a: Any) -> Tensor:
    return as_tensor(a).clone()


@_mapped("nan_to_num")
def _nan_to_num(x: Any, copy: bool = True, nan: Any = 0.0, posinf: Any = None, neginf: Any = None) -> Tensor:
    x = as_tensor(x)
    limits = np.finfo(x.dtype)
    x = choices.where(np.isnan(x.data), nan, x)
    x = choices.where(np.isposinf(x.data), limits.max if posinf is None else posinf, x)
    return choices.where(np.isneginf(x.data), limits.min if neginf is None else neginf, x)


@_mapped("linspace")
def _linspace(start: Any, stop: Any, num: int = 50, endpoint: bool = True) -> Tensor:
    start, stop = map(basic.floating, shapes.operands(start, stop))
    length = stop - start
    steps = np.linspace(0, 1, num, endpoint, dtype=length.dtype)
    return start + length * steps.reshape(-1, *[1] * length.ndim)


@_mapped("sinc")
def _sinc(x: Any) -> Tensor:
    angle = as_tensor(x) * np.pi
    at_0 = angle.data == 0
    nonzero = choices.where(at_0, 1, angle)  # 0 / 0 would be NaN, and so its gradient
    return choices.where(at_0, 1, elementwise.sin(nonzero) / nonzero)


# ufuncs, besides the operators


def _unary(function: Callable[[Tensor], Tensor]) -> Callable[..., Any]:
    def rule(x: Any, **kwargs: Any) -> Tensor:
        _refuse(function.__name__, kwargs)
        return function(as_tensor(x))

    return rule


def _binary(function: Callable[[Any, Any], Tensor]) -> Callable[..., Any]:
    def rule(a: Any, b: Any, **kwargs: Any) -> Tensor:
        _refuse(function.__name__, kwargs)
        return function(a, b)

    return rule


def _reduction(function: Callable[..., Tensor]) -> Callable[..., Any]:
    def rule(
        a: Any, axis: Any = 0, dtype: Any = None, out: Any = None, keepdims: bool = False, **kwargs: Any
    ) -> Tensor:
        _refuse(function.__name__, {**kwargs, "dtype": dtype, "out": out})
        return function(as_tensor(a), axis, keepdims)

    return rule


def _refuse(name: str, options: dict[str, Any]) -> None:
    for key, value in options.items():
        if value is not None and value is not _NO_VALUE and not (key == "where" and value is True):
            raise TypeError(
                f"np.{name}: {key}= cannot be honoured where a tensor requires a gradient; leave it out, "
                "or pass x.detach()"
            )


def positive(x: Tensor) -> Tensor:
    """+x."""
    return x


def tan(x: Tensor) -> Tensor:
    """sin(x) / cos(x)."""
    return elementwise.sin(x) / elementwise.cos(x)


def arctanh(x: Tensor) -> Tensor:
    """(ln(1 + x) - ln(1 - x)) / 2."""
    return (elementwise.log1p(x) - elementwise.log1p(-x)) / 2


def radians(x: Tensor) -> Tensor:
    """Degrees in radians."""
    return x * (np.pi / 180)


def degrees(x: Tensor) -> Tensor:
    """Radians in degrees."""
    return x * (180 / np.pi)


def hypot(a: Any, b: Any) -> Tensor:
    """sqrt(a^2 + b^2)."""
    return elementwise.sqrt(basic.square(a) + basic.square(b))


def logaddexp2(a: Any, b: Any) -> Tensor:
    """log2(2^a + 2^b)."""
    return choices.logaddexp(basic.mul(a, math.log(2)), basic.mul(b, math.log(2))) / math.log(2)


_UNARY = (
    basic.reciprocal, basic.square, elementwise.abs, elementwise.cos, elementwise.cosh, elementwise.exp,
    elementwise.exp2, elementwise.expm1, elementwise.log, elementwise.log1p, elementwise.log2, elementwise.log10,
    elementwise.sin, elementwise.sinh, elementwise.sqrt, elementwise.tanh, arctanh, degrees, positive, radians, tan,
)  # fmt: skip
UFUNCS: dict[Any, Callable[..., Any]] = {
    **{(getattr(np, function.__name__), "__call__"): _unary(function) for function in _UNARY},
    (np.fabs, "__call__"): _unary(elementwise.abs),
    (np.deg2rad, "__call__"): _unary(radians),
    (np.rad2deg, "__call__"): _unary(degrees),
    (np.negative, "__call__"): _unary(basic.neg),
    (np.power, "__call__"): _binary(basic.pow),
    (np.remainder, "__call__"): _binary(basic.remainder),
    (np.maximum, "__call__"): _binary(choices.maximum),
    (np.minimum, "__call__"): _binary(choices.minimum),
    (np.logaddexp, "__call__"): _binary(choices.logaddexp),
    (np.logaddexp2, "__call__"): _binary(logaddexp2),
    (np.hypot, "__call__"): _binary(hypot),
    (np.add, "__call__"): _binary(basic.add),
    (np.subtract, "__call__"): _binary(basic.sub),
    (np.multiply, "__call__"): _binary(basic.mul),
    (np.divide, "__call__"): _binary(basic.div),
    (np.matmul, "__call__"): _binary(basic.matmul),
    (np.add, "reduce"): _reduction(reductions.sum),
    (np.multiply, "reduce"): _reduction(reductions.prod),
    (np.maximum, "reduce"): _reduction(reductions.max),
    (np.minimum, "reduce"): _reduction(reductions.min),
}

"""
NumPy's functions on tensors: each is differentiable, is constant, or is refused.

NumPy asks a tensor what `np.f(tensor)` means (NEP 13 for ufuncs, NEP 18 for functions). The answer depends on whether
any argument requires a gradient that is being recorded:

    no argument does          tensors act as arrays: the result is what NumPy returns for their arrays
    differentiable            the operation runs, and the result is a tensor: np.concatenate, np.exp, np.sum, ...
    constant                  the derivative is 0 wherever there is one, so the function gets the arrays: comparisons,
                              shapes, arg*, saving, rounding, ...
    everything else           TypeError, with what to write instead

so that a function that is not listed here never drops a gradient silently. The ufuncs of Python's operators (np.add,
..., np.equal, ...) always return tensors: ``array + tensor`` calls them, and does what ``tensor + array`` does.
`np.asarray`, `np.array`, `np.random` and other functions of any sequence read the values, detached.

Source: NumPy Enhancement Proposals 13 and 18.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from tinygpt.autograd import Tensor
from tinygpt.autograd.tensor import recording
from tinygpt.ops import basic
from tinygpt.ops.numpy_functions import DIFFERENTIABLE, UFUNCS


def _with_tensor(combine: Callable[[Any, Any], Tensor]) -> Callable[[Any, Any], Tensor]:
    return lambda a, b: combine(a if isinstance(a, Tensor) else Tensor(a), b)


_OPERATORS: dict[Any, Callable[..., Any]] = {
    np.add: basic.add,
    np.subtract: basic.sub,
    np.multiply: basic.mul,
    np.divide: basic.div,
    np.power: basic.pow,
    np.remainder: basic.remainder,
    np.floor_divide: basic.floor_divide,
    np.divmod: lambda a, b: (basic.floor_divide(a, b), basic.remainder(a, b)),
    np.matmul: basic.matmul,
    np.negative: basic.neg,
    np.bitwise_and: _with_tensor(operator.and_),
    np.bitwise_or: _with_tensor(operator.or_),
    np.bitwise_xor: _with_tensor(operator.xor),
    np.invert: operator.invert,
}
_COMPARISONS = {np.equal, np.not_equal, np.less, np.less_equal, np.greater, np.greater_equal}


def _existing(names: str) -> set[Any]:
    return {getattr(np, name) for name in names.split() if hasattr(np, name)}


CONSTANT = _existing("""
    all allclose any argmax argmin argpartition argsort argwhere around array2string array_equal array_equiv array_repr
    array_str can_cast common_type count_nonzero digitize empty_like fix flatnonzero isclose iscomplex iscomplexobj isin
    isneginf isposinf isreal isrealobj lexsort may_share_memory min_scalar_type nanargmax nanargmin ndim nonzero
    ones_like result_type round save savetxt savez savez_compressed searchsorted shape shares_memory size zeros_like
""")  # round and fix: their derivative is 0 wherever they have one
CONSTANT_UFUNCS = _existing("""
    ceil floor floor_divide isfinite isinf isnan logical_and logical_not logical_or logical_xor rint sign signbit trunc
""")


def _own(name: str, slope: str) -> str:
    """An operation of one's own: NumPy's function forward, and the gradient backward."""
    return f"tinygpt.apply(tinygpt.Op({name!r}, lambda x: (np.{name}(x), x), lambda dout, x: ({slope},)), x)"


WRITE_INSTEAD = {  # code, with the functions of tinygpt.functional; behind ", for" its limits
    "add.accumulate": "cumsum(x, axis=0)",
    "arccos": _own("arccos", "-dout / np.sqrt(1 - x * x)"),
    "arccosh": _own("arccosh", "dout / np.sqrt(x * x - 1)"),
    "arcsin": _own("arcsin", "dout / np.sqrt(1 - x * x)"),
    "arcsinh": _own("arcsinh", "dout / np.sqrt(x * x + 1)"),
    "arctan": _own("arctan", "dout / (1 + x * x)"),
    "arctan2": "tinygpt.apply(tinygpt.Op('arctan2', lambda a, b: (np.arctan2(a, b), (a, b, a * a + b * b)), "
               "lambda dout, s: (dout * s[1] / s[2], -dout * s[0] / s[2])), a, b), for a and b of one shape",
    "average": "(weights * x).sum() / weights.sum()",
    "block": "concatenate([concatenate([a, b], axis=-1), concatenate([c, d], axis=-1)], axis=-2)",
    "cbrt": "sign(x) * abs(x) ** (1 / 3)",
    "copysign": "abs(a) * where(np.signbit(b), -1, 1)",
    "cumprod": "exp(cumsum(log(x))), for positive x",
    "delete": "x[np.arange(len(x)) != i]",
    "float_power": "x ** p",
    "fmax": "maximum(a, b)",
    "fmin": "minimum(a, b)",
    "fmod": "sign(a) * (abs(a) % abs(b))",
    "gradient": "concatenate([x[1:2] - x[:1], (x[2:] - x[:-2]) / 2, x[-1:] - x[-2:-1]]), for a vector",
    "heaviside": "where(x > 0, 1, where(x < 0, 0, h))",
    "hsplit": "np.split(x, n, axis=1)",
    "insert": "concatenate([x[:i], values, x[i:]])",
    "interp": "fp[i] + (fp[i + 1] - fp[i]) * (x - xp[i]) / (xp[i + 1] - xp[i]), with "
              "i = np.searchsorted(xp[1:-1], x), for x within xp",
    "kron": "einsum('ij,kl->ikjl', a, b).reshape(len(a) * len(b), -1), for matrices",
    "logaddexp.reduce": "logsumexp(x, axis=0)",
    "median": "sort(x.flatten()).values[(x.size - 1) // 2 : x.size // 2 + 1].mean()",
    "modf": "x - np.trunc(x)",
    "multiply.outer": "outer(a, b), for vectors",
    "nanmax": "where(np.isnan(x), -np.inf, x).max()",
    "nanmean": "x[~np.isnan(x)].mean()",
    "nanmin": "where(np.isnan(x), np.inf, x).min()",
    "nansum": "where(np.isnan(x), 0, x).sum()",
    "vecdot": "(a * b).sum(axis=-1)",
    "vsplit": "np.split(x, n, axis=0)",
}  # fmt: skip


def array_function(function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """
    What ``function(*args, **kwargs)``, one of NumPy's, means where a tensor is among the arguments.

    Examples
    --------
    >>> x = Tensor([1.0, 2.0], requires_grad=True)
    >>> np.concatenate([x, x]).requires_grad
    True
    >>> np.argmax(x), np.quantile(x.detach(), 0.5)
    (np.int64(1), np.float32(1.5))
    >>> np.quantile(x, 0.5)
    Traceback (most recent call last):
    ...
    TypeError: np.quantile: has no gradient here, and shape (2,) requires one; for the values alone pass x.detach()
    """
    recorded = _recorded((args, kwargs))
    if recorded is not None and not _is_constant(function, args, kwargs):
        if function in DIFFERENTIABLE:
            return DIFFERENTIABLE[function](*args, **kwargs)
        raise TypeError(_refusal(_name_of(function), recorded))
    return function(*_arrays(args), **_arrays(kwargs))


def array_ufunc(ufunc: np.ufunc, method: str, inputs: Any, kwargs: Any) -> Any:
    """
    What ``ufunc(*inputs, **kwargs)``, or one of its methods such as `reduce`, means where a tensor is among the inputs.

    Examples
    --------
    >>> x = Tensor([1.0, 2.0], requires_grad=True)
    >>> np.exp(x).requires_grad, (np.ones(2) * x).requires_grad
    (True, True)
    >>> np.isfinite(x)
    array([ True,  True])
    """
    name = f"np.{ufunc.__name__}" + ("" if method == "__call__" else f".{method}")
    recorded = _recorded((inputs, kwargs))
    if method == "__call__" and not kwargs:
        if ufunc in _OPERATORS:
            return _OPERATORS[ufunc](*inputs)
        if ufunc in _COMPARISONS:
            return Tensor(ufunc(*_arrays(inputs)))
    if recorded is not None and ufunc not in CONSTANT_UFUNCS | _COMPARISONS:
        operation = UFUNCS.get((ufunc, method)) or (_OPERATORS.get(ufunc) if method == "__call__" else None)
        if operation is None:
            raise TypeError(_refusal(name, recorded))
        if kwargs.get("out") is not None:
            raise TypeError(f"{name}: cannot write into an array and keep the gradient of a tensor of shape "
                            f"{recorded.shape}; write a = a + x and not a += x, or pass x.detach()")  # fmt: skip
        return operation(*inputs, **kwargs)
    outs = kwargs.get("out")
    result = getattr(ufunc, method)(*_arrays(inputs), **_arrays(kwargs))
    return outs[0] if outs is not None and len(outs) == 1 else result


def _recorded(value: Any) -> Tensor | None:
    """The first tensor in `value` whose gradient is being recorded."""
    if isinstance(value, Tensor):
        return value if value.requires_grad and recording.get() else None
    parts = _parts(value)
    return next((tensor for tensor in map(_recorded, parts) if tensor is not None), None)


def _parts(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, (tuple, list)) else ()


def _arrays(value: Any) -> Any:
    """`value` with the arrays of the tensors in it."""
    if isinstance(value, Tensor):
        return value.data
    if isinstance(value, dict):
        return {key: _arrays(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)) and any(isinstance(item, (Tensor, list, tuple)) for item in value):
        return type(value)(map(_arrays, value)) if type(value) in (list, tuple) else tuple(map(_arrays, value))
    return value


def _is_constant(function: Any, args: Any, kwargs: Any) -> bool:
    if function is np.where:
        return len(args) + len(kwargs) == 1  # where(condition): the places
    if function is np.full_like:
        return _recorded((args[1:], kwargs)) is None  # the prototype's shape, not its values
    return function in CONSTANT


def _name_of(function: Any) -> str:
    return f"{function.__module__.replace('numpy', 'np', 1)}.{function.__name__}"


def _refusal(name: str, tensor: Tensor) -> str:
    instead = WRITE_INSTEAD.get(name.removeprefix("np."))
    return (f"{name}: has no gradient here, and shape {tensor.shape} requires one; "
            + (f"write {instead}; " if instead else "") + "for the values alone pass x.detach()")  # fmt: skip

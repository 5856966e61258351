"""
The effect of rounding on a result: a function of NumPy arrays is run with every operation perturbed at random.

Two codes that compute the same may sum in another order, and differ by what rounding does to each. Mostly that is a
share of the largest value of the result. Where large terms cancel it is not: the gradient of a layer norm of two
features is the rounding noise of two terms that would be equal in exact arithmetic. How much noise depends on every
step inside, so it is measured: the function runs in float64 several times, and each elementary operation's result is
multiplied by 1 + u e, with e the unit of rounding and u a random number of size 1. The standard deviation of the
results is the effect of rounding in that unit.

Source: Parker 1997, "Monte Carlo Arithmetic: exploiting randomness in floating-point arithmetic"; Vignes 1993,
        "A stochastic arithmetic for reliable scientific computation".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tinygpt.autograd.graph import Op
from tinygpt.autograd.watch import Watch

_EXACT = {"maximum", "minimum", "fmax", "fmin", "negative", "positive", "absolute", "sign", "copysign", "floor", "ceil",
          "rint", "trunc"}  # fmt: skip
_RUNS = 8
_FLOAT64 = 2.0**-53
_SMALLEST = 2.0**-40  # float64 cannot resolve smaller ones: they are extrapolated from larger ones


class _Rounded(np.ndarray):
    """An array whose operations have random relative errors of size `unit`."""

    unit = 0.0
    rng: np.random.Generator | None = None

    def __array_finalize__(self, made_from: Any) -> None:
        if isinstance(made_from, _Rounded):
            self.unit, self.rng = made_from.unit, made_from.rng

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, out: Any = None, **options: Any) -> Any:
        plain = [np.asarray(value) if isinstance(value, _Rounded) else value for value in inputs]
        if out is not None:
            options["out"] = tuple(np.asarray(value) if isinstance(value, _Rounded) else value for value in out)
        exact = ufunc.__name__ in _EXACT
        if not exact and (method in ("reduce", "accumulate", "reduceat") or ufunc is np.matmul):
            plain[0] = self._off(plain[0])  # a sum may cancel: it is its terms that are rounded
        result = getattr(ufunc, method)(*plain, **options)
        if not exact and method != "at":
            result = self._off(result)
        if out is not None:
            np.copyto(out[0], result, casting="unsafe")
            return out[0]
        return self._like_me(result)

    def _off(self, value: Any) -> Any:
        array = np.asarray(value)
        if array.dtype.kind != "f" or self.rng is None:
            return value
        return array * (1 + self.unit * self.rng.standard_normal(array.shape))

    def _like_me(self, value: Any) -> Any:
        if not isinstance(value, (np.ndarray, np.generic)) or value.dtype.kind != "f":
            return value
        return _rounded(np.asarray(value), self.unit, self.rng)


def _rounded(array: np.ndarray, unit: float, rng: np.random.Generator | None) -> _Rounded:
    view = np.asarray(array, np.float64).view(_Rounded)
    view.unit, view.rng = unit, rng
    return view


def largest(array: Any) -> float:
    """
    The largest finite absolute value of an array: what rounding errors are compared with. 0 if there is none.

    Examples
    --------
    >>> largest([1.0, -3.0, np.inf])
    3.0
    """
    array = np.asarray(array)
    return float(np.max(np.abs(array), initial=0, where=np.isfinite(array)))


def relative_gap(ours: Any, theirs: Any, floor: float = 0.0) -> np.ndarray:
    """
    How far each element of an array is from that of another, as a share of the other's largest.

    Parameters
    ----------
    ours, theirs : float arrays of the same shape
    floor : float
        The share is of this if it is larger: below it, numbers count as zero.

    Returns
    -------
    ndarray, float64
        Infinite where either is NaN. Where all of `theirs` is 0 and there is no floor, the gap itself.

    Examples
    --------
    >>> relative_gap([1.0, 4.5], [1.0, 5.0])
    array([0. , 0.1])
    """
    gap = np.abs(np.asarray(ours, np.float64) - theirs)
    return np.where(np.isnan(gap), np.inf, gap) / (max(largest(theirs), floor) or 1.0)


def scatter(function: Callable[..., Any], arrays: Any, unit: float) -> list[np.ndarray]:
    """
    For each result of `function`, the standard deviation of each of its elements under rounding in `unit`.

    Parameters
    ----------
    function : callable
        Takes the arrays, returns a list or tuple of float arrays.
    arrays : sequence of array
        The float ones enter in float64, with random relative errors of size `unit`; others as they are.
    unit : float
        2^-24 for float32.

    Examples
    --------
    >>> noise = scatter(lambda a, b: [(a + b) - b], [np.array([1.0]), np.array([1e4])], unit=1e-6)
    >>> bool(1e-3 < noise[0][0] < 1e-1)  # 1e-6 of 1e4
    True
    """
    used = max(unit, _SMALLEST)
    runs = []
    for seed in range(_RUNS + 1):
        rng = np.random.default_rng(seed)
        off = used if seed < _RUNS else 0.0
        entered = [_entering(array, off, rng) for array in arrays]
        with np.errstate(all="ignore"):
            runs.append([np.array(result, np.float64) for result in function(*entered)])
    *noisy, exact = runs
    return [
        np.sqrt(np.mean([np.square(run[i] - centre) for run in noisy], axis=0)) * (unit / used)
        for i, centre in enumerate(exact)
    ]


def _entering(value: Any, unit: float, rng: np.random.Generator) -> Any:
    array = np.asarray(value)
    if array.dtype.kind != "f":
        return value
    array = array.astype(np.float64)
    return _rounded(array * (1 + unit * rng.standard_normal(array.shape)), unit, rng)


class Perturbation(Watch):
    """
    A watch that perturbs every operation of a graph at random, in float64.

    Attributes
    ----------
    share : float
        The effect of float64's own rounding as a share of the effect of the perturbation, which must be larger.
    """

    share = _FLOAT64 / _SMALLEST

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)

    def operation(self, op: Op) -> Op:
        """`op`, whose forward is perturbed."""

        def forward(*arrays: Any, **attrs: Any) -> Any:
            out, saved = op.forward(*(self._entering(array) for array in arrays), **attrs)
            return np.array(out), saved

        return op._replace(forward=forward, kernel=None)

    def _entering(self, array: Any) -> Any:
        return _rounded(array, _SMALLEST, self._rng) if array.dtype == np.float64 else array

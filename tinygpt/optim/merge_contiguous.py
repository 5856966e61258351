"""
Merge arrays that are contiguous in memory into one array, so that the 148 parameters of GPT-2 take one kernel call.

Cost: a microsecond per array, instead of a kernel call and a start of the threads for each; a tenth of that where the
      arrays are the same objects as in the step before.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided


def merge_contiguous(rows: Iterable[Sequence[np.ndarray]]) -> list[list[np.ndarray]]:
    """
    Merge consecutive rows wherever each array begins where that of the row before ends.

    Parameters
    ----------
    rows : iterable of sequences of arrays
        Each row has as many arrays as the first, all of one size and dtype.

    Returns
    -------
    list of lists of ndarray, 1-D
        The same memory in fewer pieces; valid as long as the arrays are. A row with an array that is not C-contiguous
        stays as it is.

    Examples
    --------
    >>> flat = np.arange(6.0)
    >>> merge_contiguous([[flat[:2]], [flat[2:4].reshape(2, 1)], [flat[5:]]])
    [[array([0., 1., 2., 3.])], [array([5.])]]
    """
    rows = list(rows)
    arrays = [array for row in rows for array in row]
    key = len(arrays), id(arrays[0]) if arrays else 0
    plan = _plans.get(key)
    if plan is None or any(each() is not array for each, array in zip(plan.arrays, arrays, strict=True)):
        plan = _Plan([weakref.ref(array) for array in arrays], _pieces(rows))
        if len(_plans) == _MOST_PLANS:
            _plans.clear()
        _plans[key] = plan
    return [list(rows[first]) if size is None else _over(rows[first], size) for first, size in plan.pieces]


class _Plan(NamedTuple):
    """What was found out about rows of arrays: it holds as long as the arrays are the same objects."""

    arrays: list[weakref.ref[np.ndarray]]  # weak: a plan keeps no memory
    pieces: list[tuple[int, int | None]]


_plans: dict[tuple[int, int], _Plan] = {}  # by the number of arrays, and the id of the first
_MOST_PLANS = 16


def _pieces(rows: Sequence[Sequence[np.ndarray]]) -> list[tuple[int, int | None]]:
    """For each merged piece its first row and its size; None for the size of a row that stays as it is."""
    pieces: list[tuple[int, int | None]] = []
    ends: list[int] = []
    first = size = 0
    for number, row in enumerate(rows):
        whole = all(array.flags.c_contiguous for array in row)
        starts = [array.ctypes.data for array in row]
        if not whole or starts != ends:
            pieces += [(first, size)] if size else []
            first, size = number, 0
        if whole:
            size += row[0].size
            ends = [start + array.nbytes for start, array in zip(starts, row, strict=True)]
        else:
            pieces.append((number, None))
            ends = []
    return pieces + ([(first, size)] if size else [])


def _over(arrays: Sequence[np.ndarray], size: int) -> list[np.ndarray]:
    return [as_strided(array.reshape(-1), (size,), (array.itemsize,)) for array in arrays]

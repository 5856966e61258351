"""
Merge arrays that are contiguous in memory into one array, so that the 148 parameters of GPT-2 take one kernel call.

Cost: microseconds per array, instead of a kernel call and a start of the threads for each. A training run merges the
same arrays in every step: a `Merger` looks at their addresses once.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable, Iterable, Sequence
from operator import is_
from typing import Any

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
    return _merged(rows, _spans(rows))


class Merger:
    """
    `merge_contiguous`, which remembers what it found out about the same arrays; a copy of it remembers nothing.

    Examples
    --------
    >>> flat, merger = np.arange(4.0), Merger()
    >>> [merger.merge([[flat[:2]], [flat[2:]]]) for _ in range(2)]
    [[[array([0., 1., 2., 3.])]], [[array([0., 1., 2., 3.])]]]
    """

    def __init__(self) -> None:
        # Weak references: arrays that a user replaces, and gradients that are forgotten, must not be kept.
        self._known: dict[Hashable, tuple[list[Callable[[], Any]], list[tuple[int, int]]]] = {}

    def __reduce__(self) -> Any:
        return Merger, ()

    def merge(self, rows: Sequence[Sequence[np.ndarray]], place: Hashable = None) -> list[list[np.ndarray]]:
        """The rows merged; what it finds out replaces what it found out for this place."""
        arrays = [array for row in rows for array in row]
        references, spans = self._known.get(place, ([], []))
        same = len(references) == len(arrays) and all(map(is_, [get() for get in references], arrays))
        if not same:
            spans = _spans(rows)
            self._known[place] = [weakref.ref(array) for array in arrays], spans
        return _merged(rows, spans)


def _spans(rows: Sequence[Sequence[np.ndarray]]) -> list[tuple[int, int]]:
    """The first of the rows that become one, and the one after the last."""
    firsts: list[int] = []
    ends: list[int] = []
    for number, row in enumerate(rows):
        whole = all(array.flags.c_contiguous for array in row)
        starts = [array.ctypes.data for array in row]
        if not whole or starts != ends:
            firsts.append(number)
        ends = [start + array.nbytes for start, array in zip(starts, row, strict=True)] if whole else []
    return list(zip(firsts, [*firsts[1:], len(rows)], strict=True)) if firsts else []


def _merged(rows: Sequence[Sequence[np.ndarray]], spans: Iterable[tuple[int, int]]) -> list[list[np.ndarray]]:
    merged = []
    for first, last in spans:
        row = rows[first]
        if all(array.flags.c_contiguous for array in row):
            size = sum([each[0].size for each in rows[first:last]])
            if size:
                merged.append([as_strided(array.reshape(-1), (size,), (array.itemsize,)) for array in row])
        else:
            merged.append(list(row))
    return merged

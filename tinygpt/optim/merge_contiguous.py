"""
Merge arrays that are contiguous in memory into one array, so that the 148 parameters of GPT-2 take one kernel call.

Cost: microseconds per array, instead of a kernel call and a start of the threads for each.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

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
    joined: list[list[np.ndarray]] = []
    first: Sequence[np.ndarray] = ()
    ends: list[int] = []
    size = 0
    for row in rows:
        whole = all(array.flags.c_contiguous for array in row)
        starts = [array.ctypes.data for array in row]
        if not whole or starts != ends:
            joined += _over(first, size)
            first, size = row, 0
        if whole:
            size += row[0].size
            ends = [start + array.nbytes for start, array in zip(starts, row, strict=True)]
        else:
            joined.append(list(row))
            first, ends = (), []
    return joined + _over(first, size)


def _over(arrays: Sequence[np.ndarray], size: int) -> list[list[np.ndarray]]:
    return [[as_strided(array.reshape(-1), (size,), (array.itemsize,)) for array in arrays]] if size else []

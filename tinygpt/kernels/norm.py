"""
The norm of the gradients, and their scaling, in one pass each: the twin of optim/gradient_norm.py. `squares_of_rows`
is for the backward of embedding.py, which changes a few rows of a gradient whose sum of squares is known.

The squares are summed in float64, in parts of 2^14 numbers. The parts do not depend on the number of threads, so the
norm does not either.

Cost: the norm reads one array; the scaling reads and writes it.
"""

from __future__ import annotations

import math

import numpy as np
from numba import prange

from tinygpt.kernels.jit import parallel, spread
from tinygpt.kernels.simd.math import sum_of_squares

_PART = 2**14  # elements


def squares(array: np.ndarray) -> float:
    """The sum of the squares of a flat float32 array, in float64."""
    sums = np.empty(-(-array.size // _PART))
    spread(_squares, array.size)(array, sums)
    return math.fsum(sums)


def squares_of_rows(array: np.ndarray, rows: np.ndarray) -> float:
    """The sum of the squares of some rows of a (N, C) float32 array, in float64."""
    sums = np.zeros(len(rows))
    if len(rows):
        spread(_squares_of_rows, array.shape[1] * len(rows))(array, rows, sums)
    return float(sums.sum())


def update(array: np.ndarray, factor: float) -> None:
    """Multiply a flat float32 array in place; of this name, so that `dispatch.in_place` finds it."""
    spread(_scale, array.size)(array, np.float32(factor))


@parallel
def _squares(array, sums):
    for part_ in prange(len(sums)):
        part = np.int64(part_)
        sums[part] = sum_of_squares(array[part * _PART : (part + 1) * _PART])


@parallel
def _squares_of_rows(array, rows, sums):
    for i_ in prange(len(rows)):
        i = np.int64(i_)
        sums[i] = sum_of_squares(array[rows[i]])


@parallel
def _scale(array, factor):
    for i in prange(len(array)):
        array[i] *= factor

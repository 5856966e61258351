"""
A matrix, a block of it, and its transpose, as compiled code passes them around: a flat array and where in it they lie.

Nothing here copies a number. The tuples are built inside compiled functions, where they cost nothing; made in Python,
each would cost a microsecond per call of a kernel.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tinygpt.kernels.jit import inlined


class Matrix(NamedTuple):
    """
    A matrix, or a block of one, that lies in a flat array.

    Attributes
    ----------
    data : ndarray, 1-D
        float32; of a quantized weight int8, or uint16 with the bits of bfloat16.
    start : int
        The index of its first number.
    stride : int
        The distance of two rows in memory; the numbers of a row lie side by side.
    rows, columns : int
    transposed : bool
        Whether memory holds the transpose: what is a column here is a row there.
    """

    data: np.ndarray
    start: int
    stride: int
    rows: int
    columns: int
    transposed: bool


@inlined
def row_major(data, start, stride, rows, columns):
    """A matrix as memory holds it: row by row."""
    return Matrix(data, start, stride, rows, columns, np.bool_(False))


@inlined
def transpose(matrix):
    """The transpose, in the same memory."""
    return Matrix(matrix.data, matrix.start, matrix.stride, matrix.columns, matrix.rows, not matrix.transposed)


@inlined
def block(matrix, row, column, rows, columns):
    """The block of so many rows and columns that begins at [row, column]."""
    stride = matrix.stride
    offset = column * stride + row if matrix.transposed else row * stride + column
    return Matrix(matrix.data, matrix.start + offset, stride, rows, columns, matrix.transposed)

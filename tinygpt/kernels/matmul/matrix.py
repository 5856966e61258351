"""
A matrix, a block of it, and its transpose, as compiled code passes them around: a flat array and where in it they lie.

Nothing here copies a number. The tuples are built inside compiled functions, where they cost nothing; a named tuple
that Python makes costs a microsecond per call of a kernel. So Python passes a matrix as a plain tuple, `Stored`, of
which `whole` makes a `Matrix` there.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np

from tinygpt.kernels.jit import ZERO, inlined
from tinygpt.kernels.simd.llvm import pointer

Stored: TypeAlias = tuple[np.ndarray, int, bool]  # as in `Matrix`: data, stride, transposed


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
def whole(stored, rows, columns):
    """All of a matrix that Python passes as `Stored`."""
    data, stride, transposed = stored
    return Matrix(data, ZERO, stride, rows, columns, transposed)


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


def members(builder: Any, kind: Any, value: Any) -> Any:
    """A named tuple that an intrinsic is called with, of Numba's type `kind`: the same tuple of LLVM's values."""
    return kind.instance_class(*(builder.extract_value(value, index) for index in range(len(kind))))


def address(context: Any, builder: Any, kind: Any, value: Any) -> Any:
    """Where the numbers of a `Matrix` begin, or of another named tuple with `data` and `start`."""
    own = members(builder, kind, value)
    return pointer(context, builder, kind[kind.fields.index("data")], own.data, own.start)

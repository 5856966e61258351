"""
A few rows of activations times a weight as a decoder holds it, in the form that its type tells: what decode_step.py
multiplies with. One thread does some of the inputs of a layer's product, or some of the columns of the head's.

    multiply_rows     out[:, columns] = x[:, inputs] @ weight[inputs, columns]       a linear layer's (I, O)
    multiply_table    out[:, rows] = x @ table[rows]^T                               the head's (V, C)

    weight                what is multiplied, and how it is summed
    float32, bfloat16     float32 by float32
    int8                  whole numbers, in int32: exactly
    int4                  whole numbers, in int32, over each group of 32 inputs; the groups in float32

For whole numbers the activations of a row that are summed are rounded to

    q = round(x * (limit / max |x|)),    x ~ q * step,    step = max |x| / limit,
    limit = the smaller of 2^15 - 1 and 2^31 / (128 inputs)

so that no sum of an int8 weight can overflow: sum |q w| <= inputs * limit * 128. That is 15 bits and a sign for up to
512 inputs, and so in the layers of GPT-2's smallest model, whose products decode_step.py cuts into parts; 14 in its
head, which sums 768. Of an output, at most step / 2 * sum |w| is lost, which is less than a hundredth of what rounding
the weights costs. NaN and infinity become NaN.

The bits of a number depend neither on how many rows are multiplied at once nor on how the columns are shared, as long
as each share but the last is a multiple of LANES.

Cost: each weight is read once; of int8 and int4 a few more, where a share of the inputs does not begin with a block.
"""

from __future__ import annotations

import numba
import numpy as np
from numba.core import types
from numba.extending import overload

from tinygpt.kernels.jit import ZERO, inlined, kernel
from tinygpt.kernels.simd.cpu import LANES
from tinygpt.kernels.simd.gemv import (
    GROUP,
    INT4_PACKED,
    INT8_PACKED,
    INT8_ROWS,
    add_groups_1,
    add_groups_4,
    add_rows_1,
    add_rows_4,
    add_words_1,
    add_words_4,
    dot_pairs_1,
    dot_pairs_4,
    dot_row_1,
    dot_row_4,
    int4_of,
    int8_of,
)
from tinygpt.kernels.simd.intrinsics import to_float32
from tinygpt.kernels.simd.math import maximum

TOGETHER = 64  # columns that one thread does together: whole vectors on every processor
_NEAR = 4096  # outputs that stay in the first-level cache while the rows of a weight are read
_LARGEST = np.float32(2**15 - 1)
_SMALLEST = np.float32(1e-30)  # activations below this are 0
_INFINITY = np.float32(np.inf)
_WORDS = GROUP // INT4_PACKED  # words of a group, for each column
_int4_of, _int8_of = inlined(int4_of), inlined(int8_of)


def rounded_size(inputs: int) -> int:
    """float32 numbers of memory for each row of x, of `inputs` numbers at most: the step, then two q in each."""
    return 1 + (inputs + 2 * GROUP) // 2


def multiply_rows(x, first, inputs, numbers, scale, column, columns, rounded, out):
    """
    Some columns of out (B, O): those of x (B, I) from `first` on times as many rows of a weight.

    Parameters
    ----------
    x : ndarray, float32, (B, I)
    first, inputs : int
        The columns of x, and rows of the weight, that are multiplied.
    numbers, scale : ndarray
        Of a `QuantizedWeight` with axis 1, of int8 the `words`; or the weight and an empty array.
    column, columns : int
        The columns of the weight.
    rounded : ndarray, float32, (B, rounded_size(inputs))
        Memory for x as whole numbers.
    out : ndarray, float32, (B, O), contiguous
    """
    _rows_by(numba.from_dtype(numbers.dtype))(x, first, inputs, numbers, scale, column, columns, rounded, out)


def multiply_table(x, numbers, scale, first, last, rounded, out):
    """
    Some columns of out (B, V): x (B, C) times the rows from `first` to `last` of a table (V, C).

    Parameters
    ----------
    x : ndarray, float32, (B, C)
    numbers, scale : ndarray
        Of a `QuantizedWeight` with axis 0, or the table and an empty array.
    first, last : int
    rounded : ndarray, float32, (B, rounded_size(C))
    out : ndarray, float32, (B, V), contiguous
    """
    _table_by(numba.from_dtype(numbers.dtype))(x, numbers, scale, first, last, rounded, out)


def rows_of_table(numbers: np.ndarray) -> int:
    """V, the rows of a table as `multiply_table` takes it: int4 has them side by side."""
    return numbers.shape[1] if numbers.dtype == np.uint32 else len(numbers)


@overload(multiply_rows)
def _compiled_multiply_rows(x, first, inputs, numbers, scale, column, columns, rounded, out):
    by = _rows_by(numbers.dtype)

    def multiply(x, first, inputs, numbers, scale, column, columns, rounded, out):
        by(x, first, inputs, numbers, scale, column, columns, rounded, out)

    return multiply


@overload(multiply_table)
def _compiled_multiply_table(x, numbers, scale, first, last, rounded, out):
    by = _table_by(numbers.dtype)

    def multiply(x, numbers, scale, first, last, rounded, out):
        by(x, numbers, scale, first, last, rounded, out)

    return multiply


def _rows_by(dtype):
    by = {types.int32: _rows_int8, types.uint32: _rows_int4, types.uint16: _rows_float32, types.float32: _rows_float32}
    return by[dtype]


def _table_by(dtype):
    by = {types.int8: _table_int8, types.uint32: _table_int4, types.uint16: _table_float32,
          types.float32: _table_float32}  # fmt: skip
    return by[dtype]


@kernel
def _rows_float32(x, first, inputs, numbers, scale, column, columns, rounded, out):
    """
    Four rows of the weight at a time, so that out is read and written once for four of them; with several rows of x,
    some of the columns at a time, which then stay in the first-level cache.
    """
    B, of_x, N, of_out = len(out), x.shape[1], numbers.shape[1], out.shape[1]
    flat_x, flat, flat_out = x.reshape(-1), numbers.reshape(-1), out.reshape(-1)
    width, end, fours = _width(B), column + columns, first + inputs // 4 * 4
    for b in range(B):
        out[b, column:end] = np.float32(0)
    for start in range(column, end, width):
        vectors = min(width, end - start) // LANES
        for i in range(first, fours, 4):
            place = i * N + start
            for b in range(0, B // 4 * 4, 4):
                add_rows_4(flat_x, b * of_x + i, of_x, flat, place, N, flat_out, b * of_out + start, of_out, vectors)
            for b in range(B // 4 * 4, B):
                add_rows_1(flat_x, b * of_x + i, of_x, flat, place, N, flat_out, b * of_out + start, of_out, vectors)
    for i in range(first, first + inputs):
        done = column + columns // LANES * LANES if i < fours else column
        row = numbers[i, done:end]
        for b in range(B):
            out_b, x_bi = out[b, done:end], x[b, i]
            for o in range(len(out_b)):
                out_b[o] = out_b[o] + x_bi * to_float32(row[o])


@kernel
def _rows_int8(x, first, inputs, numbers, scale, column, columns, rounded, out):
    """
    Eight rows at a time, in two rows of words. Of eight that begin before `first`, or end later, the other activations
    are 0. The sums of whole numbers lie where the outputs will.
    """
    B, N, of_out, of_q = len(out), numbers.shape[1], out.shape[1], 2 * rounded.shape[1]
    row_1, row_n = first // INT8_ROWS * INT8_ROWS, first + inputs
    _round(x, first, inputs, first - row_1, rounded)
    q, flat, sums = rounded.reshape(-1).view(np.int16), numbers.reshape(-1), out.reshape(-1).view(np.int32)
    width, end, done = _width(B), column + columns, column + columns // LANES * LANES
    for b in range(B):
        sums[b * of_out + column : b * of_out + end] = np.int32(0)
    for start in range(column, end, width):
        vectors = min(width, end - start) // LANES
        for row in range(row_1, row_n, INT8_ROWS):
            i, place = 2 + row - row_1, row // INT8_PACKED * N + start
            for b in range(0, B // 4 * 4, 4):
                add_words_4(q, b * of_q + i, of_q, flat, place, N, sums, b * of_out + start, of_out, vectors)
            for b in range(B // 4 * 4, B):
                add_words_1(q, b * of_q + i, of_q, flat, place, N, sums, b * of_out + start, of_out, vectors)
    for b in range(B):
        for o in range(done, end):
            total = np.int32(0)
            for row in range(row_1, row_n):
                number = _int8_of(numbers[row // INT8_PACKED, o], row % INT8_PACKED)
                total = total + np.int32(q[b * of_q + 2 + row - row_1]) * number
            sums[b * of_out + o] = total
    _finish(sums, scale, column, end, rounded, of_out)


@kernel
def _rows_int4(x, first, inputs, numbers, scale, column, columns, rounded, out):
    """A group of 32 rows at a time. Of one that begins before `first`, or ends later, the other activations are 0."""
    B, N, of_out, of_q = len(out), numbers.shape[1], out.shape[1], 2 * rounded.shape[1]
    group_1, group_n = first // GROUP, (first + inputs + GROUP - 1) // GROUP
    _round(x, first, inputs, first - group_1 * GROUP, rounded)
    q, flat = rounded.reshape(-1).view(np.int16), numbers.reshape(-1)
    scales, sums = scale.reshape(-1), out.reshape(-1)
    width, end, done = _width(B), column + columns, column + columns // LANES * LANES
    for b in range(B):
        out[b, column:end] = np.float32(0)
    for start in range(column, end, width):
        vectors = min(width, end - start) // LANES
        for group in range(group_1, group_n):
            i, place, of_scale = 2 + (group - group_1) * GROUP, group * _WORDS * N + start, group * N + start
            for b in range(0, B // 4 * 4, 4):
                add_groups_4(q, b * of_q + i, of_q, flat, place, N, scales, of_scale, sums, b * of_out + start, of_out,
                             vectors)  # fmt: skip
            for b in range(B // 4 * 4, B):
                add_groups_1(q, b * of_q + i, of_q, flat, place, N, scales, of_scale, sums, b * of_out + start, of_out,
                             vectors)  # fmt: skip
    for b in range(B):
        for o in range(done, end):
            for group in range(group_1, group_n):
                total, i = np.int32(0), b * of_q + 2 + (group - group_1) * GROUP
                for r in range(GROUP):
                    word = numbers[group * _WORDS + r // INT4_PACKED, o]
                    total = total + np.int32(q[i + r]) * _int4_of(word, r % INT4_PACKED)
                out[b, o] = out[b, o] + np.float32(total) * to_float32(scale[group, o])
        out_b, step = out[b, column:end], rounded[b, 0]
        for o in range(len(out_b)):
            out_b[o] = out_b[o] * step


@kernel
def _table_float32(x, numbers, scale, first, last, rounded, out):
    """A row of the table at a time, times four of x while there are so many."""
    B, C, V = x.shape[0], x.shape[1], len(numbers)
    flat_x, flat, flat_out, vectors = x.reshape(-1), numbers.reshape(-1), out.reshape(-1), C // LANES
    for v in range(first, last):
        for b in range(0, B // 4 * 4, 4):
            dot_row_4(flat_x, b * C, C, flat, v * C, flat_out, b * V + v, V, vectors)
        for b in range(B // 4 * 4, B):
            dot_row_1(flat_x, b * C, C, flat, v * C, flat_out, b * V + v, V, vectors)
    if vectors * LANES < C:
        for b in range(B):
            for v in range(first, last):
                for c in range(vectors * LANES, C):
                    out[b, v] = out[b, v] + x[b, c] * to_float32(numbers[v, c])


@kernel
def _table_int8(x, numbers, scale, first, last, rounded, out):
    """As `_table_float32`. The sums of whole numbers lie where the outputs will."""
    B, C, V, of_q = x.shape[0], x.shape[1], len(numbers), 2 * rounded.shape[1]
    _round(x, ZERO, C, ZERO, rounded)
    q, flat, sums = rounded.reshape(-1).view(np.int16), numbers.reshape(-1), out.reshape(-1).view(np.int32)
    vectors = C // (2 * LANES)
    for v in range(first, last):
        for b in range(0, B // 4 * 4, 4):
            dot_pairs_4(q, b * of_q + 2, of_q, flat, v * C, sums, b * V + v, V, vectors)
        for b in range(B // 4 * 4, B):
            dot_pairs_1(q, b * of_q + 2, of_q, flat, v * C, sums, b * V + v, V, vectors)
    if vectors * 2 * LANES < C:
        for b in range(B):
            for v in range(first, last):
                for c in range(vectors * 2 * LANES, C):
                    q_bc = np.int32(q[b * of_q + 2 + c])
                    sums[b * V + v] = sums[b * V + v] + q_bc * np.int32(numbers[v, c])
    _finish(sums, scale, first, last, rounded, V)


@kernel
def _table_int4(x, numbers, scale, first, last, rounded, out):
    """int4 is packed along what is summed, so a table lies in memory as its transpose, as a linear layer's weight."""
    _rows_int4(x, ZERO, x.shape[1], numbers, scale, first, last - first, rounded, out)


@kernel
def _width(B):
    """How many columns are done at a time for B rows of x."""
    return max(LANES, _NEAR // B // LANES * LANES)


@kernel
def _finish(sums, scale, first, last, rounded, of_out):
    """
    out = sums * scale * step, for the columns from `first` to `last`, in the same memory.

    The bits of a number are written where its sum was, through one array: a compiler that sees two has to fear that
    one number overwrites the next sum, and does them one by one.
    """
    scale_part = scale[first:last]
    for b in range(len(rounded)):
        sums_b, step = sums[b * of_out + first : b * of_out + last], rounded[b, 0]
        for o in range(len(sums_b)):
            sums_b[o] = np.float32(np.float32(sums_b[o]) * scale_part[o] * step).view(np.int32)


@kernel
def _round(x, first, inputs, before, rounded):
    """x as whole numbers: the step, and after `before` zeros the numbers, then zeros to the end of their group."""
    limit = min(_LARGEST, np.float32(2**31 // (128 * max(inputs, 1))))
    for b in range(len(x)):
        x_b, q_b = x[b, first : first + inputs], rounded[b].view(np.int16)[2:]
        largest = np.float32(0)
        for i in range(len(x_b)):
            largest = maximum(largest, np.abs(x_b[i]))
        q_b[: (before + inputs + GROUP - 1) // GROUP * GROUP] = np.int16(0)
        if _SMALLEST < largest < _INFINITY:
            rounded[b, 0], inverse, own = largest / limit, limit / largest, q_b[before : before + inputs]
            for i in range(len(x_b)):
                own[i] = np.int16(np.rint(x_b[i] * inverse))
        else:
            rounded[b, 0] = largest - largest  # NaN, if it is not finite

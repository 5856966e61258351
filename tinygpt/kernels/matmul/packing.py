"""
Packing: the numbers of A and B, copied into the order in which the micro-kernel reads them, a block of k at a time.

A micro-panel is what one call of the micro-kernel reads: MR rows of A, or up to NR columns of B, over all k. It is made
of *lines*: the numbers of one k, or of one pair of k, side by side. The format follows from the type of the packed
array (`format_of`; sizes in simd/cpu.py):

    float32    a line of A is a[0..MR, k], a line of B is b[k, 0..NR]
    uint32     the same with pairs: a line is two k, rounded to bfloat16
    uint16     blocks of 32 k as AMX loads them, see amx.py: MR lines of 32 numbers of A, and for each vector of columns
               of B a tile of its own, 16 lines of pairs

B may also be a weight in fewer bits, int8 or bfloat16 (uint16, its bits): each number of these is a bfloat16 exactly.

How a matrix is stored decides which way a block is read: *along k*, when k is the last axis of its array (A as it is,
or B transposed), else *across*. At the edges of a matrix a block is filled up with zeros, which add nothing to a sum.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic, overload

from tinygpt.kernels.jit import inlined, kernel
from tinygpt.kernels.matmul.amx import WORDS, pack_dense
from tinygpt.kernels.matmul.matrix import block
from tinygpt.kernels.simd.cpu import AMX, FLOAT32, LANES, PAIRS
from tinygpt.kernels.simd.intrinsics import to_float32
from tinygpt.kernels.simd.llvm import (
    INT32,
    INT64,
    advance,
    load_float32,
    numpy_bfloat16_pairs,
    pointer,
    skip,
    to_bfloat16,
    to_bfloat16_pairs,
    transpose,
)

FORMATS = {types.float32: FLOAT32, types.uint32: PAIRS, types.uint16: AMX}


def format_of(packed):
    """The `Format` of a packed array, which its type tells: in compiled code, a constant."""
    return FORMATS[numba.from_dtype(packed.dtype)]


@overload(format_of)
def _compiled_format_of(packed):
    form = FORMATS[packed.dtype]
    return lambda packed: form


def _make_pack(of_a: bool, along_k: bool) -> Callable[..., None]:
    """
    `pack(source, start, stride, target, target_start, step)`: one whole block.

    Reads rows of the source, `stride` apart: each a row of A or a column of B where it is stored along k, else all rows
    of A or LANES columns of B for one k. Writes lines of 4-byte words, `step` words apart.
    """
    if numba.config.DISABLE_JIT:

        def pack(source, start, stride, target, target_start, step):
            form = format_of(target)
            across = form.rows if of_a else LANES
            shape = (across, form.block) if along_k else (form.block, across)
            block = np.stack([to_float32(source[start + i * stride :][: shape[1]]) for i in range(shape[0])])
            block = block.T if along_k else block  # (k, rows or columns)
            words = block.view(np.uint32) if form is FLOAT32 else numpy_bfloat16_pairs(block[0::2], block[1::2])
            words = words.T if form is AMX and of_a else words
            whole = target.view(np.uint32)
            first = target_start * target.itemsize // 4
            for i, line in enumerate(words):
                whole[first + i * step :][: len(line)] = line

        return pack

    @intrinsic
    def pack(typingctx, source, start, stride, target, target_start, step):
        def codegen(context, builder, signature, arguments):
            form, dtype = FORMATS[signature.args[3].dtype], signature.args[0].dtype
            read = pointer(context, builder, signature.args[0], *arguments[:2])
            write = pointer(context, builder, signature.args[3], *arguments[3:5])
            if form is AMX:
                _pack_for_amx(builder, read, arguments[2], dtype, write, of_a, along_k)
                return
            across = form.rows if of_a else LANES
            words = _words_along if along_k else _words_across
            vectors, width = words(builder, read, arguments[2], dtype, form, across)
            for index, vector in enumerate(vectors):
                line, column = divmod(index * vector.type.count, width)
                offset = builder.add(builder.mul(arguments[5], INT64(line)), INT64(column))
                builder.store(vector, advance(builder, write, offset), align=4)

        n = types.int64
        return types.void(source, n, n, target, n, n), codegen

    return pack


def _words_along(builder: Any, read: Any, stride: Any, dtype: Any, form: Any, across: int) -> tuple[list[Any], int]:
    """The words of a block that is stored along k: its rows, transposed; and how many make a line."""
    vectors = []
    for _ in range(across):
        places = [skip(builder, read, k, dtype) for k in range(0, form.block, LANES)]
        row = [load_float32(builder, place, dtype, LANES) for place in places]
        if form is not FLOAT32:
            halves = [builder.bitcast(to_bfloat16(builder, v), ir.VectorType(INT32, LANES // 2)) for v in row]
            row = [_concatenated(builder, *halves)] if len(halves) == 2 else halves
        vectors += row
        read = skip(builder, read, stride, dtype)
    return transpose(builder, vectors), across


def _pack_for_amx(builder: Any, read: Any, stride: Any, dtype: Any, write: Any, of_a: bool, along_k: bool) -> None:
    """The block of B is a dense tile; that of A is two: 16 rows, and 16 more."""
    for tile in range(AMX.rows // 16 if of_a else 1):
        across = builder.mul(stride, INT64(16 * tile)) if along_k else INT64(16 * tile)
        first, target = skip(builder, read, across, dtype), advance(builder, write, WORDS * tile)
        for _ in pack_dense(builder, first, stride, dtype, target, of_a, along_k):
            pass


def _concatenated(builder: Any, low: Any, high: Any) -> Any:
    order = list(range(2 * low.type.count))
    return builder.shuffle_vector(low, high, ir.Constant(ir.VectorType(INT32, len(order)), order))


def _words_across(builder: Any, read: Any, stride: Any, dtype: Any, form: Any, across: int) -> tuple[list[Any], int]:
    """The words of a block that is stored across k: its rows as they are, or in pairs; and how many make a line."""
    rows = []
    for _ in range(form.block):
        places = [skip(builder, read, i, dtype) for i in range(0, across, LANES)]
        rows.append([load_float32(builder, place, dtype, min(across, LANES)) for place in places])
        read = skip(builder, read, stride, dtype)
    if form is not FLOAT32:
        rows = [
            [to_bfloat16_pairs(builder, *pair) for pair in zip(first, second, strict=True)]
            for first, second in zip(rows[0::2], rows[1::2], strict=True)
        ]
    return [vector for row in rows for vector in row], across


_a_along, _a_across = _make_pack(of_a=True, along_k=True), _make_pack(of_a=True, along_k=False)
_b_along, _b_across = _make_pack(of_a=False, along_k=True), _make_pack(of_a=False, along_k=False)


@inlined
def _stage(source, start, stride, rows, columns, staged, width):
    """Copy an incomplete block to scratch memory, with zeros around it: (rows, columns) into lines of `width`."""
    for i in range(len(staged)):
        staged[i] = np.float32(0)
    for i in range(rows):
        for j in range(columns):
            staged[i * width + j] = to_float32(source[start + i * stride + j])


@kernel
def pack_a(a, packed, start, staged):
    """
    Pack A, up to MR rows, as one micro-panel from ``packed[start]`` on.

    `a` is a `Matrix`; `staged` is scratch memory for an incomplete block: 32 x 32 numbers.
    """
    form = format_of(packed)
    step = form.lines if form.unit == 2 else form.rows
    size = form.rows * form.lines * form.unit
    for k in range(0, a.columns, form.block):
        depth = min(form.block, a.columns - k)
        whole = a.rows == form.rows and depth == form.block
        if a.transposed:
            first = a.start + k * a.stride
            if whole:
                _a_across(a.data, first, a.stride, packed, start, step)
            else:
                _stage(a.data, first, a.stride, depth, a.rows, staged, form.rows)
                _a_across(staged, 0, form.rows, packed, start, step)
        else:
            first = a.start + k
            if whole:
                _a_along(a.data, first, a.stride, packed, start, step)
            else:
                _stage(a.data, first, a.stride, a.rows, depth, staged, form.block)
                _a_along(staged, 0, form.block, packed, start, step)
        start += size


@kernel
def pack_b(b, packed, start, staged):
    """
    Pack B, up to NR columns, as one micro-panel from ``packed[start]`` on: as many whole vectors as the columns need.

    `b` is a `Matrix`; `staged` as with `pack_a`.
    """
    form = format_of(packed)
    vectors = (b.columns + LANES - 1) // LANES
    size = vectors * LANES * form.lines * form.unit
    step, apart = vectors * LANES, 1  # of the lines, and of the columns in a line
    if form.unit == 2:  # AMX: each vector of columns is a tile of its own
        step, apart = LANES, form.lines * form.unit
    for k in range(0, b.rows, form.block):
        depth = min(form.block, b.rows - k)
        for v in range(vectors):
            column = v * LANES
            here = block(b, k, column, depth, min(LANES, b.columns - column))
            pack_block_of_b(here, packed, start + column * apart, step, staged)
        start += size


@kernel
def pack_block_of_b(b, packed, start, step, staged):
    """
    Pack one block of B, up to LANES columns of as many k as the format packs at once, as lines `step` words apart.

    `b` is a `Matrix`; what is missing of it becomes zeros.
    """
    form = format_of(packed)
    whole = b.columns == LANES and b.rows == form.block
    if b.transposed:
        if whole:
            _b_along(b.data, b.start, b.stride, packed, start, step)
        else:
            _stage(b.data, b.start, b.stride, b.columns, b.rows, staged, form.block)
            _b_along(staged, 0, form.block, packed, start, step)
    elif whole:
        _b_across(b.data, b.start, b.stride, packed, start, step)
    else:
        _stage(b.data, b.start, b.stride, b.rows, b.columns, staged, LANES)
        _b_across(staged, 0, LANES, packed, start, step)

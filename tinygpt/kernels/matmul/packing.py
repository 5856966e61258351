"""
Packing: the numbers of A and B, copied into the order in which the tile reads them, a block at a time.

A panel is what one tile reads of A or B: `rows` rows of A, or up to `vectors` vectors of columns of B, over all k.
Which memory is read from front to back depends on how the matrix is stored: *along k*, when k is the last axis of its
array, else *across*. So there are four ways to read a block, and three formats to write it in (see simd/cpu.py), told
apart by the type of the packed array:

    float32    a line of A is a[0..rows, k], a line of B is b[k, 0..columns]
    uint32     the same with pairs: a line is two k, rounded to bfloat16
    uint16     B as with uint32. A block of A is `rows` lines of 32 numbers of neighbouring k, as AMX loads them

What a block lacks at the edges of a matrix is filled with zeros, which add nothing to a sum.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from tinygpt.kernels.jit import inlined, kernel
from tinygpt.kernels.simd.cpu import AMX, FLOAT32, LANES, PAIRS
from tinygpt.kernels.simd.llvm import (
    FLOAT,
    INT32,
    INT64,
    advance,
    load,
    numpy_bfloat16_pairs,
    pointer,
    to_bfloat16,
    to_bfloat16_pairs,
    transpose,
)


def _format_of(packed: Any) -> Any:
    dtype = np.dtype(str(packed.dtype))
    return {np.dtype(np.float32): FLOAT32, np.dtype(np.uint32): PAIRS, np.dtype(np.uint16): AMX}[dtype]


def _make_pack(of_a: bool, along_k: bool) -> Callable[..., None]:
    """
    `pack(source, start, stride, target, place, step)`: one whole block.

    Reads rows of the source, `stride` apart: each a row of A or a column of B where it is stored along k, else all rows
    of A or LANES columns of B for one k. Writes lines of words of 4 bytes, `step` words apart.
    """
    if numba.config.DISABLE_JIT:

        def pack(source, start, stride, target, place, step):
            form = _format_of(target)
            across = form.rows if of_a else LANES
            shape = (across, form.block) if along_k else (form.block, across)
            block = np.stack([source[start + i * stride :][: shape[1]] for i in range(shape[0])])
            block = block.T if along_k else block  # (k, rows or columns)
            words = block.view(np.uint32) if form is FLOAT32 else numpy_bfloat16_pairs(block[0::2], block[1::2])
            words = words.T if form is AMX and of_a else words
            whole = target.view(np.uint32)
            first = place * target.itemsize // 4
            for i, line in enumerate(words):
                whole[first + i * step :][: len(line)] = line

        return pack

    @intrinsic
    def pack(typingctx, source, start, stride, target, place, step):
        def codegen(context, builder, signature, arguments):
            form = _format_of(signature.args[3])
            read = pointer(context, builder, signature.args[0], *arguments[:2])
            write = pointer(context, builder, signature.args[3], *arguments[3:5])
            across = form.rows if of_a else LANES
            words = _words_along if along_k else _words_across
            vectors, width = words(builder, read, arguments[2], form, across, form is AMX and of_a)
            for index, vector in enumerate(vectors):
                line, column = divmod(index * vector.type.count, width)
                offset = builder.add(builder.mul(arguments[5], INT64(line)), INT64(column))
                builder.store(vector, advance(builder, write, offset), align=4)

        n = types.int64
        return types.void(source, n, n, target, n, n), codegen

    return pack


def _words_along(
    builder: Any, read: Any, stride: Any, form: Any, across: int, as_stored: bool
) -> tuple[list[Any], int]:
    """The words of a block that is stored along k, and how many make a line: its rows, transposed."""
    vectors = []
    for _ in range(across):
        row = [load(builder, advance(builder, read, k), FLOAT, LANES) for k in range(0, form.block, LANES)]
        if form is not FLOAT32:
            halves = [builder.bitcast(to_bfloat16(builder, v), ir.VectorType(INT32, LANES // 2)) for v in row]
            row = [_joined(builder, *halves)] if len(halves) == 2 else halves
        vectors += row
        read = advance(builder, read, stride)
    return (vectors, form.lines) if as_stored else (transpose(builder, vectors), across)


def _joined(builder: Any, low: Any, high: Any) -> Any:
    order = list(range(2 * low.type.count))
    return builder.shuffle_vector(low, high, ir.Constant(ir.VectorType(INT32, len(order)), order))


def _words_across(
    builder: Any, read: Any, stride: Any, form: Any, across: int, as_stored: bool
) -> tuple[list[Any], int]:
    """The words of a block that is stored across k, and how many make a line: its rows as they are, or in pairs."""
    rows = []
    for _ in range(form.block):
        rows.append(
            [load(builder, advance(builder, read, i), FLOAT, min(across, LANES)) for i in range(0, across, LANES)]
        )
        read = advance(builder, read, stride)
    if form is not FLOAT32:
        rows = [
            [to_bfloat16_pairs(builder, *pair) for pair in zip(first, second, strict=True)]
            for first, second in zip(rows[0::2], rows[1::2], strict=True)
        ]
    if as_stored:  # AMX wants A along k
        return [v for i in range(across // LANES) for v in transpose(builder, [row[i] for row in rows])], form.lines
    return [vector for row in rows for vector in row], across


_a_along, _a_across = _make_pack(of_a=True, along_k=True), _make_pack(of_a=True, along_k=False)
_b_along, _b_across = _make_pack(of_a=False, along_k=True), _make_pack(of_a=False, along_k=False)


@inlined
def _stage(source, start, stride, rows, columns, staged, width):
    """What there is of a block, in memory of its own and surrounded by zeros: (rows, columns) into lines of `width`."""
    for i in range(len(staged)):
        staged[i] = np.float32(0)
    for i in range(rows):
        for j in range(columns):
            staged[i * width + j] = source[start + i * stride + j]


@kernel
def pack_a(a, along_k, stride, row, rows, k, depth, packed, place, form, staged):
    """
    Pack rows ``row .. row + rows`` of A, for ``k .. k + depth``, as one panel from ``packed[place]`` on.

    `a` is flat float32, its stored rows `stride` apart; `staged` is a scratch array of ``form.rows * 32`` numbers.
    """
    step = form.lines if form.unit == 2 else form.rows
    size = form.rows * form.lines * form.unit
    for first in range(0, depth, form.block):
        deep = min(form.block, depth - first)
        whole = rows == form.rows and deep == form.block
        if along_k:
            start = row * stride + k + first
            if whole:
                _a_along(a, start, stride, packed, place, step)
            else:
                _stage(a, start, stride, rows, deep, staged, form.block)
                _a_along(staged, 0, form.block, packed, place, step)
        else:
            start = (k + first) * stride + row
            if whole:
                _a_across(a, start, stride, packed, place, step)
            else:
                _stage(a, start, stride, deep, rows, staged, form.rows)
                _a_across(staged, 0, form.rows, packed, place, step)
        place += size


@kernel
def pack_b(b, along_k, stride, column, columns, k, depth, packed, place, form, staged):
    """
    Pack columns ``column .. column + columns`` of B, for ``k .. k + depth``, as one panel from ``packed[place]`` on.

    The panel is as many whole vectors wide as the columns need.
    """
    vectors = (columns + LANES - 1) // LANES
    size = vectors * LANES * form.lines * form.unit
    for first in range(0, depth, form.block):
        deep = min(form.block, depth - first)
        for v in range(vectors):
            here, wide = column + v * LANES, min(LANES, columns - v * LANES)
            target = place + v * LANES * form.unit
            whole = wide == LANES and deep == form.block
            if along_k:
                start = here * stride + k + first
                if whole:
                    _b_along(b, start, stride, packed, target, vectors * LANES)
                else:
                    _stage(b, start, stride, wide, deep, staged, form.block)
                    _b_along(staged, 0, form.block, packed, target, vectors * LANES)
            else:
                start = (k + first) * stride + here
                if whole:
                    _b_across(b, start, stride, packed, target, vectors * LANES)
                else:
                    _stage(b, start, stride, deep, wide, staged, LANES)
                    _b_across(staged, 0, LANES, packed, target, vectors * LANES)
        place += size

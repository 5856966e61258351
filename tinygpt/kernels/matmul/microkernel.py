"""
The innermost loop of every matrix product: one tile of C, whose numbers stay in registers.

    C[r, c] (+)= sum_k A[r, k] B[k, c]

A and B come packed (see packing.py), so that the loop reads both from front to back. With float32, step k loads one
line of B as vectors and each number of a line of A into all lanes of one, and adds their products to rows x vectors
sums. With pairs a step takes two k at once, by an instruction that multiplies bfloat16 numbers and adds both products
to a float32. With AMX a step takes 32 k: four tiles of 16 x 16 sums, to each of which one instruction adds the product
of 16 rows of A and 16 columns of B.

Sums run over k from 0 upwards, in one float32 for each number of C.

Source: Goto & van de Geijn 2008, "Anatomy of High-Performance Matrix Multiplication", ACM TOMS 34(3); the register tile
is
        that of Van Zee & van de Geijn 2015, "BLIS", ACM TOMS 41(3). Instructions: Intel's Architecture Instruction Set
        Extensions Programming Reference, VDPBF16PS and chapter 3, AMX.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from tinygpt.kernels.simd.cpu import AMX, FLOAT32, LANES, PAIRS
from tinygpt.kernels.simd.llvm import (
    BFLOAT,
    FLOAT,
    INT8,
    INT32,
    INT64,
    POINTER,
    advance,
    broadcast,
    fma,
    load,
    loop,
    pointer,
    prefetch,
    switch,
)

# What becomes of C: the sum, C + the sum, the sum + one bias a column. Not plain numbers: see `kernels/__init__.py`.
# STREAM is OVERWRITE past the caches: for a large C that nobody reads soon, 64-byte aligned as are all of its rows.
OVERWRITE, ACCUMULATE, WITH_BIAS, STREAM = np.int64(0), np.int64(1), np.int64(2), np.int64(3)
_AHEAD = 8  # lines of B between the one in use and the one asked for: about the way to the second cache and back


def make_tile(vectors: int) -> Callable[..., None]:
    """
    `tile(a, a_start, b, b_start, depth, c, c_start, c_stride, mode, bias, bias_start)` for `vectors` vectors of
    columns.

    `a` and `b` are packed; `depth` counts lines of B. `c` and `bias` are flat float32 arrays; the rows of the tile are
    `c_stride` apart in `c`. Between `begin_tiles(a)` and `end_tiles(a)`.
    """
    columns = vectors * LANES
    if numba.config.DISABLE_JIT:

        def tile(a, a_start, b, b_start, depth, c, c_start, c_stride, mode, bias, bias_start):
            left, right = unpacked(a, a_start, b, b_start, depth, columns)
            total = left @ right
            for r in range(len(total)):
                row = c[c_start + r * c_stride :][:columns]
                if mode == ACCUMULATE:
                    row += total[r]
                else:
                    row[:] = total[r] + bias[bias_start:][:columns] if mode == WITH_BIAS else total[r]

        return tile

    @intrinsic
    def tile(typingctx, a, a_start, b, b_start, depth, c, c_start, c_stride, mode, bias, bias_start):
        def codegen(context, builder, signature, arguments):
            a, a_start, b, b_start, depth, c, c_start, c_stride, mode, bias, bias_start = arguments
            a = pointer(context, builder, signature.args[0], a, a_start)
            b = pointer(context, builder, signature.args[2], b, b_start)
            c = pointer(context, builder, signature.args[5], c, c_start)
            bias = pointer(context, builder, signature.args[9], bias, bias_start)
            _await_rows(builder, c, c_stride, mode, _rows_of(signature.args[0].dtype), vectors)
            if signature.args[0].dtype == types.uint16:
                if vectors <= AMX.vectors:
                    _multiply_by_amx(builder, a, b, depth, c, c_stride, mode, bias, vectors)
                return
            step = _step if signature.args[0].dtype == types.float32 else _step_of_pairs
            sums = _multiply(builder, a, b, depth, _rows_of(signature.args[0].dtype), vectors, step)
            _store(builder, sums, c, c_stride, mode, bias, vectors)

        n = types.int64
        return types.void(a, n, b, n, n, c, n, n, n, bias, n), codegen

    return tile


def _rows_of(packed: Any) -> int:
    return {types.float32: FLOAT32, types.uint32: PAIRS, types.uint16: AMX}[packed].rows


def _await_rows(builder: Any, c: Any, stride: Any, mode: Any, rows: int, vectors: int) -> None:
    """Ask for the tile's place in C, unless it is not to be read: it will have come when the sums are done."""
    with builder.if_then(builder.icmp_signed("!=", mode, INT64(int(STREAM)))):
        for _ in range(rows):
            for word in range(0, vectors * LANES, 16):
                prefetch(builder, advance(builder, c, word), to_write=True)
            c = advance(builder, c, stride)


def unpacked(a, a_start, b, b_start, depth, columns):
    """What two packed panels hold, as float32 matrices A (rows, k) and B (k, columns)."""
    if a.dtype == np.float32:
        return a[a_start:][: depth * FLOAT32.rows].reshape(depth, -1).T, b[b_start:][: depth * columns].reshape(
            depth, -1
        )
    form, words = (PAIRS, 1) if a.dtype == np.uint32 else (AMX, 2)
    depth = -(-depth // AMX.lines) * AMX.lines if form is AMX else depth
    left, right = (
        x[s:][: depth * n * words].view(np.uint32) for x, s, n in ((a, a_start, form.rows), (b, b_start, columns))
    )
    if form is AMX:
        left = left.reshape(-1, form.rows, form.lines).transpose(0, 2, 1)
    low, high = np.uint32(16), np.uint32(0xFFFF0000)
    left, right = (
        np.stack([x << low, x & high], axis=1).reshape(2 * depth, -1).view(np.float32)
        for x in (left.reshape(depth, form.rows), right.reshape(depth, columns))
    )
    return left.T, right


def _multiply(
    builder: Any, a: Any, b: Any, depth: Any, rows: int, vectors: int, step: Callable[..., list[Any]]
) -> list[Any]:
    """All steps, four at a time, then those that are left; returns the rows x vectors sums."""

    def steps(count: int) -> Callable[[list[Any]], list[Any]]:
        def body(state: list[Any]) -> list[Any]:
            a, b, *sums = state
            for _ in range(count):
                for word in range(0, vectors * LANES, 16):
                    prefetch(builder, advance(builder, b, _AHEAD * vectors * LANES + word))
                sums = step(builder, a, b, sums, vectors)
                a, b = advance(builder, a, rows), advance(builder, b, vectors * LANES)
            return [a, b, *sums]

        return body

    zero = ir.Constant(ir.VectorType(FLOAT, LANES), [0.0] * LANES)
    state = loop(builder, builder.lshr(depth, INT64(2)), [a, b, *[zero] * (rows * vectors)], steps(4))
    return loop(builder, builder.and_(depth, INT64(3)), state, steps(1))[2:]


def _step(builder: Any, a: Any, b: Any, sums: list[Any], vectors: int) -> list[Any]:
    """Add the products of one k."""
    columns = _line(builder, b, vectors, FLOAT)
    result = []
    for r in range(len(sums) // vectors):
        factor = _broadcast_from(builder, advance(builder, a, r), FLOAT)
        result += [fma(builder, factor, columns[v], sums[r * vectors + v]) for v in range(vectors)]
    return result


def _step_of_pairs(builder: Any, a: Any, b: Any, sums: list[Any], vectors: int) -> list[Any]:
    """Add the products of two k."""
    pairs, wide = ir.VectorType(BFLOAT, 2 * LANES), ir.VectorType(FLOAT, LANES)
    kind = ir.FunctionType(wide, [wide, pairs, pairs])
    dot = builder.module.declare_intrinsic("llvm.x86.avx512bf16.dpbf16ps.512", (), kind)
    columns = [builder.bitcast(column, pairs) for column in _line(builder, b, vectors, INT32)]
    result = []
    for r in range(len(sums) // vectors):
        factor = builder.bitcast(_broadcast_from(builder, advance(builder, a, r), INT32), pairs)
        result += [builder.call(dot, [sums[r * vectors + v], factor, columns[v]]) for v in range(vectors)]
    return result


def _line(builder: Any, address: Any, vectors: int, element: Any) -> list[Any]:
    return [load(builder, advance(builder, address, v * LANES), element, LANES) for v in range(vectors)]


def _broadcast_from(builder: Any, address: Any, element: Any) -> Any:
    return broadcast(builder, builder.load(address, align=4, typ=element), LANES)


def _store(builder: Any, sums: list[Any], c: Any, stride: Any, mode: Any, bias: Any, vectors: int) -> None:
    """Write the tile in one of the four ways."""

    def write(kind: int) -> None:
        place = c
        biases = _line(builder, bias, vectors, FLOAT) if kind == WITH_BIAS else []
        for r in range(len(sums) // vectors):
            for v in range(vectors):
                total, here = sums[r * vectors + v], advance(builder, place, v * LANES)
                if kind == ACCUMULATE:
                    total = builder.fadd(load(builder, here, FLOAT, LANES), total)
                elif kind == WITH_BIAS:
                    total = builder.fadd(total, biases[v])
                if kind == STREAM:
                    written = builder.store(total, here, align=4 * LANES)
                    written.set_metadata("nontemporal", builder.module.add_metadata([INT32(1)]))
                else:
                    builder.store(total, here, align=4)
            place = advance(builder, place, stride)

    switch(builder, mode, 4, write)


def _multiply_by_amx(
    builder: Any, a: Any, b: Any, depth: Any, c: Any, stride: Any, mode: Any, bias: Any, vectors: int
) -> None:
    """The whole tile in AMX's registers: 0 to 3 hold the sums, 4 and 5 rows of A, 6 and 7 columns of B."""
    load_tile, multiply_add = (
        _amx(builder, name, *kinds)
        for name, kinds in (("tileloadd64", (INT8, POINTER, INT64)), ("tdpbf16ps", (INT8, INT8, INT8)))
    )
    row_bytes = builder.mul(stride, INT64(4))
    sums = []  # register, its place in C, its first column
    for row in range(2):
        sums += [(INT8(2 * row + v), advance(builder, c, 16 * v), v) for v in range(vectors)]
        c = advance(builder, c, builder.mul(stride, INT64(16)))

    def begin(kind: int) -> None:
        for register, place, v in sums:
            if kind in (OVERWRITE, STREAM):
                builder.call(_amx(builder, "tilezero", INT8), [register])
            elif kind == ACCUMULATE:
                builder.call(load_tile, [register, place, row_bytes])
            else:  # sixteen times the same line
                builder.call(load_tile, [register, advance(builder, bias, 16 * v), INT64(0)])

    def step(state: list[Any]) -> list[Any]:
        a, b = state
        for line in range(32):
            prefetch(builder, advance(builder, a, 512 + 16 * line))
        for line in range(16 * vectors):
            prefetch(builder, advance(builder, b, 256 * vectors + 16 * line))
        for row in range(2):
            builder.call(load_tile, [INT8(4 + row), advance(builder, a, 256 * row), INT64(64)])
        for v in range(vectors):
            builder.call(load_tile, [INT8(6 + v), advance(builder, b, 16 * v), INT64(64 * vectors)])
        for index, (register, _, v) in enumerate(sums):
            builder.call(multiply_add, [register, INT8(4 + index // vectors), INT8(6 + v)])
        return [advance(builder, a, 512), advance(builder, b, 256 * vectors)]

    switch(builder, mode, 4, begin)
    loop(builder, builder.lshr(builder.add(depth, INT64(AMX.lines - 1)), INT64(4)), [a, b], step)
    for register, place, _ in sums:
        builder.call(_amx(builder, "tilestored64", INT8, POINTER, INT64), [register, place, row_bytes])


def _amx(builder: Any, name: str, *kinds: Any) -> Any:
    return builder.module.declare_intrinsic(f"llvm.x86.{name}", (), ir.FunctionType(ir.VoidType(), kinds))


tile_1, tile_2, tile_3 = make_tile(1), make_tile(2), make_tile(3)

# How AMX's registers are divided, 64 bytes: palette 1, then for each of eight the bytes of a row, and how many rows.
AMX_LAYOUT = np.zeros(64, np.uint8)
AMX_LAYOUT[0], AMX_LAYOUT[16:32:2], AMX_LAYOUT[48:56] = 1, 64, 16

if numba.config.DISABLE_JIT:

    def begin_tiles(packed, layout):
        pass

    def end_tiles(packed):
        pass

else:

    @intrinsic
    def begin_tiles(typingctx, packed, layout):
        """Before the first tile: with AMX (a uint16 array), divide its registers as `AMX_LAYOUT` says."""

        def codegen(context, builder, signature, arguments):
            if signature.args[0].dtype == types.uint16:
                place = pointer(context, builder, signature.args[1], arguments[1], INT64(0))
                builder.call(_amx(builder, "ldtilecfg", POINTER), [place])

        return types.void(packed, layout), codegen

    @intrinsic
    def end_tiles(typingctx, packed):
        """After the last tile: with AMX, give its registers back, so that nobody saves and restores them."""

        def codegen(context, builder, signature, arguments):
            if signature.args[0].dtype == types.uint16:
                builder.call(_amx(builder, "tilerelease"), [])

        return types.void(packed), codegen

"""
The micro-kernel: the innermost loop of every matrix product. One tile of C, whose sums stay in registers.

    C[r, c] (+)= sum_k A[r, k] B[k, c]          r < MR, c < NR

A and B come packed (see packing.py), so the loop reads both from front to back. With float32, step k loads a line of B
as vectors, broadcasts one number of A's line after the other, and adds their products to MR x vectors sums. With pairs
a step takes two k at once, by an instruction that multiplies bfloat16 numbers and adds both products to a float32. With
AMX a step takes 32 k: one instruction adds the product of 16 rows of A and 16 columns of B to one of four registers of
16 x 16 sums. That branch serves products of packed panels alone (panels.py, for attention): amx_gemm.py has a loop of
its own.

Sums run over k from 0 upwards, in one float32 for each number of C.

The loops with vectors prefetch as they run: first the tile of C, then a part of the panel of B that the next task needs
(`Upcoming`), one cache line at a time with many multiplications between. A core can wait for about 16 lines at once
(Intel: line-fill buffers, 16 since Ice Lake). The loop's own loads from the second-level cache need one each, and a
burst of prefetches would occupy them all.

Source: Goto & van de Geijn 2008, "Anatomy of High-Performance Matrix Multiplication", ACM TOMS 34(3); the register tile
        is that of Van Zee & van de Geijn 2015, "BLIS", ACM TOMS 41(3). Instructions: Intel's Architecture Instruction
        Set Extensions Programming Reference, VDPBF16PS and chapter 3, AMX.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numba
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic, overload

from tinygpt.kernels.matmul.amx import amx, load_dense, unpacked_a, unpacked_b
from tinygpt.kernels.simd.cpu import AMX, FLOAT32, LANES, PAIRS, PREFETCHING
from tinygpt.kernels.simd.llvm import (
    BFLOAT,
    FLOAT,
    INT32,
    INT64,
    add_squares,
    advance,
    broadcast,
    fma,
    load,
    loop,
    pointer,
    prefetch,
    switch,
)

# What becomes of C: the sum; C + the sum; the sum + one bias per column. Not plain numbers: see `kernels/__init__.py`.
# NON_TEMPORAL is OVERWRITE by non-temporal stores, which bypass the caches: for a C that is larger than they are, and
# is aligned to 64 bytes, as all of its rows are.
OVERWRITE, ACCUMULATE, WITH_BIAS, NON_TEMPORAL = np.int64(0), np.int64(1), np.int64(2), np.int64(3)
NO_SQUARES = np.int64(-1)
LINE = 16  # numbers in a cache line
_UNROLLED = 8  # steps per turn of the loop


class Upcoming(NamedTuple):
    """
    Rows of a matrix that a micro-kernel prefetches into the second-level cache, for a later one.

    Attributes
    ----------
    data : ndarray, 1-D
    start : int
        The index of the first number.
    gap, stride : int
        The distance of two cache lines of a row, and of two rows, in words of 4 bytes. A row has as many lines as the
        micro-kernel's C.
    rows : int
        How many; a micro-kernel has time for one per `_UNROLLED` steps.
    """

    data: np.ndarray
    start: int
    gap: int
    stride: int
    rows: int


FORMATS = {types.float32: FLOAT32, types.uint32: PAIRS, types.uint16: AMX}


def format_of(packed):
    """The `Format` of a packed array, which its type tells: in compiled code, a constant."""
    return FORMATS[numba.from_dtype(packed.dtype)]


@overload(format_of)
def _compiled_format_of(packed):
    form = FORMATS[packed.dtype]
    return lambda packed: form


def _make_micro_kernel(vectors: int) -> Callable[..., None]:
    """
    `micro_kernel(a, a_start, b, b_start, lines, c, c_start, c_stride, mode, bias, bias_start, upcoming, squares,
    own_squares)` for a tile that is `vectors` vectors wide.

    `a` and `b` are packed; `lines` are those of B. `c` and `bias` are flat float32 arrays; the rows of the tile are
    `c_stride` apart in `c`; `upcoming` is an `Upcoming` or None. `squares` is a float64 array or None: to its vector at
    `own_squares`, if that is not `NO_SQUARES`, the squares of the tile are added; not with AMX. To be called between
    `configure_amx(a)` and `release_amx(a)`, see amx.py.
    """
    columns = vectors * LANES
    if numba.config.DISABLE_JIT:

        def micro_kernel(
            a, a_start, b, b_start, lines, c, c_start, c_stride, mode, bias, bias_start, upcoming, squares, own_squares
        ):
            left, right = unpacked(a, a_start, b, b_start, lines, columns)
            total = left @ right
            for r in range(len(total)):
                row = c[c_start + r * c_stride :][:columns]
                if mode == ACCUMULATE:
                    row += total[r]
                else:
                    row[:] = total[r] + bias[bias_start:][:columns] if mode == WITH_BIAS else total[r]
                if squares is not None and own_squares != NO_SQUARES:
                    squares[own_squares] += np.square(row, dtype=np.float64).sum()

        return micro_kernel

    @intrinsic
    def micro_kernel(
        typingctx, a, a_start, b, b_start, lines, c, c_start, c_stride, mode, bias, bias_start, upcoming, squares,
        own_squares,
    ):  # fmt: skip
        def codegen(context, builder, signature, arguments):
            rows = FORMATS[signature.args[0].dtype].rows
            a, a_start, b, b_start, lines, c, c_start, c_stride, mode, bias, bias_start, upcoming, squares, own = (
                arguments
            )
            a = pointer(context, builder, signature.args[0], a, a_start)
            b = pointer(context, builder, signature.args[2], b, b_start)
            c = pointer(context, builder, signature.args[5], c, c_start)
            bias = pointer(context, builder, signature.args[9], bias, bias_start)
            if signature.args[0].dtype == types.uint16:
                _prefetch_tile(builder, c, c_stride, mode, rows, vectors)
                if vectors <= AMX.vectors:
                    _multiply_by_amx(builder, a, b, lines, c, c_stride, mode, bias, vectors)
                return
            step = _step if signature.args[0].dtype == types.float32 else _step_of_pairs
            through_caches = builder.icmp_signed("!=", mode, INT64(int(NON_TEMPORAL)))
            rows_of_c = builder.select(through_caches, INT64(rows), INT64(0))
            prefetches = [_Prefetch(c, INT64(LINE), c_stride, rows_of_c, to_write=True)]
            if not isinstance(signature.args[11], types.NoneType):
                data, start, gap, stride, count = (builder.extract_value(upcoming, i) for i in range(5))
                place = pointer(context, builder, signature.args[11][0], data, start)
                prefetches.append(_Prefetch(place, gap, stride, count, to_write=False))
            sums = _multiply(builder, a, b, lines, rows, vectors, step, prefetches)
            kind = signature.args[12]
            into = None if isinstance(kind, types.NoneType) else (pointer(context, builder, kind, squares, own), own)
            _store(builder, sums, c, c_stride, mode, bias, vectors, into)

        n = types.int64
        return types.void(a, n, b, n, n, c, n, n, n, bias, n, upcoming, squares, n), codegen

    return micro_kernel


def _prefetch_tile(builder: Any, c: Any, stride: Any, mode: Any, rows: int, vectors: int) -> None:
    """Prefetch the tile of C at once, for AMX. Non-temporal stores do not need it."""
    with builder.if_then(builder.icmp_signed("!=", mode, INT64(int(NON_TEMPORAL)))):
        for _ in range(rows):
            for word in range(0, vectors * LANES, LINE):
                prefetch(builder, advance(builder, c, word), to_write=True)
            c = advance(builder, c, stride)


def unpacked(a, a_start, b, b_start, lines, columns):
    """What two packed panels hold, as float32 matrices A (rows, k) and B (k, columns)."""
    if a.dtype == np.float32:
        left, right = a[a_start:][: lines * FLOAT32.rows], b[b_start:][: lines * columns]
        return left.reshape(lines, -1).T, right.reshape(lines, -1)
    if a.dtype == np.uint16:
        whole = -(-lines // AMX.lines) * AMX.block
        return unpacked_a(a[a_start:][: whole * AMX.rows]), unpacked_b(b[b_start:][: whole * columns], columns)
    left, right = a[a_start:][: lines * PAIRS.rows], b[b_start:][: lines * columns]
    low, high = np.uint32(16), np.uint32(0xFFFF0000)
    left, right = (
        np.stack([x << low, x & high], axis=1).reshape(2 * lines, -1).view(np.float32)
        for x in (left.reshape(lines, -1), right.reshape(lines, -1))
    )
    return left.T, right


class _Prefetch(NamedTuple):
    """`Upcoming` as LLVM's values; with `to_write`, into the first-level cache, to be written."""

    place: Any
    gap: Any
    stride: Any
    rows: Any
    to_write: bool


def _multiply(
    builder: Any,
    a: Any,
    b: Any,
    lines: Any,
    rows: int,
    vectors: int,
    step: Callable[..., list[Any]],
    prefetches: list[_Prefetch],
) -> list[Any]:
    """
    All steps; returns the rows x vectors sums.

    A loop for each of `prefetches`, which requests one row per turn; one for the turns that are left, all of them
    unrolled; and one for the steps that are left.
    """
    row = range(0, vectors * LANES, LINE)  # where a cache line begins in a line of B, or in a row to prefetch

    def steps(count: int, ahead: _Prefetch | None = None) -> Callable[[list[Any]], list[Any]]:
        requests = {i * count // len(row): i for i in range(len(row))} if ahead else {}  # spread among the steps

        def body(state: list[Any]) -> list[Any]:
            a, b, place, *sums = state
            for number in range(count):
                if ahead and number in requests:
                    line = advance(builder, place, builder.mul(ahead.gap, INT64(requests[number])))
                    prefetch(builder, line, ahead.to_write, cache=1 if ahead.to_write else 2)
                if PREFETCHING.a and number % (LINE // rows) == 0:
                    prefetch(builder, advance(builder, a, PREFETCHING.a * rows))
                if PREFETCHING.b:
                    for word in row:
                        prefetch(builder, advance(builder, b, PREFETCHING.b * vectors * LANES + word))
                sums = step(builder, a, b, sums, vectors)
                a, b = advance(builder, a, rows), advance(builder, b, vectors * LANES)
            return [a, b, advance(builder, place, ahead.stride) if ahead else place, *sums]

        return body

    zero = ir.Constant(ir.VectorType(FLOAT, LANES), [0.0] * LANES)
    sums = [zero] * (rows * vectors)
    turns = builder.udiv(lines, INT64(_UNROLLED))
    for ahead in prefetches:
        now = builder.select(builder.icmp_signed("<", ahead.rows, turns), ahead.rows, turns)
        a, b, _, *sums = loop(builder, now, [a, b, ahead.place, *sums], steps(_UNROLLED, ahead))
        turns = builder.sub(turns, now)
    state = loop(builder, turns, [a, b, a, *sums], steps(_UNROLLED))
    return loop(builder, builder.urem(lines, INT64(_UNROLLED)), state, steps(1))[3:]


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


def _store(
    builder: Any, sums: list[Any], c: Any, stride: Any, mode: Any, bias: Any, vectors: int, squares: Any
) -> None:
    """Write the tile to C as `mode` says, and add its squares to a vector: its address and index, or None."""

    def write(kind: int) -> None:
        place, totals = c, []
        biases = _line(builder, bias, vectors, FLOAT) if kind == WITH_BIAS else []
        for r in range(len(sums) // vectors):
            for v in range(vectors):
                total, here = sums[r * vectors + v], advance(builder, place, v * LANES)
                if kind == ACCUMULATE:
                    total = builder.fadd(load(builder, here, FLOAT, LANES), total)
                elif kind == WITH_BIAS:
                    total = builder.fadd(total, biases[v])
                if kind == NON_TEMPORAL:
                    store = builder.store(total, here, align=4 * LANES)
                    store.set_metadata("nontemporal", builder.module.add_metadata([INT32(1)]))
                else:
                    builder.store(total, here, align=4)
                totals.append(total)
            place = advance(builder, place, stride)
        if squares is not None:
            with builder.if_then(builder.icmp_signed("!=", squares[1], INT64(int(NO_SQUARES)))):
                add_squares(builder, totals, squares[0])

    switch(builder, mode, 4, write)


def _multiply_by_amx(
    builder: Any, a: Any, b: Any, lines: Any, c: Any, stride: Any, mode: Any, bias: Any, vectors: int
) -> None:
    """The whole tile in AMX's registers: 0 to 3 hold the sums, 4 and 5 rows of A, 6 and 7 columns of B. See amx.py."""
    row_bytes = builder.mul(stride, INT64(4))
    sums = []  # register, its place in C, its first column
    for row in range(2):
        sums += [(2 * row + v, advance(builder, c, 16 * v), v) for v in range(vectors)]
        c = advance(builder, c, builder.mul(stride, INT64(16)))

    def begin(kind: int) -> None:
        for register, place, v in sums:
            if kind in (OVERWRITE, NON_TEMPORAL):
                amx(builder, "tilezero", register)
            elif kind == ACCUMULATE:
                amx(builder, "tileloadd64", register, place, row_bytes)
            else:  # the same line sixteen times: a row stride of 0
                amx(builder, "tileloadd64", register, advance(builder, bias, 16 * v), INT64(0))

    def step(state: list[Any]) -> list[Any]:
        a, b = state
        for row in range(2):
            load_dense(builder, 4 + row, advance(builder, a, 256 * row))
        for v in range(vectors):
            load_dense(builder, 6 + v, advance(builder, b, 256 * v))
        for index, (register, _, v) in enumerate(sums):
            amx(builder, "tdpbf16ps", register, 4 + index // vectors, 6 + v)
        return [advance(builder, a, 512), advance(builder, b, 256 * vectors)]

    switch(builder, mode, 4, begin)
    loop(builder, builder.lshr(builder.add(lines, INT64(AMX.lines - 1)), INT64(4)), [a, b], step)
    for register, place, _ in sums:
        amx(builder, "tilestored64", register, place, row_bytes)


micro_kernel_1, micro_kernel_2, micro_kernel_3 = _make_micro_kernel(1), _make_micro_kernel(2), _make_micro_kernel(3)

"""
The micro-kernel: the innermost loop of every matrix product. One tile of C, whose sums stay in registers.

    C[r, c] (+)= sum_k A[r, k] B[k, c]          r < MR, c < NR

A and B come packed (see packing.py), so the loop reads both from front to back. With float32, step k loads a line of B
as vectors, broadcasts one number of A's line after the other, and adds their products to MR x vectors sums. With pairs
a step takes two k at once, by an instruction that multiplies bfloat16 numbers and adds both products to a float32. With
AMX it is `multiply_tile` in amx.py, for products of packed panels alone (panels.py, for attention): amx_gemm.py has a
loop of its own.

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
from numba.extending import intrinsic

from tinygpt.kernels.matmul.amx import multiply_tile, unpacked_a, unpacked_b
from tinygpt.kernels.matmul.epilogue import BIASED, NO_SQUARES, PAST_THE_CACHES, numpy_write, write_vector
from tinygpt.kernels.matmul.matrix import address, members
from tinygpt.kernels.matmul.packing import FORMATS
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


def unpacked(left, right, columns):
    """What two packed panels hold, as float32 matrices A (MR, k) and B (k, columns), in NumPy."""
    form = FORMATS[numba.from_dtype(left.data.dtype)]
    lines = -(-left.depth // form.block) * form.lines * form.unit
    a, b = left.data[left.start :][: form.rows * lines], right.data[right.start :][: columns * lines]
    if form is AMX:
        return unpacked_a(a), unpacked_b(b, columns)
    a, b = a.reshape(lines, -1), b.reshape(lines, -1)
    if form is PAIRS:
        low, high = np.uint32(16), np.uint32(0xFFFF0000)
        a, b = (np.stack([x << low, x & high], axis=1).reshape(2 * lines, -1).view(np.float32) for x in (a, b))
    return a[: left.depth].T, b[: left.depth]


if numba.config.DISABLE_JIT:

    def micro_kernel(left, right, tile, epilogue, upcoming):
        numpy_write(np.matmul(*unpacked(left, right, -(-tile.columns // LANES) * LANES)), tile, epilogue)

else:

    @intrinsic
    def micro_kernel(typingctx, left, right, tile, epilogue, upcoming):
        """
        A tile of C: a panel of A times a panel of B.

        Parameters
        ----------
        left, right : Panels
            The first panel of each is multiplied, over the k that `left` has.
        tile : Matrix
            All MR rows of a tile of C, and whole vectors of columns: at most NR.
        epilogue : Epilogue
            Its `own` is where a vector of float64 begins, which adds up the squares; with AMX it is `NO_SQUARES`.
        upcoming : Upcoming or None
            What to prefetch meanwhile; nothing with AMX. To be called between `configure_amx` and `release_amx` then.
        """

        def codegen(context, builder, signature, arguments):
            kinds = signature.args
            own = [members(builder, *pair) for pair in zip(kinds[:4], arguments[:4], strict=True)]
            left, _, tile, epilogue = own
            a, b, c = (address(context, builder, kinds[i], arguments[i]) for i in range(3))
            bias = pointer(context, builder, kinds[3][1], epilogue.bias, epilogue.column)
            squares = pointer(context, builder, kinds[3][3], epilogue.squares, epilogue.own)
            form = FORMATS[kinds[0][0].dtype]
            steps = _divided(builder, left.depth, form.block // (1 if form is AMX else form.lines))
            prefetches = [_c_to_prefetch(builder, c, tile, epilogue, form.rows)]
            if not isinstance(kinds[4], types.NoneType):
                _, _, *others = members(builder, kinds[4], arguments[4])
                place = address(context, builder, kinds[4], arguments[4])
                prefetches.append(_Prefetch(place, *others, to_write=False))

            def compute(index: int) -> None:
                vectors = index + 1
                if form is AMX:
                    multiply_tile(builder, a, b, steps, c, tile.stride, epilogue.mode, bias, vectors)
                    return
                step = _step if form is FLOAT32 else _step_of_pairs
                sums = _multiply(builder, a, b, steps, form.rows, vectors, step, prefetches)
                _store(builder, sums, c, tile.stride, epilogue, bias, squares, vectors)

            switch(builder, builder.sub(_divided(builder, tile.columns, LANES), INT64(1)), form.vectors, compute)
            return context.get_dummy_value()

        return types.void(left, right, tile, epilogue, upcoming), codegen


def _divided(builder: Any, count: Any, size: int) -> Any:
    """count / size, rounded up."""
    return builder.udiv(builder.add(count, INT64(size - 1)), INT64(size))


class _Prefetch(NamedTuple):
    """`Upcoming` as LLVM's values; with `to_write`, into the first-level cache, to be written."""

    place: Any
    gap: Any
    stride: Any
    rows: Any
    to_write: bool


def _c_to_prefetch(builder: Any, c: Any, tile: Any, epilogue: Any, rows: int) -> _Prefetch:
    """The tile of C, unless it is written past the caches."""
    first = builder.icmp_signed("<", epilogue.mode, INT64(min(PAST_THE_CACHES)))
    return _Prefetch(c, INT64(LINE), tile.stride, builder.select(first, INT64(rows), INT64(0)), to_write=True)


def _multiply(
    builder: Any,
    a: Any,
    b: Any,
    steps: Any,
    rows: int,
    vectors: int,
    step: Callable[..., list[Any]],
    prefetches: list[_Prefetch],
) -> list[Any]:
    """
    Emit all steps; returns the rows x vectors sums.

    A loop for each of `prefetches`, which requests one row per turn; one for the turns that are left, all of them
    unrolled; and one for the steps that are left.
    """
    row = range(0, vectors * LANES, LINE)  # where a cache line begins in a line of B, or in a row to prefetch

    def some_steps(count: int, ahead: _Prefetch | None = None) -> Callable[[list[Any]], list[Any]]:
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
    turns = builder.udiv(steps, INT64(_UNROLLED))
    for ahead in prefetches:
        now = builder.select(builder.icmp_signed("<", ahead.rows, turns), ahead.rows, turns)
        a, b, _, *sums = loop(builder, now, [a, b, ahead.place, *sums], some_steps(_UNROLLED, ahead))
        turns = builder.sub(turns, now)
    state = loop(builder, turns, [a, b, a, *sums], some_steps(_UNROLLED))
    return loop(builder, builder.urem(steps, INT64(_UNROLLED)), state, some_steps(1))[3:]


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
    builder: Any, sums: list[Any], c: Any, stride: Any, epilogue: Any, bias: Any, squares: Any, vectors: int
) -> None:
    """Write the tile to C as the epilogue's mode says, and add its squares to the vector at `squares`."""

    def write(mode: int) -> None:
        place, totals = c, []
        biases = _line(builder, bias, vectors, FLOAT) if mode in BIASED else [None] * vectors
        for r in range(len(sums) // vectors):
            for v in range(vectors):
                here = advance(builder, place, v * LANES)
                totals.append(write_vector(builder, mode, sums[r * vectors + v], here, biases[v]))
            place = advance(builder, place, stride)
        with builder.if_then(builder.icmp_signed("!=", epilogue.own, INT64(int(NO_SQUARES)))):
            add_squares(builder, totals, squares)

    switch(builder, epilogue.mode, 4, write)

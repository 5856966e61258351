"""
The epilogue of the product with AMX: a finished tile of sums goes from scratch memory to C, as the mode says.

    OVERWRITE                                  C = sums
    WITH_BIAS                                  C = sums + one bias per column
    ACCUMULATE                                 C += sums
    NON_TEMPORAL, NON_TEMPORAL_WITH_BIAS       the first two, by non-temporal stores

An ordinary store first brings the line that it overwrites into the cache, where it replaces one that may be needed
again. A non-temporal store does neither: it writes whole lines to memory. The next reader of C has to fetch them from
there, so this pays where C is so large that it would leave the caches anyway before it is read.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from tinygpt.kernels.jit import ZERO, kernel
from tinygpt.kernels.matmul.microkernel import ACCUMULATE, NO_SQUARES, NON_TEMPORAL, WITH_BIAS
from tinygpt.kernels.matmul.panels import copy_edge
from tinygpt.kernels.simd.llvm import FLOAT, INT32, INT64, advance, load, loop, pointer, prefetch, switch

ROWS = COLUMNS = 32
NON_TEMPORAL_WITH_BIAS = np.int64(4)  # after the modes of microkernel.py
_BIASED = (int(WITH_BIAS), int(NON_TEMPORAL_WITH_BIAS))
_NON_TEMPORAL = (int(NON_TEMPORAL), int(NON_TEMPORAL_WITH_BIAS))


@kernel
def write_tile(sums, start, tile, mode, bias, column, squares):
    """
    Write the 32 x 32 sums from ``sums[start]`` on to a tile of C, a `Matrix`, which at the edges of C is smaller.

    ``bias[column]`` belongs to the tile's first column. Non-temporal modes demand that C and its rows are aligned to 64
    bytes. `squares`, float64, has a place for the sum of the squares of each tile of C, in row-major order, or none.
    """
    number = tile.start // tile.stride // ROWS * ((tile.stride + COLUMNS - 1) // COLUMNS) + column // COLUMNS
    own = number if len(squares) > 0 else NO_SQUARES
    if tile.rows == ROWS and tile.columns == COLUMNS:
        first = column if mode in (WITH_BIAS, NON_TEMPORAL_WITH_BIAS) else ZERO
        _write_whole_tile(sums, start, tile.data, tile.start, tile.stride, mode, bias, first, squares, own)
    else:
        ordinary = WITH_BIAS if mode == NON_TEMPORAL_WITH_BIAS else mode
        copy_edge(sums[start : start + ROWS * COLUMNS], COLUMNS, tile, ordinary, bias, column, squares, own)


if numba.config.DISABLE_JIT:

    def prefetch_tile(c, start, stride):
        pass

    def _write_whole_tile(sums, start, c, c_start, c_stride, mode, bias, column, squares, number):
        for row, total in enumerate(sums[start:][: ROWS * COLUMNS].reshape(ROWS, COLUMNS)):
            here = c[c_start + row * c_stride :][:COLUMNS]
            if mode == ACCUMULATE:
                here += total
            else:
                here[:] = total + bias[column:][:COLUMNS] if mode in _BIASED else total
            if number >= 0:
                squares[number] += np.square(here, dtype=np.float64).sum()

else:

    @intrinsic
    def prefetch_tile(typingctx, c, start, stride):
        """Prefetch for writing the tile of C at ``c[start]``: it arrives while its sums are computed."""

        def codegen(context, builder, signature, arguments):
            place = pointer(context, builder, signature.args[0], *arguments[:2])
            for _ in range(ROWS):
                for v in range(2):
                    prefetch(builder, advance(builder, place, 16 * v), to_write=True)
                place = advance(builder, place, arguments[2])
            return context.get_dummy_value()

        n = types.int64
        return types.void(c, n, n), codegen

    @intrinsic
    def _write_whole_tile(typingctx, sums, start, c, c_start, c_stride, mode, bias, column, squares, number):
        def codegen(context, builder, signature, arguments):
            read, write, biases, place = (
                pointer(context, builder, signature.args[i], arguments[i], arguments[j])
                for i, j in ((0, 1), (2, 3), (6, 7), (8, 9))
            )

            def write_rows(kind: int) -> None:
                with builder.if_else(builder.icmp_signed(">=", arguments[9], INT64(0))) as (then, otherwise):
                    with then:
                        _write_rows(builder, read, write, arguments[4], kind, biases, place)
                    with otherwise:
                        _write_rows(builder, read, write, arguments[4], kind, biases)

            switch(builder, arguments[5], 5, write_rows)
            return context.get_dummy_value()

        n = types.int64
        return types.void(sums, n, c, n, n, n, bias, n, squares, n), codegen


def _write_rows(builder: Any, read: Any, write: Any, stride: Any, kind: int, bias: Any, squares: Any = None) -> None:
    """Write the rows; with an address for it, sum their squares. The square of a float32 is exact in float64."""
    biases = [load(builder, advance(builder, bias, 16 * v), FLOAT, 16) for v in range(2)] if kind in _BIASED else []

    def row(state: list[Any]) -> list[Any]:
        read, write, *sums = state
        for v in range(2):
            here = advance(builder, write, 16 * v)
            total = load(builder, advance(builder, read, 16 * v), FLOAT, 16)
            if kind == ACCUMULATE:
                total = builder.fadd(load(builder, here, FLOAT, 16), total)
            elif kind in _BIASED:
                total = builder.fadd(total, biases[v])
            store = builder.store(total, here, align=64 if kind in _NON_TEMPORAL else 4)
            if kind in _NON_TEMPORAL:
                store.set_metadata("nontemporal", builder.module.add_metadata([INT32(1)]))
            if squares is not None:
                double = builder.fpext(total, wide)
                sums[v] = builder.fadd(sums[v], builder.fmul(double, double, flags=("contract",)), flags=("contract",))
        return [advance(builder, read, COLUMNS), advance(builder, write, stride), *sums]

    wide = ir.VectorType(ir.DoubleType(), 16)
    sums = [ir.Constant(wide, [0.0] * 16)] * 2 if squares is not None else []
    _, _, *sums = loop(builder, INT64(ROWS), [read, write, *sums], row)
    if squares is not None:
        kind_of_sum = ir.FunctionType(ir.DoubleType(), [ir.DoubleType(), wide])
        total = builder.module.declare_intrinsic("llvm.vector.reduce.fadd.v16f64", (), kind_of_sum)
        zero = ir.Constant(ir.DoubleType(), 0.0)
        builder.store(builder.call(total, [zero, builder.fadd(*sums)], fastmath=("reassoc",)), squares)

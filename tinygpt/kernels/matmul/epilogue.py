"""
The epilogue of a product: what becomes of C once a sum is complete.

    mode                      C becomes                       written
    OVERWRITE                 sum                             through the caches
    ACCUMULATE                C + sum                         through the caches
    WITH_BIAS                 sum + one bias per column       through the caches
    NON_TEMPORAL              sum                             past the caches
    NON_TEMPORAL_WITH_BIAS    sum + one bias per column       past the caches

An ordinary store first brings the line that it overwrites into the cache, where it replaces one that may be needed
again. A non-temporal store does neither: it writes whole lines to memory. The next reader of C has to fetch them from
there, so this pays where C is so large that it would leave the caches anyway before it is read. It demands that C and
each of its rows begin at a multiple of 64 bytes.

Three places write C. `write_tile`, in the plans with AMX, a tile whose sums are in memory: in every mode. `copy_edge` a
tile that reaches beyond C: in every mode, through the caches. The micro-kernel a tile from its registers: in the first
four modes, and with AMX in the first three, because the products that use that one stay in the caches.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from tinygpt.kernels.jit import kernel
from tinygpt.kernels.matmul.matrix import address, members
from tinygpt.kernels.simd.llvm import FLOAT, INT32, INT64, advance, load, loop, pointer, switch

# Not plain numbers: see `kernels/__init__.py`.
OVERWRITE, ACCUMULATE, WITH_BIAS, NON_TEMPORAL, NON_TEMPORAL_WITH_BIAS = (np.int64(mode) for mode in range(5))
BIASED = (int(WITH_BIAS), int(NON_TEMPORAL_WITH_BIAS))
PAST_THE_CACHES = (int(NON_TEMPORAL), int(NON_TEMPORAL_WITH_BIAS))
NO_SQUARES = np.int64(-1)


class Epilogue(NamedTuple):
    """
    What becomes of a tile of sums, and of their squares.

    Attributes
    ----------
    mode : int64
    bias : ndarray, 1-D
        float32. In modes without a bias any such array.
    column : int
        ``bias[column]`` belongs to the first column of the tile.
    squares : ndarray, 1-D
        float64, for the sums of the squares of what C becomes.
    own : int
        Where in `squares` those of the tile are added, or `NO_SQUARES`.
    """

    mode: int
    bias: np.ndarray
    column: int
    squares: np.ndarray
    own: int


def write_vector(builder: Any, mode: int, total: Any, place: Any, bias: Any) -> Any:
    """Emit the writing of a vector of sums to C; returns what C then holds. `bias` is a vector, or None without one."""
    if mode == ACCUMULATE:
        total = builder.fadd(load(builder, place, FLOAT, total.type.count), total)
    elif mode in BIASED:
        total = builder.fadd(total, bias)
    if mode in PAST_THE_CACHES:
        store = builder.store(total, place, align=4 * total.type.count)
        store.set_metadata("nontemporal", builder.module.add_metadata([INT32(1)]))
    else:
        builder.store(total, place, align=4)
    return total


def numpy_write(sums, tile, epilogue):
    """The sums of a whole tile, 2-D, written to C: what `write_vector` and `add_squares` do, in NumPy."""
    for r, total in enumerate(sums):
        row = tile.data[tile.start + r * tile.stride :][: len(total)]
        if epilogue.mode == ACCUMULATE:
            row += total
        else:
            row[:] = total + epilogue.bias[epilogue.column :][: len(total)] if epilogue.mode in BIASED else total
        if epilogue.own != NO_SQUARES:
            epilogue.squares[epilogue.own] += np.square(row, dtype=np.float64).sum()


@kernel
def copy_edge(sums, tile, epilogue):
    """Write the part of a tile of sums, a `Matrix`, that is inside C: `tile`, which is smaller."""
    mode, bias, column, squares, own = epilogue
    for i in range(tile.rows):
        for j in range(tile.columns):
            total = sums.data[sums.start + i * sums.stride + j]
            if mode == ACCUMULATE:
                total = tile.data[tile.start + i * tile.stride + j] + total
            elif mode in (WITH_BIAS, NON_TEMPORAL_WITH_BIAS):
                total = total + bias[column + j]
            tile.data[tile.start + i * tile.stride + j] = total
            if own != NO_SQUARES:
                squares[own] += np.float64(total) * np.float64(total)


@kernel
def write_tile(sums, tile, epilogue):
    """Write a tile of sums, a `Matrix`, to its tile of C, which at the edges of C is smaller."""
    if tile.rows == sums.rows and tile.columns == sums.columns:
        _write_whole_tile(sums, tile, epilogue)
    else:
        copy_edge(sums, tile, epilogue)


if numba.config.DISABLE_JIT:

    def _write_whole_tile(sums, tile, epilogue):
        numpy_write(sums.data[sums.start :][: sums.rows * sums.columns].reshape(sums.rows, -1), tile, epilogue)

else:

    @intrinsic
    def _write_whole_tile(typingctx, sums, tile, epilogue):
        """For tiles of 32 columns, those of AMX."""

        def codegen(context, builder, signature, arguments):
            kinds = signature.args
            read, write = (address(context, builder, kinds[i], arguments[i]) for i in range(2))
            sums, tile, epilogue = (members(builder, *pair) for pair in zip(kinds, arguments, strict=True))
            bias = pointer(context, builder, kinds[2][1], epilogue.bias, epilogue.column)
            squares = pointer(context, builder, kinds[2][3], epilogue.squares, epilogue.own)

            def write_rows(mode: int) -> None:
                with builder.if_else(builder.icmp_signed("==", epilogue.own, INT64(int(NO_SQUARES)))) as (none, asked):
                    with none:
                        _write_rows(builder, mode, sums, read, tile, write, bias)
                    with asked:
                        _write_rows(builder, mode, sums, read, tile, write, bias, squares)

            switch(builder, epilogue.mode, 5, write_rows)
            return context.get_dummy_value()

        return types.void(sums, tile, epilogue), codegen


def _write_rows(
    builder: Any, mode: int, sums: Any, read: Any, tile: Any, write: Any, bias: Any, squares: Any = None
) -> None:
    """Write the rows; with an address for it, sum their squares. The square of a float32 is exact in float64."""
    biases = [load(builder, advance(builder, bias, 16 * v), FLOAT, 16) if mode in BIASED else None for v in range(2)]
    wide = ir.VectorType(ir.DoubleType(), 16)

    def row(state: list[Any]) -> list[Any]:
        read, write, *totals = state
        for v in range(2):
            total = load(builder, advance(builder, read, 16 * v), FLOAT, 16)
            total = write_vector(builder, mode, total, advance(builder, write, 16 * v), biases[v])
            if squares is not None:
                double = builder.fpext(total, wide)
                square = builder.fmul(double, double, flags=("contract",))
                totals[v] = builder.fadd(totals[v], square, flags=("contract",))
        return [advance(builder, read, sums.stride), advance(builder, write, tile.stride), *totals]

    totals = [ir.Constant(wide, [0.0] * 16)] * 2 if squares is not None else []
    _, _, *totals = loop(builder, sums.rows, [read, write, *totals], row)
    if squares is not None:
        kind = ir.FunctionType(ir.DoubleType(), [ir.DoubleType(), wide])
        reduce = builder.module.declare_intrinsic("llvm.vector.reduce.fadd.v16f64", (), kind)
        zero = ir.Constant(ir.DoubleType(), 0.0)
        builder.store(builder.call(reduce, [zero, builder.fadd(*totals)], fastmath=("reassoc",)), squares)

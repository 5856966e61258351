"""
Matrix-vector products (gemv): the two loops that decoding spends its time in, written in LLVM code, so that a weight is
converted to float32 once and stays in a register for several sequences.

    add_rows    y[b, o] += x[b, 0] w[0, o] + x[b, 1] w[1, o] + x[b, 2] w[2, o] + x[b, 3] w[3, o]     four rows of w
    dot_rows    out[b, r] = sum over c of x[b, c] w[r, c]                                            some rows of w

for 1 or 4 sequences b. A matrix is a flat array, the index of its first number, and the stride of its rows; x, y and
out are float32, w is float32, int8 or uint16 (the bits of bfloat16). Only whole vectors of LANES numbers are done: the
caller does the remainder. Each number is summed in the same order, however many sequences and rows are done at once.

Most of the time goes into reading weights from memory, and the processor does not predict where the next row is. So
while one row is used, the row 16 further on is prefetched into the second-level cache: with int8 this alone doubles the
speed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from tinygpt.kernels.simd import intrinsics
from tinygpt.kernels.simd.cpu import LANES
from tinygpt.kernels.simd.llvm import (
    FLOAT,
    INT8,
    INT64,
    advance,
    broadcast,
    fma,
    load_float32,
    loop,
    pointer,
    prefetch,
    sum_of_lanes,
)

WIDE = ir.VectorType(FLOAT, LANES)
_AHEAD = 16  # rows between the weights that are used and those that are prefetched; of 4 to 16 the fastest


def _load_weights(builder: Any, address: Any, dtype: Any, ahead: Any) -> Any:
    """A vector of weights as float32; prefetches the one `ahead` bytes further on."""
    prefetch(builder, builder.gep(address, [ahead], source_etype=INT8), cache=2)
    return load_float32(builder, address, dtype, LANES)


def _words(dtype: Any) -> int:
    """How many 4-byte words a vector of weights takes."""
    return LANES * dtype.bitwidth // 32


def _row_pointers(context: Any, builder: Any, kind: Any, array: Any, start: Any, stride: Any, count: int) -> list[Any]:
    """Pointers to `count` rows."""
    starts = [builder.add(start, builder.mul(stride, INT64(row))) for row in range(count)]
    return [pointer(context, builder, kind, array, place) for place in starts]


def _make_add_rows(sequences: int) -> Callable[..., None]:
    if numba.config.DISABLE_JIT:

        def add_rows(x, x_start, x_stride, w, w_start, w_stride, y, y_start, y_stride, vectors):
            for b in range(sequences):
                for r in range(4):
                    x_r = x[x_start + b * x_stride + r]
                    for o in range(vectors * LANES):
                        y[y_start + b * y_stride + o] += x_r * intrinsics.to_float32(w[w_start + r * w_stride + o])

        return add_rows

    @intrinsic
    def add_rows(typingctx, x, x_start, x_stride, w, w_start, w_stride, y, y_start, y_stride, vectors):
        def codegen(context, builder, signature, arguments):
            kinds = signature.args
            x_vectors = [
                [
                    broadcast(builder, builder.load(advance(builder, place, r), align=4, typ=FLOAT), LANES)
                    for r in range(4)
                ]
                for place in _row_pointers(context, builder, kinds[0], *arguments[:3], sequences)
            ]
            rows = _row_pointers(context, builder, kinds[3], *arguments[3:6], 4)
            sums = _row_pointers(context, builder, kinds[6], *arguments[6:9], sequences)
            element = kinds[3].dtype
            ahead = builder.mul(arguments[5], INT64(_AHEAD * element.bitwidth // 8))

            def body(state: list[Any]) -> list[Any]:
                weights = [_load_weights(builder, place, element, ahead) for place in state[:4]]
                for place, x_b in zip(state[4:], x_vectors, strict=True):
                    total = builder.load(place, align=4, typ=WIDE)
                    for x_r, weight in zip(x_b, weights, strict=True):
                        total = fma(builder, x_r, weight, total)
                    builder.store(total, place, align=4)
                steps = [_words(element)] * 4 + [LANES] * sequences
                return [advance(builder, place, step) for place, step in zip(state, steps, strict=True)]

            loop(builder, arguments[9], [*rows, *sums], body)
            return context.get_dummy_value()

        n = types.int64
        return types.void(x, n, n, w, n, n, y, n, n, n), codegen

    return add_rows


def _make_dot_rows(sequences: int, rows: int) -> Callable[..., None]:
    if numba.config.DISABLE_JIT:

        def dot_rows(x, x_start, x_stride, w, w_start, w_stride, out, out_start, out_stride, vectors):
            for b in range(sequences):
                for r in range(rows):
                    row = x[x_start + b * x_stride :][: vectors * LANES]
                    weights = intrinsics.to_float32(w[w_start + r * w_stride :][: vectors * LANES])
                    out[out_start + b * out_stride + r] = (row * weights).sum()

        return dot_rows

    @intrinsic
    def dot_rows(typingctx, x, x_start, x_stride, w, w_start, w_stride, out, out_start, out_stride, vectors):
        def codegen(context, builder, signature, arguments):
            kinds, element = signature.args, signature.args[3].dtype
            read = _row_pointers(context, builder, kinds[0], *arguments[:3], sequences)
            weight_rows = _row_pointers(context, builder, kinds[3], *arguments[3:6], rows)
            write = _row_pointers(context, builder, kinds[6], *arguments[6:9], sequences)
            ahead = builder.mul(arguments[5], INT64(_AHEAD * element.bitwidth // 8))
            zeros = [ir.Constant(WIDE, [0.0] * LANES)] * (sequences * rows)

            def body(state: list[Any]) -> list[Any]:
                places, sums = state[: sequences + rows], state[sequences + rows :]
                numbers = [builder.load(place, align=4, typ=WIDE) for place in places[:sequences]]
                weights = [_load_weights(builder, place, element, ahead) for place in places[sequences:]]
                pairs = [(number, weight) for number in numbers for weight in weights]
                sums = [fma(builder, *pair, total) for pair, total in zip(pairs, sums, strict=True)]
                steps = [LANES] * sequences + [_words(element)] * rows
                return [*(advance(builder, place, step) for place, step in zip(places, steps, strict=True)), *sums]

            sums = loop(builder, arguments[9], [*read, *weight_rows, *zeros], body)[sequences + rows :]
            for index, total in enumerate(sums):
                b, r = divmod(index, rows)
                builder.store(sum_of_lanes(builder, total), advance(builder, write[b], r), align=4)
            return context.get_dummy_value()

        n = types.int64
        return types.void(x, n, n, w, n, n, out, n, n, n), codegen

    return dot_rows


add_rows_1, add_rows_4 = _make_add_rows(1), _make_add_rows(4)
dot_rows_1, dot_rows_4 = _make_dot_rows(1, 4), _make_dot_rows(4, 4)
dot_row = _make_dot_rows(1, 1)

"""
Matrix-vector products (gemv): the loops that decoding spends its time in, written in LLVM code, so that a weight is
unpacked once and stays in a register for several sequences.

    add_rows     y[b, o] += x[b, 0] w[0, o] + x[b, 1] w[1, o] + x[b, 2] w[2, o] + x[b, 3] w[3, o]    four rows of w
    add_pairs    the same in whole numbers
    add_groups   y[b, o] += scale[o] * sum over 32 rows i of x[b, i] w[i, o]                         int4
    dot_rows     out[b, r] = sum over c of x[b, c] w[r, c]                                           some rows of w
    dot_pairs    the same in whole numbers

for 1 or 4 sequences b. A matrix is a flat array, the index of its first number, and the stride of its rows. Only whole
vectors of LANES numbers of a row of w are done: the caller does the remainder. Each number is summed in the same order,
however many sequences and rows are done at once.

    add_rows, dot_rows       x, y and out are float32, w is float32 or uint16 (the bits of bfloat16)
    add_pairs, dot_pairs     x is int16, w is int8, y and out are int32; the caller sees to it that no sum overflows
    add_groups               x is int16, w is uint32 and holds eight rows in one, as quantization.py packs int4; `scale`
                             is uint16, the bits of bfloat16; y is float32

Whole numbers are multiplied in pairs: two int16 of x, next to each other in memory, by the same two rows of w. That is
twice as fast as converting each weight to float32, which takes longer than reading it from memory.

Most of the time goes into reading weights from memory, and the processor does not predict where the next row is. So
while one row is used, one further on is prefetched into the second-level cache: with int8 this alone doubles the speed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from tinygpt.kernels.simd import intrinsics
from tinygpt.kernels.simd.cpu import LANES
from tinygpt.kernels.simd.llvm import (
    FLOAT,
    INT8,
    INT16,
    INT32,
    INT64,
    advance,
    broadcast,
    fma,
    interleave,
    load_float32,
    loop,
    multiply_pairs,
    pointer,
    prefetch,
    sum_of_lanes,
)

WIDE = ir.VectorType(FLOAT, LANES)
_WHOLE = ir.VectorType(INT32, LANES)
_SHORT = ir.VectorType(INT16, 2 * LANES)
_AHEAD = 16  # rows between the weights that are used and those that are prefetched; of 4 to 16 the fastest
_VECTORS = 64 // LANES  # of a row of int8, so many are a cache line, which is prefetched once
GROUP = 32  # rows of an int4 weight that have a scale in common
_PACKED = 8  # rows in one uint32
_NIBBLES = 0x000F000F  # two numbers of 4 bits, one in each half of a word
_ZERO_POINT = 8  # what an int4 has been raised by


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


def _load_pairs(builder: Any, place: Any, words: int) -> Any:
    """Two int16 of x, `words` words further on, broadcast to all lanes."""
    pair = builder.load(advance(builder, place, words), align=2, typ=INT32)
    return builder.bitcast(broadcast(builder, pair, LANES), _SHORT)


def _make_add_pairs(sequences: int) -> Callable[..., None]:
    if numba.config.DISABLE_JIT:

        def add_pairs(x, x_start, x_stride, w, w_start, w_stride, y, y_start, y_stride, vectors):
            rows = [w[w_start + r * w_stride :][: vectors * LANES].astype(np.int32) for r in range(4)]
            for b in range(sequences):
                for r in range(4):
                    y[y_start + b * y_stride :][: vectors * LANES] += np.int32(x[x_start + b * x_stride + r]) * rows[r]

        return add_pairs

    @intrinsic
    def add_pairs(typingctx, x, x_start, x_stride, w, w_start, w_stride, y, y_start, y_stride, vectors):
        def codegen(context, builder, signature, arguments):
            kinds = signature.args
            read = _row_pointers(context, builder, kinds[0], *arguments[:3], sequences)
            x_pairs = [[_load_pairs(builder, place, pair) for pair in range(2)] for place in read]
            rows = _row_pointers(context, builder, kinds[3], *arguments[3:6], 4)
            sums = _row_pointers(context, builder, kinds[6], *arguments[6:9], sequences)
            ahead = builder.mul(arguments[5], INT64(_AHEAD))

            def steps_of(vectors: int) -> Callable[[list[Any]], list[Any]]:
                """The body of a loop that does so many vectors at a time."""

                def body(state: list[Any]) -> list[Any]:
                    for place in state[:4]:
                        prefetch(builder, builder.gep(place, [ahead], source_etype=INT8), cache=2)
                    for vector in range(vectors):
                        places = [advance(builder, place, LANES // 4 * vector) for place in state[:4]]
                        weights = [builder.load(place, align=1, typ=ir.VectorType(INT8, LANES)) for place in places]
                        pairs = [builder.sext(interleave(builder, *weights[r : r + 2]), _SHORT) for r in (0, 2)]
                        for place, x_b in zip(state[4:], x_pairs, strict=True):
                            place = advance(builder, place, LANES * vector)
                            total = builder.load(place, align=4, typ=_WHOLE)
                            for x_pair, pair in zip(x_b, pairs, strict=True):
                                total = builder.add(total, multiply_pairs(builder, x_pair, pair))
                            builder.store(total, place, align=4)
                    steps = [LANES // 4 * vectors] * 4 + [LANES * vectors] * sequences
                    return [advance(builder, place, step) for place, step in zip(state, steps, strict=True)]

                return body

            several = builder.udiv(arguments[9], INT64(_VECTORS))
            state = loop(builder, several, [*rows, *sums], steps_of(_VECTORS))
            loop(builder, builder.urem(arguments[9], INT64(_VECTORS)), state, steps_of(1))
            return context.get_dummy_value()

        n = types.int64
        return types.void(x, n, n, w, n, n, y, n, n, n), codegen

    return add_pairs


def _make_add_groups(sequences: int) -> Callable[..., None]:
    if numba.config.DISABLE_JIT:

        def add_groups(x, x_start, x_stride, w, w_start, w_stride, scale, scale_start, y, y_start, y_stride, vectors):
            columns = vectors * LANES
            words = np.stack([w[w_start + r * w_stride :][:columns] for r in range(GROUP // _PACKED)])
            numbers = np.stack([unpacked(words[i // _PACKED], i % _PACKED) for i in range(GROUP)])
            scales = intrinsics.to_float32(scale[scale_start:][:columns])
            for b in range(sequences):
                sums = x[x_start + b * x_stride :][:GROUP].astype(np.int32) @ numbers
                y[y_start + b * y_stride :][:columns] += scales * sums.astype(np.float32)

        return add_groups

    @intrinsic
    def add_groups(
        typingctx, x, x_start, x_stride, w, w_start, w_stride, scale, scale_start, y, y_start, y_stride, vectors
    ):
        def codegen(context, builder, signature, arguments):
            kinds = signature.args
            read = _row_pointers(context, builder, kinds[0], *arguments[:3], sequences)
            x_pairs = [[_load_pairs(builder, place, pair) for pair in range(GROUP // 2)] for place in read]
            rows = _row_pointers(context, builder, kinds[3], *arguments[3:6], GROUP // _PACKED)
            scales = pointer(context, builder, kinds[6], *arguments[6:8])
            sums = _row_pointers(context, builder, kinds[8], *arguments[8:11], sequences)
            ahead = builder.mul(arguments[5], INT64(4 * GROUP // _PACKED))  # the next group of rows
            mask, zero_point = (
                builder.bitcast(ir.Constant(_WHOLE, [word] * LANES), kind)
                for word, kind in ((_NIBBLES, _WHOLE), (-_ZERO_POINT & 0xFFFF | -_ZERO_POINT << 16, _SHORT))
            )
            # sum of x (w - 8) = sum of x w - 8 * sum of x
            offsets = [ir.Constant(_WHOLE, [0] * LANES)] * sequences
            for b in range(sequences):
                for pair in x_pairs[b]:
                    offsets[b] = builder.add(offsets[b], multiply_pairs(builder, pair, zero_point))

            def body(state: list[Any]) -> list[Any]:
                own, (scale, *places) = state[: len(rows)], state[len(rows) :]
                totals = list(offsets)
                for r, place in enumerate(own):
                    prefetch(builder, builder.gep(place, [ahead], source_etype=INT8), cache=2)
                    words = builder.load(place, align=4, typ=_WHOLE)
                    for pair in range(_PACKED // 2):
                        shifted = builder.lshr(words, ir.Constant(_WHOLE, [4 * pair] * LANES)) if pair else words
                        numbers = builder.bitcast(builder.and_(shifted, mask), _SHORT)
                        for b in range(sequences):
                            x_pair = x_pairs[b][r * _PACKED // 2 + pair]
                            totals[b] = builder.add(totals[b], multiply_pairs(builder, x_pair, numbers))
                scale_now = load_float32(builder, scale, kinds[6].dtype, LANES)
                for place, total in zip(places, totals, strict=True):
                    before = builder.load(place, align=4, typ=WIDE)
                    builder.store(fma(builder, builder.sitofp(total, WIDE), scale_now, before), place, align=4)
                steps = [LANES] * len(own) + [LANES // 2] + [LANES] * sequences
                return [advance(builder, place, step) for place, step in zip(state, steps, strict=True)]

            loop(builder, arguments[11], [*rows, scales, *sums], body)
            return context.get_dummy_value()

        n = types.int64
        return types.void(x, n, n, w, n, n, scale, n, y, n, n, n), codegen

    return add_groups


def unpacked(word, row):
    """Row `row` of the eight in a word of int4: see quantization.py."""
    return np.int32(word >> np.uint32(4 * (row // 2) + 16 * (row % 2)) & np.uint32(15)) - np.int32(_ZERO_POINT)


def _make_dot_pairs(sequences: int, rows: int) -> Callable[..., None]:
    if numba.config.DISABLE_JIT:

        def dot_pairs(x, x_start, x_stride, w, w_start, w_stride, out, out_start, out_stride, vectors):
            columns = vectors * 2 * LANES
            for b in range(sequences):
                x_b = x[x_start + b * x_stride :][:columns].astype(np.int32)
                for r in range(rows):
                    out[out_start + b * out_stride + r] = x_b @ w[w_start + r * w_stride :][:columns].astype(np.int32)

        return dot_pairs

    @intrinsic
    def dot_pairs(typingctx, x, x_start, x_stride, w, w_start, w_stride, out, out_start, out_stride, vectors):
        def codegen(context, builder, signature, arguments):
            kinds = signature.args
            read = _row_pointers(context, builder, kinds[0], *arguments[:3], sequences)
            weight_rows = _row_pointers(context, builder, kinds[3], *arguments[3:6], rows)
            write = _row_pointers(context, builder, kinds[6], *arguments[6:9], sequences)
            ahead = builder.mul(arguments[5], INT64(_AHEAD))
            zeros = [ir.Constant(_WHOLE, [0] * LANES)] * (sequences * rows)

            def body(state: list[Any]) -> list[Any]:
                places, sums = state[: sequences + rows], state[sequences + rows :]
                numbers = [builder.load(place, align=2, typ=_SHORT) for place in places[:sequences]]
                weights = []
                for place in places[sequences:]:
                    prefetch(builder, builder.gep(place, [ahead], source_etype=INT8), cache=2)
                    weights.append(
                        builder.sext(builder.load(place, align=1, typ=ir.VectorType(INT8, 2 * LANES)), _SHORT)
                    )
                products = [multiply_pairs(builder, number, weight) for number in numbers for weight in weights]
                sums = [builder.add(total, product) for total, product in zip(sums, products, strict=True)]
                steps = [LANES] * sequences + [LANES // 2] * rows
                return [*(advance(builder, place, step) for place, step in zip(places, steps, strict=True)), *sums]

            sums = loop(builder, arguments[9], [*read, *weight_rows, *zeros], body)[sequences + rows :]
            for index, total in enumerate(sums):
                b, r = divmod(index, rows)
                builder.store(sum_of_lanes(builder, total), advance(builder, write[b], r), align=4)
            return context.get_dummy_value()

        n = types.int64
        return types.void(x, n, n, w, n, n, out, n, n, n), codegen

    return dot_pairs


add_pairs_1, add_pairs_4 = _make_add_pairs(1), _make_add_pairs(4)
add_groups_1, add_groups_4 = _make_add_groups(1), _make_add_groups(4)
dot_pairs_1, dot_pairs_4, dot_pair = _make_dot_pairs(1, 4), _make_dot_pairs(4, 4), _make_dot_pairs(1, 1)

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

Most of the time goes into reading weights from memory: while one row is used, one further on is prefetched into the
second-level cache.
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
_ROWS = 4  # of a weight that are used at once
_AHEAD = 16  # rows between the weights that are used and those that are prefetched; of 4 to 16 the fastest
_LINE = 64  # bytes of a cache line
GROUP = 32  # rows of an int4 weight that have a scale in common
_PACKED = 8  # rows in one uint32
_NIBBLES = 0x000F000F  # two numbers of 4 bits, one in each half of a word
_ZERO_POINT = 8  # what an int4 has been raised by


class _Floats:
    """float32 times float32, summed in float32; weights are float32 or the bits of bfloat16."""

    at_once = 1  # rows of a weight, or columns of one of its rows, for one product
    total = WIDE
    zero = ir.Constant(WIDE, [0.0] * LANES)

    @staticmethod
    def factors(builder: Any, place: Any) -> list[Any]:
        """_ROWS numbers of x, each broadcast to all lanes."""
        numbers = [builder.load(advance(builder, place, row), align=4, typ=FLOAT) for row in range(_ROWS)]
        return [broadcast(builder, number, LANES) for number in numbers]

    @staticmethod
    def numbers(builder: Any, place: Any) -> Any:
        """A vector of x."""
        return builder.load(place, align=4, typ=WIDE)

    @staticmethod
    def rows_of_weights(builder: Any, places: list[Any], dtype: Any) -> list[Any]:
        """A vector of each of _ROWS rows, as `factors` multiply them."""
        return [load_float32(builder, place, dtype, LANES) for place in places]

    @staticmethod
    def weights(builder: Any, place: Any, dtype: Any) -> Any:
        """A vector of one row, as `numbers` multiply it."""
        return load_float32(builder, place, dtype, LANES)

    add_product = staticmethod(fma)


class _Pairs:
    """int16 times int8, summed in int32."""

    at_once = 2
    total = _WHOLE
    zero = ir.Constant(_WHOLE, [0] * LANES)

    @staticmethod
    def factors(builder: Any, place: Any) -> list[Any]:
        """The same as those of `_Floats`, in pairs."""
        return [_load_pair(builder, place, pair) for pair in range(_ROWS // 2)]

    @staticmethod
    def numbers(builder: Any, place: Any) -> Any:
        return builder.load(place, align=2, typ=_SHORT)

    @staticmethod
    def rows_of_weights(builder: Any, places: list[Any], dtype: Any) -> list[Any]:
        rows = [builder.load(place, align=1, typ=ir.VectorType(INT8, LANES)) for place in places]
        return [builder.sext(interleave(builder, *rows[row : row + 2]), _SHORT) for row in range(0, _ROWS, 2)]

    @staticmethod
    def weights(builder: Any, place: Any, dtype: Any) -> Any:
        return builder.sext(builder.load(place, align=1, typ=ir.VectorType(INT8, 2 * LANES)), _SHORT)

    @staticmethod
    def add_product(builder: Any, a: Any, b: Any, total: Any) -> Any:
        return builder.add(total, multiply_pairs(builder, a, b))


def _load_pair(builder: Any, place: Any, words: int) -> Any:
    """Two int16 of x, `words` words further on, broadcast to all lanes."""
    pair = builder.load(advance(builder, place, words), align=2, typ=INT32)
    return builder.bitcast(broadcast(builder, pair, LANES), _SHORT)


def _row_pointers(context: Any, builder: Any, kind: Any, array: Any, start: Any, stride: Any, count: int) -> list[Any]:
    """Pointers to `count` rows."""
    starts = [builder.add(start, builder.mul(stride, INT64(row))) for row in range(count)]
    return [pointer(context, builder, kind, array, place) for place in starts]


def _over_vectors(
    builder: Any, count: Any, rows: list[Any], size: int, ahead: Any, others: list[Any], steps: list[int], body: Any
) -> list[Any]:
    """
    For each vector of some rows of a weight, `body(rows, others)`, which returns the later ones of `others`.

    `rows` are pointers to vectors of `size` bytes. `others` are pointers, which move on by `steps` words each, and then
    what `body` returns. Lines that are `ahead` bytes further on are prefetched, each of them once.
    """
    moving, in_a_line = len(rows) + len(steps), max(1, _LINE // size)

    def vector(state: list[Any]) -> list[Any]:
        places, later = state[:moving], body(state[: len(rows)], state[len(rows) :])
        words = [size // 4] * len(rows) + steps
        return [*(advance(builder, place, word) for place, word in zip(places, words, strict=True)), *later]

    def line(state: list[Any]) -> list[Any]:
        for place in state[: len(rows)]:
            prefetch(builder, builder.gep(place, [ahead], source_etype=INT8), cache=2)
        for _ in range(in_a_line):
            state = vector(state)
        return state

    state = loop(builder, builder.udiv(count, INT64(in_a_line)), [*rows, *others], line)
    if in_a_line > 1:
        state = loop(builder, builder.urem(count, INT64(in_a_line)), state, vector)
    return state[moving:]


def _make_add(sequences: int, kind: Any) -> Callable[..., None]:
    """y (sequences, LANES vectors) += x (sequences, _ROWS) times _ROWS rows of w."""
    if numba.config.DISABLE_JIT:

        def add(x, x_start, x_stride, w, w_start, w_stride, y, y_start, y_stride, vectors):
            rows = [intrinsics.to_float32(w[w_start + r * w_stride :][: vectors * LANES]) for r in range(_ROWS)]
            for b in range(sequences):
                y_b = y[y_start + b * y_stride :][: vectors * LANES]
                for r in range(_ROWS):
                    y_b += (x[x_start + b * x_stride + r] * rows[r]).astype(y.dtype)

        return add

    @intrinsic
    def add(typingctx, x, x_start, x_stride, w, w_start, w_stride, y, y_start, y_stride, vectors):
        def codegen(context, builder, signature, arguments):
            kinds, element = signature.args, signature.args[3].dtype
            places = _row_pointers(context, builder, kinds[0], *arguments[:3], sequences)
            factors = [kind.factors(builder, place) for place in places]
            rows = _row_pointers(context, builder, kinds[3], *arguments[3:6], _ROWS)
            sums = _row_pointers(context, builder, kinds[6], *arguments[6:9], sequences)
            ahead = builder.mul(arguments[5], INT64(_AHEAD * element.bitwidth // 8))

            def body(rows: list[Any], sums: list[Any]) -> list[Any]:
                weights = kind.rows_of_weights(builder, rows, element)
                for place, of_sequence in zip(sums, factors, strict=True):
                    total = builder.load(place, align=4, typ=kind.total)
                    for factor, weight in zip(of_sequence, weights, strict=True):
                        total = kind.add_product(builder, factor, weight, total)
                    builder.store(total, place, align=4)
                return []

            size = LANES * element.bitwidth // 8
            _over_vectors(builder, arguments[9], rows, size, ahead, sums, [LANES] * sequences, body)
            return context.get_dummy_value()

        n = types.int64
        return types.void(x, n, n, w, n, n, y, n, n, n), codegen

    return add


def _make_dot(sequences: int, rows: int, kind: Any) -> Callable[..., None]:
    """out (sequences, rows) = x (sequences, C) times so many rows (rows, C) of w, C being whole vectors."""
    if numba.config.DISABLE_JIT:

        def dot(x, x_start, x_stride, w, w_start, w_stride, out, out_start, out_stride, vectors):
            columns = vectors * LANES * kind.at_once
            for b in range(sequences):
                x_b = x[x_start + b * x_stride :][:columns].astype(out.dtype)
                for r in range(rows):
                    weights = intrinsics.to_float32(w[w_start + r * w_stride :][:columns]).astype(out.dtype)
                    out[out_start + b * out_stride + r] = (x_b * weights).sum(dtype=out.dtype)

        return dot

    @intrinsic
    def dot(typingctx, x, x_start, x_stride, w, w_start, w_stride, out, out_start, out_stride, vectors):
        def codegen(context, builder, signature, arguments):
            kinds, element = signature.args, signature.args[3].dtype
            read = _row_pointers(context, builder, kinds[0], *arguments[:3], sequences)
            weight_rows = _row_pointers(context, builder, kinds[3], *arguments[3:6], rows)
            write = _row_pointers(context, builder, kinds[6], *arguments[6:9], sequences)
            ahead = builder.mul(arguments[5], INT64(_AHEAD * element.bitwidth // 8))

            def body(weight_rows: list[Any], others: list[Any]) -> list[Any]:
                numbers = [kind.numbers(builder, place) for place in others[:sequences]]
                weights = [kind.weights(builder, place, element) for place in weight_rows]
                pairs = [(number, weight) for number in numbers for weight in weights]
                sums = zip(pairs, others[sequences:], strict=True)
                return [kind.add_product(builder, *pair, total) for pair, total in sums]

            size = LANES * kind.at_once * element.bitwidth // 8
            others = [*read, *[kind.zero] * (sequences * rows)]
            sums = _over_vectors(builder, arguments[9], weight_rows, size, ahead, others, [LANES] * sequences, body)
            for index, total in enumerate(sums):
                b, r = divmod(index, rows)
                builder.store(sum_of_lanes(builder, total), advance(builder, write[b], r), align=4)
            return context.get_dummy_value()

        n = types.int64
        return types.void(x, n, n, w, n, n, out, n, n, n), codegen

    return dot


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
            x_pairs = [[_load_pair(builder, place, pair) for pair in range(GROUP // 2)] for place in read]
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

            def body(rows: list[Any], others: list[Any]) -> list[Any]:
                scale, *places = others
                totals = list(offsets)
                for r, place in enumerate(rows):
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
                return []

            steps = [LANES // 2] + [LANES] * sequences
            _over_vectors(builder, arguments[11], rows, 4 * LANES, ahead, [scales, *sums], steps, body)
            return context.get_dummy_value()

        n = types.int64
        return types.void(x, n, n, w, n, n, scale, n, y, n, n, n), codegen

    return add_groups


def unpacked(word, row):
    """Row `row` of the eight in a word of int4: see quantization.py."""
    return np.int32(word >> np.uint32(4 * (row // 2) + 16 * (row % 2)) & np.uint32(15)) - np.int32(_ZERO_POINT)


add_rows_1, add_rows_4 = _make_add(1, _Floats), _make_add(4, _Floats)
add_pairs_1, add_pairs_4 = _make_add(1, _Pairs), _make_add(4, _Pairs)
add_groups_1, add_groups_4 = _make_add_groups(1), _make_add_groups(4)
dot_rows_1, dot_rows_4, dot_row = _make_dot(1, 4, _Floats), _make_dot(4, 4, _Floats), _make_dot(1, 1, _Floats)
dot_pairs_1, dot_pairs_4, dot_pair = _make_dot(1, 4, _Pairs), _make_dot(4, 4, _Pairs), _make_dot(1, 1, _Pairs)

"""
Matrix-vector products (gemv): the loops that decoding spends its time in, written in LLVM code, so that a weight is
unpacked once and stays in a register for several sequences.

    add_rows     y[b, o] += sum over 4 rows i of x[b, i] w[i, o]
    add_words    the same, of 8 rows, in whole numbers                      int8
    add_groups   y[b, o] += scale[o] * sum over 32 rows i of x[b, i] w[i, o]    int4
    dot_row      out[b] = sum over c of x[b, c] w[c]
    dot_pairs    the same in whole numbers

for 1 or 4 sequences b. A matrix is a flat array, the index of its first number, and the stride of its rows. Only whole
vectors of LANES numbers of a row of w are done: the caller does the remainder. Each number is summed in the same order,
however many sequences are done at once.

    add_rows, dot_row     x, y and out are float32, w is float32 or uint16 (the bits of bfloat16)
    add_words             x is int16, w is int32 and holds four rows in one, as quantization.py packs int8; y is int32;
                          the caller sees to it that no sum overflows
    add_groups            x is int16, w is uint32 and holds eight rows in one, as quantization.py packs int4; `scale`
                          is uint16, the bits of bfloat16; y is float32
    dot_pairs             x is int16, w is int8, out is int32

Whole numbers are multiplied in pairs: two int16 of x, next to each other in memory, by what is in the same two rows of
w, or columns of a row. That is twice as fast as converting each weight to float32, which takes longer than reading it
from memory.

Most of the time goes into reading weights from memory. A processor foresees what is read next at one place of a page of
4096 bytes, but not at several: two threads of an AMD Zen 3 read a table of int8 at 22 GB/s by one row of 768 bytes, and
at 14 by four of them at a time. So a table is read by one row. A layer is read by four, or y would be read and written
for each of them; their rows are longer, and words make those of int8 as long as those of float32. What is read later is
prefetched into the second-level cache besides.
"""

from __future__ import annotations

import functools
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
_AHEAD_IN_TABLE = 1024  # the same where rows follow one another, in bytes; of 1024 to 12288 the fastest
_SUMS = 2  # of the products of a row by a sequence, in turns: an addition need not wait for the one before
_LINE = 64  # bytes of a cache line
GROUP = 32  # rows of an int4 weight that have a scale in common
INT8_PACKED, INT4_PACKED = 4, 8  # rows in one word
INT8_ROWS = 8  # of an int8 weight that are used at once
_NIBBLES = 0x000F000F  # two numbers of 4 bits, one in each half of a word
_ZERO_POINT = 8  # what an int4 has been raised by


class _Floats:
    """float32 times float32, summed in float32; weights are float32 or the bits of bfloat16."""

    rows = 4  # of a weight that are used at once
    packed = 1  # rows in one
    columns = 1  # of a row that one lane multiplies
    total = WIDE
    zero = ir.Constant(WIDE, [0.0] * LANES)
    add = "fadd"

    @staticmethod
    def factors(builder: Any, place: Any) -> list[Any]:
        """`rows` numbers of x, each broadcast to all lanes."""
        numbers = [builder.load(advance(builder, place, row), align=4, typ=FLOAT) for row in range(_Floats.rows)]
        return [broadcast(builder, number, LANES) for number in numbers]

    @staticmethod
    def of_rows(builder: Any, places: list[Any], dtype: Any) -> list[Any]:
        """A vector of each of `rows` rows, as `factors` multiply them."""
        return [load_float32(builder, place, dtype, LANES) for place in places]

    @staticmethod
    def numbers(builder: Any, place: Any) -> Any:
        """A vector of x."""
        return builder.load(place, align=4, typ=WIDE)

    @staticmethod
    def weights(builder: Any, place: Any, dtype: Any) -> Any:
        """A vector of one row, as `numbers` multiply it."""
        return load_float32(builder, place, dtype, LANES)

    add_product = staticmethod(fma)


class _Integers:
    """int16 times int8, summed in int32; where several rows are used, a word holds four of them."""

    rows, packed, columns = INT8_ROWS, INT8_PACKED, 2
    total = _WHOLE
    zero = ir.Constant(_WHOLE, [0] * LANES)
    add = "add"

    @staticmethod
    def factors(builder: Any, place: Any) -> list[Any]:
        """The same as those of `_Floats`, in pairs."""
        return [_load_pair(builder, place, pair) for pair in range(INT8_ROWS // 2)]

    @staticmethod
    def of_rows(builder: Any, places: list[Any], dtype: Any) -> list[Any]:
        """Each half of a word holds a number of one pair in its lower byte, and of the next pair in its upper byte."""
        eight, pairs = ir.Constant(_SHORT, [8] * _SHORT.count), []
        for place in places:
            words = builder.load(place, align=4, typ=_SHORT)
            pairs += [builder.ashr(builder.shl(words, eight), eight), builder.ashr(words, eight)]
        return pairs

    @staticmethod
    def numbers(builder: Any, place: Any) -> Any:
        return builder.load(place, align=2, typ=_SHORT)

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
    For each vector of some rows of a weight, `body(number, rows, others)`, which returns the later ones of `others`.

    `rows` are pointers to vectors of `size` bytes; `number` tells which of the vectors of one turn of the loop it is, 0
    for those that remain. `others` are pointers, which move on by `steps` words each, and then what `body` returns.
    Lines that are `ahead` bytes further on are prefetched, each of them once.
    """
    moving, in_a_turn = len(rows) + len(steps), max(_SUMS, _LINE // size)

    def vector(number: int, state: list[Any]) -> list[Any]:
        places, later = state[:moving], body(number, state[: len(rows)], state[len(rows) :])
        words = [size // 4] * len(rows) + steps
        return [*(advance(builder, place, word) for place, word in zip(places, words, strict=True)), *later]

    def turn(state: list[Any]) -> list[Any]:
        for number in range(in_a_turn):
            if number * size % _LINE == 0:
                for place in state[: len(rows)]:
                    prefetch(builder, builder.gep(place, [ahead], source_etype=INT8), cache=2)
            state = vector(number, state)
        return state

    state = loop(builder, builder.udiv(count, INT64(in_a_turn)), [*rows, *others], turn)
    return loop(builder, builder.urem(count, INT64(in_a_turn)), state, lambda state: vector(0, state))[moving:]


def _make_add(sequences: int, kind: Any) -> Callable[..., None]:
    """y (sequences, LANES vectors) += x (sequences, rows) times so many rows of w."""
    if numba.config.DISABLE_JIT:

        def add(x, x_start, x_stride, w, w_start, w_stride, y, y_start, y_stride, vectors):
            for row in range(kind.rows):
                weights = w[w_start + row // kind.packed * w_stride :][: vectors * LANES]
                weights = intrinsics.to_float32(weights) if kind is _Floats else int8_of(weights, row % kind.packed)
                for b in range(sequences):
                    y_b = y[y_start + b * y_stride :][: vectors * LANES]
                    y_b += (x[x_start + b * x_stride + row] * weights).astype(y.dtype)

        return add

    @intrinsic
    def add(typingctx, x, x_start, x_stride, w, w_start, w_stride, y, y_start, y_stride, vectors):
        def codegen(context, builder, signature, arguments):
            kinds, element = signature.args, signature.args[3].dtype
            places = _row_pointers(context, builder, kinds[0], *arguments[:3], sequences)
            factors = [kind.factors(builder, place) for place in places]
            rows = _row_pointers(context, builder, kinds[3], *arguments[3:6], kind.rows // kind.packed)
            sums = _row_pointers(context, builder, kinds[6], *arguments[6:9], sequences)
            ahead = builder.mul(arguments[5], INT64(_AHEAD // kind.packed * element.bitwidth // 8))

            def body(number: int, rows: list[Any], sums: list[Any]) -> list[Any]:
                weights = kind.of_rows(builder, rows, element)
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


def _make_dot(sequences: int, kind: Any) -> Callable[..., None]:
    """out (sequences,) = x (sequences, C) times a row (C,) of w, C being whole vectors."""
    if numba.config.DISABLE_JIT:

        def dot(x, x_start, x_stride, w, w_start, out, out_start, out_stride, vectors):
            columns = vectors * LANES * kind.columns
            weights = intrinsics.to_float32(w[w_start:][:columns]).astype(out.dtype)
            for b in range(sequences):
                x_b = x[x_start + b * x_stride :][:columns].astype(out.dtype)
                out[out_start + b * out_stride] = (x_b * weights).sum(dtype=out.dtype)

        return dot

    @intrinsic
    def dot(typingctx, x, x_start, x_stride, w, w_start, out, out_start, out_stride, vectors):
        def codegen(context, builder, signature, arguments):
            kinds, element = signature.args, signature.args[3].dtype
            read = _row_pointers(context, builder, kinds[0], *arguments[:3], sequences)
            row = pointer(context, builder, kinds[3], *arguments[3:5])
            write = _row_pointers(context, builder, kinds[5], *arguments[5:8], sequences)

            def body(number: int, row: list[Any], others: list[Any]) -> list[Any]:
                places, sums = others[:sequences], others[sequences:]
                weights = kind.weights(builder, row[0], element)
                for b, place in enumerate(places):
                    mine = b * _SUMS + number % _SUMS
                    sums[mine] = kind.add_product(builder, kind.numbers(builder, place), weights, sums[mine])
                return sums

            size = LANES * kind.columns * element.bitwidth // 8
            others = [*read, *[kind.zero] * (sequences * _SUMS)]
            ahead = INT64(_AHEAD_IN_TABLE)
            sums = _over_vectors(builder, arguments[8], [row], size, ahead, others, [LANES] * sequences, body)
            for b, place in enumerate(write):
                total = functools.reduce(getattr(builder, kind.add), sums[b * _SUMS : (b + 1) * _SUMS])
                builder.store(sum_of_lanes(builder, total), place, align=4)
            return context.get_dummy_value()

        n = types.int64
        return types.void(x, n, n, w, n, out, n, n, n), codegen

    return dot


def _make_add_groups(sequences: int) -> Callable[..., None]:
    if numba.config.DISABLE_JIT:

        def add_groups(x, x_start, x_stride, w, w_start, w_stride, scale, scale_start, y, y_start, y_stride, vectors):
            columns = vectors * LANES
            words = np.stack([w[w_start + r * w_stride :][:columns] for r in range(GROUP // INT4_PACKED)])
            numbers = np.stack([int4_of(words[i // INT4_PACKED], i % INT4_PACKED) for i in range(GROUP)])
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
            rows = _row_pointers(context, builder, kinds[3], *arguments[3:6], GROUP // INT4_PACKED)
            scales = pointer(context, builder, kinds[6], *arguments[6:8])
            sums = _row_pointers(context, builder, kinds[8], *arguments[8:11], sequences)
            ahead = builder.mul(arguments[5], INT64(4 * GROUP // INT4_PACKED))  # the next group of rows
            mask, zero_point = (
                builder.bitcast(ir.Constant(_WHOLE, [word] * LANES), kind)
                for word, kind in ((_NIBBLES, _WHOLE), (-_ZERO_POINT & 0xFFFF | -_ZERO_POINT << 16, _SHORT))
            )
            # sum of x (w - 8) = sum of x w - 8 * sum of x
            offsets = [ir.Constant(_WHOLE, [0] * LANES)] * sequences
            for b in range(sequences):
                for pair in x_pairs[b]:
                    offsets[b] = builder.add(offsets[b], multiply_pairs(builder, pair, zero_point))

            def body(number: int, rows: list[Any], others: list[Any]) -> list[Any]:
                scale, *places = others
                totals = list(offsets)
                for r, place in enumerate(rows):
                    words = builder.load(place, align=4, typ=_WHOLE)
                    for pair in range(INT4_PACKED // 2):
                        shifted = builder.lshr(words, ir.Constant(_WHOLE, [4 * pair] * LANES)) if pair else words
                        numbers = builder.bitcast(builder.and_(shifted, mask), _SHORT)
                        for b in range(sequences):
                            x_pair = x_pairs[b][r * INT4_PACKED // 2 + pair]
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


def int4_of(word, row):
    """Row `row` of the eight in a word of int4: see quantization.py."""
    return np.int32(word >> np.uint32(4 * (row // 2) + 16 * (row % 2)) & np.uint32(15)) - np.int32(_ZERO_POINT)


def int8_of(word, row):
    """Row `row` of the four in a word of int8."""
    return np.int32(word << np.int32(24 - 8 * (row // 2) - 16 * (row % 2))) >> np.int32(24)


add_rows_1, add_rows_4 = _make_add(1, _Floats), _make_add(4, _Floats)
add_words_1, add_words_4 = _make_add(1, _Integers), _make_add(4, _Integers)
add_groups_1, add_groups_4 = _make_add_groups(1), _make_add_groups(4)
dot_row_1, dot_row_4 = _make_dot(1, _Floats), _make_dot(4, _Floats)
dot_pairs_1, dot_pairs_4 = _make_dot(1, _Integers), _make_dot(4, _Integers)

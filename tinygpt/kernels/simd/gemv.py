"""
The two loops that decoding spends its time in, as pieces of LLVM code, so that a weight is widened once for several
sequences and stays in a register meanwhile.

    add_rows    y[b, o] += x[b, 0] w[0, o] + x[b, 1] w[1, o] + x[b, 2] w[2, o] + x[b, 3] w[3, o]     four rows of w
    dot_rows    out[b, r] = sum over c of x[b, c] w[r, c]                                            some rows of w

for 1 or 4 sequences b. Matrices are flat arrays with a place to begin and the distance of two rows; x, y and out are
float32, w float32, int8 or uint16 (the bits of bfloat16). Only whole vectors of LANES numbers are done: the caller does
what is left over. Each number is summed in the same order, however many sequences and rows are done at once.

Reading weights from memory is what takes time, and the processor does not foresee where the next row is: so the row 16
further on is asked for, into the second cache, while one is used. That alone doubles the speed of int8.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from tinygpt.kernels.simd.cpu import FUSED, LANES
from tinygpt.kernels.simd.llvm import FLOAT, INT8, INT16, INT32, INT64, counted, moved, pointer, prefetch, widened

WIDE = ir.VectorType(FLOAT, LANES)
_AHEAD = 16  # rows of weights between what is asked of memory and what is used: measured, from 4 to 16


def _loaded(builder: Any, address: Any, kind: Any, ahead: Any) -> Any:
    """A vector of weights as float32, from memory that need not be aligned; the one `ahead` bytes on is asked for."""
    prefetch(builder, builder.gep(address, [ahead], source_etype=INT8), cache=2)

    def load(element: Any) -> Any:
        return builder.load(address, align=kind.bitwidth // 8, typ=ir.VectorType(element, LANES))

    if kind == types.float32:
        return load(FLOAT)
    if kind == types.int8:
        return builder.sitofp(load(INT8), WIDE)
    words = builder.zext(load(INT16), ir.VectorType(INT32, LANES))
    return builder.bitcast(builder.shl(words, ir.Constant(words.type, [16] * LANES)), WIDE)


def _multiply_add(builder: Any, a: Any, b: Any, c: Any) -> Any:
    name = f"llvm.{'fma' if FUSED else 'fmuladd'}.v{LANES}f32"
    return builder.call(builder.module.declare_intrinsic(name, (), ir.FunctionType(WIDE, [WIDE] * 3)), [a, b, c])


def _everywhere(builder: Any, number: Any) -> Any:
    """A number in all lanes."""
    first = builder.insert_element(ir.Constant(WIDE, ir.Undefined), number, INT32(0))
    return builder.shuffle_vector(first, first, ir.Constant(ir.VectorType(INT32, LANES), [0] * LANES))


def _sum_of_lanes(builder: Any, vector: Any) -> Any:
    """Halves added until one number is left."""
    while vector.type.count > 1:
        half = vector.type.count // 2
        low, high = (
            builder.shuffle_vector(
                vector, vector, ir.Constant(ir.VectorType(INT32, half), list(range(start, start + half)))
            )
            for start in (0, half)
        )
        vector = builder.fadd(low, high)
    return builder.extract_element(vector, INT32(0))


def _words(kind: Any) -> int:
    """How many words of 4 bytes a vector of weights has."""
    return LANES * kind.bitwidth // 32


def _places(context: Any, builder: Any, kind: Any, array: Any, start: Any, step: Any, count: int) -> list[Any]:
    """The addresses of `count` rows."""
    starts = [builder.add(start, builder.mul(step, INT64(row))) for row in range(count)]
    return [pointer(context, builder, kind, array, place) for place in starts]


def _make_add_rows(sequences: int) -> Callable[..., None]:
    if numba.config.DISABLE_JIT:

        def add_rows(x, x_at, x_step, w, w_at, w_step, y, y_at, y_step, vectors):
            for b in range(sequences):
                for o in range(vectors * LANES):
                    for r in range(4):
                        y[y_at + b * y_step + o] += x[x_at + b * x_step + r] * widened(w[w_at + r * w_step + o])

        return add_rows

    @intrinsic
    def add_rows(typingctx, x, x_at, x_step, w, w_at, w_step, y, y_at, y_step, vectors):
        def codegen(context, builder, signature, arguments):
            kinds = signature.args
            factors = [
                [_everywhere(builder, builder.load(moved(builder, place, r), align=4, typ=FLOAT)) for r in range(4)]
                for place in _places(context, builder, kinds[0], *arguments[:3], sequences)
            ]
            rows = _places(context, builder, kinds[3], *arguments[3:6], 4)
            sums = _places(context, builder, kinds[6], *arguments[6:9], sequences)
            element = kinds[3].dtype
            ahead = builder.mul(arguments[5], INT64(_AHEAD * element.bitwidth // 8))

            def body(state: list[Any]) -> list[Any]:
                weights = [_loaded(builder, place, element, ahead) for place in state[:4]]
                for place, own in zip(state[4:], factors, strict=True):
                    total = builder.load(place, align=4, typ=WIDE)
                    for factor, weight in zip(own, weights, strict=True):
                        total = _multiply_add(builder, factor, weight, total)
                    builder.store(total, place, align=4)
                steps = [_words(element)] * 4 + [LANES] * sequences
                return [moved(builder, place, step) for place, step in zip(state, steps, strict=True)]

            counted(builder, arguments[9], [*rows, *sums], body)
            return context.get_dummy_value()

        n = types.int64
        return types.void(x, n, n, w, n, n, y, n, n, n), codegen

    return add_rows


def _make_dot_rows(sequences: int, rows: int) -> Callable[..., None]:
    if numba.config.DISABLE_JIT:

        def dot_rows(x, x_at, x_step, w, w_at, w_step, out, out_at, out_step, vectors):
            for b in range(sequences):
                for r in range(rows):
                    weights = widened(w[w_at + r * w_step :][: vectors * LANES])
                    out[out_at + b * out_step + r] = (x[x_at + b * x_step :][: vectors * LANES] * weights).sum()

        return dot_rows

    @intrinsic
    def dot_rows(typingctx, x, x_at, x_step, w, w_at, w_step, out, out_at, out_step, vectors):
        def codegen(context, builder, signature, arguments):
            kinds, element = signature.args, signature.args[3].dtype
            read = _places(context, builder, kinds[0], *arguments[:3], sequences)
            weights_at = _places(context, builder, kinds[3], *arguments[3:6], rows)
            write = _places(context, builder, kinds[6], *arguments[6:9], sequences)
            ahead = builder.mul(arguments[5], INT64(_AHEAD * element.bitwidth // 8))
            zeros = [ir.Constant(WIDE, [0.0] * LANES)] * (sequences * rows)

            def body(state: list[Any]) -> list[Any]:
                places, sums = state[: sequences + rows], state[sequences + rows :]
                numbers = [builder.load(place, align=4, typ=WIDE) for place in places[:sequences]]
                weights = [_loaded(builder, place, element, ahead) for place in places[sequences:]]
                pairs = [(number, weight) for number in numbers for weight in weights]
                sums = [_multiply_add(builder, *pair, total) for pair, total in zip(pairs, sums, strict=True)]
                steps = [LANES] * sequences + [_words(element)] * rows
                return [*(moved(builder, place, step) for place, step in zip(places, steps, strict=True)), *sums]

            sums = counted(builder, arguments[9], [*read, *weights_at, *zeros], body)[sequences + rows :]
            for index, total in enumerate(sums):
                b, r = divmod(index, rows)
                builder.store(_sum_of_lanes(builder, total), moved(builder, write[b], r), align=4)
            return context.get_dummy_value()

        n = types.int64
        return types.void(x, n, n, w, n, n, out, n, n, n), codegen

    return dot_rows


add_rows_1, add_rows_4 = _make_add_rows(1), _make_add_rows(4)
dot_rows_1, dot_rows_4 = _make_dot_rows(1, 4), _make_dot_rows(4, 4)
dot_row = _make_dot_rows(1, 1)

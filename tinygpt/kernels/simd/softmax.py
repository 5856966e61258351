"""
Softmax along the columns of a matrix that arrives a block of rows at a time: a vector of columns at once.

    new      = max(largest, each row)
    factor   = e^((largest - new) scale)         the caller multiplies by it what the former `largest` was used for
    largest  = new
    row      = e^((row - largest) scale)         for each row
    sums     = sums factor + the sum of rows

As long as a column has seen nothing but -inf, 0 takes the place of `largest` in a difference: its weights are 0, and
not e^(-inf - -inf), NaN.

A vector has a number of each of LANES columns, so the maximum and the sum of a column need no step across the lanes,
and stay in registers; a loop of Numba would keep both in memory.

Source: Milakov & Gimelshein 2018, "Online normalizer calculation for softmax", arXiv:1805.02867.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numba.core import types
from numba.extending import intrinsic

from tinygpt.kernels.simd.cpu import LANES
from tinygpt.kernels.simd.llvm import FLOAT, INT64, advance, broadcast, load, loop, pointer
from tinygpt.kernels.simd.math import exp_of_negative, exponential_of_negative

_MAXIMA = 4  # of a column, of every fourth row: one comparison need not wait for the one before it

if numba.config.DISABLE_JIT:

    def softmax_of_lanes(block, column, rows, stride, scale, largest, sums, factors):
        for j in range(column, column + LANES):
            numbers = block[j : j + rows * stride : stride]
            new = np.fmax.reduce(numbers, initial=largest[j])
            subtracted = np.float32(0) if new == -np.inf else new
            factors[j] = exp_of_negative((largest[j] - subtracted) * scale)
            largest[j] = new
            for i in range(rows):
                numbers[i] = exp_of_negative((numbers[i] - subtracted) * scale)
            sums[j] = sums[j] * factors[j] + numbers.sum()

else:

    @intrinsic
    def softmax_of_lanes(typingctx, block, column, rows, stride, scale, largest, sums, factors):
        """
        The next `rows` of softmax, in place, for LANES columns of a block whose rows are `stride` apart.

        `largest`, `sums` and `factors` have a number per column. Before the first rows `largest` is -inf and `sums` 0;
        after the last, a row divided by `sums` is softmax. A NaN stays NaN, and makes the sum of its column NaN.
        """

        def codegen(context, builder, signature, arguments):
            block, largest, sums, factors = (
                pointer(context, builder, signature.args[i], arguments[i], arguments[1]) for i in (0, 5, 6, 7)
            )
            rows, stride, scale = arguments[2:5]
            scale = broadcast(builder, scale, LANES)
            _softmax(builder, block, largest, sums, factors, rows, stride, scale)
            return context.get_dummy_value()

        n = types.int64
        return types.void(block, n, n, n, types.float32, largest, sums, factors), codegen


def _softmax(
    builder: Any, block: Any, largest: Any, sums: Any, factors: Any, rows: Any, stride: Any, scale: Any
) -> None:
    before = load(builder, largest, FLOAT, LANES)
    new = _largest(builder, block, before, rows, stride)
    nothing = builder.fcmp_ordered("==", new, broadcast(builder, FLOAT(-np.inf), LANES))
    subtracted = builder.select(nothing, broadcast(builder, FLOAT(0), LANES), new)
    factor = exponential_of_negative(builder, builder.fmul(builder.fsub(before, subtracted), scale))
    total = builder.fmul(load(builder, sums, FLOAT, LANES), factor)

    def row(state: list[Any]) -> list[Any]:
        place, total = state
        score = load(builder, place, FLOAT, LANES)
        weight = exponential_of_negative(builder, builder.fmul(builder.fsub(score, subtracted), scale))
        builder.store(weight, place, align=4)
        return [advance(builder, place, stride), builder.fadd(total, weight)]

    _, total = loop(builder, rows, [block, total], row)
    for value, place in ((new, largest), (total, sums), (factor, factors)):
        builder.store(value, place, align=4)


def _largest(builder: Any, place: Any, start: Any, rows: Any, stride: Any) -> Any:
    """The largest of `start` and of each row's numbers; NaN is passed over."""

    def larger(a: Any, b: Any) -> Any:
        return builder.select(builder.fcmp_ordered(">", a, b), a, b)

    def step(count: int) -> Any:
        def body(state: list[Any]) -> list[Any]:
            place, *maxima = state
            for i in range(count):
                maxima[i] = larger(load(builder, place, FLOAT, LANES), maxima[i])
                place = advance(builder, place, stride)
            return [place, *maxima]

        return body

    state = loop(builder, builder.sdiv(rows, INT64(_MAXIMA)), [place, *[start] * _MAXIMA], step(_MAXIMA))
    _, *maxima = loop(builder, builder.srem(rows, INT64(_MAXIMA)), state, step(1))
    while len(maxima) > 1:
        maxima = [larger(a, b) for a, b in zip(maxima[::2], maxima[1::2], strict=True)]
    return maxima[0]

"""
exp, maximum and sums: functions that Numba lacks, or whose bits would depend on what they are compiled with.

The exponential function is a polynomial, so that the loops that call it are vectorized. A call of the system's library
for each number would be many times slower. For any x there are a whole n and a small r,

    (1) x = n ln 2 + r,   |r| <= ln 2 / 2
    (2) e^r = 1 + r + r^2 (c2 + r (c3 + r (c4 + r (c5 + r c6))))      to 2e-9: the minimax polynomial in [-0.35, 0.35]
    (3) e^x = 2^n e^r,    2^n from its bits, in two halves, because 2^n itself may overflow or underflow

Step (1) subtracts n ln 2 in two parts, of which the first has so few bits that its product with n is exact.

If the compiler could reorder a sum, its last bit would depend on the function that it is inlined into. `total`, `dot`
and `squared_deviations` fix the order: four vectors of LANES partial sums, of which each takes every (4 LANES)-th
number; then one half of the partial sums is added to the other half, until one is left; then the remaining numbers.

`exp_of_negative` is for softmax, whose exponents are at most 0. So 2^n cannot overflow, and results below 2^-126, which
float32 holds with fewer bits only, are 0 there. Then step (3) is one addition to the bits of e^r, 16 instructions in
all in place of 24, and no denormal number slows the processor down.

Error: exp is within 1 unit in the last place. NaN stays NaN; e^-inf = 0; what is beyond float32 is infinite.
Source: Cody & Waite 1980, "Software Manual for the Elementary Functions", chapter 6; the coefficients were fitted for
        least relative error by Lawson's iteration.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from tinygpt.kernels.simd.cpu import LANES
from tinygpt.kernels.simd.llvm import (
    FLOAT,
    INT32,
    INT64,
    advance,
    broadcast,
    fma,
    load,
    loop,
    pointer,
    sum_of_lanes,
)

_LOG2_E = 1.4426950408889634
_LN2_HIGH, _LN2_LOW = 0.693359375, -2.1219444005469057e-4
_ROUND = 1.5 * 2**23  # adding this leaves no bits for a fraction: the sum's last bits are the nearest integer
_LEAST = -87.33  # e to this is the least that float32 holds with all of its bits
_COEFFICIENTS = [0.4999999343, 0.166665204, 0.04166839079, 0.008368745116, 0.001381453999]

if numba.config.DISABLE_JIT:

    def exp(x):
        with np.errstate(over="ignore", under="ignore"):
            return np.exp(np.float32(x))

    def exp_of_negative(x):
        return exp(x) if x >= _LEAST or np.isnan(x) else np.float32(0)

    def maximum(a, b):
        return np.maximum(a, b)

    def total(array):
        return array.sum(dtype=np.float32)

    def dot(a, b):
        return (a * b).sum(dtype=np.float32)

    def squared_deviations(array, mean):
        return np.square(array - mean).sum(dtype=np.float32)

    def sum_of_squares(array):
        return np.square(array, dtype=np.float64).sum()

else:

    @intrinsic
    def exp(typingctx, x):
        """e^x, float32, within 1 unit in the last place; loops that call it are vectorized."""

        def codegen(context, builder, signature, arguments):
            return exponential(builder, arguments[0])

        return types.float32(types.float32), codegen

    @intrinsic
    def exp_of_negative(typingctx, x):
        """e^x, float32, for x of at most 0, or a few roundings more; 0 where it is below 2^-126. Faster than `exp`."""

        def codegen(context, builder, signature, arguments):
            return exponential_of_negative(builder, arguments[0])

        return types.float32(types.float32), codegen

    @intrinsic
    def maximum(typingctx, a, b):
        """The larger of two float32, NaN if one is NaN; its order does not matter, so loops of it are vectorized."""

        def codegen(context, builder, signature, arguments):
            kind = ir.FunctionType(FLOAT, [FLOAT] * 2)
            return builder.call(builder.module.declare_intrinsic("llvm.maximum.f32", (), kind), arguments)

        return types.float32(types.float32, types.float32), codegen

    @intrinsic
    def total(typingctx, array):
        """The sum of a contiguous float32 array, always in the same order."""

        def codegen(context, builder, signature, arguments):
            return ordered_sum(context, builder, signature.args, arguments, lambda x: x)

        return types.float32(array), codegen

    @intrinsic
    def dot(typingctx, a, b):
        """The sum of the products of two contiguous float32 arrays of one length, always in the same order."""

        def codegen(context, builder, signature, arguments):
            return ordered_sum(context, builder, signature.args, arguments, builder.fmul)

        return types.float32(a, b), codegen

    @intrinsic
    def squared_deviations(typingctx, array, mean):
        """The sum of (x - mean)^2 over a contiguous float32 array, always in the same order."""

        def codegen(context, builder, signature, arguments):
            def square(x):
                lanes = getattr(x.type, "count", 1)
                deviation = builder.fsub(x, arguments[1] if lanes == 1 else broadcast(builder, arguments[1], lanes))
                return builder.fmul(deviation, deviation)

            return ordered_sum(context, builder, signature.args[:1], arguments[:1], square)

        return types.float32(array, mean), codegen

    @intrinsic
    def sum_of_squares(typingctx, array):
        """The sum of the squares of a contiguous float32 array in float64, always in the same order."""

        def codegen(context, builder, signature, arguments):
            return ordered_sum(
                context, builder, signature.args, arguments, lambda x: builder.fmul(x, x), ir.DoubleType()
            )

        return types.float64(array), codegen


def ordered_sum(
    context: Any, builder: Any, kinds: Any, arrays: Any, term: Callable[..., Any], element: Any = FLOAT
) -> Any:
    """LLVM code for the sum of `term` of the elements of an array, or of several, with numbers of type `element`."""
    length = builder.extract_value(context.make_array(kinds[0])(context, builder, arrays[0]).shape, 0)
    places = [pointer(context, builder, kind, array, INT64(0)) for kind, array in zip(kinds, arrays, strict=True)]
    wide = ir.VectorType(element, LANES)

    def step(words: int, lanes: int) -> Any:
        def body(state: list[Any]) -> list[Any]:
            *here, sums = state[: len(places)] + [state[len(places) :]]
            added = []
            for i, partial in enumerate(sums):
                values = [_read(builder, advance(builder, p, i * lanes), lanes, element) for p in here]
                added.append(builder.fadd(partial, term(*values)))
            return [*(advance(builder, p, words) for p in here), *added]

        return body

    zeros = [ir.Constant(wide, [0.0] * LANES)] * 4
    state = loop(builder, builder.sdiv(length, INT64(4 * LANES)), [*places, *zeros], step(4 * LANES, LANES))
    *places, first, second, third, fourth = state
    lanes = builder.fadd(builder.fadd(first, second), builder.fadd(third, fourth))
    whole = sum_of_lanes(builder, lanes)
    rest = builder.srem(length, INT64(4 * LANES))
    return loop(builder, rest, [*places, whole], step(1, 1))[-1]


def _read(builder: Any, place: Any, lanes: int, element: Any) -> Any:
    if lanes == 1:
        value, kind = builder.load(place, align=4, typ=FLOAT), element
    else:
        value, kind = load(builder, place, FLOAT, lanes), ir.VectorType(element, lanes)
    return value if element == FLOAT else builder.fpext(value, kind)


def exponential(builder: Any, x: Any) -> Any:
    """LLVM code for e^x."""
    x = _clamp(builder, x, ">", 89.0)
    x = _clamp(builder, x, "<", -104.0)
    total, shifted = _power_of_rest(builder, x)
    exponent = builder.sub(builder.bitcast(shifted, INT32), builder.bitcast(FLOAT(_ROUND), INT32))
    half = builder.ashr(exponent, INT32(1))
    for part in (half, builder.sub(exponent, half)):
        power = builder.bitcast(builder.shl(builder.add(part, INT32(127)), INT32(23)), FLOAT)
        total = builder.fmul(total, power)  # (3)
    return total


def exponential_of_negative(builder: Any, x: Any) -> Any:
    """LLVM code for e^x, a number or a vector, where x is at most 0, or a few roundings more."""
    power, shifted = _power_of_rest(builder, x)
    words = ir.VectorType(INT32, x.type.count) if isinstance(x.type, ir.VectorType) else INT32
    bits = [builder.bitcast(value, words) for value in (power, shifted)]
    shift = builder.shl(bits[1], ir.Constant(words, [23] * x.type.count) if words != INT32 else INT32(23))
    result = builder.bitcast(builder.add(bits[0], shift), x.type)  # (3)
    result = builder.select(builder.fcmp_ordered("<", x, _like(x, _LEAST)), _like(x, 0.0), result)
    return builder.select(builder.fcmp_unordered("uno", x, x), x, result)


def _power_of_rest(builder: Any, x: Any) -> tuple[Any, Any]:
    """e^r, and a number whose last bits are n."""
    shifted = fma(builder, x, _like(x, _LOG2_E), _like(x, _ROUND))
    whole = builder.fsub(shifted, _like(x, _ROUND))  # (1) n
    rest = fma(builder, whole, _like(x, -_LN2_HIGH), x)
    rest = fma(builder, whole, _like(x, -_LN2_LOW), rest)  # (1) r
    total = _like(x, _COEFFICIENTS[-1])
    for coefficient in (*_COEFFICIENTS[-2::-1], 1.0, 1.0):
        total = fma(builder, total, rest, _like(x, coefficient))  # (2)
    return total, shifted


def _like(x: Any, number: float) -> Any:
    """`number` as a constant of x's type: float32, or a vector of that."""
    return ir.Constant(x.type, [number] * x.type.count) if isinstance(x.type, ir.VectorType) else FLOAT(number)


def _clamp(builder: Any, x: Any, comparison: str, bound: float) -> Any:
    """The bound where x is beyond it; a comparison with NaN is false, so NaN stays."""
    return builder.select(builder.fcmp_ordered(comparison, x, FLOAT(bound)), FLOAT(bound), x)

"""
The exponential function as a polynomial, which a loop computes for as many numbers at once as the processor has lanes.

A call of the system's library for each number would be many times slower. For any x there are a whole n and a small r,

    (1) x = n ln 2 + r,   |r| <= ln 2 / 2
    (2) e^r = 1 + r + r^2 (c2 + r (c3 + r (c4 + r (c5 + r c6))))      to 2e-9: the best such polynomial in [-0.35, 0.35]
    (3) e^x = 2^n e^r,    2^n made of its bits, in two halves, because the whole may be too large or too small

Step (1) subtracts n ln 2 in two parts, of which the first has so few bits that its product with n is exact.

Error: below 1 unit in the last place. NaN stays NaN; e^-inf = 0; what is beyond float32 is infinite.
Source: Cody & Waite 1980, "Software Manual for the Elementary Functions", chapter 6; the coefficients were fitted for
        least relative error by Lawson's iteration.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from tinygpt.kernels.processor import FUSED
from tinygpt.kernels.vectors import FLOAT, INT32

_LOG2_E = 1.4426950408889634
_LN2_HIGH, _LN2_LOW = 0.693359375, -2.1219444005469057e-4
_ROUND = 1.5 * 2**23  # adding this leaves no bits for a fraction: the sum's last bits are the nearest whole number
_COEFFICIENTS = [0.4999999343, 0.166665204, 0.04166839079, 0.008368745116, 0.001381453999]

if numba.config.DISABLE_JIT:

    def exp(x):
        with np.errstate(over="ignore", under="ignore"):
            return np.exp(np.float32(x))

    def maximum(a, b):
        return np.maximum(a, b)

else:

    @intrinsic
    def exp(typingctx, x):
        """e^x, float32, below 1 unit in the last place; in a loop it is computed for many x at once."""

        def codegen(context, builder, signature, arguments):
            return exponential(builder, arguments[0])

        return types.float32(types.float32), codegen

    @intrinsic
    def maximum(typingctx, a, b):
        """The larger of two float32, NaN if one is NaN; a loop of it needs no order, and so is computed in lanes."""

        def codegen(context, builder, signature, arguments):
            kind = ir.FunctionType(FLOAT, [FLOAT] * 2)
            return builder.call(builder.module.declare_intrinsic("llvm.maximum.f32", (), kind), arguments)

        return types.float32(types.float32, types.float32), codegen


def exponential(builder: Any, x: Any) -> Any:
    """LLVM code for e^x."""
    x = _bounded(builder, x, ">", 89.0)
    x = _bounded(builder, x, "<", -104.0)
    shifted = _multiply_add(builder, x, FLOAT(_LOG2_E), FLOAT(_ROUND))
    whole = builder.fsub(shifted, FLOAT(_ROUND))  # (1) n
    rest = _multiply_add(builder, whole, FLOAT(-_LN2_HIGH), x)
    rest = _multiply_add(builder, whole, FLOAT(-_LN2_LOW), rest)  # (1) r
    total = FLOAT(_COEFFICIENTS[-1])
    for coefficient in (*_COEFFICIENTS[-2::-1], 1.0, 1.0):
        total = _multiply_add(builder, total, rest, FLOAT(coefficient))  # (2)
    exponent = builder.sub(builder.bitcast(shifted, INT32), builder.bitcast(FLOAT(_ROUND), INT32))
    half = builder.ashr(exponent, INT32(1))
    for part in (half, builder.sub(exponent, half)):
        power = builder.bitcast(builder.shl(builder.add(part, INT32(127)), INT32(23)), FLOAT)
        total = builder.fmul(total, power)  # (3)
    return total


def _bounded(builder: Any, x: Any, comparison: str, bound: float) -> Any:
    """The bound where x is beyond it: false for NaN, which stays."""
    return builder.select(builder.fcmp_ordered(comparison, x, FLOAT(bound)), FLOAT(bound), x)


def _multiply_add(builder: Any, a: Any, b: Any, c: Any) -> Any:
    kind = ir.FunctionType(FLOAT, [FLOAT] * 3)
    name = "llvm.fma.f32" if FUSED else "llvm.fmuladd.f32"
    return builder.call(builder.module.declare_intrinsic(name, (), kind), [a, b, c])

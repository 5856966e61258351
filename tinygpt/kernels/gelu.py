"""
GELU, on all threads: the twin of ops/gelu.py.

    (1) u   = c (x + a x^3)                (1) du/dx = c (1 + 3 a x^2)
    (2) t   = tanh(u)                      (2) dt/du = 1 - t^2
    (3) out = x/2 (1 + t)                  (3) dx = dout ((1 + t)/2 + x/2 (1 - t^2) du/dx)

tanh comes with e^-2u: with s = 1 / (1 + e^-2u), the logistic function of 2u,

    (1 + t)/2 = s     and     (1 - t^2)/2 = 2 s (1 - s)

so out = x s, and dx = dout (s + 2 x s (1 - s) du/dx). Backward computes s again from x: nothing else is kept.

Cost: forward moves 2 arrays, backward 3; about 25 operations an element.
"""

from __future__ import annotations

import math

import numpy as np
from numba import prange

from tinygpt.kernels.jit import all_float32 as accepts
from tinygpt.kernels.jit import flat, inlined, parallel, spread
from tinygpt.kernels.simd.math import exp
from tinygpt.runtime import memory

__all__ = ["accepts", "backward", "forward"]

_PART = 2**13  # elements
_C = np.float32(math.sqrt(2 / math.pi))
_A = np.float32(0.044715)
_MINUS_2C = np.float32(-2 * math.sqrt(2 / math.pi))
_C_3A = np.float32(math.sqrt(2 / math.pi) * 3 * 0.044715)


def forward(x):
    out, numbers = memory.empty(x.shape, np.float32), flat(x)
    spread(_forward, x.size)(numbers, out.reshape(-1))
    return out, numbers


def backward(dout, saved, into):
    if into[0] is not None:
        spread(_backward, saved.size)(flat(dout), saved, into[0].array.reshape(-1), into[0].add)


@inlined
def gate(x):
    """s, so that gelu(x) = x s."""
    return np.float32(1) / (np.float32(1) + exp(_MINUS_2C * (x + _A * (x * x * x))))  # (1, 2) s


@parallel
def _forward(x, out):
    for part_ in prange((len(x) + _PART - 1) // _PART):
        first = np.int64(part_) * _PART
        numbers, results = x[first : first + _PART], out[first : first + _PART]
        for i in range(len(numbers)):
            results[i] = numbers[i] * gate(numbers[i])  # (3)


@parallel
def _backward(dout, x, dx, add):
    for part_ in prange((len(x) + _PART - 1) // _PART):
        first = np.int64(part_) * _PART
        numbers, shares, results = x[first : first + _PART], dout[first : first + _PART], dx[first : first + _PART]
        for i in range(len(numbers)):
            s = gate(numbers[i])
            du_dx = _C + _C_3A * (numbers[i] * numbers[i])  # (1)
            slope = s + np.float32(2) * numbers[i] * s * (np.float32(1) - s) * du_dx  # (2, 3)
            results[i] = (results[i] if add else np.float32(0)) + shares[i] * slope

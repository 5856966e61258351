"""
GELU, on all threads: the twin of ops/gelu.py.

    (1) u   = c * (x + a * x^3)            (1) du_dx = c * (1 + 3 * a * x^2)
    (2) t   = tanh(u)                      (2) dt_dx = (1 - t^2) * du_dx
    (3) out = x/2 * (1 + t)                (3) dx = dout * ((1 + t)/2 + x/2 * dt_dx)

tanh is computed from e^(-2u). With s = 1 / (1 + e^(-2u)), the logistic function of 2u,

    (1 + t)/2 = s     and     (1 - t^2)/2 = 2 * s * (1 - s)

so out = x * s, and dx = dout * slope with slope = s + 2 * x * s * (1 - s) * du_dx. Backward computes s again from x,
which is all that is kept. gelu_linear.py needs out again, too: `forward_and_slope` computes s once for both.

Cost: forward moves 2 arrays, backward 3; about 25 operations per element.
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
    out, x_flat = memory.empty(x.shape, np.float32), flat(x)
    spread(_forward, x.size)(x_flat, out.reshape(-1))
    return out, x_flat


def backward(dout, saved, into):
    x, (dx,) = saved, into
    if dx is not None:
        spread(_backward, x.size)(flat(dout), x, dx.array.reshape(-1), dx.add)


def forward_and_slope(x):
    """gelu(x), and its slope at x: all that backward needs, two float32 arrays like x."""
    out, slope, x_flat = memory.empty(x.shape, np.float32), memory.empty(x.shape, np.float32), flat(x)
    spread(_forward_and_slope, x.size)(x_flat, out.reshape(-1), slope.reshape(-1))
    return out, slope


def times_slope(dout, slope, dx):
    """dx (+)= dout * slope, into a `Slot`."""
    spread(_times_slope, dout.size)(flat(dout), slope.reshape(-1), dx.array.reshape(-1), dx.add)


@inlined
def gate(x):
    """s = (1 + t)/2, so that gelu(x) = x s."""
    minus_2u = _MINUS_2C * (x + _A * (x * x * x))  # (1)
    return np.float32(1) / (np.float32(1) + exp(minus_2u))  # (2)


@inlined
def slope_at(x, s):
    """The derivative of gelu at x, of which s is the gate."""
    du_dx = _C + _C_3A * (x * x)  # (1)
    half_x_dt_dx = np.float32(2) * x * s * (np.float32(1) - s) * du_dx  # (2) x/2 * dt_dx
    return s + half_x_dt_dx  # (3)


@parallel
def _forward(x, out):
    for part_ in prange((len(x) + _PART - 1) // _PART):
        first = np.int64(part_) * _PART
        x_part, out_part = x[first : first + _PART], out[first : first + _PART]
        for i in range(len(x_part)):
            out_part[i] = x_part[i] * gate(x_part[i])  # (3)


@parallel
def _backward(dout, x, dx, add):
    for part_ in prange((len(x) + _PART - 1) // _PART):
        first = np.int64(part_) * _PART
        x_part, dout_part, dx_part = x[first : first + _PART], dout[first : first + _PART], dx[first : first + _PART]
        for i in range(len(x_part)):
            slope = slope_at(x_part[i], gate(x_part[i]))  # (1, 2) again, (3, 2, 1)
            dx_part[i] = (dx_part[i] if add else np.float32(0)) + dout_part[i] * slope  # (3)


@parallel
def _forward_and_slope(x, out, slope):
    for part_ in prange((len(x) + _PART - 1) // _PART):
        first = np.int64(part_) * _PART
        last = first + _PART
        x_part, out_part, slope_part = x[first:last], out[first:last], slope[first:last]
        for i in range(len(x_part)):
            x_i = x_part[i]
            s = gate(x_i)  # (1, 2)
            out_part[i] = x_i * s  # (3)
            slope_part[i] = slope_at(x_i, s)  # (3, 2, 1)


@parallel
def _times_slope(dout, slope, dx, add):
    for i in prange(len(dx)):
        dx[i] = (dx[i] if add else np.float32(0)) + dout[i] * slope[i]  # (3)

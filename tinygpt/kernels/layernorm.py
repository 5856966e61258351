"""
Layer normalization, one row at a time while it is in cache: the twin of ops/layernorm.py.

    (1) mean = mean_C(x)                       (4, 3, 2, 1) dx = rstd * (dxhat - mean_dxhat - xhat * mean_dxhat_xhat)
    (2) xc   = x - mean                        (2, 1)       mean_dxhat = mean_C(dxhat)
    (3) rstd = (mean_C(xc^2) + eps)^(-1/2)     (3)          mean_dxhat_xhat = mean_C(dxhat * xhat)
    (4) xhat = xc * rstd                       (5)          dxhat = dout * weight
    (5) out  = xhat * weight + bias                         dweight = sum_N(dout * xhat),  dbias = sum_N(dout)
                                               (4)          xhat again

dx has one term for each path from x to out: direct, through the mean, and through the standard deviation.

The rows are cut into parts of 16. Each part sums its own dweight and dbias, and the parts are added in order, so that
no two threads write to the same number and the result does not depend on the number of threads.

Cost: forward moves 2 arrays, backward 3 (dout, x, dx); after its first pass over a row the others find it in cache.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from tinygpt.kernels.jit import all_float32 as accepts
from tinygpt.kernels.jit import inlined, parallel, rows_of, spread
from tinygpt.kernels.simd.math import dot, total
from tinygpt.runtime import memory

__all__ = ["accepts", "backward", "forward"]

_PART = 16  # rows
_NOTHING = np.empty((0, 0), np.float32)


def forward(x, weight, bias, eps=1e-5):
    shape, x = x.shape, rows_of(x, x.shape[-1])  # (N, C)
    out = memory.empty(shape, np.float32)
    mean, rstd = memory.empty(len(x), np.float32), memory.empty(len(x), np.float32)
    weight, bias = np.ascontiguousarray(weight), np.ascontiguousarray(bias)
    spread(_forward, x.size)(x, weight, bias, np.float32(eps), out.reshape(x.shape), mean, rstd)
    return out, (x, weight, mean, rstd)


def backward(dout, saved, into):
    x, weight, mean, rstd = saved
    dx, dweight, dbias = into
    parts = -(-len(x) // _PART)
    sums = memory.empty((2, parts, x.shape[1]), np.float32)  # each part's dweight and dbias
    dx_rows = _NOTHING if dx is None else dx.array.reshape(x.shape)
    wanted, add = dx is not None, dx is not None and dx.add
    spread(_backward, x.size)(rows_of(dout, x.shape[1]), x, weight, mean, rstd, dx_rows, wanted, add, sums, parts)
    for slot, part_sums in zip((dweight, dbias), sums, strict=True):
        if slot is not None:
            sum_parts(part_sums, slot.array, slot.add)


@inlined
def normalize(x_n, weight, bias, eps, out_n):
    """Write one row of out; returns its mean and rstd. xc lies in out's memory until out replaces it."""
    C, xc = len(x_n), out_n
    mean_n = total(x_n) / np.float32(C)  # (1)
    for c in range(C):
        xc[c] = x_n[c] - mean_n  # (2)
    rstd_n = np.float32(1) / np.sqrt(dot(xc, xc) / np.float32(C) + eps)  # (3)
    for c in range(C):
        xhat_c = xc[c] * rstd_n  # (4)
        out_n[c] = xhat_c * weight[c] + bias[c]  # (5)
    return mean_n, rstd_n


@parallel
def _forward(x, weight, bias, eps, out, mean, rstd):
    parts = (len(x) + _PART - 1) // _PART
    for part_ in prange(parts):
        part = np.int64(part_)
        for n in range(part * _PART, min(len(x), (part + 1) * _PART)):
            mean[n], rstd[n] = normalize(x[n], weight, bias, eps, out[n])


@parallel
def _backward(dout, x, weight, mean, rstd, dx, wanted, add, sums, parts):
    """Overwrite dx or add to it, if it is `wanted`; `sums` receives the dweight and dbias of each part."""
    C = x.shape[1]
    for part_ in prange(parts):
        part = np.int64(part_)
        dweight, dbias = sums[0, part], sums[1, part]
        dweight[:] = np.float32(0)
        dbias[:] = np.float32(0)
        xhat, dxhat = np.empty(C, np.float32), np.empty(C, np.float32)  # of one row
        for n in range(part * _PART, min(len(x), (part + 1) * _PART)):
            x_n, dout_n = x[n], dout[n]
            mean_n, rstd_n = mean[n], rstd[n]
            for c in range(C):
                xhat[c] = (x_n[c] - mean_n) * rstd_n  # (4) again
                dbias[c] += dout_n[c]  # (5)
                dweight[c] += dout_n[c] * xhat[c]  # (5)
                dxhat[c] = dout_n[c] * weight[c]  # (5)
            mean_dxhat_xhat = dot(dxhat, xhat) / np.float32(C)  # (3)
            mean_dxhat = total(dxhat) / np.float32(C)  # (2, 1)
            if wanted:
                dx_n = dx[n]
                for c in range(C):
                    dx_c = rstd_n * (dxhat[c] - mean_dxhat - xhat[c] * mean_dxhat_xhat)  # (4, 3, 2, 1)
                    dx_n[c] = dx_n[c] + dx_c if add else dx_c


def sum_parts(parts: np.ndarray, total: np.ndarray, add: bool) -> None:
    """total (+)= the sum of the rows of `parts`, first to last: (P, C) and (C,), float32."""
    if add:
        total += np.add.reduce(parts, axis=0)
    else:
        np.add.reduce(parts, axis=0, out=total)

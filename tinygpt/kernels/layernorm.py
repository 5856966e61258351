"""
Layer normalization, one row at a time while it is in cache: the twin of ops/layernorm.py.

    (1) mean = mean_C(x)                             dx = rstd (dxhat - mean_C(dxhat) - xhat mean_C(dxhat * xhat)),
    (2) xc   = x - mean                              all of (1) to (4) at once: one term for each path back to x
    (3) rstd = (mean_C(xc^2) + eps)^(-1/2)
    (4) xhat = xc * rstd
    (5) out  = xhat * weight + bias                  (5) dxhat = dout * weight
                                                         dweight = sum_N(dout * xhat),  dbias = sum_N(dout)

Rows are cut into parts of 16. Each part sums its own dweight and dbias, and the parts are joined in their order, so
that nobody races and the result does not depend on the number of threads.

Cost: forward moves 2 arrays, backward 3 (dout, x, dx); the passes over a row after its first find it in cache.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from tinygpt.kernels.jit import all_float32 as accepts
from tinygpt.kernels.jit import parallel, rows_of, spread
from tinygpt.kernels.simd.math import dot, total
from tinygpt.runtime import memory

__all__ = ["accepts", "backward", "forward"]

_PART = 16  # rows
_NOTHING = np.empty((0, 0), np.float32)


def forward(x, weight, bias, eps=1e-5):
    rows = rows_of(x, x.shape[-1])
    out = memory.empty(x.shape, np.float32)
    mean, rstd = memory.empty(len(rows), np.float32), memory.empty(len(rows), np.float32)
    weight = np.ascontiguousarray(weight)
    spread(_forward, rows.size)(
        rows, weight, np.ascontiguousarray(bias), np.float32(eps), out.reshape(rows.shape), mean, rstd
    )
    return out, (rows, weight, mean, rstd)


def backward(dout, saved, into):
    rows, weight, mean, rstd = saved
    dx, dweight, dbias = into
    parts = -(-len(rows) // _PART)
    sums = memory.empty((2, parts, rows.shape[1]), np.float32)
    target = _NOTHING if dx is None else dx.array.reshape(rows.shape)
    how = 0 if dx is None else 2 if dx.add else 1
    spread(_backward, rows.size)(rows_of(dout, rows.shape[1]), rows, weight, mean, rstd, target, how, sums, parts)
    for slot, part_sums in zip((dweight, dbias), sums, strict=True):
        if slot is not None:
            join(part_sums, slot.array, slot.add)


@parallel
def _forward(x, weight, bias, eps, out, mean, rstd):
    C = x.shape[1]
    parts = (len(x) + _PART - 1) // _PART
    for part_ in prange(parts):
        part = np.int64(part_)
        for n in range(part * _PART, min(len(x), (part + 1) * _PART)):
            row, target = x[n], out[n]
            center = total(row) / np.float32(C)  # (1)
            for c in range(C):
                target[c] = row[c] - center  # (2)
            scale = np.float32(1) / np.sqrt(dot(target, target) / np.float32(C) + eps)  # (3)
            for c in range(C):
                target[c] = target[c] * scale * weight[c] + bias[c]  # (4, 5)
            mean[n], rstd[n] = center, scale


@parallel
def _backward(dout, x, weight, mean, rstd, dx, how, sums, parts):
    """`how`: 0 leaves dx alone, 1 overwrites it, 2 adds to it. `sums` takes each part's dweight and dbias."""
    C = x.shape[1]
    for part_ in prange(parts):
        part = np.int64(part_)
        dweight, dbias = sums[0, part], sums[1, part]
        dweight[:] = np.float32(0)
        dbias[:] = np.float32(0)
        xhat, dxhat = np.empty(C, np.float32), np.empty(C, np.float32)
        for n in range(part * _PART, min(len(x), (part + 1) * _PART)):
            row, drow, center, scale = x[n], dout[n], mean[n], rstd[n]
            for c in range(C):
                xhat[c] = (row[c] - center) * scale  # (4) again
                dweight[c] += drow[c] * xhat[c]  # (5)
                dbias[c] += drow[c]  # (5)
                dxhat[c] = drow[c] * weight[c]  # (5)
            direct, through_scale = total(dxhat) / np.float32(C), dot(dxhat, xhat) / np.float32(C)
            if how > 0:
                target = dx[n]
                for c in range(C):
                    share = scale * (dxhat[c] - direct - xhat[c] * through_scale)  # (4, 3, 2, 1)
                    target[c] = target[c] + share if how == 2 else share


def join(parts: np.ndarray, total: np.ndarray, add: bool) -> None:
    """total (+)= the sum of the rows of `parts`, first to last: (P, C) and (C,), float32."""
    if add:
        total += np.add.reduce(parts, axis=0)
    else:
        np.add.reduce(parts, axis=0, out=total)

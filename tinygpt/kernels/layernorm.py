"""
Layer normalization, one row at a time while it is in cache: the twin of ops/layernorm.py, which derives the steps and
says what the names mean. Here x has shape (N, C), mean and rstd (N,). Backward is read upwards.

    (1) mean = mean_C(x)                       (4, 3, 2, 1) dx = rstd * (dxhat - mean_dxhat - xhat * mean_dxhat_xhat)
    (2) xc   = x - mean                        (2, 1)       mean_dxhat = mean_C(dxhat)
    (3) rstd = (mean_C(xc^2) + eps)^(-1/2)     (3)          mean_dxhat_xhat = mean_C(dxhat * xhat)
    (4) xhat = xc * rstd                       (5)          dxhat = dout * weight
    (5) out  = xhat * weight + bias                         dweight = sum_N(dout * xhat),  dbias = sum_N(dout)
                                               (4)          xhat again

dx has one term for each path from x to out: direct, through the mean, and through the standard deviation.

Backward cuts the rows into parts of at least 16, and no more than 128 parts. Each part sums its own dweight and dbias,
and the parts are added in order: no two threads write to the same number, and the result does not depend on how many
threads there are. With more parts there would be more sums to write, read again and add.

out is not kept for the backward of the linear layer that reads it: `output` computes it again, in less than a fiftieth
of the time that the layer's products take. For GPT-2 that is a sixth of all activations.

Cost: forward reads x and writes out, backward reads dout and x and writes dx. The first pass over a row brings it into
      the cache, where the later ones find it.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from tinygpt.kernels.jit import all_float32 as accepts
from tinygpt.kernels.jit import inlined, parallel, rows_of, spread
from tinygpt.kernels.simd.math import dot, squared_deviations, total
from tinygpt.runtime import memory
from tinygpt.runtime.capture import run

__all__ = ["accepts", "backward", "forward", "output"]

_PART = 16  # rows that one thread takes at a time, at least
_MOST_PARTS = 128
_NOTHING = np.empty((0, 0), np.float32)  # where no dx is wanted, because Numba needs an array all the same


def forward(x, weight, bias, eps=1e-5):
    shape, x = x.shape, rows_of(x, x.shape[-1])  # (N, C)
    weight, bias = np.ascontiguousarray(weight), memory.copied(bias)  # backward lets bias change
    out, mean, rstd = _normalized(x, weight, bias, eps)
    return out.reshape(shape), (x, weight, mean, rstd, bias, eps)


def output(saved):
    """out again, in place of keeping it; float32, (N, C)."""
    x, weight, _, _, bias, eps = saved
    return _normalized(x, weight, bias, eps)[0]


def _normalized(x, weight, bias, eps):
    out = memory.empty(x.shape, np.float32)
    mean, rstd = memory.empty(len(x), np.float32), memory.empty(len(x), np.float32)
    spread(_forward, x.size)(x, weight, bias, np.float32(eps), out, mean, rstd)
    return out, mean, rstd


def backward(dout, saved, into):
    x, weight, mean, rstd, *_ = saved
    dx, dweight, dbias = into  # slots: C-contiguous memory, and whether to add to it; None where no gradient is wanted
    part_rows = max(_PART, -(-len(x) // _MOST_PARTS))
    parts = -(-len(x) // part_rows)
    sums = memory.empty((2, parts, x.shape[1]), np.float32)  # each part's dweight and dbias
    dx_rows = _NOTHING if dx is None else dx.array.reshape(x.shape)
    wanted, add = dx is not None, dx is not None and dx.add
    spread(_backward, x.size)(rows_of(dout, x.shape[1]), x, weight, mean, rstd, dx_rows, wanted, add, sums, part_rows)
    for slot, part_sums in zip((dweight, dbias), sums, strict=True):
        if slot is not None:
            run(sum_parts, part_sums, slot.array, slot.add)


@inlined
def normalize(x_n, weight, bias, eps, out_n):
    """Compute out_n from x_n, and return the mean and the rstd of x_n. kernels/decode_step.py uses it, too."""
    C = len(x_n)
    mean_n = total(x_n) / np.float32(C)  # (1)
    rstd_n = np.float32(1) / np.sqrt(squared_deviations(x_n, mean_n) / np.float32(C) + eps)  # (2, 3)
    for c in range(C):
        xhat_c = (x_n[c] - mean_n) * rstd_n  # (2, 4)
        out_n[c] = xhat_c * weight[c] + bias[c]  # (5)
    return mean_n, rstd_n


@parallel
def _forward(x, weight, bias, eps, out, mean, rstd):
    parts = (len(x) + _PART - 1) // _PART
    for part_ in prange(parts):
        part = np.int64(part_)  # prange counts in uint64, and uint64 with int64 would be float64
        for n in range(part * _PART, min(len(x), (part + 1) * _PART)):
            mean[n], rstd[n] = normalize(x[n], weight, bias, eps, out[n])


@parallel
def _backward(dout, x, weight, mean, rstd, dx, wanted, add, sums, part_rows):
    """Each part's dweight and dbias go into `sums`. If dx is `wanted`, it is overwritten, or added to if `add`."""
    C = x.shape[1]
    for part_ in prange(sums.shape[1]):
        part = np.int64(part_)
        dweight, dbias = sums[0, part], sums[1, part]
        dweight[:] = np.float32(0)
        dbias[:] = np.float32(0)
        xhat, dxhat = np.empty(C, np.float32), np.empty(C, np.float32)  # of one row
        for n in range(part * part_rows, min(len(x), (part + 1) * part_rows)):
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


def sum_parts(parts: np.ndarray, dvector: np.ndarray, add: bool) -> None:
    """dvector (+)= the sum of the rows of `parts`, in an order that P and C decide: (P, C) and (C,), float32."""
    if add:
        dvector += np.add.reduce(parts, axis=0)
    else:
        np.add.reduce(parts, axis=0, out=dvector)

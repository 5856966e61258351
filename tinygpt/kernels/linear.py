"""
Linear, on all threads: the twin of ops/linear.py.

    (1) out = x @ weight + bias        (1) dx = dout @ weight^T,  dweight = x^T @ dout,  dbias = sum_N(dout)

The bias is added while a tile of out is in registers. Nothing is transposed: the product reads either order in memory,
and overwrites a gradient or adds to it. While it writes dweight, it also sums up the squares of what it writes, if the
slot asks for them: the norm of the gradients needs them (see autograd/gradients.py). dbias is summed in parts of 64
rows, and the parts are added in order.

Cost: see ops/linear.py and matmul/gemm.py; dbias reads dout once more.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from tinygpt.kernels.jit import all_float32 as accepts
from tinygpt.kernels.jit import parallel, rows_of, spread
from tinygpt.kernels.matmul.gemm import multiply
from tinygpt.runtime import memory

__all__ = ["accepts", "backward", "forward"]

_PART = 64  # rows


def forward(x, weight, bias):
    inputs, outputs = weight.shape
    out = memory.empty((*x.shape[:-1], outputs), np.float32)
    weight = np.ascontiguousarray(weight)
    multiply(rows_of(x, inputs), weight, into=out.reshape(-1, outputs), bias=np.ascontiguousarray(bias))  # (1)
    return out, (x, weight)


def backward(dout, saved, into):
    x, weight = saved
    inputs, outputs = weight.shape
    rows, drows = rows_of(x, inputs), rows_of(dout, outputs)
    dx, dweight, dbias = into
    if dx is not None:
        multiply(drows, weight.T, into=dx.array.reshape(-1, inputs), accumulate=dx.add)  # (1)
    if dweight is not None:
        multiply(rows.T, drows, into=dweight.array, accumulate=dweight.add, squares=dweight.squares)  # (1)
    if dbias is not None:
        sum_rows(drows, dbias.array, dbias.add)  # (1)


def sum_rows(rows: np.ndarray, total: np.ndarray, add: bool) -> None:
    """total (+)= sum_N(rows); float32, (N, O) and (O,)."""
    parts = max(1, -(-len(rows) // _PART))
    partial = memory.empty((parts, rows.shape[1]), np.float32)
    spread(_sum_rows, rows.size)(rows, partial, total, add, parts)


@parallel
def _sum_rows(rows, partial, total, add, parts):
    for part_ in prange(parts):
        part = np.int64(part_)
        sums = partial[part]
        sums[:] = np.float32(0)
        for n in range(part * _PART, min(len(rows), (part + 1) * _PART)):
            for o in range(len(sums)):
                sums[o] += rows[n, o]
    if not add:
        total[:] = np.float32(0)
    for part in range(parts):
        for o in range(len(total)):
            total[o] += partial[part, o]

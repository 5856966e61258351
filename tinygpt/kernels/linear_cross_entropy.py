"""
The head and its loss, a chunk of rows at a time: the twin of ops/linear_cross_entropy.py.

    for each chunk of ROWS rows of x:
        (1) logits = x weight^T                      into memory that every chunk uses again
        (2) p = e^shifted / z, in place              then also dlogits = (p - 1[v = target]) / M, in place
        (3) nll = ln z - shifted[target]
        (1) dx = dlogits weight,  dweight += dlogits^T x
    (4) loss = the sum of nll / M

Everything that backward needs is known once a chunk's logits are: so dx and dweight, for dloss = 1, are computed during
forward, where they will be needed. `reserved` has the memory for them, or None: where possible the place where the
gradient stays (see autograd/gradients.py). Backward only multiplies by dloss, which is 1 unless the loss was scaled.

Cost: three products of 2 N V C operations; the softmax finds a chunk's row in cache. Workspace: ROWS x V numbers.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from tinygpt.kernels.cross_entropy import counted_targets, largest_of, mean_loss
from tinygpt.kernels.jit import all_float32 as accepts
from tinygpt.kernels.jit import parallel, rows_of, spread
from tinygpt.kernels.matmul.gemm import multiply
from tinygpt.kernels.simd.math import exp, total
from tinygpt.runtime import memory

__all__ = ["GRADIENTS_IN_FORWARD", "accepts", "backward", "forward"]

GRADIENTS_IN_FORWARD = True
ROWS = 512


def forward(x, weight, targets, ignore_index=-100, reserved=(None, None)):
    x, weight = rows_of(x, x.shape[1]), np.ascontiguousarray(weight)
    targets, count = counted_targets(targets, ignore_index)
    dx, dweight = reserved
    share = np.float32(1 / count)
    z, shifted = memory.empty((2, len(x)), np.float32)
    logits = memory.empty((min(ROWS, len(x)), len(weight)), np.float32)
    for first in range(0, len(x), ROWS):
        here = slice(first, first + ROWS)
        rows = x[here]
        chunk = logits[: len(rows)]
        multiply(rows, weight, chunk, b_along_k=True)  # (1)
        wanted = dx is not None or dweight is not None
        spread(_softmax, chunk.size)(chunk, targets[here], share, z[here], shifted[here], wanted)  # (2)
        if dx is not None:
            multiply(chunk, weight, dx.array[here])  # (1)
        if dweight is not None:
            multiply(chunk, rows, dweight.array, a_along_k=False, accumulate=first > 0)  # (1)
    return mean_loss(z, shifted, targets, count), reserved  # (3, 4)


def backward(dout, saved, into):
    factor = np.float32(dout)
    for reservation, slot in zip(saved, into, strict=True):
        if slot is None:
            continue
        if slot.array is not reservation.array:
            spread(_scale, slot.array.size)(reservation.array.reshape(-1), factor, slot.array.reshape(-1), slot.add)
        elif factor != 1:
            spread(_scale, slot.array.size)(slot.array.reshape(-1), factor, slot.array.reshape(-1), False)


@parallel
def _softmax(logits, targets, share, z, shifted, wanted):
    """(2), and dlogits for dloss = 1 in place of the logits if `wanted`."""
    for n_ in prange(len(logits)):
        n = np.int64(n_)
        row = logits[n]
        top, target = largest_of(row), targets[n]
        shifted[n] = row[max(target, 0)] - top
        for v in range(len(row)):
            row[v] = exp(row[v] - top)
        z[n] = total(row)
        if wanted:
            factor = share / z[n] if target >= 0 else np.float32(0)
            for v in range(len(row)):
                row[v] *= factor
            if target >= 0:
                row[target] -= share


@parallel
def _scale(source, factor, target, add):
    for i in prange(len(source)):
        target[i] = (target[i] if add else np.float32(0)) + source[i] * factor

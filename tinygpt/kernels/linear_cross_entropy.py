"""
The head and its loss, a chunk of rows at a time: the twin of ops/linear_cross_entropy.py.

    for each chunk of ROWS rows of x:
        (1)    logits = x @ weight^T                             in memory that every chunk uses again
        (2)    z = sum_V(e^shifted),  p = e^shifted / z          p takes the place of the logits
        (3, 2) dlogits = (p - 1[v = targets]) * counted / M      takes the place of p: the gradient for dloss = 1
        (1)    dx = dlogits @ weight,  dweight += dlogits^T @ x
    (3) nll = ln(z) - shifted[v = targets]
    (4) loss = sum_N(counted * nll) / M;                         backward: dx *= dloss,  dweight *= dloss

Everything that backward needs is known once a chunk's logits are. So dx and dweight, for dloss = 1, are computed during
forward. `reserved` has the memory for them, or None: where possible the place where the gradient stays (see
autograd/gradients.py). Backward only multiplies by dloss, which is 1 unless the loss was scaled.

No step (1, 2, 3) backward: forward has computed dx and dweight for dloss = 1.

Cost: three products of 2 N V C operations; the softmax finds a chunk's row in cache. Workspace: ROWS x V numbers.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from tinygpt.kernels.cross_entropy import count_targets, max_V, mean_loss
from tinygpt.kernels.jit import all_float32 as accepts
from tinygpt.kernels.jit import parallel, rows_of, spread
from tinygpt.kernels.matmul.gemm import multiply
from tinygpt.kernels.matmul.microkernel import LINE
from tinygpt.kernels.simd.math import exp, total
from tinygpt.runtime import memory

__all__ = ["GRADIENTS_IN_FORWARD", "accepts", "backward", "forward"]

GRADIENTS_IN_FORWARD = True
ROWS = 512


def forward(x, weight, targets, ignore_index=-100, reserved=(None, None)):
    x, weight = rows_of(x, x.shape[1]), np.ascontiguousarray(weight)
    targets, share = count_targets(targets, ignore_index)
    dx, dweight = reserved
    z, shifted_target = memory.empty((2, len(x)), np.float32)
    V = len(weight)
    memory_of_chunk = memory.empty((min(ROWS, len(x)), -(-V // LINE) * LINE), np.float32)  # rows begin on cache lines
    logits = memory_of_chunk[:, :V]
    for first in range(0, len(x), ROWS):
        here = slice(first, first + ROWS)
        x_chunk = x[here]
        logits_chunk = logits[: len(x_chunk)]
        multiply(x_chunk, weight.T, into=logits_chunk)  # (1)
        wanted = dx is not None or dweight is not None
        softmax = spread(_softmax, logits_chunk.size)
        softmax(memory_of_chunk[: len(x_chunk)], V, targets[here], share, z[here], shifted_target[here], wanted)  # (2)
        if dx is not None:
            multiply(logits_chunk, weight, into=dx.array[here])  # (1)
        if dweight is not None:
            squares = dweight.squares if first + ROWS >= len(x) else None  # of the last sum
            multiply(logits_chunk.T, x_chunk, into=dweight.array, accumulate=first > 0, squares=squares)  # (1)
    return mean_loss(z, shifted_target, targets), reserved  # (3, 4)


def backward(dout, saved, into):
    dloss = np.float32(dout)
    for reservation, slot in zip(saved, into, strict=True):
        if slot is None:
            continue
        if slot.array is not reservation.array:
            spread(_scale, slot.array.size)(reservation.array.reshape(-1), dloss, slot.array.reshape(-1), slot.add)
        elif dloss != 1:
            spread(_scale, slot.array.size)(slot.array.reshape(-1), dloss, slot.array.reshape(-1), False)
        elif slot.squares is not None and reservation.squares is not None:
            slot.squares.parts = reservation.squares.parts


@parallel
def _softmax(logits, V, targets, share, z, shifted_target, wanted):
    """(2) of the first V columns; if `wanted`, then dlogits for dloss = 1 in place of the logits. `share` has 1 / M."""
    dnll = share[0]  # of a target that counts
    for n_ in prange(len(logits)):
        n = np.int64(n_)
        logits_n = p_n = dlogits_n = logits[n, :V]  # one after the other in the same memory
        max_n, target = max_V(logits_n), targets[n]  # (2)
        shifted_target[n] = logits_n[max(target, 0)] - max_n  # (2)
        for v in range(len(p_n)):
            p_n[v] = exp(logits_n[v] - max_n)  # (2) not yet divided by z
        z[n] = total(p_n)  # (2)
        if wanted:
            dnll_z = dnll / z[n] if target >= 0 else np.float32(0)  # (2)
            for v in range(len(dlogits_n)):
                dlogits_n[v] = p_n[v] * dnll_z  # (2)
            if target >= 0:
                dlogits_n[target] -= dnll  # (3)


@parallel
def _scale(gradient, dloss, out, add):
    for i in prange(len(gradient)):
        out[i] = (out[i] if add else np.float32(0)) + gradient[i] * dloss  # (4)

"""
Cross-entropy, on all threads: the twin of ops/cross_entropy.py.

    (1) shifted = logits - max_V(logits)
    (2) z = sum_V(e^shifted),  p = e^shifted / z         (2, 3) dlogits_nv = (p_nv - 1[v = targets_n]) / M * dloss
    (3) nll_n = ln z_n - shifted_n[targets_n]
    (4) loss = (1 / M) sum of nll_n that count

Forward keeps the largest logit and z of each row; backward computes p from the logits again.

Cost: forward reads the logits twice, the second time from cache; backward reads them and writes as many.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from tinygpt.kernels.jit import all_float32 as accepts
from tinygpt.kernels.jit import inlined, parallel, rows_of, spread
from tinygpt.kernels.simd.math import exp, maximum, total
from tinygpt.runtime import memory

__all__ = ["accepts", "backward", "forward"]

_BLOCK = 1024  # logits whose powers are summed at a time


def forward(logits, targets, ignore_index=-100):
    logits = rows_of(logits, logits.shape[-1])
    targets, count = counted_targets(targets, ignore_index)
    largest, z, shifted = memory.empty((3, len(logits)), np.float32)
    spread(_forward, logits.size)(logits, targets, largest, z, shifted)
    return mean_loss(z, shifted, targets, count), (logits, targets, count, largest, z)


def backward(dout, saved, into):
    logits, targets, count, largest, z = saved
    if into[0] is not None:
        share = np.float32(float(dout) / count)
        spread(_backward, logits.size)(logits, targets, largest, z, share, into[0].array, into[0].add)


def counted_targets(targets, ignore_index):
    """The targets with -1 in place of those that do not count, and how many count, M."""
    counted = targets != ignore_index
    return np.where(counted, targets, -1).astype(np.int64), max(int(counted.sum()), 1)


def mean_loss(z, shifted, targets, count):
    """(3, 4) from each row's z and the shifted logit of its target."""
    nll = np.log(z.astype(np.float64)) - shifted
    return np.asarray(nll[targets >= 0].sum() / count, np.float32)


@inlined
def largest_of(row):
    """(1) max_V(logits)."""
    largest = row[0]
    for v in range(1, len(row)):
        largest = maximum(largest, row[v])
    return largest


@parallel
def _forward(logits, targets, largest, z, shifted):
    for n_ in prange(len(logits)):
        n = np.int64(n_)
        row = logits[n]
        top, powers, sum_of_powers = largest_of(row), np.empty(_BLOCK, np.float32), np.float32(0)  # (1)
        for first in range(0, len(row), _BLOCK):
            part = row[first : first + _BLOCK]
            for v in range(len(part)):
                powers[v] = exp(part[v] - top)  # (2)
            sum_of_powers += total(powers[: len(part)])
        largest[n], z[n] = top, sum_of_powers
        shifted[n] = row[max(targets[n], 0)] - top  # (1)


@parallel
def _backward(logits, targets, largest, z, share, dlogits, add):
    for n_ in prange(len(logits)):
        n = np.int64(n_)
        row, target = logits[n], dlogits[n]
        counts = share if targets[n] >= 0 else np.float32(0)  # (4) dnll
        factor = counts / z[n]
        for v in range(len(row)):
            p = exp(row[v] - largest[n]) * factor  # (2)
            target[v] = target[v] + p if add else p
        if targets[n] >= 0:
            target[targets[n]] -= counts  # (3)

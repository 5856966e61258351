"""
Cross-entropy, on all threads: the twin of ops/cross_entropy.py.

    (1) shifted = logits - max_V(logits)
    (2) z = sum_V(e^shifted),  p = e^shifted / z     (3, 2) dlogits = (p - 1[v = targets]) * dnll
    (3) nll = ln(z) - shifted[v = targets]
    (4) loss = sum_N(counted * nll) / M              (4)    dnll = counted / M * dloss

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
from tinygpt.runtime.capture import run

__all__ = ["accepts", "backward", "forward"]

_BLOCK = 1024  # logits of a row whose e^shifted are summed at a time


def forward(logits, targets, ignore_index=-100):
    logits = rows_of(logits, logits.shape[-1])
    counted, share = count_targets(targets, ignore_index)
    max_logit, z, shifted_target = memory.empty((3, len(logits)), np.float32)
    spread(_forward, logits.size)(logits, counted, max_logit, z, shifted_target)
    return mean_loss(z, shifted_target, counted), (logits, counted, share, max_logit, z)


def backward(dloss, saved, into):
    logits, targets, share, max_logit, z = saved
    (dlogits,) = into
    if dlogits is not None:
        dnll = np.float32(dloss) * share[0]  # (4) of every row that counts
        spread(_backward, logits.size)(logits, targets, max_logit, z, dnll, dlogits.array, dlogits.add)


def count_targets(targets, ignore_index):
    """The targets with -1 in place of those that do not count; and the share of one that counts, 1 / M, in an array."""
    counted, share = memory.empty(targets.shape, np.int64), memory.empty(1, np.float32)
    run(_count_targets, targets, ignore_index, counted, share)
    return counted, share


def _count_targets(targets, ignore_index, counted, share):
    counts = targets != ignore_index
    np.copyto(counted, np.where(counts, targets, -1))
    share[0] = 1 / max(np.count_nonzero(counts), 1)


def mean_loss(z, shifted_target, targets):
    """The loss, from each row's z and the shifted logit of its target."""
    loss = memory.empty((), np.float32)
    run(_mean_loss, z, shifted_target, targets, loss)
    return loss


def _mean_loss(z, shifted_target, targets, loss):
    counts = targets >= 0
    nll = np.log(z.astype(np.float64)) - shifted_target  # (3) (N,)
    loss[...] = nll[counts].sum() / max(np.count_nonzero(counts), 1)  # (4) ()


@inlined
def max_V(logits_n):
    """The largest logit of a row."""
    largest = logits_n[0]
    for v in range(1, len(logits_n)):
        largest = maximum(largest, logits_n[v])
    return largest


@parallel
def _forward(logits, targets, max_logit, z, shifted_target):
    for n_ in prange(len(logits)):
        n = np.int64(n_)
        logits_n, exp_shifted = logits[n], np.empty(_BLOCK, np.float32)
        max_n, z_n = max_V(logits_n), np.float32(0)  # (1)
        for first in range(0, len(logits_n), _BLOCK):
            block = logits_n[first : first + _BLOCK]
            for v in range(len(block)):
                shifted = block[v] - max_n  # (1)
                exp_shifted[v] = exp(shifted)  # (2)
            z_n += total(exp_shifted[: len(block)])  # (2)
        max_logit[n], z[n] = max_n, z_n
        shifted_target[n] = logits_n[max(targets[n], 0)] - max_n  # (1) all that step (3) needs


@parallel
def _backward(logits, targets, max_logit, z, dnll, dlogits, add):
    for n_ in prange(len(logits)):
        n = np.int64(n_)
        logits_n, dlogits_n = logits[n], dlogits[n]
        max_n, target = max_logit[n], targets[n]
        dnll_n = dnll if target >= 0 else np.float32(0)  # (4)
        dnll_z = dnll_n / z[n]  # (2)
        for v in range(len(logits_n)):
            p_dnll = exp(logits_n[v] - max_n) * dnll_z  # (2) p = e^shifted / z again, times dnll
            dlogits_n[v] = dlogits_n[v] + p_dnll if add else p_dnll
        if target >= 0:
            dlogits_n[target] -= dnll_n  # (3)

"""
From logits to tokens inside of a kernel: the twin of `choose` in generation/sampling.py, whose tokens it chooses.

Equal tokens for equal uniform numbers demand equal sums: so the exponential functions and their sums are computed in
float64, and in the order of the reference. The last bit of an exponential function, in which the
system's library and NumPy may differ, can decide a token where a sum is that close to a limit; hardly any is.

The most probable tokens come out of a heap, one by one, until there are enough. It holds the best token of each block
of 64; when that one is taken, the next best of its block comes in its place. So only few are ever compared.

Cost: a pass over the logits; an exponential function per token that may be chosen, shared among threads.
"""

from __future__ import annotations

import math

import numpy as np
from numba import prange

from tinygpt.kernels.jit import ZERO, exact, parallel_part
from tinygpt.kernels.simd.math import maximum
from tinygpt.runtime import memory

_BLOCK = 64
_SLACK = 1 - 1e-12  # as in the reference: sums round
NONE = np.int64(-1)
NAN, MINUS_INFINITY = np.float32(np.nan), np.float32(-np.inf)


def scratch(workers: int, B: int, V: int) -> tuple[np.ndarray, ...]:
    """Memory for the sampling of B rows of V logits; `choose_tokens` unpacks it in this order."""
    return (
        memory.empty((workers, 2, _BLOCK), np.float32),  # lanes: the largest logits, and the largest of their negatives
        memory.empty(B, np.float32),  # largest of each row
        memory.empty((B, V), np.float64),  # p: exponential functions, in the order of the tokens, or of the heap
        memory.empty((B, V), np.float64),  # cumulative: their sums up to each
        memory.empty((B, V), np.int64),  # ids: which tokens these are
        memory.empty((B, -(-V // _BLOCK)), np.int64),  # leaders: the heap
    )


def choice(scratch, logits, options):
    """
    What `choose_tokens` needs to sample a token per row of logits (B, V); its second item is what it writes.

    `options` are uniform numbers (B,), the temperature, top_k and top_p, or None to sample nothing.
    """
    V = logits.shape[1]
    uniforms, temperature, top_k, top_p = options or (np.empty(0), 0, None, None)
    top_k, top_p = V if top_k is None else min(top_k, V), 1 if top_p is None else top_p
    return uniforms, np.empty(len(uniforms), np.int64), float(temperature), int(top_k), float(top_p), scratch


@parallel_part
def choose_tokens(logits, choice, workers):
    """Sample a token per row of logits (B, V); -1 where these are not all finite."""
    uniforms, chosen, temperature, top_k, top_p, (lanes, largest, p, cumulative, ids, leaders) = choice
    V = logits.shape[1]
    limited = top_k < V
    for worker_ in prange(workers):
        worker = np.int64(worker_)
        first, last = worker * V // workers, (worker + 1) * V // workers
        for b in range(len(logits)):
            largest_b = _largest(logits[b], lanes[worker])
            if worker == 0:
                largest[b] = largest_b
            if temperature > 0 and not limited:
                for v in range(first, last):
                    p[b, v] = math.exp((np.float64(logits[b, v]) - np.float64(largest_b)) / temperature)
    for b_ in prange(len(logits)):
        b = np.int64(b_)
        chosen[b] = _choose(logits[b], largest[b], uniforms[b], temperature, top_k, top_p, p[b],
                            cumulative[b], ids[b], leaders[b])  # fmt: skip


@exact
def _choose(logits, largest, uniform, temperature, top_k, top_p, p, cumulative, ids, leaders):
    if not np.isfinite(largest):
        return -1
    if temperature == 0:
        for v in range(len(logits)):
            if logits[v] == largest:
                return v
    count, limited = len(logits), top_k < len(logits)
    if limited:
        count, waiting = top_k, _fill(logits, leaders)
        for n in range(count):
            ids[n] = leaders[0]
            p[n] = math.exp((np.float64(logits[ids[n]]) - np.float64(largest)) / temperature)
            waiting = _replace_first(logits, leaders, waiting)
    needed, by_heap = np.inf, top_p < 1 and not limited
    if top_p < 1:
        total = 0.0
        for n in range(count):
            total += p[n]
        needed = top_p * total * _SLACK
    if by_heap:
        waiting = _fill(p, leaders)
    total, n = 0.0, 0
    while n < count and total < needed:
        if by_heap:
            ids[n] = leaders[0]
            total += p[ids[n]]
            waiting = _replace_first(p, leaders, waiting)
        else:
            total += p[n]
        cumulative[n] = total
        n += 1
    place = _first_above(cumulative[:n], uniform * total)
    return ids[place] if limited or by_heap else place


@exact
def _first_above(cumulative, target):
    """The index of the first number above the target; they ascend."""
    low, high = 0, len(cumulative) - 1
    while low < high:
        middle = (low + high) // 2
        if cumulative[middle] > target:
            high = middle
        else:
            low = middle + 1
    return low


@exact
def _largest(logits, lanes):
    """The largest logit, or NaN if one of them is not finite; 64 at a time, which are vectors."""
    high, low = lanes[0], lanes[1]
    high[:], low[:] = MINUS_INFINITY, MINUS_INFINITY
    for start in range(0, len(logits), _BLOCK):
        block = logits[start : start + _BLOCK]
        for i in range(len(block)):
            high[i], low[i] = maximum(high[i], block[i]), maximum(low[i], -block[i])
    largest, smallest = high[0], low[0]
    for i in range(_BLOCK):
        largest, smallest = maximum(largest, high[i]), maximum(smallest, low[i])
    return largest if np.isfinite(smallest) else NAN


@exact
def _before(keys, i, j):
    """Whether i comes before j: the larger key first, of equal ones the lower index."""
    return keys[i] > keys[j] or (keys[i] == keys[j] and i < j)


@exact
def _fill(keys, leaders):
    """Put the best of each block into the heap, and return how many there are."""
    blocks = (len(keys) + _BLOCK - 1) // _BLOCK
    for block in range(blocks):
        leaders[block] = _best_after(keys, np.int64(block), NONE)
    for place in range(blocks // 2 - 1, -1, -1):
        _sift_down(keys, leaders, blocks, np.int64(place))
    return blocks


@exact
def _replace_first(keys, leaders, waiting):
    """Take the first off the heap; the next best of its block takes its place. Returns how many are in the heap."""
    first = leaders[0]
    following = _best_after(keys, first // _BLOCK, first)
    if following < 0:
        waiting -= 1
        following = leaders[waiting]
    leaders[0] = following
    _sift_down(keys, leaders, waiting, ZERO)
    return waiting


@exact
def _best_after(keys, block, taken):
    """Of a block, the best of those that come after the one that was taken last; -1 if none does."""
    best = -1
    for i in range(block * _BLOCK, min(len(keys), (block + 1) * _BLOCK)):
        if (taken < 0 or _before(keys, taken, i)) and (best < 0 or _before(keys, i, best)):
            best = i
    return best


@exact
def _sift_down(keys, leaders, waiting, place):
    """Restore the order of the heap, in which the one at `place` may come too early."""
    moving = leaders[place]
    while 2 * place + 1 < waiting:
        child = 2 * place + 1
        if child + 1 < waiting and _before(keys, leaders[child + 1], leaders[child]):
            child += 1
        if _before(keys, moving, leaders[child]):
            break
        leaders[place] = leaders[child]
        place = child
    leaders[place] = moving

"""
Dropout, on all threads: the twin of ops/dropout.py.

    (1) bits_i = hash(seed, i)
    (2) mask_i = 1[bits_i >= p 2^32] / (1 - p)
    (3) out_i  = x_i mask_i,   dx_i = dout_i mask_i

Forward and backward are the same loop. No mask is stored: an element's is a function of the seed and of its position.

Cost: moves 2 arrays; about 20 integer operations an element.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from tinygpt.kernels.jit import all_float32 as accepts
from tinygpt.kernels.jit import flat, inlined, parallel, spread
from tinygpt.runtime import memory

__all__ = ["accepts", "backward", "forward"]

_PART = 2**14  # elements


def forward(x, p, seed):
    out = memory.empty(x.shape, np.float32)
    _drop(x, out, p, seed, add=False)
    return out, (p, seed)


def backward(dout, saved, into):
    if into[0] is not None:
        _drop(dout, into[0].array, *saved, add=into[0].add)


def _drop(x, out, p, seed, add):
    key0, key1, threshold, factor = constants(p, seed)
    spread(_apply, x.size)(flat(x), out.reshape(-1), key0, key1, threshold, factor, add)


def constants(p, seed):
    """The two keys of the hash, the threshold of step (2) and what kept elements are multiplied by."""
    keys = _splitmix64(seed)
    threshold = min(round(p * 2**32), 2**32 - 1)
    return np.uint32(keys & 0xFFFFFFFF), np.uint32(keys >> 32), np.uint32(threshold), np.float32(1 / (1 - p))


def _splitmix64(seed):
    modulus = 2**64
    z = (int(seed) + 0x9E3779B97F4A7C15) % modulus
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % modulus
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % modulus
    return z ^ (z >> 31)


@inlined
def mixed(h):
    """MurmurHash3's finalizer, on 32 bits."""
    h ^= h >> np.uint32(16)
    h = np.uint32(h * np.uint32(0x85EBCA6B))
    h ^= h >> np.uint32(13)
    h = np.uint32(h * np.uint32(0xC2B2AE35))
    return h ^ (h >> np.uint32(16))


@parallel
def _apply(x, out, key0, key1, threshold, factor, add):
    parts = (len(x) + _PART - 1) // _PART
    for part_ in prange(parts):
        part = np.int64(part_)
        start = part * _PART
        # A part does not cross a multiple of 2^32: the high half of its elements' positions is one number.
        high = np.uint32(np.uint32(start >> 32) * np.uint32(0x9E3779B9))
        first, second, low = key0, np.uint32(key1 ^ high), np.uint32(start & 0xFFFFFFFF)
        numbers, results = x[start : start + _PART], out[start : start + _PART]
        for j in range(len(numbers)):
            bits = mixed(mixed(np.uint32(low + np.uint32(j)) ^ first) ^ second)  # (1)
            mask = factor if bits >= threshold else np.float32(0)  # (2)
            results[j] = (results[j] if add else np.float32(0)) + numbers[j] * mask  # (3)

"""
Dropout, on all threads: the twin of ops/dropout.py.

    (1) bits = hash(seed, i)
    (2) mask = 1[bits >= p * 2^32] / (1 - p)
    (3) out  = x * mask                          (3)    dx = dout * mask
                                                 (1, 2) bits, mask again

Forward and backward are the same loop. No mask is stored: an element's is a function of the seed and of its position.

Cost: moves 2 arrays; about 20 integer operations per element.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from tinygpt.kernels.jit import all_float32 as accepts
from tinygpt.kernels.jit import flat, inlined, parallel, spread
from tinygpt.runtime import memory
from tinygpt.runtime.capture import current_recorder
from tinygpt.runtime.seeds import splitmix64

__all__ = ["accepts", "backward", "forward"]

_PART = 2**14  # elements


def forward(x, p, seed):
    out = memory.empty(x.shape, np.float32)
    _drop(x, out, p, seed, add=False)
    return out, (p, seed)


def backward(dout, saved, into):
    p, seed = saved
    (dx,) = into
    if dx is not None:
        _drop(dout, dx.array, p, seed, dx.add)


def _drop(x, out, p, seed, add):
    """out (+)= x * mask; backward's x is dout, and its out is dx."""
    spread(_apply, x.size)(flat(x), out.reshape(-1), *constants(p, seed), add)


def constants(p, seed):
    """The two keys of the hash in an array, p 2^32, and 1 / (1 - p)."""
    recorder = current_recorder()
    keys = None if recorder is None else recorder.keys(seed)  # every replay has others there
    if keys is None:
        keys = np.empty(2, np.uint32)
    scrambled = splitmix64(seed)
    keys[0], keys[1] = scrambled & 0xFFFFFFFF, scrambled >> 32
    return keys, np.uint32(min(round(p * 2**32), 2**32 - 1)), np.float32(1 / (1 - p))


@inlined
def mix(h):
    """MurmurHash3's finalizer, on 32 bits."""
    h ^= h >> np.uint32(16)
    h = np.uint32(h * np.uint32(0x85EBCA6B))
    h ^= h >> np.uint32(13)
    h = np.uint32(h * np.uint32(0xC2B2AE35))
    return h ^ (h >> np.uint32(16))


@parallel
def _apply(x, out, keys, threshold, scale, add):
    key0, key1 = keys[0], keys[1]
    parts = (len(x) + _PART - 1) // _PART
    for part_ in prange(parts):
        part = np.int64(part_)
        start = part * _PART
        # A part does not cross a multiple of 2^32: the high half of its elements' positions is one number.
        high = np.uint32(np.uint32(start >> 32) * np.uint32(0x9E3779B9))
        key1_high, low = np.uint32(key1 ^ high), np.uint32(start & 0xFFFFFFFF)
        x_part, out_part = x[start : start + _PART], out[start : start + _PART]
        for j in range(len(x_part)):
            bits = mix(mix(np.uint32(low + np.uint32(j)) ^ key0) ^ key1_high)  # (1)
            mask = scale if bits >= threshold else np.float32(0)  # (2)
            out_part[j] = (out_part[j] if add else np.float32(0)) + x_part[j] * mask  # (3)

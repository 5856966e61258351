"""
Addition, on all threads: the twin of `add` in ops/basic.py, for what a model adds again and again.

    out = a + b     of one shape, or `b` the same for every sequence of `a`: the positions' embeddings

The backward is the reference's: it hands the gradient through.

Cost: moves 3 arrays.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from tinygpt.kernels.jit import flat, parallel, spread
from tinygpt.runtime import memory

__all__ = ["accepts", "forward"]

_PART = 2**13  # elements


def accepts(a, b):
    return a.dtype == b.dtype == np.float32 and b.size > 0 and a.shape[a.ndim - b.ndim :] == b.shape


def forward(a, b):
    out = memory.empty(a.shape, np.float32)
    spread(_add, a.size)(flat(a), flat(b), out.reshape(-1))
    return out, (a.shape, b.shape)


@parallel
def _add(a, b, out):
    parts = (len(b) + _PART - 1) // _PART
    for part_ in prange(len(a) // len(b) * parts):
        part = np.int64(part_)
        first = part % parts * _PART
        term = b[first : first + _PART]
        start = part // parts * len(b) + first
        numbers, results = a[start : start + len(term)], out[start : start + len(term)]
        for i in range(len(term)):
            results[i] = numbers[i] + term[i]

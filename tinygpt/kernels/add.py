"""
Addition, on all threads: the twin of `add` in ops/basic.py, for the two shapes that a model adds.

    out = a + b     of one shape, or b broadcast along a's leading axes, such as the embeddings of positions

Backward is the reference's: it passes the gradient on.

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
    parts = (len(b) + _PART - 1) // _PART  # of b, for each time that it is added
    for part_ in prange(len(a) // len(b) * parts):
        part = np.int64(part_)
        first = part % parts * _PART
        b_part = b[first : first + _PART]
        start = part // parts * len(b) + first
        a_part, out_part = a[start : start + len(b_part)], out[start : start + len(b_part)]
        for i in range(len(b_part)):
            out_part[i] = a_part[i] + b_part[i]

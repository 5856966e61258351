"""
Embedding, on all threads: the twin of ops/embedding.py.

    (1) out_n = weight[ids_n]
    (1) dweight_v = sum of dout_n over all n with ids_n = v

Backward goes through the tokens in their order, once for each part of the columns: two threads never write the same
number, and a token that comes again is added when its turn comes. Nothing is sorted, and no table of zeros is made: the
tied table of GPT-2 holds the head's gradient by then, and gets the rows that the text uses added to it.

Cost: moves the rows in use once; and the whole table where it is to be overwritten.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from tinygpt.kernels.jit import flat, parallel, rows_of, spread
from tinygpt.runtime import memory

__all__ = ["accepts", "backward", "forward"]

_ROWS, _COLUMNS = 16, 128  # of a part


def accepts(weight, ids):
    return weight.dtype == np.float32 and weight.shape[1] > 0


def forward(weight, ids):
    out = memory.empty((*ids.shape, weight.shape[1]), np.float32)
    flat_ids = flat(ids).astype(np.int64, copy=False)
    spread(_look_up, out.size)(np.ascontiguousarray(weight), flat_ids, out.reshape(-1, weight.shape[1]))  # (1)
    return out, flat_ids


def backward(dout, saved, into):
    (slot,) = into
    if slot is None:
        return
    if not slot.add:
        slot.array.fill(0)
    spread(_scatter, dout.size)(rows_of(dout, dout.shape[-1]), saved, slot.array)  # (1)


@parallel
def _look_up(weight, ids, out):
    for part_ in prange((len(ids) + _ROWS - 1) // _ROWS):
        part = np.int64(part_)
        for n in range(part * _ROWS, min(len(ids), (part + 1) * _ROWS)):
            row, target = weight[ids[n]], out[n]
            for c in range(len(row)):
                target[c] = row[c]


@parallel
def _scatter(dout, ids, dweight):
    C = dout.shape[1]
    for part_ in prange((C + _COLUMNS - 1) // _COLUMNS):
        part = np.int64(part_)
        here = slice(part * _COLUMNS, (part + 1) * _COLUMNS)
        for n in range(len(ids)):
            row, target = dout[n, here], dweight[ids[n], here]
            for c in range(len(row)):
                target[c] += row[c]

"""
Embedding, on all threads: the twin of ops/embedding.py.

    (1) out = weight[v = ids]          (1) dweight = sum_N(1[v = ids] * dout)

Backward goes through the tokens in order, once for each part of the columns: two threads never write to the same
number, and a repeated token is added each time it comes. Nothing is sorted, and no table of zeros is made: GPT-2's tied
table already holds the gradient of the head, and the rows of the tokens in the text are added to it. Where the sum of
its squares is known, it stays known: what these rows contribute is subtracted before they change, and added after.

Cost: moves the rows in use once; and the whole table where it is to be overwritten.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from tinygpt.kernels.jit import flat, parallel, rows_of, spread
from tinygpt.kernels.norm import squares_of_rows
from tinygpt.runtime import memory
from tinygpt.runtime.capture import run

__all__ = ["accepts", "backward", "forward"]

_ROWS, _COLUMNS = 16, 128  # of a part
_CANCELLED = 2.0**-10  # a sum of squares that fell below this share of what it was has lost digits: better measured


def accepts(weight, ids):
    return weight.dtype == np.float32 and weight.shape[1] > 0


def forward(weight, ids):
    out = memory.empty((*ids.shape, weight.shape[1]), np.float32)
    flat_ids = flat(ids).astype(np.int64, copy=False)
    spread(_look_up, out.size)(np.ascontiguousarray(weight), flat_ids, out.reshape(-1, weight.shape[1]))
    return out, flat_ids


def backward(dout, saved, into):
    (dweight,) = into
    if dweight is None:
        return
    if not dweight.add:
        run(np.ndarray.fill, dweight.array, 0)
    before = None if dweight.squares is None else dweight.squares.before
    if before is None or before.after is None or 4 * len(saved) >= len(dweight.array):
        _add_rows(dout, saved, dweight.array)  # of so many rows, the norm may as well read all
    else:
        run(_add_rows_and_their_squares, dout, saved, dweight.array, before, dweight.squares)


def _add_rows_and_their_squares(dout, ids, dweight, before, squares):
    changed = np.unique(ids)
    known, subtracted = before.after, squares_of_rows(dweight, changed)
    _add_rows(dout, ids, dweight)
    after = known - subtracted + squares_of_rows(dweight, changed)
    squares.after = after if after > _CANCELLED * known else None


def _add_rows(dout, ids, dweight):
    spread(_scatter, dout.size)(rows_of(dout, dout.shape[-1]), ids, dweight)


@parallel
def _look_up(weight, ids, out):
    for part_ in prange((len(ids) + _ROWS - 1) // _ROWS):
        part = np.int64(part_)
        for n in range(part * _ROWS, min(len(ids), (part + 1) * _ROWS)):
            weight_v, out_n = weight[ids[n]], out[n]
            for c in range(len(weight_v)):
                out_n[c] = weight_v[c]  # (1)


@parallel
def _scatter(dout, ids, dweight):
    C = dout.shape[1]
    for part_ in prange((C + _COLUMNS - 1) // _COLUMNS):
        part = np.int64(part_)
        here = slice(part * _COLUMNS, (part + 1) * _COLUMNS)
        for n in range(len(ids)):
            dout_n, dweight_v = dout[n, here], dweight[ids[n], here]
            for c in range(len(dout_n)):
                dweight_v[c] += dout_n[c]  # (1)

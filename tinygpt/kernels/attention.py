"""
Causal attention, a block of queries at a time: the twin of ops/attention.py.

    for each sequence and head, by one thread:
        pack its keys and values once
        for each block of ROWS tokens t, with the s <= t that they may see:
            (2) scores  = q k^T                          (2) dq = dscores k / sqrt(D),  dk += dscores^T q / sqrt(D)
            (3) beyond s = t: left out                   (4) dscores = kept (dkept - sum_s(dkept kept)), times the mask
            (4) weights = e^(scores / sqrt(D) - lse)     (5) dweights = dkept * mask
            (5) kept    = weights * mask                 (6) dkept = dheads v^T,  dv += kept^T dheads
            (6) heads   = kept v

What a block needs, ROWS x T scores, is used again by the next, so memory grows with T and not with its square. Kept
for backward are qkv, out and one number a row, lse = ln sum_s e^score, from which the weights come again in one step.
In step (4), sum_s(dweights * weights) = sum_s(dkept * kept) = sum_d(dheads * heads): a product of rows of dout and out.

Each sequence and head is one thread's work, from the first block to the last, so nobody races for dk and dv, and the
result does not depend on the number of threads. Its numbers of dqkv lie `3C` apart, and are written where they belong.

Source: Dao et al. 2022, "FlashAttention", arXiv:2205.14135, for what to keep and what to compute again.
Cost:   2 T^2 C operations a sequence forward, 5 T^2 C backward: half of the reference's, the future being left out.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from tinygpt.kernels.dropout import constants, mix
from tinygpt.kernels.jit import ACROSS, ALONG_K, ZERO, flat, kernel, parallel, threads
from tinygpt.kernels.jit import all_float32 as accepts
from tinygpt.kernels.matmul.gemm import factors
from tinygpt.kernels.matmul.microkernel import ACCUMULATE, AMX_LAYOUT, OVERWRITE, begin_tiles, end_tiles
from tinygpt.kernels.matmul.panels import (
    EDGE,
    STAGED,
    multiply_packed,
    pack_columns,
    pack_rows,
    packed_elements,
    panel_sizes,
    size_of,
)
from tinygpt.kernels.simd.cpu import LANES
from tinygpt.kernels.simd.intrinsics import fetch_and_increment
from tinygpt.kernels.simd.math import dot, exp, maximum
from tinygpt.kernels.simd.math import total as sum_of
from tinygpt.runtime import memory

__all__ = ["accepts", "backward", "forward"]

ROWS = 64  # tokens of a block: whole panels of A in every format
_SMALL = 2**18  # multiplications that one core has done in about ten microseconds


def forward(qkv, n_head, p=0.0, seed=None):
    B, T, width = qkv.shape
    C = width // 3
    qkv = np.ascontiguousarray(qkv)
    out, lse = memory.empty((B, T, C), np.float32), memory.empty((B, n_head, T), np.float32)
    total = memory.empty((B, n_head, T), np.float32)
    sizes = (B, T, C, n_head)
    _forward(qkv.reshape(-1), out.reshape(-1), lse.reshape(-1), total.reshape(-1), sizes, _drops(p, seed),
             *_memory(sizes, backward=False))  # fmt: skip
    lse += np.log(total)
    return out, (qkv, out, lse, n_head, p, seed)


def backward(dout, saved, into):
    qkv, out, lse, n_head, p, seed = saved
    (slot,) = into
    if slot is None:
        return
    B, T, C = out.shape
    sizes = (B, T, C, n_head)
    _backward(flat(dout), qkv.reshape(-1), out.reshape(-1), lse.reshape(-1), slot.array.reshape(-1), slot.add, sizes,
              _drops(p, seed), *_memory(sizes, backward=True))  # fmt: skip


def _drops(p, seed):
    """Whether weights are dropped, and the constants of the mask."""
    return (p > 0, *(constants(p, seed) if p else constants(0.5, 0)))


def _memory(sizes, backward):
    """How many threads work, the format of the products, and each thread's memory."""
    B, T, C, H = sizes
    workers = min(threads(most=None if B * T * T * C > _SMALL else 1), B * H)
    form, dtype = factors()
    D = C // H
    across, along = packed_elements(form, 0, T, D)[1], packed_elements(form, 0, D, T)[1]  # keys; values
    rows = max(packed_elements(form, ROWS, 0, max(D, T))[0], packed_elements(form, T, 0, ROWS)[0] if backward else 0)
    packed = [memory.empty((workers, size), dtype) for size in (across, along, rows)]
    if backward:
        of_block = packed_elements(form, 0, D, ROWS)[1]
        packed += [memory.empty((workers, size), dtype) for size in (across, of_block)]
    scores = memory.empty((workers, 2 if backward else 1, ROWS, T), np.float32)
    panels = (*panel_sizes(form, D), panel_sizes(form, T)[1])
    scratch = memory.empty((workers, STAGED + EDGE), np.float32)
    return workers, form, panels, tuple(packed), scores, scratch, np.zeros(1, np.int64), AMX_LAYOUT


@parallel
def _forward(qkv, out, lse, total, sizes, drops, workers, form, panels, packed, scores, scratch, counter, layout):
    for worker_ in prange(workers):
        worker = np.int64(worker_)
        begin_tiles(packed[0], layout)
        _forward_units(qkv, out, lse, total, sizes, drops, form, panels, packed[0][worker], packed[1][worker],
                       packed[2][worker], scores[worker, 0], scratch[worker], counter)  # fmt: skip
        end_tiles(packed[0])


@kernel
def _forward_units(qkv, out, lse, total, sizes, drops, form, panels, keys, values, left, scores, scratch, counter):
    """Sequences and heads, whichever is next, until none is left."""
    B, T, C, H = sizes
    D = C // H
    width, (a_of_D, b_of_D, b_of_T) = form.vectors * LANES, panels
    scale = np.float32(1) / np.sqrt(np.float32(D))
    staged, edge, scores_flat = scratch[:STAGED], scratch[STAGED:], scores.reshape(-1)
    while True:
        unit = fetch_and_increment(counter, 0)
        if unit >= B * H:
            break
        q = unit // H * T * 3 * C + unit % H * D  # where the unit's first query, key, value lie
        pack_columns(qkv, ALONG_K, 3 * C, q + C, T, D, keys, form, staged)
        pack_columns(qkv, ACROSS, 3 * C, q + 2 * C, D, T, values, form, staged)
        for first in range(0, T, ROWS):
            rows = min(ROWS, T - first)
            seen = first + rows
            columns = min(T, (seen + width - 1) // width * width)  # whole panels of keys
            pack_rows(qkv, ALONG_K, 3 * C, q + first * 3 * C, rows, D, left, form, staged)
            multiply_packed(
                left, ZERO, rows, keys, columns, D, a_of_D, b_of_D, scores_flat, ZERO, T, OVERWRITE, form, edge
            )
            for r in range(rows):  # (3, 4, 5)
                at = unit * T + first + r
                _weigh(scores[r], first + r + 1, seen, scale, at * T, drops, lse, total, at)
            pack_rows(scores_flat, ALONG_K, T, ZERO, rows, seen, left, form, staged)
            start = (unit // H * T + first) * C + unit % H * D
            multiply_packed(left, ZERO, rows, values, D, seen, size_of(form, form.rows, seen), b_of_T, out, start, C,
                            OVERWRITE, form, edge)  # (6)  # fmt: skip
            for r in range(rows):
                head, sum_of_row = out[start + r * C :][:D], total[unit * T + first + r]
                for d in range(D):
                    head[d] /= sum_of_row  # (4)


@kernel
def _weigh(row, own, seen, scale, position, drops, lse, total, at):
    """(3, 4, 5): row's first `own` scores become e^(score - largest), masked; those up to `seen`, the future, 0."""
    past, future = row[:own], row[own:seen]
    largest = past[0]
    for s in range(len(past)):
        largest = maximum(largest, past[s])
    for s in range(len(past)):
        past[s] = exp((past[s] - largest) * scale)
    for s in range(len(future)):
        future[s] = np.float32(0)
    lse[at], total[at] = largest * scale, sum_of(past)
    if drops[0]:
        _mask(past, position, drops)


@kernel
def _mask(row, position, drops):
    """(5): the row times its mask; `position` is that of its first weight among all of (B, H, T, T)."""
    _, key0, key1, threshold, factor = drops
    done = ZERO
    while done < len(row):  # once, unless the positions cross a multiple of 2^32: their high half is one number
        start = position + done
        low, high = np.uint32(start & 0xFFFFFFFF), np.uint32(np.uint32(start >> 32) * np.uint32(0x9E3779B9))
        part = row[done : done + min(len(row) - done, 2**32 - (start & 0xFFFFFFFF))]
        second = np.uint32(key1 ^ high)
        for s in range(len(part)):
            bits = mix(mix(np.uint32(low + np.uint32(s)) ^ key0) ^ second)
            part[s] *= factor if bits >= threshold else np.float32(0)
        done += len(part)


@parallel
def _backward(dout, qkv, out, lse, dqkv, add, sizes, drops, workers, form, panels, packed, scores, scratch, counter,
              layout):  # fmt: skip
    for worker_ in prange(workers):
        worker = np.int64(worker_)
        begin_tiles(packed[0], layout)
        mine = (packed[0][worker], packed[1][worker], packed[2][worker], packed[3][worker], packed[4][worker])
        _backward_units(dout, qkv, out, lse, dqkv, add, sizes, drops, form, panels, mine, scores[worker],
                        scratch[worker], counter)  # fmt: skip
        end_tiles(packed[0])


@kernel
def _backward_units(dout, qkv, out, lse, dqkv, add, sizes, drops, form, panels, packed, scores, scratch, counter):
    """Sequences and heads, whichever is next, until none is left."""
    B, T, C, H = sizes
    D = C // H
    keys, keys_along, left, values, block = packed
    width, (a_of_D, b_of_D, b_of_T) = form.vectors * LANES, panels
    staged, edge = scratch[:STAGED], scratch[STAGED:]
    weights, dweights = scores[0].reshape(-1), scores[1].reshape(-1)
    again = ACCUMULATE if add else OVERWRITE
    while True:
        unit = fetch_and_increment(counter, 0)
        if unit >= B * H:
            break
        q, head = unit // H * T * 3 * C + unit % H * D, unit // H * T * C + unit % H * D
        pack_columns(qkv, ALONG_K, 3 * C, q + C, T, D, keys, form, staged)
        pack_columns(qkv, ACROSS, 3 * C, q + C, D, T, keys_along, form, staged)
        pack_columns(qkv, ALONG_K, 3 * C, q + 2 * C, T, D, values, form, staged)
        for first in range(0, T, ROWS):
            rows = min(ROWS, T - first)
            seen = first + rows
            columns = min(T, (seen + width - 1) // width * width)  # whole panels of keys
            here, there = q + first * 3 * C, head + first * C
            pack_rows(qkv, ALONG_K, 3 * C, here, rows, D, left, form, staged)
            multiply_packed(
                left, ZERO, rows, keys, columns, D, a_of_D, b_of_D, weights, ZERO, T, OVERWRITE, form, edge
            )  # (2)
            pack_rows(dout, ALONG_K, C, there, rows, D, left, form, staged)
            multiply_packed(
                left, ZERO, rows, values, columns, D, a_of_D, b_of_D, dweights, ZERO, T, OVERWRITE, form, edge
            )  # (6)
            _weigh_again(scores, rows, first, unit, dout, out, there, lse, sizes, drops)  # (3, 4, 5)
            pack_rows(dweights, ALONG_K, T, ZERO, rows, seen, left, form, staged)
            a_of_seen = size_of(form, form.rows, seen)
            multiply_packed(left, ZERO, rows, keys_along, D, seen, a_of_seen, b_of_T, dqkv, here, 3 * C, again, form,
                            edge)  # (2) dq  # fmt: skip
            _add_columns(dweights, qkv, here, 3 * C, dqkv, q + C, again, first, rows, sizes, form, left, block, staged,
                         edge)  # (2) dk  # fmt: skip
            _add_columns(weights, dout, there, C, dqkv, q + 2 * C, again, first, rows, sizes, form, left, block, staged,
                         edge)  # (6) dv  # fmt: skip


@kernel
def _add_columns(scores, source, start, stride, dqkv, target, again, first, rows, sizes, form, left, block,
                 staged, edge):  # fmt: skip
    """Rows 0 to first + rows of dk or dv: scores^T times the block's rows of `source`, added but for the new ones."""
    _, T, C, H = sizes
    D = C // H
    pack_rows(scores, ACROSS, T, ZERO, first + rows, rows, left, form, staged)
    pack_columns(source, ACROSS, stride, start, D, rows, block, form, staged)
    a_size, b_size = size_of(form, form.rows, rows), size_of(form, form.vectors * LANES, rows)
    multiply_packed(left, ZERO, first, block, D, rows, a_size, b_size, dqkv, target, 3 * C, ACCUMULATE, form, edge)
    multiply_packed(left, first // form.rows, rows, block, D, rows, a_size, b_size, dqkv, target + first * 3 * C, 3 * C,
                    again, form, edge)  # fmt: skip


@kernel
def _weigh_again(scores, rows, first, unit, dout, out, there, lse, sizes, drops):
    """Scores become kept weights (3, 4, 5), and the gradients of kept weights those of q k^T (5, 4, 3)."""
    _, T, C, H = sizes
    D = C // H
    scale = np.float32(1) / np.sqrt(np.float32(D))
    for r in range(rows):
        t = first + r
        row, drow, at = scores[0, r], scores[1, r], unit * T + t
        kept, dkept = row[: t + 1], drow[: t + 1]
        dhead, head_of = dout[there + r * C :][:D], out[there + r * C :][:D]
        through, shift = dot(dhead, head_of), lse[at]  # sum_s(dweights * weights)
        for s in range(len(kept)):
            kept[s] = exp(kept[s] * scale - shift)
        if drops[0]:
            _mask(dkept, at * T, drops)
        for s in range(len(kept)):
            dkept[s] = kept[s] * (dkept[s] - through) * scale
        if drops[0]:
            _mask(kept, at * T, drops)
        later, dlater = row[t + 1 : first + rows], drow[t + 1 : first + rows]
        for s in range(len(later)):
            later[s] = np.float32(0)
            dlater[s] = np.float32(0)

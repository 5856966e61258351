"""
Causal attention, a block of tokens at a time: the twin of ops/attention.py.

    for each sequence and head, by one thread:
        (1) q, k, v: where they lie in qkv           (1) dq, dk, dv: where they belong in dqkv
        pack k and v once                            (7) dheads: where it lies in dout
        for each BLOCK of tokens t, with the tokens s <= t that they see:
            (2) scores  = q @ k^T                    (2) dq = dscores @ k,  dk += dscores^T @ q
            (3) scores  = -inf where s > t           (3) dscores = 0 where s > t
            (4) weights = e^(scores / sqrt(D) - lse) (4) dscores = weights * (dweights - sum_dweights_weights) / sqrt(D)
            (5) dropped = weights * dropout_mask     (5) dweights = ddropped * dropout_mask
            (6) heads   = dropped @ v                (6) ddropped = dheads @ v^T,  dv += dropped^T @ dheads
            (7) heads: where they belong in out

What a block needs, BLOCK x T scores, is used again by the next, so memory grows with T and not with its square. Scores,
weights and dropped share it, as do ddropped, dweights and dscores. Kept for backward are qkv, out and one number per
row, lse = ln sum_s e^(scores / sqrt(D)), from which the weights follow again in one step. In step (4),
sum_s(dweights * weights) = sum_s(ddropped * dropped) = sum_d(dheads * heads): the dot product of rows of dout and out.

One thread does a sequence and head from the first block to the last, so no two threads add to the same dk and dv, and
the result does not depend on the number of threads.

Source: Dao et al. 2022, "FlashAttention", arXiv:2205.14135, for what to keep and what to compute again.
Cost:   2 T^2 C operations per sequence forward, half of the reference's, as the tokens that no one may see are left
        out; 5 T^2 C backward, 5/8 of the reference's: the same, and the scores are computed again.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from tinygpt.kernels.dropout import constants, mix
from tinygpt.kernels.jit import ZERO, flat, inlined, kernel, parallel, threads
from tinygpt.kernels.jit import all_float32 as accepts
from tinygpt.kernels.matmul.amx import AMX_LAYOUT, configure_amx, release_amx
from tinygpt.kernels.matmul.epilogue import ACCUMULATE, OVERWRITE
from tinygpt.kernels.matmul.gemm import operand_format
from tinygpt.kernels.matmul.matrix import block, row_major, transpose
from tinygpt.kernels.matmul.packing import format_of
from tinygpt.kernels.matmul.panels import (
    EDGE,
    STAGED,
    multiply,
    pack_columns,
    pack_rows,
    packed_elements,
    panel,
    scratch_in,
)
from tinygpt.kernels.simd.cpu import LANES
from tinygpt.kernels.simd.intrinsics import fetch_and_increment
from tinygpt.kernels.simd.math import dot, exp, maximum
from tinygpt.kernels.simd.math import total as sum_of
from tinygpt.runtime import memory

__all__ = ["accepts", "backward", "forward"]

BLOCK = 64  # tokens: whole panels of A in every format
_SMALL = 2**18  # multiplications that one core has done in about ten microseconds


def forward(qkv, n_head, p=0.0, seed=None, bfloat16=False):
    """`bfloat16`: round the operands of products, whatever the precision; backward then is not for these."""
    B, T, width = qkv.shape
    C = width // 3
    qkv = np.ascontiguousarray(qkv)
    out, lse = memory.empty((B, T, C), np.float32), memory.empty((B, n_head, T), np.float32)
    sums = memory.empty((B, n_head, T), np.float32)
    sizes = (B, T, C, n_head)
    _forward(
        qkv.reshape(-1), out.reshape(-1), lse.reshape(-1), sums.reshape(-1), sizes, _dropout(p, seed),
        *_memory(sizes, backward=False, bfloat16=bfloat16),
    )  # fmt: skip
    lse += np.log(sums)
    return out, (qkv, out, lse, n_head, p, seed)


def backward(dout, saved, into):
    qkv, out, lse, n_head, p, seed = saved
    (slot,) = into
    if slot is None:
        return
    B, T, C = out.shape
    sizes = (B, T, C, n_head)
    _backward(
        flat(dout), qkv.reshape(-1), out.reshape(-1), lse.reshape(-1), slot.array.reshape(-1), slot.add, sizes,
        _dropout(p, seed), *_memory(sizes, backward=True),
    )  # fmt: skip


def _dropout(p, seed):
    """Whether weights are dropped, and the constants of the mask."""
    return (p > 0, *(constants(p, seed) if p else constants(0.5, 0)))


def _memory(sizes, backward, bfloat16=False):
    """How many threads work, and each thread's memory: packed operands, scores and scratch."""
    B, T, C, H = sizes
    workers = min(threads(most=None if B * T * T * C > _SMALL else 1), B * H)
    form, dtype = operand_format(bfloat16)
    D = C // H
    transposed, upright = packed_elements(form, 0, T, D)[1], packed_elements(form, 0, D, T)[1]  # k^T, v^T; k, v
    of_block = packed_elements(form, 0, D, BLOCK)[1]
    left = packed_elements(form, BLOCK, 0, max(D, T))[0]
    if backward:
        rights, left = [transposed, upright, transposed, of_block], max(left, packed_elements(form, T, 0, BLOCK)[0])
    else:
        rights = [transposed, upright]
    packed = [memory.empty((workers, size), dtype) for size in (left, *rights)]
    scores = memory.empty((workers, 2 if backward else 1, BLOCK, T), np.float32)
    scratch = memory.empty((workers, STAGED + EDGE), np.float32)
    return workers, tuple(packed), scores, scratch, np.zeros(1, np.int64), AMX_LAYOUT


@parallel
def _forward(qkv, out, lse, sums, sizes, dropout, workers, packed, scores, scratch, counter, layout):
    for worker_ in prange(workers):
        worker = np.int64(worker_)
        own = (packed[0][worker], packed[1][worker], packed[2][worker])
        configure_amx(own[0], layout)
        _forward_heads(
            qkv, out, lse, sums, sizes, dropout, own, scores[worker, 0], scratch_in(scratch[worker]), counter
        )
        release_amx(own[0])


@kernel
def _forward_heads(qkv, out, lse, sums, sizes, dropout, packed, score_rows, scratch, counter):
    """Sequences and heads, whichever is next, until none is left."""
    B, T, C, H = sizes
    D = C // H
    left, packed_k_transposed, packed_v = packed
    while True:
        task = fetch_and_increment(counter, 0)
        if task >= B * H:
            break
        q, k, v = _split_heads(qkv, task, sizes)  # (1) (T, D) each
        heads = _head_of(out, task, sizes)  # (7) (T, D), where they belong in out
        keys_transposed = pack_columns(transpose(k), packed_k_transposed, scratch)
        values = pack_columns(v, packed_v, scratch)
        for t in range(0, T, BLOCK):
            rows = min(BLOCK, T - t)
            seen = t + rows  # how many tokens the last one of the block sees
            scores = _block_of_scores(score_rows, rows, _whole_panels(seen, T, left))
            queries = pack_rows(block(q, t, ZERO, rows, D), left, scratch)
            multiply(queries, keys_transposed, into=scores, mode=OVERWRITE, scratch=scratch)  # (2) times sqrt(D)
            for r in range(rows):
                row = task * T + t + r
                lse[row], sums[row] = _softmax(score_rows[r, :seen], t + r + 1, D, dropout, row * T)  # (3, 4, 5)
            dropped = pack_rows(_block_of_scores(score_rows, rows, seen), left, scratch)
            head_rows = block(heads, t, ZERO, rows, D)
            multiply(dropped, values, into=head_rows, mode=OVERWRITE, scratch=scratch)  # (6) times the sum
            for r in range(rows):
                head, sum_of_row = out[head_rows.start + r * C :][:D], sums[task * T + t + r]
                for d in range(D):
                    head[d] /= sum_of_row  # (4)


@inlined
def _split_heads(qkv, task, sizes):
    """(1) The q, k and v, or dq, dk and dv, of a sequence and head, in memory as they are."""
    _, T, C, H = sizes
    D = C // H
    start = task // H * T * 3 * C + task % H * D
    return (
        row_major(qkv, start, 3 * C, T, D),
        row_major(qkv, start + C, 3 * C, T, D),
        row_major(qkv, start + 2 * C, 3 * C, T, D),
    )


@inlined
def _head_of(out, task, sizes):
    """(7) The heads, or dheads, of a sequence and head, in memory as they are."""
    _, T, C, H = sizes
    return row_major(out, task // H * T * C + task % H * (C // H), C, T, C // H)


@inlined
def _block_of_scores(memory, rows, columns):
    """The first rows and columns of (BLOCK, T) numbers."""
    return row_major(memory.reshape(-1), ZERO, memory.shape[1], rows, columns)


@inlined
def _whole_panels(seen, T, packed):
    """The first `seen` columns and the rest of their last panel, at most T."""
    nr = format_of(packed).vectors * LANES
    return min(T, (seen + nr - 1) // nr * nr)


@kernel
def _softmax(row, visible, D, dropout, position):
    """
    (3, 4, 5) for one token, in place: the scores of the `visible` tokens become e^(score - largest), dropped; those of
    later tokens become 0. `position` is that of the row's first weight among all of (B, H, T, T).

    Returns the largest score and the sum of the weights, by which step (4) divides after step (6).
    """
    scale = np.float32(1) / np.sqrt(np.float32(D))
    scores, later = row[:visible], row[visible:]
    for s in range(len(later)):
        later[s] = np.float32(0)  # (3) e^-inf
    largest = scores[0]
    for s in range(len(scores)):
        largest = maximum(largest, scores[s])
    weights = scores
    for s in range(len(weights)):
        weights[s] = exp((scores[s] - largest) * scale)  # (4) times the sum
    sum_of_row = sum_of(weights)
    if dropout[0]:
        _drop(weights, position, dropout)  # (5)
    return largest * scale, sum_of_row


@kernel
def _drop(weights, position, dropout):
    """(5) A row of weights, or of ddropped, times its mask, in place."""
    _, key0, key1, threshold, factor = dropout
    done = ZERO
    while done < len(weights):  # once, unless the positions cross a multiple of 2^32: their high half is one number
        start = position + done
        low, high = np.uint32(start & 0xFFFFFFFF), np.uint32(np.uint32(start >> 32) * np.uint32(0x9E3779B9))
        part = weights[done : done + min(len(weights) - done, 2**32 - (start & 0xFFFFFFFF))]
        second = np.uint32(key1 ^ high)
        for s in range(len(part)):
            bits = mix(mix(np.uint32(low + np.uint32(s)) ^ key0) ^ second)
            dropout_mask = factor if bits >= threshold else np.float32(0)
            part[s] *= dropout_mask  # (5)
        done += len(part)


@parallel
def _backward(
    dout, qkv, out, lse, dqkv, add, sizes, dropout, workers, packed, scores, scratch, counter, layout
):  # fmt: skip
    for worker_ in prange(workers):
        worker = np.int64(worker_)
        own = (packed[0][worker], packed[1][worker], packed[2][worker], packed[3][worker], packed[4][worker])
        configure_amx(own[0], layout)
        _backward_heads(
            dout, qkv, out, lse, dqkv, add, sizes, dropout, own, scores[worker], scratch_in(scratch[worker]), counter
        )  # fmt: skip
        release_amx(own[0])


@kernel
def _backward_heads(dout, qkv, out, lse, dqkv, add, sizes, dropout, packed, score_rows, scratch, counter):
    """Sequences and heads, whichever is next, until none is left."""
    B, T, C, H = sizes
    D = C // H
    left, packed_k_transposed, packed_k, packed_v_transposed, right = packed
    mode = ACCUMULATE if add else OVERWRITE
    while True:
        task = fetch_and_increment(counter, 0)
        if task >= B * H:
            break
        q, k, v = _split_heads(qkv, task, sizes)  # (1) again
        dq, dk, dv = _split_heads(dqkv, task, sizes)  # (1) (T, D) each
        heads, dheads = _head_of(out, task, sizes), _head_of(dout, task, sizes)  # (7) (T, D)
        keys_transposed = pack_columns(transpose(k), packed_k_transposed, scratch)
        keys = pack_columns(k, packed_k, scratch)
        values_transposed = pack_columns(transpose(v), packed_v_transposed, scratch)
        for t in range(0, T, BLOCK):
            rows = min(BLOCK, T - t)
            seen = t + rows  # how many tokens the last one of the block sees
            q_rows, dhead_rows = block(q, t, ZERO, rows, D), block(dheads, t, ZERO, rows, D)
            scores = _block_of_scores(score_rows[0], rows, _whole_panels(seen, T, left))
            ddropped = _block_of_scores(score_rows[1], rows, _whole_panels(seen, T, left))
            queries = pack_rows(q_rows, left, scratch)
            multiply(queries, keys_transposed, into=scores, mode=OVERWRITE, scratch=scratch)  # (2) again
            packed_dheads = pack_rows(dhead_rows, left, scratch)
            multiply(packed_dheads, values_transposed, into=ddropped, mode=OVERWRITE, scratch=scratch)  # (6)
            for r in range(rows):
                row, d = task * T + t + r, (t + r) * C
                dhead, head = dout[dheads.start + d :][:D], out[heads.start + d :][:D]
                own_scores, own_ddropped = score_rows[0, r, :seen], score_rows[1, r, :seen]
                _softmax_backward(own_scores, own_ddropped, t + r + 1, dhead, head, lse[row], dropout, row * T)
            dropped = _block_of_scores(score_rows[0], rows, seen)  # (5) again
            dscores = _block_of_scores(score_rows[1], rows, seen)  # (4, 3)
            packed_dscores = pack_rows(dscores, left, scratch)
            multiply(packed_dscores, keys, into=block(dq, t, ZERO, rows, D), mode=mode, scratch=scratch)  # (2)
            _add_product(transpose(dscores), q_rows, dk, mode, left, right, scratch)  # (2)
            _add_product(transpose(dropped), dhead_rows, dv, mode, left, right, scratch)  # (6)


@kernel
def _softmax_backward(row, drow, visible, dhead, head, lse, dropout, position):
    """
    (5, 4, 3) for one token, in place: `row` holds scores, which become dropped weights; `drow` holds ddropped, which
    become dscores, divided by sqrt(D) for step (2). Those of later tokens become 0.
    """
    scale = np.float32(1) / np.sqrt(np.float32(len(head)))
    sum_dweights_weights = dot(dhead, head)
    weights, dweights = row[:visible], drow[:visible]
    for s in range(len(weights)):
        weights[s] = exp(weights[s] * scale - lse)  # (4) again
    if dropout[0]:
        _drop(dweights, position, dropout)  # (5)
    dscores = dweights
    for s in range(len(dscores)):
        dscores[s] = weights[s] * (dweights[s] - sum_dweights_weights) * scale  # (4)
    if dropout[0]:
        _drop(weights, position, dropout)  # (5) again
    later, dlater = row[visible:], drow[visible:]
    for s in range(len(later)):
        later[s] = np.float32(0)  # (3) again
        dlater[s] = np.float32(0)  # (3)


@kernel
def _add_product(left, right, into, mode, packed_left, packed_right, scratch):
    """dk or dv += left right, of all tokens so far; the rows of the block, which come first here, as `mode` says."""
    first, rows, D = left.rows - right.rows, right.rows, into.columns
    left_panels = pack_rows(left, packed_left, scratch)
    right_panels = pack_columns(right, packed_right, scratch)
    multiply(left_panels, right_panels, into=block(into, ZERO, ZERO, first, D), mode=ACCUMULATE, scratch=scratch)
    own_panels = panel(left_panels, first // format_of(packed_left).rows)
    multiply(own_panels, right_panels, into=block(into, first, ZERO, rows, D), mode=mode, scratch=scratch)

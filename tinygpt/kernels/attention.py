"""
Causal attention, a block of tokens at a time: the twin of ops/attention.py.

    Forward                                           Backward, its steps read upwards
    for each sequence and head, by one thread:        for each sequence and head, by one thread:
        (1) q, k, v: where they lie in qkv                (1) dq, dk, dv: where they belong in dqkv
                                                          (7) dheads: where it lies in dout
        for each block of queries t,                      for each block of keys s,
        for each block of keys s that they see:           for each block of queries t that see them:
            (2) scores  = q @ k^T                             (2) dq += dscores @ k,  dk += dscores^T @ q
            (3) scores  = -inf where s > t                    (3) dscores = 0 where s > t
            (4) weights = e^((scores - largest) / sqrt(D))    (4) dscores = weights * (dweights - sum_dweights_weights)
                                                                            / sqrt(D)
            (5) dropped = weights * dropout_mask              (5) dweights = ddropped * dropout_mask
            (6) heads  += dropped @ v                         (6) ddropped = dheads @ v^T,  dv += dropped^T @ dheads
        (4) heads  /= sum of the weights
        (7) heads: where they belong in out

Blocks are so small, at most 16 kB of scores, that they stay in the nearest caches of a core from one step to the next,
and scores of all tokens never exist: memory grows with T and not with its square. The largest score of a token is not
known before its last block. So weights are relative to the largest so far, and whenever that grows by x, `heads` and
the sum of the weights are multiplied by e^(-x / sqrt(D)): online softmax, see simd/softmax.py.

Forward, scores are stored transposed, a row per key: a vector has a score of each of LANES queries, and what softmax
computes per query takes no step across its lanes. Kept for backward are qkv, out and two numbers per token, `largest`
and the sum of the weights, from which the weights follow again in one step. (Their logarithm in one, lse = ln sum_s
e^(scores / sqrt(D)), would be rounded: by 4 where scores are 10^8, so that weights were e^4 times too large.) In step
(4), sum_s(dweights * weights) = sum_s(ddropped * dropped) = sum_d(dheads * heads): the dot product of rows of dout and
out.

Blocks are square. With blocks of 64 queries and all of their keys, forward and backward take 1.30 and 1.47 times as
long in bfloat16, 1.17 and 1.12 times in float32 (two cores of an Intel Granite Rapids, B=1 T=512 H=12 D=64, medians of
16 turns). On other processors the size of a block was not measured.

One thread does a sequence and head from the first block to the last, so no two threads add to the same dq, and the
result does not depend on the number of threads.

Source: Dao 2023, "FlashAttention-2", arXiv:2307.08691, for the order of the loops, what to keep, what to compute again.
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
    columns_in,
    multiply,
    pack_columns,
    pack_rows,
    packed_elements,
    rows_in,
    scratch_in,
)
from tinygpt.kernels.simd.cpu import LANES
from tinygpt.kernels.simd.intrinsics import fetch_and_increment
from tinygpt.kernels.simd.math import dot, exp_of_negative
from tinygpt.kernels.simd.softmax import softmax_of_lanes
from tinygpt.runtime import memory
from tinygpt.runtime.capture import constant

__all__ = ["accepts", "backward", "forward"]

_HIDDEN = np.float32(-np.inf)  # a score of which the weight is 0
_NO_KEYS = constant(np.zeros(2, np.uint32))  # where nothing is dropped
_SMALL = 2**18  # multiplications that one core has done in about ten microseconds


def forward(qkv, n_head, p=0.0, seed=None, bfloat16=False):
    """`bfloat16`: round the operands of products, whatever the precision; backward then is not for these."""
    B, T, width = qkv.shape
    C = width // 3
    qkv = np.ascontiguousarray(qkv)
    out = memory.empty((B, T, C), np.float32)
    largest, totals = memory.empty((B, n_head, T), np.float32), memory.empty((B, n_head, T), np.float32)
    sizes = (B, T, C, n_head)
    _forward(
        qkv.reshape(-1), out.reshape(-1), largest.reshape(-1), totals.reshape(-1), sizes, _dropout(p, seed),
        *_memory(sizes, of_all=2, of_one=2, blocks=3, per_token=0, bfloat16=bfloat16),
    )  # fmt: skip
    return out, (qkv, out, largest, totals, n_head, p, seed)


def backward(dout, saved, into):
    qkv, out, largest, totals, n_head, p, seed = saved
    (slot,) = into
    if slot is None:
        return
    B, T, C = out.shape
    sizes = (B, T, C, n_head)
    _backward(
        flat(dout), qkv.reshape(-1), out.reshape(-1), largest.reshape(-1), totals.reshape(-1), slot.array.reshape(-1),
        slot.add, sizes, _dropout(p, seed), *_memory(sizes, of_all=4, of_one=4, blocks=4, per_token=1 + C // n_head),
    )  # fmt: skip


def _dropout(p, seed):
    """Whether weights are dropped, and the constants of the mask."""
    return (True, *constants(p, seed)) if p else (False, _NO_KEYS, np.uint32(0), np.float32(1))


def _memory(sizes, of_all, of_one, blocks, per_token, bfloat16=False):
    """
    How many threads work, and each thread's memory, which shares no cache line with that of another.

    packed        `of_one` operands of one block of tokens; after these, for each block of tokens, `of_all` operands. So
                  with 2 and 2, packed[2::2] are the first operand of all blocks, packed[3::2] the second.
    numbers       `blocks` blocks of float32, of scores or of tokens
    of_tokens     `per_token` numbers of float32 for each token
    scratch       that of panels.py
    """
    B, T, C, H = sizes
    workers = min(threads(most=None if B * T * T * C > _SMALL else 1), B * H)
    form, dtype = operand_format(bfloat16)
    size, D = _block(form), C // H
    packed_size = max(*packed_elements(form, size, size, max(size, D)), packed_elements(form, 0, D, size)[1])
    packed = memory.empty((workers, of_one + of_all * -(-T // size), _whole_lines(packed_size)), dtype)
    numbers = memory.empty((workers, blocks, _whole_lines(size * max(size, D))), np.float32)
    of_tokens = memory.empty((workers, _whole_lines(per_token * T)), np.float32)
    scratch = memory.empty((workers, _whole_lines(STAGED + EDGE)), np.float32)
    return workers, packed, numbers, of_tokens, scratch, memory.zeros(1, np.int64), AMX_LAYOUT


def _whole_lines(count):
    """The next multiple of what two cache lines hold of any type: processors fetch lines in pairs."""
    return -(-count // 64) * 64


@inlined
def _block(form):
    """How many tokens a block has: 48, or the next multiple of NR, so that it is whole panels of B; with AMX 64."""
    nr = form.vectors * LANES
    return (48 + nr - 1) // nr * nr


@parallel
def _forward(qkv, out, largest, totals, sizes, dropout, workers, packed, numbers, _, scratch, counter, layout):
    for worker_ in prange(workers):
        worker = np.int64(worker_)
        configure_amx(packed[worker, 0], layout)
        _forward_heads(
            qkv, out, largest, totals, sizes, dropout, packed[worker], numbers[worker], scratch_in(scratch[worker]),
            counter,
        )  # fmt: skip
        release_amx(packed[worker, 0])


@kernel
def _forward_heads(qkv, out, all_largest, all_totals, sizes, dropout, packed, numbers, scratch, counter):
    """Sequences and heads, whichever is next, until none is left."""
    B, T, C, H = sizes
    D = C // H
    size = _block(format_of(packed[0]))
    packed_q, packed_dropped = packed[0], packed[1]  # of one block
    packed_k, packed_v = packed[2::2], packed[3::2]  # of all blocks: see `_memory`
    scores, block_of_heads, of_queries = numbers[0], numbers[1], numbers[2]
    scale = np.float32(1) / np.sqrt(np.float32(D))
    while True:
        task = fetch_and_increment(counter, 0)
        if task >= B * H:
            break
        q, k, v = _split_heads(qkv, task, sizes)  # (1) (T, D) each
        for s in range(0, T, size):
            keys = min(size, T - s)
            pack_rows(block(k, s, ZERO, keys, D), packed_k[s // size], scratch)
            pack_columns(block(v, s, ZERO, keys, D), packed_v[s // size], scratch)
        for t in range(0, T, size):
            queries = min(size, T - t)
            q_transposed = pack_columns(transpose(block(q, t, ZERO, queries, D)), packed_q, scratch)
            largest, totals, factors = of_queries[:size], of_queries[size:][:size], of_queries[2 * size :][:size]
            heads = row_major(block_of_heads, ZERO, D, queries, D)
            largest[:] = _HIDDEN
            totals[:] = np.float32(0)
            for s in range(0, t + queries, size):
                keys = min(size, T - s)
                by_key = row_major(scores, ZERO, size, keys, queries)
                multiply(rows_in(packed_k[s // size], D), q_transposed, by_key, OVERWRITE, scratch)  # (2)
                if s == t:
                    _hide_later(scores, size, keys)  # (3)
                for column in range(0, size, LANES):
                    softmax_of_lanes(scores, column, keys, size, scale, largest, totals, factors)  # (4)
                if dropout[0]:
                    _drop(scores, size, keys, (task * T + t) * T + s, 1, T, dropout)  # (5)
                dropped = pack_rows(transpose(by_key), packed_dropped, scratch)
                mode = OVERWRITE if s == 0 else ACCUMULATE
                if mode == ACCUMULATE:
                    _multiply_rows(block_of_heads, D, queries, factors)  # (4)
                multiply(dropped, columns_in(packed_v[s // size], keys), heads, mode, scratch)  # (6)
            into = block(_head_of(out, task, sizes), t, ZERO, queries, D)
            _divide_rows(block_of_heads, D, queries, totals, out[into.start :], C)  # (4, 7)
            for r in range(queries):
                all_largest[task * T + t + r], all_totals[task * T + t + r] = largest[r], totals[r]


@kernel
def _hide_later(scores, size, keys):
    """(3) Of a block on the diagonal, a row per key: -inf where the key is later than the query."""
    for s in range(keys):
        earlier_queries = scores[s * size :][:s]
        for t in range(len(earlier_queries)):
            earlier_queries[t] = _HIDDEN


@kernel
def _multiply_rows(heads, D, queries, factors):
    """(4) What was computed with a smaller `largest`, times the factor that softmax found for each query."""
    for t in range(queries):
        head, factor = heads[t * D :][:D], factors[t]
        if factor != np.float32(1):
            for d in range(D):
                head[d] *= factor


@kernel
def _divide_rows(heads, D, queries, totals, out, stride):
    """(4, 7) Each row by the sum of its weights, to where it belongs in out."""
    for t in range(queries):
        head, here, total = heads[t * D :][:D], out[t * stride :][:D], totals[t]
        for d in range(D):
            here[d] = head[d] / total


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


@kernel
def _drop(numbers, columns, rows, position, row_step, column_step, dropout):
    """
    (5) A block of weights, or of ddropped, times its mask, in place.

    `position` is that of the block's first number among all of (B, H, T, T); from one row of the block to the next it
    grows by `row_step`, from one column to the next by `column_step`.
    """
    _, keys, threshold, factor = dropout
    key0, key1 = keys[0], keys[1]
    for i in range(rows):
        row, start = numbers[i * columns :][:columns], position + i * row_step
        for j in range(columns):
            here = start + j * column_step
            low, high = np.uint32(here & 0xFFFFFFFF), np.uint32(np.uint32(here >> 32) * np.uint32(0x9E3779B9))
            bits = mix(mix(np.uint32(low ^ key0)) ^ np.uint32(key1 ^ high))
            row[j] *= factor if bits >= threshold else np.float32(0)


@parallel
def _backward(
    dout, qkv, out, largest, totals, dqkv, add, sizes, dropout, workers, packed, numbers, of_tokens, scratch, counter,
    layout,
):  # fmt: skip
    for worker_ in prange(workers):
        worker = np.int64(worker_)
        configure_amx(packed[worker, 0], layout)
        _backward_heads(
            dout, qkv, out, largest, totals, dqkv, add, sizes, dropout, packed[worker], numbers[worker],
            of_tokens[worker], scratch_in(scratch[worker]), counter,
        )  # fmt: skip
        release_amx(packed[worker, 0])


@kernel
def _backward_heads(
    dout, qkv, out, largest, totals, dqkv, add, sizes, dropout, packed, numbers, of_tokens, scratch, counter
):  # fmt: skip
    """Sequences and heads, whichever is next, until none is left."""
    B, T, C, H = sizes
    D = C // H
    size = _block(format_of(packed[0]))
    packed_k_transposed, packed_v_transposed, packed_k, packed_left = packed[0], packed[1], packed[2], packed[3]
    q_left, q_right, dheads_left, dheads_right = packed[4::4], packed[5::4], packed[6::4], packed[7::4]  # of all blocks
    all_of_dq, sums_dweights_weights = of_tokens[: T * D], of_tokens[T * D :]
    scores, ddropped, block_of_dk, block_of_dv = numbers[0], numbers[1], numbers[2], numbers[3]
    while True:
        task = fetch_and_increment(counter, 0)
        if task >= B * H:
            break
        q, k, v = _split_heads(qkv, task, sizes)  # (1) again
        dq, dk, dv = _split_heads(dqkv, task, sizes)  # (1) (T, D) each
        heads, dheads = _head_of(out, task, sizes), _head_of(dout, task, sizes)  # (7) (T, D)
        for t in range(0, T, size):
            queries, n = min(size, T - t), t // size
            q_rows, dhead_rows = block(q, t, ZERO, queries, D), block(dheads, t, ZERO, queries, D)
            pack_rows(q_rows, q_left[n], scratch)
            pack_columns(q_rows, q_right[n], scratch)
            pack_rows(dhead_rows, dheads_left[n], scratch)
            pack_columns(dhead_rows, dheads_right[n], scratch)
        for t in range(T):
            sums_dweights_weights[t] = dot(dout[dheads.start + t * C :][:D], out[heads.start + t * C :][:D])
        for s in range(0, T, size):
            keys = min(size, T - s)
            k_rows, v_rows = block(k, s, ZERO, keys, D), block(v, s, ZERO, keys, D)
            k_transposed = pack_columns(transpose(k_rows), packed_k_transposed, scratch)
            v_transposed = pack_columns(transpose(v_rows), packed_v_transposed, scratch)
            k_right = pack_columns(k_rows, packed_k, scratch)
            dk_rows, dv_rows = row_major(block_of_dk, ZERO, D, keys, D), row_major(block_of_dv, ZERO, D, keys, D)
            for t in range(s, T, size):
                queries, n = min(size, T - t), t // size
                weights = row_major(scores, ZERO, size, queries, keys)
                dscores = row_major(ddropped, ZERO, size, queries, keys)
                multiply(rows_in(q_left[n], D), k_transposed, weights, OVERWRITE, scratch)  # (2) again
                multiply(rows_in(dheads_left[n], D), v_transposed, dscores, OVERWRITE, scratch)  # (6)
                position = (task * T + t) * T + s
                if dropout[0]:
                    _drop(ddropped, size, queries, position, T, 1, dropout)  # (5)
                softmax = largest[task * T + t :], totals[task * T + t :]
                _softmax_backward(scores, ddropped, size, queries, softmax, sums_dweights_weights[t:], D)  # (4)
                if s == t:
                    _clear_later(scores, ddropped, size, queries)  # (3)
                if dropout[0]:
                    _drop(scores, size, queries, position, T, 1, dropout)  # (5)
                mode = OVERWRITE if t == s else ACCUMULATE
                left = pack_rows(transpose(weights), packed_left, scratch)
                multiply(left, columns_in(dheads_right[n], queries), dv_rows, mode, scratch)  # (6)
                left = pack_rows(transpose(dscores), packed_left, scratch)
                multiply(left, columns_in(q_right[n], queries), dk_rows, mode, scratch)  # (2)
                mode = OVERWRITE if s == 0 else ACCUMULATE
                left = pack_rows(dscores, packed_left, scratch)
                multiply(left, k_right, row_major(all_of_dq, t * D, D, queries, D), mode, scratch)  # (2)
            _write(block_of_dk, D, keys, dqkv[dk.start + s * dk.stride :], dk.stride, add)  # (1)
            _write(block_of_dv, D, keys, dqkv[dv.start + s * dv.stride :], dv.stride, add)  # (1)
        _write(all_of_dq, D, T, dqkv[dq.start :], dq.stride, add)  # (1)


@kernel
def _softmax_backward(scores, ddropped, size, queries, softmax, sums, D):
    """(4) A block, a row per query, in place: scores become weights, dweights become dscores / sqrt(D) for step (2)."""
    scale = np.float32(1) / np.sqrt(np.float32(D))
    for t in range(queries):
        weights, dscores = scores[t * size :][:size], ddropped[t * size :][:size]
        largest, share, sum_dweights_weights = softmax[0][t], np.float32(1) / softmax[1][t], sums[t]
        for s in range(size):
            weights[s] = exp_of_negative((weights[s] - largest) * scale) * share  # (4) again
            dscores[s] = weights[s] * (dscores[s] - sum_dweights_weights) * scale  # (4)


@kernel
def _clear_later(weights, dscores, size, queries):
    """(3) Of a block on the diagonal, a row per query: 0 where the key is later than the query."""
    for t in range(queries):
        later, dlater = weights[t * size :][t + 1 : size], dscores[t * size :][t + 1 : size]
        for s in range(len(later)):
            later[s] = np.float32(0)
            dlater[s] = np.float32(0)


@kernel
def _write(rows, D, count, into, stride, add):
    """(1) So many rows of dq, dk or dv, to where they belong in dqkv."""
    for t in range(count):
        row, here = rows[t * D :][:D], into[t * stride :][:D]
        for d in range(D):
            here[d] = here[d] + row[d] if add else row[d]

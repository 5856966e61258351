"""
One more token for each row of a batch, a layer at a time: the twin of `Block` in gpt2/model.py with a cache, and
of the final norm and the head. tests/test_decoding.py holds it to them.

    (1) qkv    = ln_1(x) @ c_attn
    (2) heads  = attention of the new token, whose key and value join the cache
    (3) x      = x + heads @ attn.c_proj
    (4) hidden = gelu(ln_2(x) @ c_fc)
    (5) x      = x + hidden @ mlp.c_proj
    head: logits = ln_f(x) @ wte^T            each thread computes some columns of the logits

Most of the time goes into reading the weights, once for all sequences, and memory is fast only when it is read in
order. So each product is cut along its inputs into H parts, one per head: a part is some consecutive rows of the
weight. The C inputs are D for each part; the I of the hidden layer need not be a multiple of H. A part gives a partial
sum of all outputs,

    partial[part, o] = sum over its rows i of x[i] w[i, o]

and a thread that needs an output adds up the parts, first to last. Each thread takes consecutive parts, and computes
what it needs for them: x and its norm, the same on every thread; one head's attention, of which (3) then multiplies
the rows of that head only; hidden, of which (5) multiplies these rows only. So there are four barriers per layer. The
result has the same bits for any number of threads, and for any other rows of the batch.

Rows may be tokens of one sequence, which follow one another: a thread goes through the rows of its heads in order, so
that each row's key and value are in the cache when the next one attends to them, and none attends to a later one.

Before the first step, `append` brings the keys and values of a whole prompt into the cache.

Cost: every weight is read once, 4, 2 or 1 bytes; and the keys and values of each sequence so far.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from tinygpt.kernels.gelu import gate
from tinygpt.kernels.jit import ZERO, kernel, parallel, spread, threads
from tinygpt.kernels.layernorm import normalize
from tinygpt.kernels.simd.cpu import LANES
from tinygpt.kernels.simd.gemv import add_rows_1, add_rows_4, dot_row, dot_rows_1, dot_rows_4
from tinygpt.kernels.simd.intrinsics import stream_transposed_block, to_float32, transpose_block
from tinygpt.kernels.simd.math import exp, maximum, total
from tinygpt.runtime import memory

_LINE = 64  # bytes of a cache line
_LARGE = 2**20  # bytes of a prompt's queries, keys and values: more than this leave the cache before the next step
_NEAR = 4096  # outputs that stay in the first-level cache while the rows of a weight are read


def scratch(B: int, C: int, inner: int, heads: int, positions: int) -> tuple[np.ndarray, ...]:
    """
    Memory for `layer_step`, the same for all layers and all tokens of a batch of B sequences.

    `_layer` unpacks it in this order. Passing a NamedTuple to a kernel would take twice as long.
    """
    workers = threads()
    widest = max(3 * C // heads, -(-inner // heads))  # a head's q, k and v, or the largest part of the hidden layer
    shapes = [
        (workers, B, C),  # state: x after attention, the same on each thread
        (workers, B, C),  # normed: what the next product reads
        (workers, B, widest),  # own: the q, k and v of one head, then one part of the hidden layer
        (workers, positions),  # scores: one head's
        (heads, B, 3 * C),  # qkv, of each part its partial sums
        (heads, B, C),  # added: the same for what is added to x
        (heads, B, inner),  # hidden: the same for the hidden layer
    ]
    return tuple(memory.empty(shape, np.float32) for shape in shapes)


def layer_step(x, layer, keys, values, sequences, lengths, eps, scratch):
    """
    Replace x (B, C) by the output of the layer, and append the tokens' keys and values to the cache.

    Row b is the token at position lengths[b] of its sequence. Of several rows of one sequence, the first comes first.
    """
    _layer(x, *layer, (keys, values), sequences, lengths, np.float32(eps), len(scratch[0]), scratch)


def append(qkv, keys, values, sequences, lengths):
    """
    Copy the keys and values in qkv (B, T, 3C) to those of these sequences, from these lengths on.

    Rows of keys lie far apart, often by a power of two, and share few places in a cache: where there are many, they are
    written past the caches, a whole line at a time.
    """
    sequences, lengths = np.asarray(sequences, np.int64), np.asarray(lengths, np.int64)
    on_lines = keys.ctypes.data % _LINE == 0 and not ((lengths * keys.itemsize) % _LINE).any()
    on_lines = on_lines and (keys.shape[3] * keys.itemsize) % _LINE == 0 and LANES * keys.itemsize == _LINE
    spread(_append, qkv.size)(qkv, keys, values, sequences, lengths, bool(on_lines and qkv.nbytes > _LARGE))


@parallel
def _append(qkv, keys, values, sequences, lengths, past_the_caches):
    (B, T, _), (_, H, D, N) = qkv.shape, keys.shape
    flat_qkv, flat_keys, flat_values = qkv.reshape(-1), keys.reshape(-1), values.reshape(-1)
    whole_T, whole_D = T // LANES * LANES, D // LANES * LANES
    for task_ in prange(B * H):
        task = np.int64(task_)
        b, head = task // H, task % H
        own = sequences[b] * H + head
        k, first_key, first_value = b * T * 3 * H * D + (H + head) * D, own * D * N + lengths[b], own * N + lengths[b]
        for t in range(0, whole_T, LANES):
            for d in range(0, whole_D, LANES):
                source, target = k + t * 3 * H * D + d, first_key + d * N + t
                if past_the_caches:
                    stream_transposed_block(flat_qkv, source, 3 * H * D, flat_keys, target, N)
                else:
                    transpose_block(flat_qkv, source, 3 * H * D, flat_keys, target, N)
        for t in range(T):
            for d in range(whole_D if t < whole_T else 0, D):
                flat_keys[first_key + d * N + t] = flat_qkv[k + t * 3 * H * D + d]
            v_t, values_t = flat_qkv[k + (t * 3 + 1) * H * D :][:D], flat_values[(first_value + t) * D :][:D]
            for d in range(D):
                values_t[d] = v_t[d]


def head_step(x, norm, table, eps):
    """The logits (B, V) of the next tokens."""
    logits = memory.empty((len(x), len(table[0])), np.float32)
    workers = threads()
    normed = memory.empty((workers, *x.shape), np.float32)
    _head(x, norm, table, np.float32(eps), workers, normed, logits)
    return logits


@parallel
def _layer(x, ln_1, c_attn, attn_c_proj, ln_2, c_fc, mlp_c_proj, cache, sequences, lengths, eps, workers, scratch):
    keys, values = cache
    state, normed, own, scores, qkv, added, hidden = scratch
    B, H, D, inner = len(x), keys.shape[1], keys.shape[2], hidden.shape[2]
    for worker_ in prange(workers):
        worker = np.int64(worker_)
        _layernorm(x, ln_1, eps, normed[worker])  # (1)
        for part in range(worker * H // workers, (worker + 1) * H // workers):
            _multiply_rows(normed[worker], part * D, D, c_attn[0], part * D, qkv[part])  # (1)
    for worker_ in prange(workers):
        worker = np.int64(worker_)
        mine, out = own[worker], normed[worker]
        for head in range(worker * H // workers, (worker + 1) * H // workers):
            for b in range(B):
                for third in range(3):
                    _add_up(qkv, b, (third * H + head) * D, c_attn, mine[b, third * D : (third + 1) * D])  # (1)
                _attend(mine[b], keys[sequences[b], head], values[sequences[b], head], lengths[b], scores[worker],
                        out[b, :D])  # (2)  # fmt: skip
            _multiply_rows(out, ZERO, D, attn_c_proj[0], head * D, added[head])  # (3)
    for worker_ in prange(workers):
        worker = np.int64(worker_)
        _add(x, added, attn_c_proj, state[worker])  # (3)
        _layernorm(state[worker], ln_2, eps, normed[worker])  # (4)
        for part in range(worker * H // workers, (worker + 1) * H // workers):
            _multiply_rows(normed[worker], part * D, D, c_fc[0], part * D, hidden[part])  # (4)
    for worker_ in prange(workers):
        worker = np.int64(worker_)
        for part in range(worker * H // workers, (worker + 1) * H // workers):
            first, last = part * inner // H, (part + 1) * inner // H
            for b in range(B):
                h = own[worker, b, : last - first]
                _add_up(hidden, b, first, c_fc, h)  # (4)
                for i in range(len(h)):
                    h[i] = h[i] * gate(h[i])  # (4)
            _multiply_rows(own[worker], ZERO, last - first, mlp_c_proj[0], first, added[part])  # (5)
    _add(state[0], added, mlp_c_proj, x)  # (5)


@parallel
def _head(x, norm, table, eps, workers, normed, logits):
    numbers, scale = table
    V = len(numbers)
    for worker_ in prange(workers):
        worker = np.int64(worker_)
        _layernorm(x, norm, eps, normed[worker])
        first, last = worker * V // workers, (worker + 1) * V // workers
        _dot_all(normed[worker], numbers, first, last, logits)
        if len(scale) > 0:
            scale_part = scale[first:last]
            for b in range(len(x)):
                logits_b = logits[b, first:last]
                for v in range(len(logits_b)):
                    logits_b[v] = logits_b[v] * scale_part[v]


@kernel
def _dot_all(x, numbers, first, last, out):
    """out[:, first:last] = x @ numbers[first:last]^T: four rows and four sequences at a time, while there are many."""
    B, C, V = x.shape[0], x.shape[1], len(numbers)
    flat_x, flat, flat_out, vectors = x.reshape(-1), numbers.reshape(-1), out.reshape(-1), C // LANES
    whole = first + (last - first) // 4 * 4
    for v in range(first, whole, 4):
        for b in range(0, B // 4 * 4, 4):
            dot_rows_4(flat_x, b * C, C, flat, v * C, C, flat_out, b * V + v, V, vectors)
        for b in range(B // 4 * 4, B):
            dot_rows_1(flat_x, b * C, C, flat, v * C, C, flat_out, b * V + v, V, vectors)
    for v in range(whole, last):
        for b in range(B):
            dot_row(flat_x, b * C, C, flat, v * C, C, flat_out, b * V + v, V, vectors)
    if vectors * LANES < C:
        for b in range(B):
            for v in range(first, last):
                for c in range(vectors * LANES, C):
                    out[b, v] = out[b, v] + x[b, c] * to_float32(numbers[v, c])


@kernel
def _layernorm(x, norm, eps, out):
    weight, bias = norm
    for b in range(len(x)):
        normalize(x[b], weight, bias, eps, out[b])


@kernel
def _multiply_rows(x, start, inputs, numbers, first, out):
    """
    out (B, O) = x[:, start : start + inputs] @ numbers[first : first + inputs].

    Four rows at a time, so that out is read and written once for four of them; with several sequences, some of the
    columns at a time, which then stay in the first-level cache.
    """
    B, C, outputs = x.shape[0], x.shape[1], numbers.shape[1]
    flat_x, flat, flat_out = x.reshape(-1), numbers.reshape(-1), out.reshape(-1)
    width = max(LANES, _NEAR // B // LANES * LANES)
    flat_out[:] = np.float32(0)
    for column in range(0, outputs, width):
        vectors = min(width, outputs - column) // LANES
        for i in range(start, start + inputs // 4 * 4, 4):
            place = (first + i - start) * outputs + column
            for b in range(0, B // 4 * 4, 4):
                add_rows_4(flat_x, b * C + i, C, flat, place, outputs, flat_out, b * outputs + column, outputs, vectors)
            for b in range(B // 4 * 4, B):
                add_rows_1(flat_x, b * C + i, C, flat, place, outputs, flat_out, b * outputs + column, outputs, vectors)
    for i in range(inputs):
        done = outputs // LANES * LANES if i < inputs // 4 * 4 else 0
        row = numbers[first + i, done:]
        for b in range(B):
            out_b, x_bi = out[b, done:], x[b, start + i]
            for o in range(len(out_b)):
                out_b[o] = out_b[o] + x_bi * to_float32(row[o])


@kernel
def _add_up(partial, b, first, projection, out):
    """The outputs of sequence b from `first` on: the sum of the parts, times the scale, plus the bias."""
    _, scale, bias = projection
    out[:] = np.float32(0)
    for part in range(len(partial)):
        sums = partial[part, b, first : first + len(out)]
        for o in range(len(out)):
            out[o] = out[o] + sums[o]
    if len(scale) > 0:
        scale_part = scale[first : first + len(out)]
        for o in range(len(out)):
            out[o] = out[o] * scale_part[o]
    bias_part = bias[first : first + len(out)]
    for o in range(len(out)):
        out[o] = out[o] + bias_part[o]


@kernel
def _add(x, partial, projection, out):
    """out = x + the product whose partial sums these are."""
    for b in range(len(x)):
        x_b, out_b = x[b], out[b]
        _add_up(partial, b, ZERO, projection, out_b)
        for c in range(len(x_b)):
            out_b[c] = x_b[c] + out_b[c]


@kernel
def _attend(qkv, keys, values, length, scores, out):
    """
    One head's attention of the token at `length`, over itself and all before it: the steps of ops/attention.py.

    `qkv` holds q, k and v. The keys are (D, T), so that all scores are summed at once. The values are (T, D).
    """
    D = len(keys)
    for d in range(D):
        keys[d, length], values[length, d] = qkv[D + d], qkv[2 * D + d]
    scores = scores[: length + 1]
    scores[:] = np.float32(0)
    scale = np.float32(1) / np.sqrt(np.float32(D))
    for d in range(D):
        q_d, keys_d = qkv[d] * scale, keys[d, : length + 1]
        for t in range(len(scores)):
            scores[t] = scores[t] + q_d * keys_d[t]
    max_score = scores[0]
    for t in range(len(scores)):
        max_score = maximum(max_score, scores[t])
    for t in range(len(scores)):
        scores[t] = exp(scores[t] - max_score)
    reciprocal = np.float32(1) / total(scores)
    out[:] = np.float32(0)
    for t in range(len(scores)):
        weight, values_t = scores[t] * reciprocal, values[t]
        for d in range(D):
            out[d] = out[d] + weight * values_t[d]

"""
One more token for each row of a batch, through all layers to the logits: the twin of `Block` in gpt2/model.py with a
cache, and of the embeddings, the final norm and the head. tests/test_decoding.py holds it to them.

    embeddings: x = wte[token] + wpe[position]
    each layer: (1) qkv    = ln_1(x) @ c_attn
                (2) heads  = attention of the new token, whose key and value join the cache
                (3) x      = x + heads @ attn.c_proj
                (4) hidden = gelu(ln_2(x) @ c_fc)
                (5) x      = x + hidden @ mlp.c_proj
    head:       logits = ln_f(x) @ wte^T

Most of the time goes into reading the weights, once for all rows, and memory is fast only when it is read in order.
The rest is to keep the threads apart. Every product of a layer is cut along its inputs, so that a thread reads whole
rows of the weight, one after the other. What comes out are parts of sums,

    parts[p] = sum over the inputs i of part p of x[i] w[i, :]

and after a barrier, whoever needs a number adds up its parts, first to last. Parts are: for c_attn and c_fc, some
features; for attn.c_proj a head, whose attention the same thread has computed; for mlp.c_proj some columns of the
hidden layer, which the same thread has put through GELU. So there are four barriers per layer,

    c_attn | sum, attention, attn.c_proj | sum, ln_2, c_fc | sum, gelu, mlp.c_proj | sum, ln_1, c_attn of the next layer

and as what is summed in which order does not depend on the threads, the result has the same bits for any number of
them, and for any other rows of the batch. The head is cut along its outputs: its table has a row for each.

Rows may be tokens of one sequence, which follow one another: a thread goes through the rows of its heads in order, so
that each row's key and value are in the cache when the next one attends to them, and none attends to a later one.

Before the first step, `append` brings the keys and values of a whole prompt into the cache.

Cost: every weight is read once, from 4 bytes to half a byte; and the keys and values of each sequence so far.
Source: Shoeybi et al. 2019, arXiv:1909.08053, section 3 (heads and hidden columns that stay on one thread).
"""

from __future__ import annotations

import numpy as np
from numba import prange

from tinygpt.kernels import sampling
from tinygpt.kernels.gelu import gate
from tinygpt.kernels.jit import ZERO, kernel, parallel, parallel_part, spread, threads
from tinygpt.kernels.layernorm import normalize
from tinygpt.kernels.matvec import TOGETHER, multiply_rows, multiply_table, rounded_size, rows_of_table
from tinygpt.kernels.simd.addresses import at_addresses
from tinygpt.kernels.simd.cpu import LANES
from tinygpt.kernels.simd.intrinsics import stream_transposed_block, transpose_block
from tinygpt.kernels.simd.math import exp, maximum, total
from tinygpt.runtime import memory

_LINE = 64  # bytes of a cache line
_LARGE = 2**20  # bytes of a prompt's queries, keys and values: more than this leave the cache before the next step
_TOGETHER = 32  # inputs that belong to one part: whole vectors, for any processor, and whole groups of int4
_PARTS = 8  # into which the features are cut, if they are enough: a few for each thread
_SMALL = 2**14  # numbers of a weight of the hidden layer: up to so many, one thread reads them alone


def workers(C: int, inner: int) -> int:
    """Set how many threads the next step uses, and return it: one for a model that is so small that they only wait."""
    return threads(most=None if C * inner > _SMALL else 1)


def scratch(workers: int, B: int, C: int, inner: int, heads: int, positions: int, vocab: int) -> tuple:
    """
    Memory for the steps of a batch of B rows on so many threads, the same for all layers and all tokens: for the
    layers, and for sampling.

    The kernels unpack it in this order. Passing a NamedTuple to a kernel would take twice as long.
    """
    parts = max(1, min(_PARTS, C // _TOGETHER))
    shapes = [
        (workers, B, C),  # state: x, the same on each thread
        (workers, B, C),  # normed: what the next product reads
        (workers, positions),  # scores: one head's
        (parts, B, 3 * C),  # parts_of_qkv
        (B, 3 * C),  # qkv
        (B, C),  # heads: the output of attention
        (parts, B, inner),  # parts_of_hidden
        (B, inner),  # hidden
        (2, heads, B, C),  # added: what attention adds to x, by head; then what as many parts of the hidden layer add
        (workers, B, rounded_size(max(C, inner))),  # rounded: the operands of a product, as whole numbers
    ]
    return tuple(memory.empty(shape, np.float32) for shape in shapes), sampling.scratch(workers, B, vocab)


def layer_step(x, layer, keys, values, sequences, lengths, eps, scratch):
    """
    Replace x (B, C) by the output of the layer, and append the tokens' keys and values to the cache.

    Row b is the token at position lengths[b] of its sequence. Of several rows of one sequence, the first comes first.
    """
    scratch, _ = scratch
    _layer(x, layer, (keys, values), sequences, lengths, np.float32(eps), len(scratch[0]), scratch)


def step(tokens, model, caches, sequences, lengths, eps, scratch, options=None):
    """
    Read one more token per row, in one call for all layers.

    Parameters
    ----------
    tokens, sequences, lengths : ndarray of int64, (B,)
    model : tuple
        The embeddings of tokens and positions; the first layer; the addresses of the weights of all layers, see
        simd/addresses.py; the final norm; the table of the head.
    caches : tuple of ndarray
        Keys (L, S, H, D, N) and values (L, S, H, N, D) of all layers.
    scratch : tuple
        From the function of that name.
    options : tuple, optional
        Uniform numbers (B,), temperature, top_k or None, top_p or None: the tokens that follow are sampled, too.

    Returns
    -------
    logits, chosen : ndarray, (B, V) and (B,)
        Of the tokens that follow. Nothing is in `chosen` without options, and -1 where the logits are not finite.
    """
    embeddings, first_layer, addresses, norm, table = model
    of_layers, of_sampling = scratch
    logits = memory.empty((len(tokens), len(embeddings[0])), np.float32)
    choice = sampling.choice(of_sampling, logits, options)
    _step(tokens, embeddings, first_layer, addresses, caches, sequences, lengths, norm, table, np.float32(eps),
          len(of_layers[0]), of_layers, logits, choice)  # fmt: skip
    return logits, choice[1]


def head_step(x, norm, table, eps):
    """The logits (B, V) of the next tokens."""
    logits = memory.empty((len(x), rows_of_table(table[0])), np.float32)
    workers = threads()
    normed = memory.empty((workers, *x.shape), np.float32)
    rounded = memory.empty((workers, len(x), rounded_size(x.shape[1])), np.float32)
    _head(x, norm, table, np.float32(eps), workers, normed, rounded, logits)
    return logits


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


@parallel
def _step(tokens, embeddings, first_layer, addresses, caches, sequences, lengths, norm, table, eps, workers, scratch,
          logits, choice):  # fmt: skip
    (by_token, by_position), (keys, values) = embeddings, caches
    state, normed, added, rounded = scratch[0], scratch[1], scratch[8], scratch[9]
    for worker_ in prange(workers):
        worker = np.int64(worker_)
        for b in range(len(tokens)):
            x, of_token, of_position = state[worker, b], by_token[tokens[b]], by_position[lengths[b]]
            for c in range(len(x)):
                x[c] = of_token[c] + of_position[c]
    for i in range(len(addresses)):
        layer = at_addresses(first_layer, addresses[i])
        _attention_half(layer, (keys[i], values[i]), sequences, lengths, eps, workers, scratch, np.int64(i))
        _hidden_half(layer, eps, workers, scratch)
    for worker_ in prange(workers):
        worker = np.int64(worker_)
        _add(added[1], state[worker])  # (5)
        _logits(state[worker], norm, table, eps, worker, workers, normed[worker], rounded[worker], logits)
    if len(choice[0]) > 0:
        sampling.choose_tokens(logits, choice, workers)


@parallel
def _layer(x, layer, cache, sequences, lengths, eps, workers, scratch):
    state, added = scratch[0], scratch[8]
    for worker_ in prange(workers):
        state_w = state[np.int64(worker_)]
        for b in range(len(x)):
            for c in range(x.shape[1]):
                state_w[b, c] = x[b, c]
    _attention_half(layer, cache, sequences, lengths, eps, workers, scratch, ZERO)
    _hidden_half(layer, eps, workers, scratch)
    for b in range(len(x)):
        for c in range(x.shape[1]):
            x[b, c] = state[0, b, c]
    _add(added[1], x)  # (5)


@parallel
def _head(x, norm, table, eps, workers, normed, rounded, logits):
    for worker_ in prange(workers):
        worker = np.int64(worker_)
        _logits(x, norm, table, eps, worker, workers, normed[worker], rounded[worker], logits)


@parallel_part
def _attention_half(layer, cache, sequences, lengths, eps, workers, scratch, before):
    """Steps (1) to (3), whose parts stay; first the sum of (5), if there was a layer `before`."""
    ln_1, c_attn, attn_c_proj, _, _, _ = layer
    keys, values = cache
    state, normed, scores, parts_of_qkv, qkv, heads, _, _, added, rounded = scratch
    B, H, D = len(sequences), keys.shape[1], keys.shape[2]
    for worker_ in prange(workers):
        worker = np.int64(worker_)
        if before > 0:
            _add(added[1], state[worker])  # (5)
        _layernorm(state[worker], ln_1, eps, normed[worker])  # (1)
        _project_parts(normed[worker], _TOGETHER, c_attn, worker, workers, rounded[worker], parts_of_qkv)  # (1)
    for worker_ in prange(workers):
        worker = np.int64(worker_)
        first, last = worker * H // workers, (worker + 1) * H // workers
        for third in range(3):
            _sum(parts_of_qkv, (third * H + first) * D, (third * H + last) * D, qkv)  # (1)
        for head in range(first, last):
            for b in range(B):
                _attend(qkv[b], head, keys[sequences[b], head], values[sequences[b], head], lengths[b], scores[worker],
                        heads[b, head * D : (head + 1) * D])  # (2)  # fmt: skip
        _project_parts(heads, D, attn_c_proj, worker, workers, rounded[worker], added[0])  # (3)


@parallel_part
def _hidden_half(layer, eps, workers, scratch):
    """Step (3)'s sum, and steps (4) and (5), whose parts stay."""
    _, _, _, ln_2, c_fc, mlp_c_proj = layer
    state, normed, _, _, _, _, parts_of_hidden, hidden, added, rounded = scratch
    B, inner, parts = len(hidden), hidden.shape[1], added.shape[1]
    for worker_ in prange(workers):
        worker = np.int64(worker_)
        _add(added[0], state[worker])  # (3)
        _layernorm(state[worker], ln_2, eps, normed[worker])  # (4)
        _project_parts(normed[worker], _TOGETHER, c_fc, worker, workers, rounded[worker], parts_of_hidden)  # (4)
    for worker_ in prange(workers):
        worker = np.int64(worker_)
        first = _start_of_part(worker * parts // workers, parts, inner, _TOGETHER)
        last = _start_of_part((worker + 1) * parts // workers, parts, inner, _TOGETHER)
        _sum(parts_of_hidden, first, last, hidden)  # (4)
        for b in range(B):
            h = hidden[b, first:last]
            for i in range(len(h)):
                h[i] = h[i] * gate(h[i])  # (4)
        _project_parts(hidden, _TOGETHER, mlp_c_proj, worker, workers, rounded[worker], added[1])  # (5)


@kernel
def _project_parts(x, together, projection, worker, workers, rounded, out):
    """One thread's parts of out (P, B, O), whose sum is x (B, I) times a weight (I, O), plus the bias."""
    numbers, scale, bias = projection
    parts, inputs, outputs = len(out), x.shape[1], len(bias)
    for part in range(worker * parts // workers, (worker + 1) * parts // workers):
        first = _start_of_part(part, parts, inputs, together)
        count = _start_of_part(part + 1, parts, inputs, together) - first
        multiply_rows(x, first, count, numbers, scale, ZERO, outputs, rounded, out[part])
        if part == 0:
            for b in range(len(x)):
                out_b = out[part, b]
                for o in range(outputs):
                    out_b[o] = out_b[o] + bias[o]


@kernel
def _start_of_part(part, parts, inputs, together):
    """The first input of a part: a multiple of `together`, or the end."""
    return min(inputs, part * ((inputs + together - 1) // together) // parts * together)


@kernel
def _sum(parts, first, last, out):
    """Some columns of out (B, O): the sum of all parts (P, B, O), first to last."""
    for b in range(len(out)):
        out_b = out[b, first:last]
        out_b[:] = np.float32(0)
        for part in range(len(parts)):
            parts_b = parts[part, b, first:last]
            for o in range(len(out_b)):
                out_b[o] = out_b[o] + parts_b[o]


@kernel
def _logits(x, norm, table, eps, worker, workers, normed, rounded, logits):
    """One thread's columns of the logits."""
    numbers, scale = table
    V = logits.shape[1]
    parts = (V + TOGETHER - 1) // TOGETHER
    first, last = worker * parts // workers * TOGETHER, (worker + 1) * parts // workers * TOGETHER
    _layernorm(x, norm, eps, normed)
    multiply_table(normed, numbers, scale, min(first, V), min(last, V), rounded, logits)


@kernel
def _layernorm(x, norm, eps, out):
    weight, bias = norm
    for b in range(len(x)):
        normalize(x[b], weight, bias, eps, out[b])


@kernel
def _add(added, x):
    """Add all parts to x (B, C), first to last."""
    for b in range(len(x)):
        x_b = x[b]
        for part in range(len(added)):
            added_b = added[part, b]
            for c in range(len(x_b)):
                x_b[c] = x_b[c] + added_b[c]


@kernel
def _attend(qkv, head, keys, values, length, scores, out):
    """
    One head's attention of the token at `length`, over itself and all before it: the steps of ops/attention.py.

    `qkv` (3C,) is one row's. The keys are (D, T), so that all scores are summed at once. The values are (T, D).
    """
    C, D = len(qkv) // 3, len(keys)
    q, k, v = qkv[head * D :][:D], qkv[C + head * D :][:D], qkv[2 * C + head * D :][:D]
    for d in range(D):
        keys[d, length], values[length, d] = k[d], v[d]
    scores = scores[: length + 1]
    scores[:] = np.float32(0)
    scale = np.float32(1) / np.sqrt(np.float32(D))
    for d in range(D):
        q_d, keys_d = q[d] * scale, keys[d, : length + 1]
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

"""
Causal multi-head attention: every token looks at itself and the tokens before it, and takes a weighted mean of what
they offer. H heads do so independently, each on its own D of the C features.

Throughout this file
    qkv            (B, T, 3C)       queries, keys and values side by side, as GPT-2's c_attn makes them; C = H D
    q, heads       (B, H, T, D)     what a token looks for, and what it receives
    k, v           (B, H, S, D)     what a token answers to, what it offers; S = T, and s is the token that t looks at
    scores         (B, H, T, S)     row t: how well token t's query matches each key
    weights        (B, H, T, S)     row t: where token t looks; non-negative, sums to 1, zero for s > t
    dropout_mask   (B, H, T, S)     0 where dropout drops a weight, 1 / (1 - p) where not; 1 outside training
    dropped        (B, H, T, S)     the weights after dropout
    out            (B, T, C)        dX: gradient of the loss with respect to X, same shape as X
    split, merge   a token's features to heads, (B, T, C) to (B, H, T, D), and back; of qkv, three such side by side

Forward                                          Backward, read upwards
    (1) q, k, v = split(qkv)                     (1)    dqkv = merge(dq, dk, dv)
    (2) scores  = q @ k^T / sqrt(D)              (2)    dq = dscores @ k / sqrt(D),  dk = dscores^T @ q / sqrt(D)
    (3) scores  = -inf where s > t
    (4) weights = softmax_S(scores)              (4, 3) dscores = weights * (dweights - sum_S(dweights * weights))
    (5) dropped = weights * dropout_mask         (5)    dweights = ddropped * dropout_mask
    (6) heads   = dropped @ v                    (6)    ddropped = dheads @ v^T,  dv = dropped^T @ dheads
    (7) out     = merge(heads)                   (7)    dheads = split(dout)
                                                 (1, 5) q, k, v, dropped again

Step (7) and step (1) move values and compute nothing, so their backwards move the gradients back.
Step (6). heads_td = sum_s dropped_ts v_sd, a matrix product for each sequence and head:
    ddropped_ts = sum_d dheads_td v_sd         = (dheads v^T)_ts
    dv_sd       = sum_t dropped_ts dheads_td   = (dropped^T dheads)_sd
Step (5). dropped_ts = weights_ts dropout_mask_ts, and the mask depends on nothing:  dweights = ddropped * dropout_mask.
Step (4). Row t alone: w_s = e^{a_s} / z with z = sum_j e^{a_j}, a = scores of the row.
    d w_s / d a_r = 1[s = r] e^{a_s} / z - e^{a_s} e^{a_r} / z^2 = w_s (1[s = r] - w_r)
    da_r = sum_s dw_s w_s (1[s = r] - w_r) = w_r (dw_r - sum_s dw_s w_s)
Step (3). A masked score is -inf for any q and k: no gradient passes. Step (4) gives this by itself, as w_r = 0
    there makes da_r = 0. So (4, 3) is one line.
Step (2). scores_ts = (1 / sqrt(D)) sum_d q_td k_sd:
    dq_td = (1 / sqrt(D)) sum_s dscores_ts k_sd    = (dscores k)_td / sqrt(D)
    dk_sd = (1 / sqrt(D)) sum_t dscores_ts q_td    = (dscores^T q)_sd / sqrt(D)
    Without 1 / sqrt(D), scores of D independent unit products would have variance D, and the softmax would saturate.

What surprises people here
    Each row of dscores sums to zero: adding a number to all scores of a row changes no weight. The first token can look
    at itself only, so its query gets no gradient at all. And the causal mask needs no line in backward: where a weight
    is zero, so is the gradient of its score.

Source: Vaswani et al. 2017, arXiv:1706.03762, eq. 1 and section 3.2.3; packed layout of OpenAI's gpt-2, src/model.py.
Cost:   4 T^2 C operations per sequence forward, 8 T^2 C backward; this reference keeps (B, H, T, T) arrays, so memory
        grows with T^2.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinygpt.autograd import Op, Tensor, apply
from tinygpt.ops.basic import floating
from tinygpt.ops.choices import where
from tinygpt.ops.dropout import check_dropout
from tinygpt.ops.dropout import dropout_mask as make_dropout_mask
from tinygpt.ops.reductions import softmax
from tinygpt.ops.shapes import operands
from tinygpt.runtime.whole_number import whole_number


# fmt: off
def attention_forward(qkv, n_head, p=0.0, seed=None):
    q, k, v = split_heads(qkv, n_head)                             # (1) (B, H, T, D) each
    scale = 1 / math.sqrt(q.shape[-1])
    scores = q @ k.swapaxes(-1, -2) * scale                        # (2) (B, H, T, S)
    scores[..., causal_mask(scores.shape[-1])] = -np.inf           # (3)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))  # (4) shifted: e^x cannot overflow
    weights /= weights.sum(axis=-1, keepdims=True)                 # (4) (B, H, T, S)
    dropped = weights * make_dropout_mask(weights.shape, p, seed, weights.dtype) if p else weights  # (5)
    heads = dropped @ v                                            # (6) (B, H, T, D)
    out = merge_heads(heads)                                       # (7) (B, T, C)
    return out, (qkv, weights, n_head, p, seed)


def attention_backward(dout, saved):
    qkv, weights, n_head, p, seed = saved
    q, k, v = split_heads(qkv, n_head)                                                      # (1) again: views, no copy
    scale = 1 / math.sqrt(q.shape[-1])
    dropout_mask = make_dropout_mask(weights.shape, p, seed, weights.dtype) if p else None  # (5) again
    dropped = weights if dropout_mask is None else weights * dropout_mask                   # (5) again
    (dheads,) = split_heads(dout, n_head, parts=1)                                          # (7) (B, H, T, D)
    ddropped = dheads @ v.swapaxes(-1, -2)                                                  # (6) (B, H, T, S)
    dv = dropped.swapaxes(-1, -2) @ dheads                                                  # (6) (B, H, T, D)
    dweights = ddropped if dropout_mask is None else ddropped * dropout_mask                # (5)
    dscores = weights * (dweights - (dweights * weights).sum(axis=-1, keepdims=True))       # (4, 3)
    dq = dscores @ k * scale                                                                # (2) (B, H, T, D)
    dk = dscores.swapaxes(-1, -2) @ q * scale                                               # (2) (B, H, T, D)
    dqkv = np.concatenate([merge_heads(dq), merge_heads(dk), merge_heads(dv)], axis=-1)     # (1) (B, T, 3C)
    return (dqkv,)
# fmt: on


def split_heads(packed, n_head, parts=3):
    """(B, T, parts C) as `parts` views of shape (B, H, T, D)."""
    B, T, width = packed.shape
    return packed.reshape(B, T, parts, n_head, width // (parts * n_head)).transpose(2, 0, 3, 1, 4)


def merge_heads(heads):
    """(B, H, T, D) as (B, T, C): the heads of a token side by side."""
    B, H, T, D = heads.shape
    return heads.transpose(0, 2, 1, 3).reshape(B, T, H * D)


def causal_mask(T):
    """(T, T), True at [t, s] where s > t: what token t must not see."""
    return np.triu(np.ones((T, T), bool), k=1)


def check_attention(qkv, n_head, p=0.0, seed=None):
    """The attributes as forward takes them, or an error that says what does not fit."""
    if qkv.ndim != 3 or qkv.shape[-1] % 3:
        raise ValueError(
            f"attention: qkv must have shape (B, T, 3C), got {qkv.shape}; concatenate q, k and v, (B, T, C) each, "
            "along the last axis"
        )
    n_embd, n_head = qkv.shape[-1] // 3, whole_number("attention: n_head", n_head)
    if n_head < 1 or n_embd == 0 or n_embd % n_head:
        raise ValueError(
            f"attention: n_embd must be a multiple of n_head, got n_embd = {n_embd}, n_head = {n_head}; qkv has "
            "3 n_embd features"
        )
    if qkv.shape[1] == 0:
        raise ValueError(f"attention: needs at least one token, got qkv {qkv.shape}")
    return {"n_head": n_head, **check_dropout("attention", p, seed)}


ATTENTION = Op(
    "attention", attention_forward, attention_backward, kernel="tinygpt.kernels.attention", check=check_attention
)


def attention(qkv: Tensor, n_head: int, p: float = 0.0, seed: int | None = None) -> Tensor:
    """
    Causal multi-head attention on packed queries, keys and values.

    Parameters
    ----------
    qkv : Tensor, shape (B, T, 3C), float32 or float64
        C features of queries, then C of keys, then C of values; head h owns features h D to (h + 1) D of each.
    n_head : int
        H; must divide C.
    p : float
        Probability of dropping a weight, in [0, 1).
    seed : int, optional
        Of the dropout; required where p > 0.

    Returns
    -------
    Tensor, shape (B, T, C)

    Raises
    ------
    ValueError
        If the shape, `n_head`, `p` or `seed` does not fit.

    Examples
    --------
    >>> qkv = Tensor(np.ones((1, 2, 3 * 4), np.float32))
    >>> attention(qkv, n_head=2).shape
    (1, 2, 4)
    """
    return apply(ATTENTION, floating(qkv), n_head=n_head, p=p, seed=seed)


def scaled_dot_product_attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Any = None,
                                 dropout_p: float = 0.0, is_causal: bool = False,
                                 scale: float | None = None) -> Tensor:  # fmt: skip
    """
    Attention of queries, keys and values that are apart, with PyTorch's arguments: composed of smaller operations.

    `attention` takes them packed, and computes the same for a causal mask several times faster.

    Parameters
    ----------
    query : Tensor, shape (..., T, D)
    key, value : Tensor, shape (..., S, D)
    attn_mask : array or Tensor, shape (T, S) or one that broadcasts to (..., T, S), optional
        Of bool, True where a key takes part; or of floats, which are added to the scores.
    dropout_p : float
        0: dropout needs a seed, see `attention`.
    is_causal : bool
        Whether query t sees the keys 0 to t only. Not together with `attn_mask`.
    scale : float, optional
        What the scores are multiplied by; 1 / sqrt(D) by default.

    Returns
    -------
    Tensor, shape (..., T, D)

    Raises
    ------
    ValueError
        If `dropout_p` is not 0, or both masks are given.

    Examples
    --------
    >>> q = Tensor(np.eye(3, dtype=np.float32))
    >>> scaled_dot_product_attention(q, q, q, is_causal=True).data.round(2)
    array([[1.  , 0.  , 0.  ],
           [0.36, 0.64, 0.  ],
           [0.26, 0.26, 0.47]], dtype=float32)
    """
    who = "scaled_dot_product_attention"
    if dropout_p:
        raise ValueError(f"{who}: dropout_p must be 0, got {dropout_p}; attention(qkv, n_head, p, seed) drops weights")
    if is_causal and attn_mask is not None:
        raise ValueError(f"{who}: takes is_causal=True or attn_mask, got both")
    q, k, v = map(floating, operands(query, key, value))
    scores = q @ k.swapaxes(-1, -2) * (1 / math.sqrt(q.shape[-1]) if scale is None else scale)  # (..., T, S)
    if is_causal:
        attn_mask = np.tril(np.ones(scores.shape[-2:], bool))
    if attn_mask is not None:
        mask = attn_mask if isinstance(attn_mask, Tensor) else np.asarray(attn_mask)
        scores = where(mask, scores, -math.inf) if mask.dtype == bool else scores + mask
    return softmax(scores) @ v

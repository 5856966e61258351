"""
Dropout: in training, set each element to zero with probability p and scale the others so that the mean stays.

Throughout this file
    x, mask, out   any shape        bits      any shape, 32-bit words
    i              an element's position in C order
    p              probability of dropping        dX: gradient of the loss with respect to X

Forward                                          Backward
    (1) bits = hash(seed, i)
    (2) mask = 1[bits >= p * 2^32] / (1 - p)
    (3) out  = x * mask                          (3)    dx = dout * mask
                                                 (1, 2) bits, mask again

Step (3). mask is a constant as far as x is concerned, so d out_i / dx_i = mask_i.
Step (2). E[mask_i] = (1 - p) / (1 - p) = 1: the layers above see the same mean with dropout and without.

Step (1) is *counter-based*: the random number of element i is a function of the seed and of i, not of how many numbers
were drawn before. So backward makes the mask again instead of keeping it, the order of the loop does not matter, and
any number of threads draws the same mask. The hash works on 32-bit words, which every vector unit multiplies quickly:

    key0, key1 = the halves of splitmix64(seed)                       so that seeds 1, 2, 3 ... have unrelated keys
    bits       = mix(mix(low(i) ^ key0) ^ key1 ^ high(i) * 0x9E3779B9)   low and high: the 32-bit halves of i
    mix(h)     : h ^= h >> 16;  h *= 0x85EBCA6B;  h ^= h >> 13;  h *= 0xC2B2AE35;  h ^= h >> 16

What surprises people here
    What stays is scaled up in training, so that evaluation needs no scaling ("inverted dropout"). Backward needs the
    same mask, not another random one. The mask is not kept: it is a function of the seed, and is computed again.

Source: Srivastava et al. 2014, JMLR 15, section 4 (scaled in training, as everyone does now); `mix` is the finalizer of
        MurmurHash3 (Appleby, public domain); splitmix64 is of Steele, Lea & Flood 2014, OOPSLA; counters instead of
        states: Salmon et al. 2011, SC '11.
Cost:   moves 2 arrays each way; about 20 integer operations per element.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygpt.autograd import Op, Tensor, apply
from tinygpt.ops.basic import floating
from tinygpt.runtime.aliases import aliases
from tinygpt.runtime.seeds import splitmix64


def dropout_forward(x, p, seed):
    mask = dropout_mask(x.shape, p, seed, x.dtype)  # (1, 2)
    return x * mask, (p, seed)  # (3)


def dropout_backward(dout, saved):
    p, seed = saved
    mask = dropout_mask(dout.shape, p, seed, dout.dtype)  # (1, 2) again
    return (dout * mask,)  # (3)


def dropout_mask(shape, p, seed, dtype):
    """The factors of step (2): 0 where an element is dropped, 1 / (1 - p) where it stays."""
    bits = random_bits(seed, int(np.prod(shape, dtype=np.int64)))
    keep = bits >= np.uint32(min(round(p * 2**32), 2**32 - 1))
    return (keep * np.dtype(dtype).type(1 / (1 - p))).reshape(shape)


def random_bits(seed, count):
    """Step (1): `count` uniform 32-bit words, a function of the seed and of the position only."""
    keys = splitmix64(seed)
    key0, key1 = keys & 0xFFFFFFFF, keys >> 32
    bits = np.empty(count, np.uint32)
    for start in range(0, count, 2**32):  # one round, unless there are more than 2^32 elements
        low = np.arange(min(count - start, 2**32), dtype=np.uint32)
        high = (start >> 32) * 0x9E3779B9 % 2**32
        bits[start : start + len(low)] = _mix(_mix(low ^ np.uint32(key0)) ^ np.uint32(key1 ^ high))
    return bits


def _mix(h):
    h = h ^ (h >> np.uint32(16))
    h *= np.uint32(0x85EBCA6B)
    h ^= h >> np.uint32(13)
    h *= np.uint32(0xC2B2AE35)
    h ^= h >> np.uint32(16)
    return h


def check_dropout(who: str, p: Any, seed: Any) -> dict[str, Any]:
    """`p` and `seed` as Python's numbers, or an error unless p is in [0, 1) and, where p > 0, the seed in [0, 2^64)."""
    if not isinstance(p, (int, float, np.integer, np.floating)):
        raise TypeError(f"{who}: p must be a number, got {type(p).__name__}")
    if not 0 <= p < 1:
        raise ValueError(f"{who}: p must be at least 0 and below 1, got {p}; it is the share that is dropped")
    if p > 0 and (not isinstance(seed, (int, np.integer)) or isinstance(seed, bool) or not 0 <= seed < 2**64):
        raise ValueError(
            f"{who}: seed must be an integer from 0 to 2^64 - 1, got {seed!r}; pass another one at each step of "
            "training, and p=0 outside it"
        )
    return {"p": float(p), "seed": int(seed) if p > 0 else None}


DROPOUT = Op(
    "dropout",
    dropout_forward,
    dropout_backward,
    kernel="tinygpt.kernels.dropout",
    check=lambda x, p, seed: check_dropout("dropout", p, seed),
)


@aliases(input="x")
def dropout(x: Tensor, p: float, seed: int | None = None) -> Tensor:
    """
    Drop elements with probability `p`, scale the others by 1 / (1 - p).

    Parameters
    ----------
    x : Tensor, any shape, float32 or float64
    p : float
        In [0, 1). 0 returns `x` itself.
    seed : int
        From 0 to 2^64 - 1; required where p > 0. The same seed and shape give the same mask.

    Returns
    -------
    Tensor, same shape and dtype

    Raises
    ------
    ValueError
        If `p` or `seed` is out of range.

    Examples
    --------
    >>> dropout(Tensor([1.0, 1.0, 1.0, 1.0, 1.0, 1.0]), p=0.5, seed=3).data
    array([2., 2., 0., 2., 0., 2.], dtype=float32)
    """
    check_dropout("dropout", p, seed)
    return x if p == 0 else apply(DROPOUT, floating(x), p=p, seed=seed)

"""
The key/value cache of one layer: with the keys and values of every token that was read, one more token costs one
token's work. gpt2/decoder.py keeps one for each layer of a model.

Throughout this file
    x                  (B, T, C)       the residual stream of T new tokens of each of B sequences; T = 1 in a step
    q, k, v            (B, H, T, D)    their queries, keys and values
    keys               (S, H, D, N)    keys of one layer, for S sequences of up to N tokens; along N, so that all scores
                                       of a query are summed at once
    values             (S, H, N, D)
    sequences          (B,)            which of the S sequences each row of x belongs to
    lengths            (B,)            the tokens that each has before the new ones: the position of the first new one

A key and a value depend only on the tokens up to their own, and never change: so they can be kept. Positions are
learned by number, so a text cannot be shifted in the cache; what happens when it is full is up to the caller
(generation/generate.py reads half a context again).

Source: Shazeer 2019, arXiv:1911.02150, section 2.3 (incremental decoding).
Cost:   2 C numbers per token, layer and sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

from tinygpt.autograd import Tensor
from tinygpt.autograd.dispatch import kernel_for
from tinygpt.ops.attention import attention, causal_mask, merge_heads, split_heads
from tinygpt.ops.reductions import softmax_forward

_KERNEL = "tinygpt.kernels.decode_step"


class AttentionCache(Protocol):
    """The `cache` of `Block.forward`: computes attention, and keeps something from it."""

    def attend(self, qkv: Tensor, n_head: int) -> Tensor:
        """Attention on packed queries, keys and values (B, T, 3C): the heads' outputs, (B, T, C)."""
        ...


class LayerCache(NamedTuple):
    """
    The keys and values of one layer, as a pass over new tokens of some sequences reads and writes them.

    Attributes
    ----------
    keys : ndarray, (S, H, D, N)
    values : ndarray, (S, H, N, D)
    sequences : sequence of int, (B,)
        The sequences that the new tokens belong to, all different.
    lengths : sequence of int, (B,)
        How many tokens each of them has in the cache.

    Examples
    --------
    The last token of a text attends to the two before it, which an earlier pass has read:

    >>> from tinygpt import GPT, GPTConfig, no_grad
    >>> block = GPT(GPTConfig(vocab_size=11, n_positions=8, n_embd=4, n_layer=1, n_head=2)).eval().h[0]
    >>> x = np.random.default_rng(0).standard_normal((1, 3, 4)).astype(np.float32)
    >>> keys, values = np.empty((1, 2, 2, 8), np.float32), np.empty((1, 2, 8, 2), np.float32)
    >>> with no_grad():
    ...     whole = block(Tensor(x))
    ...     block(Tensor(x[:, :2]), LayerCache(keys, values, [0], [0])).shape
    ...     last = block(Tensor(x[:, 2:]), LayerCache(keys, values, [0], [2]))
    (1, 2, 4)
    >>> np.allclose(last.data, whole.data[:, 2:], atol=1e-6)
    True
    """

    keys: np.ndarray
    values: np.ndarray
    sequences: Sequence[int] | np.ndarray
    lengths: Sequence[int] | np.ndarray

    def attend(self, qkv: Tensor, n_head: int) -> Tensor:
        """
        Attention of new tokens to themselves and to those before them; their keys and values join the cache.

        Parameters
        ----------
        qkv : Tensor, shape (B, T, 3C)
        n_head : int

        Returns
        -------
        Tensor, shape (B, T, C)

        Raises
        ------
        ValueError
            If the new tokens do not fit, the cache has another shape, or a row has no sequence of its own; nothing is
            written then. If a gradient is wanted: none passes through a cache.
        """
        if qkv.requires_grad:
            raise ValueError("LayerCache: no gradient passes through a cache; call the block inside no_grad()")
        q, k, v = split_heads(qkv.data, n_head)  # (B, H, T, D) each
        T = q.shape[2]
        self._check(*q.shape)
        self._append(qkv.data, k, v)
        if not any(self.lengths):
            return attention(qkv, n_head)  # the texts begin here: nothing to attend to but themselves
        heads = np.empty_like(q)  # (B, H, T, D)
        for b, (sequence, n) in enumerate(zip(self.sequences, self.lengths, strict=True)):
            keys, values = self.keys[sequence, :, :, : n + T], self.values[sequence, :, : n + T]
            scores = q[b] @ keys / q.dtype.type(np.sqrt(q.shape[-1]))  # (H, T, n + T)
            if T > 1:  # a single new token may attend to all
                scores[:, causal_mask(n + T)[n:]] = -np.inf
            heads[b] = softmax_forward(scores)[0] @ values  # (H, T, D)
        return Tensor(merge_heads(heads))  # (B, T, C)

    def _append(self, qkv: np.ndarray, k: np.ndarray, v: np.ndarray) -> None:
        """Bring k and v (B, H, T, D), parts of qkv, into the cache."""
        kernel = kernel_for(_KERNEL, qkv, self.keys, self.values)
        if kernel is not None:
            kernel.append(qkv, self.keys, self.values, self.sequences, self.lengths)
            return
        T = k.shape[2]
        for b, (sequence, n) in enumerate(zip(self.sequences, self.lengths, strict=True)):
            self.keys[sequence, :, :, n : n + T] = k[b].swapaxes(1, 2)  # (H, D, T)
            self.values[sequence, :, n : n + T] = v[b]  # (H, T, D)

    def _check(self, B: int, H: int, T: int, D: int) -> None:
        """Raise ValueError, before anything is written, unless each row has a sequence of its own with room for it."""
        S, N = self.values.shape[0], self.values.shape[2]
        if self.keys.shape != (S, H, D, N) or self.values.shape != (S, H, N, D):
            raise ValueError(
                f"LayerCache: keys must be (S, H, D, N) and values (S, H, N, D) with H = {H}, D = {D}, "
                f"got {self.keys.shape} and {self.values.shape}"
            )
        if len(self.sequences) != B or len(self.lengths) != B:
            raise ValueError(
                f"LayerCache: needs a sequence and a length for each of {B} rows, got {len(self.sequences)} and "
                f"{len(self.lengths)}"
            )
        if len({*self.sequences}) < B or not all(0 <= sequence < S for sequence in self.sequences):
            raise ValueError(f"LayerCache: sequences must be different and from 0 to {S - 1}, got {self.sequences}")
        for n in self.lengths:
            if not 0 <= n <= N - T:
                raise ValueError(f"LayerCache: {N} tokens fit, got {T} more after {n}")

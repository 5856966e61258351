"""
A model that remembers what it has read: the keys and values of every token so far, so that one token more costs one
token's work.

    read(sequence, tokens)       the prompt, in one pass, with the operations that training uses
    step(sequences, tokens)      one token more for each of some sequences, by `layer_step` and `head_step`

Throughout this file
    x                  (B, C)          the residual stream of one new token for each of B sequences
    keys               (S, H, D, T)    of S sequences in the cache of one layer, along T: all scores are summed at once
    values             (S, H, T, D)
    sequences          (B,)            which of the S each row of x belongs to
    lengths            (B,)            how many tokens each has before the new one, which is its position

A key and a value depend on the tokens up to theirs only, and never change: that is why they may be kept. A position is
learned with its number, so that a text cannot be shifted in the cache; what happens when it is full is for the caller
to decide (`generate.py` reads half a context anew).

Cached and uncached scores differ by the order of their sums: by a few float32 roundings, no more.

Source: the cache is that of every decoder since Shazeer 2019, arXiv:1911.02150, section 2.3.
Cost:   a step reads every weight once, and 2 C T numbers a layer and sequence.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from tinygpt.autograd import no_grad
from tinygpt.autograd.dispatch import aligned, compare, kernel_for
from tinygpt.ops.attention import attention
from tinygpt.ops.dropout import whole_number
from tinygpt.ops.embedding import check_ids
from tinygpt.ops.gelu import gelu_forward
from tinygpt.ops.gelu_linear import gelu_linear
from tinygpt.ops.layernorm import layernorm_forward
from tinygpt.ops.reductions import softmax_forward
from tinygpt.quantization import Stored, restored
from tinygpt.runtime import settings

_KERNEL = "tinygpt.kernels.decode_step"
Norm = tuple[np.ndarray, np.ndarray]  # weight, bias
Projection = tuple[np.ndarray, np.ndarray, np.ndarray]  # numbers, scale, bias


class Layer(NamedTuple):
    """The weights of a block as a step reads them."""

    ln_1: Norm
    c_attn: Projection
    attn_c_proj: Projection
    ln_2: Norm
    c_fc: Projection
    mlp_c_proj: Projection


def layer_step(x, layer, keys, values, sequences, lengths, eps):
    """One layer for one new token of each sequence: x after it, (B, C). Writes each token's key and value."""
    H, D = keys.shape[1:3]
    qkv = _project(layernorm_forward(x, *layer.ln_1, eps)[0], layer.c_attn)  # (1) (B, 3C)
    heads = np.empty_like(x)
    for b, (sequence, n) in enumerate(zip(sequences, lengths, strict=True)):
        q, keys[sequence, :, :, n], values[sequence, :, n] = qkv[b].reshape(3, H, D)
        scores = q[:, None] @ keys[sequence, :, :, : n + 1] / x.dtype.type(np.sqrt(D))  # (H, 1, n + 1)
        heads[b] = (softmax_forward(scores)[0] @ values[sequence, :, : n + 1]).reshape(-1)  # (2)
    x = x + _project(heads, layer.attn_c_proj)  # (3)
    hidden = gelu_forward(_project(layernorm_forward(x, *layer.ln_2, eps)[0], layer.c_fc))[0]  # (4) (B, I)
    return x + _project(hidden, layer.mlp_c_proj)  # (5)


def head_step(x, norm, table, eps):
    """The scores of the token after x: (B, V)."""
    return layernorm_forward(x, *norm, eps)[0] @ restored(table, outputs=0).T


def _project(x, projection):
    numbers, scale, bias = projection
    return x @ restored(Stored(numbers, scale)) + bias


class Decoder:
    """
    A model with a cache for some sequences.

    Parameters
    ----------
    model : GPT
        Its parameters are used where they are: do not train it meanwhile.
    sequences : int
        S, how many texts are read side by side.
    capacity : int, optional
        The longest text, at most the model's `n_positions`, which is the default. Memory that is never reached is
        never touched.

    Attributes
    ----------
    lengths : ndarray, int64, (S,)
        How many tokens of each sequence are in the cache.

    Examples
    --------
    >>> from tinygpt import GPT, GPTConfig
    >>> model = GPT(GPTConfig(vocab_size=11, n_positions=8, n_embd=4, n_layer=1, n_head=2)).eval()
    >>> decoder = Decoder(model)
    >>> decoder.read(0, [1, 2]).shape
    (11,)
    >>> scores = decoder.step([0], [3])  # the same as asking for all three at once
    >>> np.allclose(scores, model([[1, 2, 3]]).data[:, -1], atol=1e-6)
    True
    """

    def __init__(self, model: Any, sequences: int = 1, capacity: int | None = None):
        config, dtype = model.config, model.wte.weight.dtype
        limit = config.n_positions
        capacity = limit if capacity is None else min(whole_number("Decoder: capacity", capacity), limit)
        sequences = whole_number("Decoder: sequences", sequences)
        if sequences < 0 or capacity < 1:
            raise ValueError(f"Decoder: needs sequences >= 0 and capacity >= 1, got {sequences} and {capacity}")
        H, D = config.n_head, config.n_embd // config.n_head
        self.model, self._capacity = model, capacity
        self._lengths = np.zeros(sequences, np.int64)
        self._keys = np.empty((config.n_layer, sequences, H, D, capacity), dtype)
        self._values = np.empty((config.n_layer, sequences, H, capacity, D), dtype)
        self._bind()
        self._memory: dict[int, Any] = {}  # of a batch of so many

    @property
    def lengths(self) -> np.ndarray:
        """How many tokens of each sequence are in the cache."""
        return self._lengths

    @property
    def capacity(self) -> int:
        """The longest text that fits."""
        return self._capacity

    def _bind(self) -> None:
        """Look at the model's weights: the kernels check no index, so they must have the shapes that it says."""
        model, config = self.model, self.model.config
        self._bound = [(parameter, parameter.data) for parameter in model.parameters()]
        self._layers = [_layer_of(model, i) for i in range(config.n_layer)]
        self._norm = _norm_of(model, "ln_f", model.ln_f)
        shape = (config.vocab_size, config.n_embd)
        self._table = _stored_of(model, "wte.weight", model.wte.weight, shape, outputs=0)
        self._tokens = _as_read(model, "wte.weight", model.wte.weight.data, shape)
        self._positions = _as_read(model, "wpe.weight", model.wpe.weight.data, (config.n_positions, config.n_embd))

    def _bind_again(self) -> None:
        """Where the data of a parameter was replaced, read the new one from now on."""
        if any(parameter.data is not array for parameter, array in self._bound):
            self._bind()

    def read(self, sequence: int, tokens: Any) -> np.ndarray:
        """
        Read a text from its beginning, in place of what the sequence held: the scores (V,) of the token after it.

        Raises
        ------
        TypeError, ValueError
            If `tokens` are no ids of the model's, none, or more than fit.
        """
        self._bind_again()
        tokens = check_ids("Decoder.read: tokens", tokens, self.model.config.vocab_size)
        if tokens.ndim > 1 and len(tokens) != 1:
            raise ValueError(f"Decoder.read: tokens must have shape (T,), got {tokens.shape}; one text each")
        tokens = tokens.reshape(-1)
        check_ids("Decoder.read: sequence", sequence, len(self.lengths))
        T = len(tokens)
        if not 0 < T <= self.capacity:
            raise ValueError(f"Decoder.read: from 1 to {self.capacity} tokens fit, got {T}")
        model = self.model
        H = model.config.n_head
        with no_grad():
            x = model.wte(tokens[None]) + model.wpe(np.arange(T))  # (1, T, C)
            for block, keys, values in zip(model.h, self._keys, self._values, strict=True):
                qkv = block.attn.c_attn(block.ln_1(x))  # (1, T, 3C)
                _, k, v = qkv.data.reshape(T, 3, H, -1).swapaxes(0, 1)  # (T, H, D) each
                keys[sequence, :, :, :T], values[sequence, :, :T] = k.transpose(1, 2, 0), v.swapaxes(0, 1)
                x = x + block.attn.c_proj(attention(qkv, H))
                x = x + gelu_linear(block.mlp.c_fc(block.ln_2(x)), block.mlp.c_proj.weight, block.mlp.c_proj.bias)
        self.lengths[sequence] = T
        return self._head(x.data[0, -1:])[0]

    def step(self, sequences: Any, tokens: Any) -> np.ndarray:
        """
        Read one token more for each of some sequences: the scores (B, V) of the tokens after these.

        Parameters
        ----------
        sequences : array of int, (B,)
            Different ones, each of which has been read.
        tokens : array of int, (B,)

        Raises
        ------
        TypeError, ValueError
            If these are no such numbers, or a sequence is full.
        """
        self._bind_again()
        eps = self.model.config.layer_norm_epsilon
        tokens = check_ids("Decoder.step: tokens", tokens, self.model.config.vocab_size).reshape(-1)
        sequences = check_ids("Decoder.step: sequences", sequences, len(self.lengths)).reshape(-1)
        lengths = self.lengths[sequences]
        if len(tokens) != len(sequences) or len(set(sequences.tolist())) != len(sequences):
            raise ValueError(f"Decoder.step: one token for each of different sequences, got {len(tokens)} tokens for "
                             f"sequences {sequences.tolist()}")  # fmt: skip
        if (lengths < 1).any() or (lengths >= self.capacity).any():
            raise ValueError(f"Decoder.step: each sequence must have from 1 to {self.capacity - 1} tokens, got "
                             f"{lengths.tolist()}; read() begins one")  # fmt: skip
        x = self._tokens[tokens] + self._positions[lengths]  # (B, C)
        for layer, keys, values in zip(self._layers, self._keys, self._values, strict=True):
            x = self._layer(x, layer, keys, values, sequences, lengths, eps)
        self.lengths[sequences] += 1
        return self._head(x)

    def _layer(self, x, layer, keys, values, sequences, lengths, eps):
        kernel = kernel_for(_KERNEL, x)
        if kernel is None:
            return layer_step(x, layer, keys, values, sequences, lengths, eps)
        checking = settings.current_implementation() == "check"
        expected = layer_step(x, layer, keys, values, sequences, lengths, eps) if checking else None
        B, C = x.shape
        if B not in self._memory:
            self._memory[B] = kernel.scratch(B, C, self.model.config.inner, keys.shape[1], self.capacity)
        kernel.layer_step(x, layer, keys, values, sequences, lengths, eps, self._memory[B])
        if checking:
            compare("Decoder.step", "layer", [x], [expected])
        return x

    def _head(self, x):
        eps = self.model.config.layer_norm_epsilon
        kernel = kernel_for(_KERNEL, x)
        if kernel is None:
            return head_step(x, self._norm, self._table, eps)
        scores = kernel.head_step(x, self._norm, self._table, eps)
        if settings.current_implementation() == "check":
            compare("Decoder", "head", [scores], [head_step(x, self._norm, self._table, eps)])
        return scores


def _layer_of(model: Any, i: int) -> Layer:
    block, C, inner = model.h[i], model.config.n_embd, model.config.inner

    def projection(name: str, linear: Any, inputs: int, outputs: int) -> Projection:
        name = f"h.{i}.{name}"
        stored = _stored_of(model, f"{name}.weight", linear.weight, (inputs, outputs), outputs=1)
        return *stored, _as_read(model, f"{name}.bias", linear.bias.data, (outputs,))

    return Layer(
        ln_1=_norm_of(model, f"h.{i}.ln_1", block.ln_1),
        c_attn=projection("attn.c_attn", block.attn.c_attn, C, 3 * C),
        attn_c_proj=projection("attn.c_proj", block.attn.c_proj, C, C),
        ln_2=_norm_of(model, f"h.{i}.ln_2", block.ln_2),
        c_fc=projection("mlp.c_fc", block.mlp.c_fc, C, inner),
        mlp_c_proj=projection("mlp.c_proj", block.mlp.c_proj, inner, C),
    )


def _norm_of(model: Any, name: str, norm: Any) -> Norm:
    shape = (model.config.n_embd,)
    weight = _as_read(model, f"{name}.weight", norm.weight.data, shape)
    return weight, _as_read(model, f"{name}.bias", norm.bias.data, shape)


def _stored_of(model: Any, name: str, weight: Any, shape: tuple[int, int], outputs: int) -> Stored:
    stored = model.stored.get(name, Stored(weight.data))
    if stored.scale.size:
        _as_read(model, f"the scale of {name}", stored.scale, shape[outputs : outputs + 1])
    return stored._replace(numbers=_as_read(model, name, stored.numbers, shape))


def _as_read(model: Any, name: str, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The array as a step reads it, once it is known to have the model's shape: the kernel checks no index."""
    dtype = model.wte.weight.dtype
    if array.shape != shape or array.dtype not in (dtype, np.uint16, np.int8):
        raise ValueError(f"Decoder: {name} must be {dtype} {shape}, got {array.dtype} {array.shape}")
    return aligned(np.ascontiguousarray(array))

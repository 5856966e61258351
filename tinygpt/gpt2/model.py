"""
GPT-2: token and position embeddings, L pre-norm blocks, a final layer norm, and a head that shares the table of
embeddings.

    tokens (B, T) -> wte + wpe -> [ x + attn(ln_1(x));  x + mlp(ln_2(x)) ] x L -> ln_f -> @ wte^T -> logits (B, T, V)

Names, layouts and initialization are GPT-2's, so that loading a checkpoint is copying arrays. The residual stream x is
never normalized in place: each block reads a normalized copy and adds to x, which is why the gradient of x reaches the
embeddings undiminished.

A block is written once. Training, generation with `implementation("numpy")` and inspection all run `Block.forward`; the
last two pass a cache, which computes attention and keeps something from it (`AttentionCache` in kv_cache.py).
Generation with kernels has twins of it: kernels/decode_step.py for one token, because the overhead of one op per line
would exceed the arithmetic of a small model, and kernels/prompt.py for a prompt, which reads quantized weights and has
fewer passes over memory. Tests hold both to `Block`.

Source: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.3; OpenAI's gpt-2,
        src/model.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import suppress
from os import PathLike
from typing import Any

import numpy as np

from tinygpt.autograd import Tensor
from tinygpt.autograd.recompute import recompute
from tinygpt.files.one_line import brief
from tinygpt.generation import generate
from tinygpt.gpt2 import checkpoint, pretrained
from tinygpt.gpt2.config import GPTConfig
from tinygpt.gpt2.decoder import Decoder
from tinygpt.gpt2.decoder_weights import reads_tokens_as_gpt2
from tinygpt.gpt2.kv_cache import AttentionCache
from tinygpt.gpt2.parameter_shapes import parameter_shapes
from tinygpt.nn import Dropout, Embedding, LayerNorm, Linear, Module
from tinygpt.ops.attention import attention
from tinygpt.ops.basic import matmul
from tinygpt.ops.cross_entropy import check_targets
from tinygpt.ops.embedding import OF_ANOTHER_TOKENIZER, check_ids, integers
from tinygpt.ops.gelu_linear import gelu_linear
from tinygpt.ops.linear_cross_entropy import linear_cross_entropy
from tinygpt.runtime.aliases import aliases
from tinygpt.runtime.capture import known
from tinygpt.runtime.seeds import check_seed


class CausalSelfAttention(Module):
    """Multi-head attention: a product for queries, keys and values, attention, and a product that mixes the heads."""

    def __init__(self, config: GPTConfig, weights: np.random.Generator, dropout: np.random.Generator, dtype: Any):
        std = config.initializer_range
        self.n_head = config.n_head
        self.c_attn = Linear(config.n_embd, 3 * config.n_embd, weights, std, dtype)
        self.c_proj = Linear(config.n_embd, config.n_embd, weights, residual_std(config), dtype)
        self.attn_dropout = Dropout(config.attn_pdrop, dropout)
        self.resid_dropout = Dropout(config.resid_pdrop, dropout)

    def forward(self, x: Tensor, cache: AttentionCache | None = None) -> Tensor:
        qkv = self.c_attn(x)  # (B, T, 3C)
        if cache is None:
            seed = self.attn_dropout.seed()
            heads = attention(qkv, self.n_head, 0.0 if seed is None else self.attn_dropout.p, seed)  # (B, T, C)
        else:
            heads = cache.attend(qkv, self.n_head)  # (B, T, C)
        return self.resid_dropout(self.c_proj(heads))  # (B, T, C)


class GELULinear(Linear):
    """A linear layer of GELU(x), as one operation, which keeps x alone for backward."""

    def forward(self, x: Tensor) -> Tensor:
        return gelu_linear(x, self.weight, self.bias)


class MLP(Module):
    """Two linear layers with GELU between them, on each token by itself; I hidden features, in GPT-2 four times C."""

    def __init__(self, config: GPTConfig, weights: np.random.Generator, dropout: np.random.Generator, dtype: Any):
        self.c_fc = Linear(config.n_embd, config.inner, weights, config.initializer_range, dtype)
        self.c_proj = GELULinear(config.inner, config.n_embd, weights, residual_std(config), dtype)
        self.dropout = Dropout(config.resid_pdrop, dropout)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.c_fc(x)  # (B, T, I)
        return self.dropout(self.c_proj(hidden))  # (B, T, C); c_proj begins with GELU


class Block(Module):
    """
    One layer: attention between tokens, then the MLP on each token, both added to the residual stream.

    Parameters
    ----------
    config : GPTConfig
    weights, dropout : np.random.Generator
        The sources of the initial weights and of dropout's seeds.
    dtype : float32 or float64

    Examples
    --------
    >>> config = GPTConfig(vocab_size=11, n_positions=8, n_embd=4, n_layer=1, n_head=2)
    >>> block = GPT(config).eval().h[0]
    >>> block(Tensor(np.ones((1, 3, 4), np.float32))).shape
    (1, 3, 4)
    """

    def __init__(self, config: GPTConfig, weights: np.random.Generator, dropout: np.random.Generator, dtype: Any):
        self.ln_1 = LayerNorm(config.n_embd, config.layer_norm_epsilon, dtype)
        self.attn = CausalSelfAttention(config, weights, dropout, dtype)
        self.ln_2 = LayerNorm(config.n_embd, config.layer_norm_epsilon, dtype)
        self.mlp = MLP(config, weights, dropout, dtype)

    def forward(self, x: Tensor, cache: AttentionCache | None = None) -> Tensor:
        """
        The residual stream after the layer.

        Parameters
        ----------
        x : Tensor, shape (B, T, C)
            The residual stream before it.
        cache : AttentionCache, optional
            Computes attention in place of `tinygpt.functional.attention`, for inference: a `kv_cache.LayerCache` lets
            the T tokens attend to those that were read before them too.

        Returns
        -------
        Tensor, shape (B, T, C)
        """
        x = x + self.attn(self.ln_1(x), cache)  # (B, T, C)
        return x + self.mlp(self.ln_2(x))  # (B, T, C)


def residual_std(config: GPTConfig) -> float:
    """
    Standard deviation of the initial weights of the products that add to the residual stream.

    Each of the 2L residual branches adds variance; scaled so, their sum has the variance of one (GPT-2, section 2.3).
    """
    return config.initializer_range / math.sqrt(2 * config.n_layer)


class GPT(Module):
    """
    The GPT-2 language model.

    Parameters
    ----------
    config : GPTConfig
    seed : int
        Seed of the initial weights and of dropout.
    dtype : float32 or float64
        The type of the parameters, and so of everything that is computed from them.

    Attributes
    ----------
    recompute : bool
        Whether backward computes the activations of each block again instead of keeping them; see
        `tinygpt.autograd.recompute`.
    generator : np.random.Generator
        The source of dropout's seeds; its state is part of the state of a training run.

    Examples
    --------
    >>> config = GPTConfig(vocab_size=11, n_positions=8, n_embd=4, n_layer=1, n_head=2)
    >>> model = GPT(config, seed=1337).eval()
    >>> tokens = np.array([[1, 2, 3]])
    >>> model(tokens).shape
    (1, 3, 11)
    >>> loss = model.loss(tokens, targets=np.array([[2, 3, 4]]))
    >>> loss.backward()
    >>> model.wte.weight.grad.shape
    (11, 4)
    """

    recompute = False

    def __init__(self, config: GPTConfig, seed: int = 1337, dtype: Any = np.float32):
        if not isinstance(config, GPTConfig):
            raise TypeError(
                f"GPT: config must be a GPTConfig, got {brief(config)}; write GPT(GPTConfig(...)), or, for a "
                "name, GPT.from_pretrained"
            )
        with suppress(TypeError):  # what NumPy does not know, such as "bfloat16", stays as it is
            dtype = np.dtype(dtype)
        if dtype not in (np.float32, np.float64):
            raise TypeError(f"GPT: dtype must be float32 or float64, got {dtype}")
        self.config = config
        check_seed("GPT", seed)
        weights, self.generator = np.random.default_rng(seed).spawn(2)
        std = config.initializer_range
        self.wte = Embedding(config.vocab_size, config.n_embd, weights, std, dtype)
        self.wpe = Embedding(config.n_positions, config.n_embd, weights, std, dtype)
        self.drop = Dropout(config.embd_pdrop, self.generator)
        self.h = [Block(config, weights, self.generator, dtype) for _ in range(config.n_layer)]
        self.ln_f = LayerNorm(config.n_embd, config.layer_norm_epsilon, dtype)
        self.flatten_parameters()

    def hidden(self, tokens: Any) -> Tensor:
        """
        Everything but the head: the residual stream after the final layer norm.

        Parameters
        ----------
        tokens : integer array, shape (B, T), 1 <= T <= n_positions

        Returns
        -------
        Tensor, shape (B, T, C)
        """
        tokens = self._check_tokens(tokens)
        x = self.drop(self.wte(tokens) + self.wpe(known(np.arange(tokens.shape[1]))))  # (B, T, C)
        for block in self.h:
            x = recompute(block, x, self.generator) if self.recompute else block(x)
        return self.ln_f(x)

    def head(self, hidden: Tensor) -> Tensor:
        """
        Logits of each token of the vocabulary, by the table of embeddings.

        Parameters
        ----------
        hidden : Tensor, shape (N, C)

        Returns
        -------
        Tensor, shape (N, V)
        """
        return matmul(hidden, self.wte.weight.T)

    @aliases(input_ids="tokens")
    def forward(self, tokens: Any, targets: None = None) -> Tensor:
        """
        Logits of the next token at every position.

        Parameters
        ----------
        tokens : integer array, shape (B, T), 1 <= T <= n_positions
        targets : None
            Others are refused: `loss` takes them.

        Returns
        -------
        Tensor, shape (B, T, V)

        Raises
        ------
        TypeError, ValueError
            If `tokens` are not integers of that shape, from 0 to V - 1, or `targets` are given.
        """
        if targets is not None:
            raise TypeError(
                "GPT: the model takes tokens only, got targets too; write loss = model.loss(tokens, targets)"
            )
        x = self.hidden(tokens)
        B, T, C = x.shape
        return self.head(x.reshape(B * T, C)).reshape(B, T, -1)

    def loss(self, tokens: Any, targets: Any, ignore_index: int = -100) -> Tensor:
        """
        Mean cross-entropy of the next token, in nats per token.

        Parameters
        ----------
        tokens, targets : integer arrays, shape (B, T)
            targets[b, t] is the token that follows tokens[b, t]: text[:, 1:] for text[:, :-1]. Nothing is shifted here.
        ignore_index : int
            Targets equal to it do not count.

        Returns
        -------
        Tensor, shape ()

        Raises
        ------
        TypeError, ValueError
            If a shape, dtype or id does not fit, or no target counts.

        Examples
        --------
        >>> model = GPT(GPTConfig(vocab_size=11, n_positions=8, n_embd=4, n_layer=1, n_head=2))
        >>> round(model.loss(tokens=[[1, 2, 3]], targets=[[2, 3, 4]]).item(), 1)  # ln 11 = 2.4
        2.4
        """
        tokens, targets = self.check_batch(tokens, targets, ignore_index)
        x = self.hidden(tokens)
        B, T, C = x.shape
        return linear_cross_entropy(x.reshape(B * T, C), self.wte.weight, targets.reshape(B * T), ignore_index)

    def check_batch(self, tokens: Any, targets: Any, ignore_index: int = -100) -> tuple[np.ndarray, np.ndarray]:
        """Copies of what `loss` takes, in int64 and of shape (B, T); raises what `loss` does."""
        targets, tokens = integers("GPT.loss: targets", targets), self._check_tokens(tokens)
        if targets.shape != tokens.shape:
            raise ValueError(
                f"GPT.loss: targets must have the tokens' shape {tokens.shape}, got {targets.shape}; they are the same "
                "text, one token further"
            )
        return tokens, check_targets("GPT.loss", targets, targets.shape, self.config.vocab_size, ignore_index)

    @property
    def weights(self) -> str:
        """The type of the matrices: "float32", or the kind that `quantization.quantize_model` was given."""
        return "float32" if self.wte.quantized is None else self.wte.quantized.kind

    def generate(self, ids: Any, **options: Any) -> Iterator[int]:
        """
        Yield the ids of new tokens, one by one.

        Parameters
        ----------
        ids : sequence of int
            The prompt, at least one token.
        **options
            `max_tokens`, or `max_new_tokens`, `temperature`, `top_k`, `top_p`, `seed` and more: see
            `generation.generate.generate_batch`.

        Yields
        ------
        int
        """
        return generate.generate(self, ids, **options)

    @property
    def has_decoder(self) -> bool:
        """Whether a cache computes what the model does: `hidden`, wte, wpe and drop are GPT's, and have no hook."""
        return reads_tokens_as_gpt2(self)

    def decoder(self, sequences: int = 1, capacity: int | None = None) -> Decoder:
        """
        The model with a key/value cache.

        Parameters
        ----------
        sequences : int
            How many texts are read side by side.
        capacity : int, optional
            The length of the longest text, in tokens.

        Returns
        -------
        Decoder

        Raises
        ------
        TypeError
            Unless the model `has_decoder`.
        """
        return Decoder(self, sequences, capacity)

    def save_pretrained(self, directory: str | PathLike[str], tokenizer: Any = None) -> None:
        """
        Write the model as a Hugging Face GPT-2 folder: config.json, model.safetensors and the tokenizer's files.

        Parameters
        ----------
        directory : path
            Created if it is missing.
        tokenizer : Tokenizer, optional

        Raises
        ------
        OSError, ValueError
            If the folder cannot be written, the tokenizer has more ids than the model, or the parameters are no more
            those of `config`, such as with a layer left out or another one added.
        """
        state, shapes = self.state_dict(), dict(parameter_shapes(self.config))
        found = {name: array.shape for name, array in state.items()}
        for name in {**shapes, **found}:
            if found.get(name) != shapes.get(name):
                required = f"have shape {shapes[name]}" if name in shapes else "not be there"
                raise ValueError(f"GPT.save_pretrained: {name} must {required}, as config says, got "
                                 f"{found.get(name, 'none')}; write save_state(model.state_dict(), path)")  # fmt: skip
        checkpoint.save_model(directory, self.config.to_dict(), state, tokenizer)

    @classmethod
    def from_pretrained(cls, directory: Any, seed: int = 1337, weights: str = "float32", **changes: Any) -> GPT:
        """
        Load a run, a checkpoint of a run, any Hugging Face GPT-2 folder with safetensors, or a model of the hub.

        Parameters
        ----------
        directory : path or str
            For a run, its best checkpoint is loaded. A name such as "gpt2-medium" or "owner/model" is downloaded from
            the Hugging Face hub, if the extra `hub` is installed; see `files/locate.py`.
        seed : int
            Seed of dropout, in case training goes on.
        weights : {"float32", "bfloat16", "int8", "int4"}
            What the matrices are rounded to, for faster generation; activations are then rounded too. See
            `quantization.quantize_model`.
        **changes
            Fields of `GPTConfig` to replace, such as the rates of dropout.

        Returns
        -------
        GPT

        Raises
        ------
        FileNotFoundError, ValueError
            If files are missing, damaged, or not of a GPT-2.

        Examples
        --------
        >>> import tempfile
        >>> model = GPT(GPTConfig(vocab_size=11, n_positions=8, n_embd=4, n_layer=1, n_head=2))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     model.save_pretrained(folder)
        ...     GPT.from_pretrained(folder, attn_pdrop=0.0).num_parameters() == model.num_parameters()
        True
        """
        return pretrained.load(cls, directory, seed, weights, changes)

    def _check_tokens(self, tokens: Any) -> np.ndarray:
        tokens = check_ids("GPT: tokens", tokens, self.config.vocab_size, OF_ANOTHER_TOKENIZER)
        limit = self.config.n_positions
        if tokens.ndim != 2 or tokens.size == 0:
            remedy = "; write [tokens] for a single text" if tokens.ndim == 1 and tokens.size else ""
            raise ValueError(f"GPT: tokens must have shape (B, T), with at least one token, got {tokens.shape}{remedy}")
        if tokens.shape[1] > limit:
            remedy = "keep the last ones, or choose a longer context"
            raise ValueError(f"GPT: at most n_positions = {limit} tokens fit, got {tokens.shape[1]}; {remedy}")
        return tokens

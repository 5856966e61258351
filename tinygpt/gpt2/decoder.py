"""
A decoder: a model that keeps the keys and values of every token it has read, so that one more token costs one token's
work.

    Decoder.prefill              a prompt, layer by layer, by kernels/prompt.py
    Decoder.step                 one more token for each of some sequences, by kernels/decode_step.py
    Decoder.next_tokens          the same, and sampling of the tokens that follow, by the same call of the kernel
    Decoder.extend               several more tokens for each of some sequences, by the same kernel
    Decoder.truncate             forget the last tokens of a sequence

Where no kernel runs (NumPy, float64, a block with a part of the user's own), all run the model's blocks, with a
`LayerCache` each (kv_cache.py tells of the shapes).

Logits with and without the cache differ by the order in which sums are taken: by a few roundings of float32.

Cost:   a step reads every weight once, and 2 C numbers per token, layer and sequence.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygpt.autograd import Tensor, no_grad
from tinygpt.autograd.dispatch import compare, kernel_for
from tinygpt.generation.sampling import NOT_FINITE, check_sampling, choose
from tinygpt.gpt2.decoder_weights import (
    BLOCK,
    NORM,
    addresses_of,
    as_read,
    computes_as,
    layer_of,
    matrix_of,
    norm_of,
    reads_tokens_as_gpt2,
    written_as,
)
from tinygpt.gpt2.kv_cache import LayerCache
from tinygpt.nn import LayerNorm, no_dropout
from tinygpt.nn.module_snapshot import ModuleSnapshot
from tinygpt.ops.embedding import OF_ANOTHER_TOKENIZER, check_ids
from tinygpt.runtime import settings
from tinygpt.runtime.memory import empty
from tinygpt.runtime.whole_number import whole_number

_KERNEL, _PROMPT = "tinygpt.kernels.decode_step", "tinygpt.kernels.prompt"
# In check mode, as a share of the largest value, where weights are quantized: a prompt's kernel rounds activations to
# bfloat16, 8 bits; that of a step, to whole numbers of 13 bits at least for all of GPT-2's sizes.
_TOLERANCE, _TOLERANCE_OF_STEP = 2e-2, 1e-3
_LINE = 16  # numbers in a cache line
_ROWS = 16  # tokens that `extend` reads at once: their partial sums still fit in a cache


class Decoder:
    """
    A model with a key/value cache for some sequences.

    Parameters
    ----------
    model : GPT
        Its parameters are read where they are: do not train it meanwhile. Dropout is off.
    sequences : int
        S, how many texts are read side by side.
    capacity : int, optional
        The length of the longest text, in tokens; by default, and at most, the model's `n_positions`. Memory that is
        not reached is not touched.

    Attributes
    ----------
    lengths : ndarray, int64, (S,)
        How many tokens of each sequence are in the cache.
    capacity : int

    Examples
    --------
    >>> from tinygpt import GPT, GPTConfig
    >>> model = GPT(GPTConfig(vocab_size=11, n_positions=8, n_embd=4, n_layer=1, n_head=2)).eval()
    >>> decoder = Decoder(model)
    >>> decoder.prefill(0, [1, 2]).shape
    (11,)
    >>> logits = decoder.step([0], [3])  # those of the model for all three tokens
    >>> np.allclose(logits, model([[1, 2, 3]]).data[:, -1], atol=1e-6)
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
        N = -(-capacity // _LINE) * _LINE  # each row of keys begins on a cache line
        self._keys = empty((len(model.h), sequences, H, D, N), dtype)
        self._values = empty((len(model.h), sequences, H, N, D), dtype)
        self._bind()
        self._scratch: dict[Any, Any] = {}  # the kernels' memory, by B and the number of threads

    @property
    def lengths(self) -> np.ndarray:
        """How many tokens of each sequence are in the cache."""
        return self._lengths

    @property
    def capacity(self) -> int:
        """The length of the longest text that fits, in tokens."""
        return self._capacity

    @property
    def extends_at_once(self) -> bool:
        """Whether `extend` reads several tokens in one pass: where kernels compute every layer and the head."""
        return self._whole_kernel() is not None

    def _bind(self) -> None:
        """
        Convert the model's weights for the kernels, which check no index: so shapes are checked here.

        All of it or, if something is wrong, none: the decoder would go on with half of each model.
        """
        model, config = self.model, self.model.config
        if not reads_tokens_as_gpt2(model):
            raise TypeError("Decoder: the model's `hidden`, wte, wpe or drop is not GPT's, or has a hook, and a cache "
                            "knows nothing of it; generate with cache=False, --no-cache")  # fmt: skip
        snapshot, C = ModuleSnapshot(model), config.n_embd
        layers = [layer_of(model, i) if self._by_kernel(block, BLOCK) else None for i, block in enumerate(model.h)]
        dense = [None if layer is None else layer_of(model, i, dense=True) for i, layer in enumerate(layers)]
        head_is_ours = self._by_kernel(model.ln_f, NORM) and written_as(model.head) == "gpt2.model.GPT.head"
        norm = norm_of(model, "ln_f", model.ln_f) if head_is_ours else None
        table = matrix_of(model, "wte", model.wte, (config.vocab_size, C), axis=0)
        tokens = as_read(model, "wte.weight", model.wte.weight.data, (config.vocab_size, C))
        positions = as_read(model, "wpe.weight", model.wpe.weight.data, (config.n_positions, C))
        self._layers, self._layers_of_prompts, self._addresses = layers, dense, addresses_of(layers)
        self._norm, self._table, self._tokens, self._positions = norm, table, tokens, positions
        self._quantized, self._snapshot = model.wte.quantized, snapshot
        self._hooked = self._with_hooks()

    def _by_kernel(self, module: Any, classes: str) -> bool:
        """Whether a kernel computes a block, or the final norm."""
        eps = {part.eps for part in module.modules() if isinstance(part, LayerNorm)}
        return computes_as(module, classes) and eps == {self.model.config.layer_norm_epsilon}

    def _bind_again(self) -> None:
        """Read the weights again if a part, a weight or its data was replaced, or a hook came or went."""
        if not self._snapshot.is_unchanged() or self._with_hooks() != self._hooked:
            self._bind()

    def _with_hooks(self) -> list[bool]:
        """Of the modules that ever had a hook, whether they have one now."""
        return [any(module._hooks) for module in self._snapshot.modules if module._hooks is not None]

    def prefill(self, sequence: int, tokens: Any) -> np.ndarray:
        """
        Read a text from its beginning, in place of what the sequence held.

        Parameters
        ----------
        sequence : int
        tokens : array of int, shape (T,)

        Returns
        -------
        ndarray, shape (V,)
            Logits of the token that follows the text.

        Raises
        ------
        TypeError, ValueError
            If `tokens` are not ids of the model, are none, or do not fit.
        """
        self._bind_again()
        tokens = check_ids("Decoder.prefill: tokens", tokens, self.model.config.vocab_size, OF_ANOTHER_TOKENIZER)
        if tokens.ndim > 1 and len(tokens) != 1:
            raise ValueError(f"Decoder.prefill: tokens must have shape (T,), got {tokens.shape}; one text each")
        tokens = tokens.reshape(-1)
        check_ids("Decoder.prefill: sequence", sequence, len(self.lengths))
        T = len(tokens)
        if not 0 < T <= self.capacity:
            raise ValueError(f"Decoder.prefill: from 1 to {self.capacity} tokens fit, got {T}")
        self.lengths[sequence] = 0  # until all of it is read: an error or Ctrl-C leaves no mixture of two texts
        x = self._tokens[tokens] + self._positions[:T]  # (T, C)
        for i, (keys, values) in enumerate(zip(self._keys, self._values, strict=True)):
            x = self._prompt(x, i, LayerCache(keys, values, [sequence], [0]))
        self.lengths[sequence] = T
        return self._head(x[-1:])[0]

    def step(self, sequences: Any, tokens: Any) -> np.ndarray:
        """
        Read one more token for each of some sequences.

        Parameters
        ----------
        sequences : array of int, shape (B,)
            Different ones, each of which has a text in the cache.
        tokens : array of int, shape (B,)

        Returns
        -------
        ndarray, shape (B, V)
            Logits of the tokens that follow these.

        Raises
        ------
        TypeError, ValueError
            If these are not such numbers, or a sequence is empty or full.
        """
        sequences, tokens, lengths = self._checked_rows("Decoder.step", sequences, tokens)
        logits = self._read(sequences, tokens, lengths)
        self.lengths[sequences] += 1
        return logits

    def next_tokens(
        self,
        sequences: Any,
        tokens: Any,
        uniforms: Any,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
    ) -> np.ndarray:
        """
        Read one more token for each of some sequences, and sample those that follow; a kernel does both in one call.

        Parameters
        ----------
        sequences, tokens : array of int, shape (B,)
            As for `step`.
        uniforms : array of float, shape (B,)
            A random number per sequence, from 0 up to, but not including, 1.
        temperature, top_k, top_p
            As in `generation.generate.generate_batch`, which checks them.

        Returns
        -------
        ndarray of int, shape (B,)
            The tokens that `generation.sampling.choose` chooses from the logits that `step` returns.

        Raises
        ------
        TypeError, ValueError
            As `step` does, if the logits are not finite, or if there are no such temperature, top_k and top_p.

        Examples
        --------
        >>> from tinygpt import GPT, GPTConfig
        >>> model = GPT(GPTConfig(vocab_size=11, n_positions=8, n_embd=4, n_layer=1, n_head=2)).eval()
        >>> decoder = Decoder(model)
        >>> start = decoder.prefill(0, [1, 2])
        >>> id = decoder.next_tokens([0], [3], [0.0], temperature=0)[0]
        >>> bool(id == model([[1, 2, 3]]).data[0, -1].argmax())
        True
        """
        sequences, tokens, lengths = self._checked_rows("Decoder.next_tokens", sequences, tokens)
        check_sampling(temperature, top_k, top_p)
        uniforms = np.asarray(uniforms, np.float64)
        if uniforms.shape != (len(tokens),):
            raise ValueError(f"Decoder.next_tokens: needs {len(tokens)} uniforms, got shape {uniforms.shape}")
        kernel = self._whole_kernel()
        if kernel is None or settings.current_implementation() == "check":
            logits = self._read(sequences, tokens, lengths)
            rows = zip(logits, uniforms, strict=True)
            chosen = np.array([choose(*row, temperature, top_k, top_p) for row in rows], np.int64)
        else:
            sampling = (uniforms, temperature, top_k, top_p)
            _, chosen = self._step_by_kernel(kernel, sequences, tokens, lengths, sampling)
            if (chosen < 0).any():
                raise ValueError(NOT_FINITE)
        self.lengths[sequences] += 1
        return chosen

    def extend(self, sequences: Any, tokens: Any) -> list[np.ndarray]:
        """
        Read several more tokens for each of some sequences, as speculative decoding does to verify a draft.

        The logits have the same bits as those of one `step` per token; the kernel reads the weights once for all.

        Parameters
        ----------
        sequences : array of int, shape (B,)
            Different ones, each of which has a text in the cache.
        tokens : sequence of B arrays of int, shape (T,) each
            Each has a length of its own, at least 1.

        Returns
        -------
        list of B ndarrays, shape (T, V) each
            Logits of the token that follows each of these.

        Raises
        ------
        TypeError, ValueError
            If these are not such numbers, a sequence is empty, or the tokens do not fit.

        Examples
        --------
        >>> from tinygpt import GPT, GPTConfig
        >>> model = GPT(GPTConfig(vocab_size=11, n_positions=8, n_embd=4, n_layer=1, n_head=2)).eval()
        >>> decoder = Decoder(model)
        >>> start = decoder.prefill(0, [1, 2])
        >>> [logits] = decoder.extend([0], [[3, 4, 5]])
        >>> decoder.truncate(0, 2)
        >>> all(np.array_equal(decoder.step([0], [token])[0], row) for token, row in zip([3, 4, 5], logits))
        True
        """
        self._bind_again()
        sequences = check_ids("Decoder.extend: sequences", sequences, len(self.lengths)).reshape(-1).tolist()
        vocab_size = self.model.config.vocab_size
        tokens = [check_ids("Decoder.extend: tokens", each, vocab_size, OF_ANOTHER_TOKENIZER) for each in tokens]
        shapes = [each.shape for each in tokens]
        of_each = len(shapes) == len(sequences) == len({*sequences}) and all(len(shape) == 1 for shape in shapes)
        if not of_each:
            raise ValueError(f"Decoder.extend: needs tokens (T,) for each of different sequences, got shapes {shapes} "
                             f"for sequences {sequences}")  # fmt: skip
        before = [self._length("Decoder.extend", sequence) for sequence in sequences]
        for n, each in zip(before, tokens, strict=True):
            if not 0 < len(each) <= self.capacity - n:
                raise ValueError(f"Decoder.extend: from 1 to {self.capacity - n} more tokens fit, got {len(each)}")
        if not sequences:
            return []
        sizes = [len(each) for each in tokens]
        row_sequences, row_tokens = np.repeat(np.array(sequences, np.int64), sizes), np.concatenate(tokens)
        row_lengths = np.concatenate([np.arange(n, n + size) for n, size in zip(before, sizes, strict=True)])
        logits = np.empty((len(row_tokens), vocab_size), self._tokens.dtype)
        at_once = _ROWS if self.extends_at_once else 1  # NumPy's products of one row have other bits than of several
        for first in range(0, len(logits), at_once):
            rows = slice(first, first + at_once)
            logits[rows] = self._read(row_sequences[rows], row_tokens[rows], row_lengths[rows])
        self.lengths[sequences] += sizes
        return np.split(logits, np.cumsum(sizes)[:-1])

    def truncate(self, sequence: int, length: int) -> None:
        """
        Forget the last tokens of a sequence, so that another continuation can be read.

        Parameters
        ----------
        sequence : int
            One that has a text in the cache.
        length : int
            How many tokens to keep, at least one.

        Raises
        ------
        TypeError, ValueError
            If the sequence does not have so many tokens.
        """
        n = self._length("Decoder.truncate", sequence)
        length = whole_number("Decoder.truncate: length", length)
        if not 1 <= length <= n:
            raise ValueError(f"Decoder.truncate: length must be from 1 to {n}, got {length}")
        self.lengths[sequence] = length

    def _length(self, who: str, sequence: int) -> int:
        """How many tokens a sequence has; an error where there is none."""
        if check_ids(f"{who}: sequence", sequence, len(self.lengths)).ndim:
            raise ValueError(f"{who}: sequence must be one number, got {sequence!r}")
        n = int(self.lengths[sequence])
        if not n:
            raise ValueError(f"{who}: sequence {sequence} has no tokens; prefill() begins one")
        return n

    def _checked_rows(self, who: str, sequences: Any, tokens: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """`sequences` and `tokens` as arrays, and the lengths of the sequences; an error where a kernel would fail."""
        self._bind_again()
        tokens = check_ids(f"{who}: tokens", tokens, self.model.config.vocab_size, OF_ANOTHER_TOKENIZER)
        tokens = tokens.reshape(-1)
        sequences = check_ids(f"{who}: sequences", sequences, len(self.lengths)).reshape(-1)
        lengths = self.lengths[sequences]
        if len(tokens) != len(sequences) or len(set(sequences.tolist())) != len(sequences):
            raise ValueError(f"{who}: one token for each of different sequences, got {len(tokens)} tokens for "
                             f"sequences {sequences.tolist()}")  # fmt: skip
        if (lengths < 1).any() or (lengths >= self.capacity).any():
            raise ValueError(f"{who}: each sequence must have from 1 to {self.capacity - 1} tokens, got "
                             f"{lengths.tolist()}; prefill() begins one")  # fmt: skip
        return sequences, tokens, lengths

    def _read(self, sequences: np.ndarray, tokens: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """
        Logits (B, V) of the tokens after these, each of which follows `lengths` tokens of its sequence.

        Rows of one sequence are consecutive tokens, in their order.
        """
        kernel = self._whole_kernel()
        if kernel is not None and settings.current_implementation() != "check":
            return self._step_by_kernel(kernel, sequences, tokens, lengths)[0]
        x = self._tokens[tokens] + self._positions[lengths]  # (B, C)
        for i, (keys, values) in enumerate(zip(self._keys, self._values, strict=True)):
            x = self._layer(x, i, LayerCache(keys, values, sequences, lengths))
        return self._head(x)

    def _step_by_kernel(self, kernel: Any, sequences: Any, tokens: Any, lengths: Any, sampling: Any = None) -> Any:
        """Logits, and tokens if they are sampled, by one call of the kernel for all layers."""
        model = ((self._tokens, self._positions), self._layers[0], self._addresses, self._norm, self._table)
        caches, eps = (self._keys, self._values), self.model.config.layer_norm_epsilon
        return kernel.step(tokens, model, caches, sequences, lengths, eps, self._memory(kernel, len(tokens)), sampling)

    def _whole_kernel(self) -> Any:
        """The kernel, if it computes every layer and the head; else None."""
        return None if self._addresses is None or self._norm is None else kernel_for(_KERNEL, self._tokens)

    def _memory(self, kernel: Any, B: int) -> Any:
        """The kernel's scratch memory for B rows."""
        config = self.model.config
        workers = kernel.workers(config.n_embd, config.inner)
        if (workers, B) not in self._scratch:
            sizes = (B, config.n_embd, config.inner, config.n_head, self.capacity, config.vocab_size)
            self._scratch[workers, B] = kernel.scratch(workers, *sizes)
        return self._scratch[workers, B]

    def _prompt(self, x: np.ndarray, i: int, cache: LayerCache) -> np.ndarray:
        """x (T, C), the tokens of a prompt, after layer i."""
        kernel = None if self._layers[i] is None else kernel_for(_PROMPT, x)
        if kernel is None:
            return self._by_block(x[None], i, cache)[0]
        checking = settings.current_implementation() == "check"
        if checking:
            with settings.implementation("numpy"):
                expected = self._by_block(x[None], i, cache)[0]
        eps = self.model.config.layer_norm_epsilon
        layer = self._layers_of_prompts[i]
        kernel.layer(x, layer, cache.keys, cache.values, cache.sequences[0], eps, bfloat16=bool(self._quantized))
        if checking:
            compare("Decoder.prefill", "layer", [x], [expected], tolerance=_TOLERANCE if self._quantized else None)
        return x

    def _layer(self, x: np.ndarray, i: int, cache: LayerCache) -> np.ndarray:
        """x (B, C) after layer i."""
        kernel = None if self._layers[i] is None else kernel_for(_KERNEL, x)
        if kernel is None:
            return self._step_by_block(x, i, cache)
        checking = settings.current_implementation() == "check"
        if checking:
            with settings.implementation("numpy"):
                expected = self._step_by_block(x, i, cache)
        kernel.layer_step(
            x, self._layers[i], *cache, self.model.config.layer_norm_epsilon, self._memory(kernel, len(x))
        )
        if checking:
            compare("Decoder.step", "layer", [x], [expected], tolerance=_TOLERANCE_OF_STEP if self._quantized else None)
        return x

    def _step_by_block(self, x: np.ndarray, i: int, cache: LayerCache) -> np.ndarray:
        """x (B, C) after layer i; several rows may be tokens of one sequence, in their order."""
        keys, values, sequences, lengths = cache
        if len({*sequences}) == len(x):
            return self._by_block(x[:, None], i, cache)[:, 0]
        out = np.empty_like(x)
        for sequence in {*sequences}:
            rows = np.flatnonzero(np.equal(sequences, sequence))
            own = LayerCache(keys, values, [sequence], [lengths[rows[0]]])
            out[rows] = self._by_block(x[None, rows], i, own)[0]
        return out

    def _by_block(self, x: np.ndarray, i: int, cache: LayerCache) -> np.ndarray:
        """x (B, T, C) after layer i."""
        with no_grad(), no_dropout():
            return self.model.h[i](Tensor(x), cache).data

    def _head(self, x: np.ndarray) -> np.ndarray:
        """Logits (B, V) of the tokens after x (B, C)."""
        kernel = None if self._norm is None else kernel_for(_KERNEL, x)
        if kernel is None:
            return self._by_head(x)
        logits = kernel.head_step(x, self._norm, self._table, self.model.config.layer_norm_epsilon)
        if settings.current_implementation() == "check":
            with settings.implementation("numpy"):
                tolerance = _TOLERANCE_OF_STEP if self._quantized else None
                compare("Decoder", "head", [logits], [self._by_head(x)], tolerance=tolerance)
        return logits

    def _by_head(self, x: np.ndarray) -> np.ndarray:
        with no_grad():
            return self.model.head(self.model.ln_f(Tensor(x))).data

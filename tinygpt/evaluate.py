"""
How well a model predicts a text: loss, perplexity, bits per byte.

The text is cut into windows of `context` tokens side by side, and each token is predicted from those before it in its
window: every token but the first of the text is scored exactly once. (Tokens early in a window see little context, so
overlapping windows would give a lower, and much more costly, figure.)
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from tinygpt.autograd import no_grad
from tinygpt.corpus import windows
from tinygpt.ops.embedding import check_ids
from tinygpt.tokenizer import Tokenizer


class Evaluation(NamedTuple):
    """
    The figures of one text.

    Attributes
    ----------
    loss : float
        Mean cross-entropy of a token, in nats.
    tokens : int
        How many tokens were scored.
    text_bytes : int
        How many bytes of UTF-8 those tokens stand for; special tokens stand for none.
    """

    loss: float
    tokens: int
    text_bytes: int

    @property
    def perplexity(self) -> float:
        """e^loss: as unsure as if choosing among so many equally likely tokens. Depends on the tokenizer."""
        return math.exp(self.loss) if self.loss < 700 else math.inf

    @property
    def bits_per_byte(self) -> float:
        """The whole surprise in bits, spread over the bytes of the text. Comparable between tokenizers."""
        return self.loss * self.tokens / math.log(2) / self.text_bytes if self.text_bytes else math.nan

    def __str__(self) -> str:
        return f"loss {self.loss:.4f}, perplexity {self.perplexity:.2f}, {self.bits_per_byte:.3f} bits per byte"


def evaluate(
    model: Any,
    tokens: np.ndarray,
    tokenizer: Tokenizer,
    *,
    context: int | None = None,
    batch_size: int = 8,
    progress: bool = False,
) -> Evaluation:
    """
    Score a text.

    Parameters
    ----------
    model : GPT
    tokens : integer array, shape (N,), N >= 2
    tokenizer : Tokenizer
        The one that made the tokens: it knows how many bytes each stands for.
    context : int, optional
        Window length in tokens, at most the model's `n_positions`, which is the default.
    batch_size : int
        Windows at a time: memory, not the result, depends on it.
    progress : bool
        Show a bar.

    Returns
    -------
    Evaluation

    Raises
    ------
    ValueError
        If there is nothing to predict, or an id is out of the model's or the tokenizer's range.

    Examples
    --------
    >>> from tinygpt import GPT, GPTConfig
    >>> tokenizer = Tokenizer([bytes([byte]) for byte in range(256)], [], {})
    >>> model = GPT(GPTConfig(vocab_size=256, n_positions=8, n_embd=4, n_layer=1, n_head=2))
    >>> result = evaluate(model, tokenizer.encode_to_numpy("Good night, moon."), tokenizer)
    >>> result.tokens, round(result.bits_per_byte)  # 8 bits a byte: it knows nothing yet
    (16, 8)
    """
    context = model.config.n_positions if context is None else context
    text_bytes = count_bytes(tokens[1:], tokenizer)
    total, count = 0.0, 0
    was_training = model.training
    model.eval()
    bar = tqdm(total=len(tokens) - 1, unit="tok", desc="evaluate", disable=not progress, leave=False)
    try:
        with bar, no_grad():
            for inputs, targets in windows(tokens, context, batch_size):
                total += model.loss(inputs, targets).item() * targets.size
                count += targets.size
                bar.update(targets.size)
    finally:
        model.train(was_training)
    return Evaluation(total / count, count, text_bytes)


def count_bytes(tokens: np.ndarray, tokenizer: Tokenizer) -> int:
    """How many bytes of text the tokens stand for."""
    lengths = np.zeros(tokenizer.n_vocab, np.int64)  # special tokens stay at 0
    for token, text in tokenizer.vocab.items():
        lengths[token] = len(text)
    return int(lengths[check_ids("evaluate: tokens", tokens, tokenizer.n_vocab)].sum())

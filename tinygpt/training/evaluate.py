"""
How well a model predicts a text: loss, perplexity of tokens and of words, bits per byte.

Every token but the first of the text is scored exactly once, given the tokens before it in its window. A window begins
`stride` tokens after the one before, and scores what no earlier one has scored. The protocols in use differ by that:

    stride = context   windows side by side: one pass over the text. Tokens early in a window see little before them,
                       and the figure is the highest. With it the documentation of Hugging Face's transformers finds
                       19.44 for GPT-2 large on WikiText-2 (its windows leave their first token out; ours do not), and
                       nanoGPT its validation losses.
    stride = 512       each token sees at least context - 512 before it: the same page finds 16.45. Twice the work at a
                       context of 1024.
    stride = 1         each token sees all that the context can hold: the lowest figure, and `context` times the work.

OpenAI's table (Radford et al. 2019, table 3: WikiText-2 29.41, 22.76, 19.93, 18.34 for the four sizes) counts the
words of the dataset, not GPT-2's tokens, after undoing WikiText's spacing, with a stride that the paper does not state:
the perplexity of words, on text that was prepared so, is the figure to compare with it. Perplexities of tokens are
comparable between models of one tokenizer only, bits per byte between all.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tinygpt.autograd import no_grad
from tinygpt.ops.embedding import check_ids
from tinygpt.runtime.plural import counted
from tinygpt.runtime.streams import bar
from tinygpt.tokenizer import Tokenizer

if TYPE_CHECKING:
    from tqdm import tqdm


class Evaluation(NamedTuple):
    """
    The figures of one text.

    Attributes
    ----------
    loss : float
        Mean cross-entropy, in nats per token.
    tokens : int
        How many tokens were scored.
    text_bytes : int
        How many bytes of UTF-8 those tokens stand for; special tokens stand for none.
    words : int
        How many words those bytes have: what stands between blanks.
    """

    loss: float
    tokens: int
    text_bytes: int
    words: int = 0

    @property
    def perplexity(self) -> float:
        """e^loss: the number of equally likely tokens that would be as uncertain. Depends on the tokenizer."""
        return _exp(self.loss)

    @property
    def word_perplexity(self) -> float:
        """e to the loss per word: the sum of all losses, over the number of words. NaN where there is no word."""
        return _exp(self.loss * self.tokens / self.words) if self.words else math.nan

    @property
    def bits_per_byte(self) -> float:
        """The sum of all losses in bits, over the bytes of the text. Comparable between tokenizers."""
        return self.loss * self.tokens / math.log(2) / self.text_bytes if self.text_bytes else math.nan

    def __str__(self) -> str:
        perplexity = perplexity_in_words(self.perplexity)
        return f"loss {self.loss:.4f}, perplexity {perplexity}, {self.bits_per_byte:.3f} bits per byte"


def perplexity_in_words(perplexity: float) -> str:
    """
    A perplexity for people: no digits that four decimals of the loss do not support.

    Examples
    --------
    >>> [perplexity_in_words(value) for value in (3.14159, 260.547, 50257.3, 1340216.86, math.inf, math.nan)]
    ['3.14', '260.5', '50,257', 'above 1,000,000', 'above 1,000,000', 'undefined']
    """
    if math.isnan(perplexity):
        return "undefined"
    if perplexity >= 1e6:
        return "above 1,000,000"
    return f"{perplexity:,.{2 if perplexity < 100 else 1 if perplexity < 1000 else 0}f}"


def _exp(nats: float) -> float:
    return math.exp(nats) if nats < 700 else math.inf


def evaluate(
    model: Any,
    tokens: np.ndarray,
    tokenizer: Tokenizer,
    *,
    context: int | None = None,
    stride: int | None = None,
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
        The one that made the tokens: it has the number of bytes of each.
    context : int, optional
        Tokens per window, at most the model's `n_positions`, which is the default.
    stride : int, optional
        How far one window begins after the one before: from 1 to `context`, which is the default.
    batch_size : int
        Windows per batch: memory depends on it, the result does not.
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
    >>> result.tokens, round(result.bits_per_byte)  # 8 bits per byte: it is untrained
    (16, 8)
    """
    context = model.config.n_positions if context is None else context
    sizes = _sizes(tokens, tokenizer)
    with _scoring(model, len(tokens) - 1, progress) as shown:
        total, count = _score(model, windows(tokens, context, batch_size, stride), shown)
    return Evaluation(total / count, count, *sizes)


def evaluate_with_beginning(
    model: Any, tokens: np.ndarray, tokenizer: Tokenizer, beginning: int, *, context: int, batch_size: int = 8
) -> tuple[Evaluation, Evaluation]:
    """
    Score a text, and its beginning on its own, in one pass.

    Parameters
    ----------
    model, tokens, tokenizer, context, batch_size
        As `evaluate` takes them.
    beginning : int
        How many of the scored tokens are the beginning; all of them if there are no more.

    Returns
    -------
    whole, beginning : Evaluation
        As of `evaluate`, with windows side by side; the beginning's to the last bit. They are one object where the text
        has no more tokens than that.

    Examples
    --------
    >>> from tinygpt import GPT, GPTConfig
    >>> tokenizer = Tokenizer([bytes([byte]) for byte in range(256)], [], {})
    >>> model = GPT(GPTConfig(vocab_size=256, n_positions=8, n_embd=4, n_layer=1, n_head=2))
    >>> tokens = tokenizer.encode_to_numpy("Good night, moon.")
    >>> whole, beginning = evaluate_with_beginning(model, tokens, tokenizer, 10, context=8)
    >>> whole.tokens, beginning.tokens, beginning == evaluate(model, tokens[:11], tokenizer)
    (16, 10, True)
    """
    if beginning >= len(tokens) - 1:
        whole = evaluate(model, tokens, tokenizer, context=context, batch_size=batch_size)
        return whole, whole
    sizes = [_sizes(part, tokenizer) for part in (tokens, tokens[: beginning + 1])]
    cut = beginning - beginning % context  # after whole windows: from here on, the beginning ends within a window
    with _scoring(model, len(tokens) - 1, False) as shown:
        shared, end_of_beginning, rest = (
            _score(model, windows(part, context, batch_size) if len(part) > 1 else (), shown)
            for part in (tokens[: cut + 1], tokens[cut : beginning + 1], tokens[cut:])
        )
    figures = []
    for (total, count), size in zip((rest, end_of_beginning), sizes, strict=True):
        count += shared[1]
        figures.append(Evaluation((shared[0] + total) / count, count, *size))
    return figures[0], figures[1]


@contextlib.contextmanager
def _scoring(model: Any, total: int, progress: bool) -> Iterator[tqdm]:
    """A bar; meanwhile the model does not drop out, and nothing is recorded."""
    was_training = model.training
    model.eval()
    try:
        with bar(total=total, unit="tok", desc="evaluate", disable=not progress, leave=False) as shown, no_grad():
            yield shown
    finally:
        model.train(was_training)


def _score(model: Any, batches: Iterable[tuple[np.ndarray, np.ndarray]], shown: tqdm) -> tuple[float, int]:
    """The sum of the losses of all targets, and how many there are."""
    total, count = 0.0, 0
    for inputs, targets in batches:
        scored = int(np.count_nonzero(targets >= 0))
        total += model.loss(inputs, targets).item() * scored
        count += scored
        shown.update(scored)
    return total, count


def _sizes(tokens: np.ndarray, tokenizer: Tokenizer) -> tuple[int, int]:
    """Bytes and words of the tokens that are scored."""
    return count_bytes(tokens[1:], tokenizer), count_words(tokens[1:], tokenizer)


def windows(
    tokens: np.ndarray, context: int, batch_size: int, stride: int | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """
    Lay windows over the whole text: every token but the first is predicted exactly once.

    Parameters
    ----------
    tokens : integer array, shape (N,), N >= 2
    context, batch_size : int
        T tokens per row, at most B rows per batch. What is left at the end comes last as one row of its own.
    stride : int, optional
        How far one window begins after the one before: at most `context`, which is the default, side by side.

    Returns
    -------
    iterator of (inputs, targets) : ndarray, shape (<= B, <= T), int64
        `targets` is one token ahead of `inputs`; -100 where an earlier window has predicted it.

    Raises
    ------
    ValueError
        If there is nothing to predict, or a size is below 1, or the stride is longer than a window.

    Examples
    --------
    >>> [targets.tolist() for inputs, targets in windows(np.arange(8), context=3, batch_size=2)]
    [[[1, 2, 3], [4, 5, 6]], [[7]]]
    >>> [targets.tolist() for inputs, targets in windows(np.arange(8), context=3, batch_size=2, stride=2)]
    [[[1, 2, 3], [-100, 4, 5]], [[-100, 6, 7]]]
    """
    stride = context if stride is None else stride
    for name, size in (("context", context), ("batch_size", batch_size), ("stride", stride)):
        if size < 1:
            raise ValueError(f"windows: {name} must be at least 1, got {name} = {size}; choose a larger one")
    if stride > context:
        raise ValueError(f"windows: stride must be at most the context of {counted(context, 'token')}, or some would "
                         f"be left out, got {stride}")  # fmt: skip
    if len(tokens) < 2:
        raise ValueError(f"windows: needs at least 2 tokens, got {len(tokens)}; use a longer text")
    return _windows(np.asarray(tokens), context, batch_size, stride)


def _windows(tokens: np.ndarray, context: int, batch_size: int, stride: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    last = len(tokens) - 1  # how many are to be predicted
    starts = np.arange(0, last - context + 1, stride)  # of whole windows
    for first in range(0, len(starts), batch_size):
        rows = tokens[starts[first : first + batch_size, None] + np.arange(context + 1)].astype(np.int64)
        inputs, targets = rows[:, :-1], rows[:, 1:].copy()
        targets[(1 if first == 0 else 0) :, : context - stride] = -100
        yield inputs, targets
    start = len(starts) * stride
    done = start - stride + context if len(starts) else 0
    if done < last:
        rest = tokens[None, start:].astype(np.int64)
        targets = rest[:, 1:].copy()
        targets[:, : max(0, done - start)] = -100
        yield rest[:, :-1], targets


def count_bytes(tokens: np.ndarray, tokenizer: Tokenizer) -> int:
    """How many bytes of text the tokens stand for."""
    return int(_lengths(tokens, tokenizer).sum())


def count_words(tokens: np.ndarray, tokenizer: Tokenizer) -> int:
    """How many words the tokens stand for: words are separated by blanks, or special tokens."""
    tokens = np.asarray(tokens)
    special = np.flatnonzero(_lengths(tokens, tokenizer) == 0)
    parts = np.split(np.delete(tokens, special), special - np.arange(len(special)))
    return sum(len(tokenizer.decode_bytes(part).split()) for part in parts)


def _lengths(tokens: np.ndarray, tokenizer: Tokenizer) -> np.ndarray:
    lengths = np.zeros(tokenizer.n_vocab, np.int64)  # special tokens stay at 0
    for token, text in tokenizer.vocab.items():
        lengths[token] = len(text)
    return lengths[check_ids("evaluate: tokens", tokens, tokenizer.n_vocab)]

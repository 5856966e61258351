"""
Training a tokenizer: count the words of the corpus, then learn merges from them until the vocabulary is full.

The reference does both (`split`, `learn_merges`); with enough text, the kernels do.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from operator import index
from typing import TYPE_CHECKING, SupportsIndex

from tinygpt.runtime.plural import counted
from tinygpt.runtime.streams import bar
from tinygpt.tokenizer.pattern import Pattern
from tinygpt.tokenizer.reference import BYTE_ORDERS, chunks, learn_merges, split, without_surrogates
from tinygpt.tokenizer.special_tokens import split_off
from tinygpt.tokenizer.switch import Switch, check_agreement, must_check
from tinygpt.tokenizer.validation import check_special_tokens

if TYPE_CHECKING:
    from tinygpt.tokenizer.kernels.counting import WordCounts

Merge = tuple[bytes, bytes]
Learned = tuple[list[bytes], list[Merge], dict[str, int]]
_BLOCK = 1 << 20  # characters that the kernels count in one call
_LEARNING = 100  # learning from a character of the different words takes about as long as counting so many
_WORTH_LOADING = 20_000  # characters of the different words; from fewer the reference has learned at once


def train(
    text_or_iterator: str | Iterable[str],
    vocab_size: int,
    special_tokens: Sequence[str],
    byte_order: str,
    progress: bool,
    pattern: str | None,
) -> Learned:
    """Learn the first three arguments of `Tokenizer` from text; `Tokenizer.train` describes the parameters."""
    if isinstance(special_tokens, str):
        raise TypeError(f"Tokenizer.train: special_tokens must be a sequence of str; write ({special_tokens!r},)")
    if byte_order not in BYTE_ORDERS:
        raise ValueError(f"Tokenizer.train: byte_order must be 'gpt2' or 'raw', got {byte_order!r}")
    if not isinstance(vocab_size, SupportsIndex):
        raise TypeError(f"Tokenizer.train: vocab_size must be an integer, got {type(vocab_size).__name__}")
    room = index(vocab_size) - len(special_tokens)
    if room < 256:
        raise ValueError(
            f"Tokenizer.train: vocab_size must be at least {256 + len(special_tokens)}, for 256 bytes and "
            f"{counted(len(special_tokens), 'special token')}, got {vocab_size}"
        )
    if len(set(special_tokens)) < len(special_tokens):
        raise ValueError(f"Tokenizer.train: special_tokens must differ from each other, got {special_tokens}")
    check_special_tokens({text: room + number for number, text in enumerate(special_tokens)}, ())
    vocab, merges = _learn(
        _count_words(text_or_iterator, special_tokens, pattern, progress), room, byte_order, progress
    )
    if len(vocab) < room:
        n_vocab = len(vocab) + len(special_tokens)
        warnings.warn(
            f"Tokenizer.train: the corpus has pairs for {n_vocab} tokens only, not for {vocab_size}: n_vocab is "
            f"{n_vocab}; give more text or a smaller vocabulary size",
            stacklevel=3,
        )
    return vocab, merges, {text: len(vocab) + number for number, text in enumerate(special_tokens)}


def _learn(words: CorpusWords, room: int, byte_order: str, progress: bool) -> tuple[list[bytes], list[Merge]]:
    """Take merges until there are `room` tokens or no more pairs."""
    vocab = [bytes([byte]) for byte in BYTE_ORDERS[byte_order]]
    merges: list[Merge] = []
    room_left = room - len(vocab)
    with bar(desc="learning tokens", total=room_left, unit="tok", disable=not progress) as shown:
        for learned in words.learn(byte_order, room_left):
            merges += learned
            vocab += [left + right for left, right in learned]
            shown.update(len(learned))
    return vocab, merges


def _count_words(
    text_or_iterator: str | Iterable[str], special_tokens: Sequence[str], pattern: str | None, progress: bool
) -> CorpusWords:
    words, documents = CorpusWords(pattern), _documents(text_or_iterator)
    first = list(islice(documents, 1))  # what is wrong with the beginning of a text is said before there is a bar
    with bar(desc="counting words", unit=" characters", unit_scale=True, disable=not progress) as shown:
        for document in chain(first, documents):
            for part in split_off(without_surrogates(document), special_tokens)[::2]:
                words.add(part)
            shown.update(len(document))
    return words


def _documents(text_or_iterator: str | Iterable[str]) -> Iterator[str]:
    if isinstance(text_or_iterator, str):
        text_or_iterator = [text_or_iterator]
    elif isinstance(text_or_iterator, bytes) or not isinstance(text_or_iterator, Iterable):
        raise TypeError(f"Tokenizer.train: needs a str or an iterable of str, got {type(text_or_iterator).__name__}")
    for number, document in enumerate(text_or_iterator):
        if not isinstance(document, str):
            raise TypeError(f"Tokenizer.train: document {number} must be a str, got {type(document).__name__}")
        yield document


class CorpusWords:
    """
    The words of a corpus with their counts, and the merges learned from them; texts are not kept.

    Parameters
    ----------
    pattern : str or None
        How to split; None is GPT-2's way.

    Examples
    --------
    >>> words = CorpusWords(None)
    >>> words.add("hen, then, hat")
    >>> list(words.learn("raw", 3))
    [[(b'e', b'n')], [(b'h', b'en')], [(b' ', b'h')]]
    """

    def __init__(self, pattern: str | None) -> None:
        self._pattern = None if pattern is None else Pattern(pattern)
        self._switch = Switch("training")
        self._check = must_check()
        self._counts: Counter[str] = Counter()
        self._compiled: WordCounts | None = None
        self._waiting: list[bytes] = []
        self._size_waiting = 0

    def add(self, text: str) -> None:
        """Count the words of a text without lone surrogates."""
        self._choose(self._switch, len(text))
        if self._pattern is not None:
            self._counts.update(self._pattern.split(text))
            return
        for chunk in chunks(text, _BLOCK):
            if self._compiled is None or self._check:
                self._counts.update(split(chunk))
            if self._compiled is not None:
                self._waiting.append(chunk.encode("utf-8"))
                self._size_waiting += len(chunk)
                if self._size_waiting >= _BLOCK:
                    self._count_waiting(self._compiled)

    def learn(self, byte_order: str, how_many: int) -> Iterator[list[Merge]]:
        """Learn merges, the most frequent pair first, a few at a time, until there are enough or no pair is left."""
        size = sum(map(len, self._counts))
        if how_many > 0 and size >= _WORTH_LOADING:
            self._choose(Switch("training"), _LEARNING * size)  # what is left to do counts, not what is done
        counts = {word.encode("utf-8"): count for word, count in self._counts.items()}
        reference = islice(learn_merges(counts, byte_order), how_many)
        if self._compiled is None:
            yield from ([merge] for merge in reference)
            return
        self._count_waiting(self._compiled)
        if not self._check or self._pattern is not None:
            self._compiled.add(list(counts), are_pieces=True, times=list(counts.values()))
        for merges in self._learn_by_kernels(self._compiled, byte_order, how_many):
            if self._check:
                check_agreement("Tokenizer.train", merges, list(islice(reference, len(merges))))
            yield merges
        if self._check:
            check_agreement("Tokenizer.train", [], list(reference))

    def _choose(self, switch: Switch, size: int) -> None:
        """Go over to the kernels if that is worth it for so many more characters."""
        if self._compiled is None and switch.to_kernels(size):
            from tinygpt.tokenizer.kernels.counting import WordCounts  # late: it imports Numba
            from tinygpt.tokenizer.kernels.trainer import compile_ahead

            compile_ahead()
            self._compiled = WordCounts()

    def _count_waiting(self, compiled: WordCounts) -> None:
        compiled.add(self._waiting, are_pieces=False)
        self._waiting, self._size_waiting = [], 0

    @staticmethod
    def _learn_by_kernels(compiled: WordCounts, byte_order: str, how_many: int) -> Iterator[list[Merge]]:
        from tinygpt.tokenizer.kernels.trainer import learn

        tokens = [bytes([byte]) for byte in BYTE_ORDERS[byte_order]]
        for pairs in learn(compiled.words(), BYTE_ORDERS[byte_order], how_many):
            merges = []
            for left, right in pairs.tolist():  # a token may be made of the one before
                merges.append((tokens[left], tokens[right]))
                tokens.append(tokens[left] + tokens[right])
            yield merges

"""Training a tokenizer: count the words of the corpus, then take the merges they teach until the vocabulary is full."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from operator import index
from typing import SupportsIndex

from tinygpt.runtime.streams import bar
from tinygpt.tokenizer.reference import BYTE_ORDERS, without_surrogates
from tinygpt.tokenizer.special_tokens import split_off
from tinygpt.tokenizer.validation import check_special_tokens
from tinygpt.tokenizer.words import CorpusWords

Learned = tuple[list[bytes], list[tuple[bytes, bytes]], dict[str, int]]


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
            f"{len(special_tokens)} special tokens, got {vocab_size}"
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
            f"Tokenizer.train: the corpus has pairs for {n_vocab} tokens only, not for the {vocab_size} that were "
            "asked for; give more text or ask for fewer",
            stacklevel=3,
        )
    return vocab, merges, {text: len(vocab) + number for number, text in enumerate(special_tokens)}


def _learn(
    words: CorpusWords, room: int, byte_order: str, progress: bool
) -> tuple[list[bytes], list[tuple[bytes, bytes]]]:
    """Take merges until there are `room` tokens or no more pairs."""
    vocab = [bytes([byte]) for byte in BYTE_ORDERS[byte_order]]
    merges: list[tuple[bytes, bytes]] = []
    room_left = room - len(vocab)
    with bar(desc="learning tokens", total=room_left, disable=not progress) as shown:
        for learned in words.learn(byte_order, room_left):
            merges += learned
            vocab += [left + right for left, right in learned]
            shown.update(len(learned))
    return vocab, merges


def _count_words(
    text_or_iterator: str | Iterable[str], special_tokens: Sequence[str], pattern: str | None, progress: bool
) -> CorpusWords:
    words = CorpusWords(pattern)
    with bar(desc="counting words", unit=" characters", unit_scale=True, disable=not progress) as shown:
        for document in _documents(text_or_iterator):
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

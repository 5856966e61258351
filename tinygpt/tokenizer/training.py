"""
Training a tokenizer: count the pieces of the corpus, then take merges from `learn_merges` of reference.py until the
vocabulary is full.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from operator import index
from typing import SupportsIndex

from tqdm import tqdm

from tinygpt.tokenizer.reference import BYTE_ORDERS, chunks, learn_merges, split, without_surrogates
from tinygpt.tokenizer.special_tokens import split_off
from tinygpt.tokenizer.validation import check_special_tokens

Learned = tuple[list[bytes], list[tuple[bytes, bytes]], dict[str, int]]


def train(
    text_or_iterator: str | Iterable[str],
    vocab_size: int,
    special_tokens: Sequence[str],
    byte_order: str,
    progress: bool,
) -> Learned:
    """Learn the three arguments of `Tokenizer` from text; `Tokenizer.train` describes the parameters."""
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
    vocab, merges = _learn(_count_words(text_or_iterator, special_tokens, progress), room, byte_order, progress)
    if len(vocab) < room:
        n_vocab = len(vocab) + len(special_tokens)
        warnings.warn(
            f"Tokenizer.train: the corpus has pairs for {n_vocab} tokens only, not for vocab_size = {vocab_size}, so "
            f"n_vocab is {n_vocab}; give more text or a smaller vocab_size",
            stacklevel=3,
        )
    return vocab, merges, {text: len(vocab) + number for number, text in enumerate(special_tokens)}


def _learn(
    words: dict[bytes, int], room: int, byte_order: str, progress: bool
) -> tuple[list[bytes], list[tuple[bytes, bytes]]]:
    """Take merges until there are `room` tokens or no more pairs."""
    vocab = [bytes([byte]) for byte in BYTE_ORDERS[byte_order]]
    merges = []
    room_left = room - len(vocab)
    learned = tqdm(
        islice(learn_merges(words, byte_order), room_left), "learning tokens", room_left, disable=not progress
    )
    for left, right in learned:
        merges.append((left, right))
        vocab.append(left + right)
    return vocab, merges


def _count_words(
    text_or_iterator: str | Iterable[str], special_tokens: Sequence[str], progress: bool
) -> dict[bytes, int]:
    words: Counter[str] = Counter()
    with tqdm(desc="counting words", unit=" characters", unit_scale=True, disable=not progress) as bar:
        for document in _documents(text_or_iterator):
            for part in split_off(without_surrogates(document), special_tokens)[::2]:
                for chunk in chunks(part):
                    words.update(split(chunk))
            bar.update(len(document))
    return {word.encode("utf-8"): count for word, count in words.items()}


def _documents(text_or_iterator: str | Iterable[str]) -> Iterator[str]:
    if isinstance(text_or_iterator, str):
        text_or_iterator = [text_or_iterator]
    elif isinstance(text_or_iterator, bytes) or not isinstance(text_or_iterator, Iterable):
        raise TypeError(f"Tokenizer.train: needs a str or an iterable of str, got {type(text_or_iterator).__name__}")
    for number, document in enumerate(text_or_iterator):
        if not isinstance(document, str):
            raise TypeError(f"Tokenizer.train: document {number} must be a str, got {type(document).__name__}")
        yield document

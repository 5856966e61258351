"""Counting the words of a corpus for the trainer: splitting and counting in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tinygpt.tokenizer.kernels import kernel
from tinygpt.tokenizer.kernels.hashing import (
    EMPTY,
    PADDING,
    grown,
    grown_table,
    key_of,
    padded,
    same_bytes,
    secret_numbers,
    slot_of,
)
from tinygpt.tokenizer.kernels.splitter import BYTE_CLASSES, CLASSES, piece_end

_FIRST_ROOM = 1 << 14  # words; doubled as often as needed


class Words(NamedTuple):
    """Words, numbered in the order in which they came."""

    table: np.ndarray  # from keys to numbers, see hashing.py
    data: np.ndarray  # (bytes,) uint8: one word after another
    borders: np.ndarray  # (words + 1,) int64: where each begins, and where the last one ends
    counts: np.ndarray  # (words,) int64


class WordCounts:
    """
    Counts the words of texts; it keeps the words, not the texts.

    Examples
    --------
    >>> counts = WordCounts()
    >>> counts.add([b"hen, hen, hen"], are_pieces=False)
    >>> counts.as_dict()
    {b'hen': 1, b',': 2, b' hen': 2}
    """

    def __init__(self) -> None:
        self._secret = secret_numbers()
        self._count = 0
        self._words = Words(
            table=np.zeros(4 * _FIRST_ROOM, np.uint64),
            data=np.empty(16 * _FIRST_ROOM, np.uint8),
            borders=np.zeros(_FIRST_ROOM + 1, np.int64),
            counts=np.empty(_FIRST_ROOM, np.int64),
        )

    def add(self, texts: Sequence[bytes], are_pieces: bool, times: Sequence[int] | None = None) -> None:
        """
        Count the pieces of texts.

        Parameters
        ----------
        texts : sequence of bytes
            UTF-8.
        are_pieces : bool
            Whether each is a piece itself, or to be split by GPT-2's pattern.
        times : sequence of int
            How often each text occurs; once by default.
        """
        text = padded(b"".join(texts))
        repeated = np.ones(len(texts), np.int64) if times is None else np.array(times, np.int64)
        ends = np.cumsum([len(text) for text in texts], dtype=np.int64)
        start = 0
        with np.errstate(over="ignore"):  # hashes overflow; without the compiler NumPy would warn
            while True:
                start, self._count = count_words(
                    text,
                    ends,
                    repeated,
                    start,
                    are_pieces,
                    CLASSES,
                    BYTE_CLASSES,
                    self._secret,
                    self._words,
                    self._count,
                )
                if start == len(text) - PADDING:
                    return
                self._words = self._with_room_for(len(text))

    def _with_room_for(self, size: int) -> Words:
        words = self._words
        room = 2 * len(words.counts)
        return Words(
            grown_table(words.table, self._secret),
            grown(words.data, 2 * len(words.data) + size),
            grown(words.borders, room + 1),
            grown(words.counts, room),
        )

    def words(self) -> Words:
        """The words, without a table and without spare room."""
        table, data, borders, counts = self._words
        return Words(table[:0], data[: borders[self._count]], borders[: self._count + 1], counts[: self._count])

    def as_dict(self) -> dict[bytes, int]:
        """The words with their counts."""
        _, data, borders, counts = self.words()
        ends = borders.tolist()
        return {
            data[start:end].tobytes(): count
            for start, end, count in zip(ends[:-1], ends[1:], counts.tolist(), strict=True)
        }


@kernel
def count_words(text, ends, times, start, are_pieces, classes, byte_classes, secret, words, count):
    """
    Count the words from `start` on, and return where it stopped, and how many different words there are now.

    It stops at the end, or at a word that there is no room for. `ends` is where each of the texts ends, `times` how
    often it occurs.
    """
    for row in range(len(ends)):
        while start < ends[row]:
            stop = ends[row] if are_pieces else piece_end(text, start, ends[row], classes, byte_classes)
            length = stop - start
            key = key_of(text, start, length, secret)
            slot = find_word(text, start, length, key, words.table, words.data, words.borders, secret)
            if words.table[2 * slot] != EMPTY:
                words.counts[np.int64(words.table[2 * slot + 1])] += times[row]
                start = stop
                continue
            begin = words.borders[count]
            if count == len(words.counts) or begin + length > len(words.data):
                return start, count
            for offset in range(length):
                words.data[begin + offset] = text[start + offset]
            words.table[2 * slot] = key
            words.table[2 * slot + 1] = np.uint64(count)
            words.counts[count] = times[row]
            count += 1
            words.borders[count] = begin + length
            start = stop
    return start, count


@kernel
def find_word(text, start, length, key, table, data, borders, secret):
    """The slot that holds a word, or else the free slot for it."""
    last = len(table) // 2 - 1
    slot = slot_of(key, secret, last + 1)
    while table[2 * slot] != EMPTY:
        if table[2 * slot] == key:
            word = np.int64(table[2 * slot + 1])
            begin = borders[word]
            if length < 8 or (borders[word + 1] - begin == length and same_bytes(data, begin, text, start, length)):
                break
        slot = (slot + 1) & last
    return slot

"""The encoding kernels for Python callers: tables, buffers, and a cache of pieces per thread that encodes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, repeat
from typing import Any

import numpy as np

from tinygpt.tokenizer.kernels import compiler
from tinygpt.tokenizer.kernels.encoder import SHORT, Memory, Vocabulary, encode_texts
from tinygpt.tokenizer.kernels.hashing import padded, power_of_two, secret_numbers
from tinygpt.tokenizer.kernels.merging import fill_pairs
from tinygpt.tokenizer.kernels.splitter import BYTE_CLASSES, CLASSES
from tinygpt.tokenizer.reference import Merges, chunks

REMEMBERED = 1 << 16  # pieces in the cache besides the tokens
_CHUNK = 1 << 20  # characters encoded at a time: buffers stay small, and warm in the cache


class CompiledEncoder:
    """
    The merges of one vocabulary, applied by the kernels. Several threads may use it at once.

    Parameters
    ----------
    ids : mapping of bytes to int
        The ordinary tokens, all single bytes among them.
    merges : mapping of (int, int) to (int, int)
        As in reference.py. Pairs of equal rank must join to the same token.
    remembered : int
        How many pieces to cache besides the tokens; then the cache is emptied.
    """

    def __init__(self, ids: Mapping[bytes, int], merges: Merges, remembered: int = REMEMBERED) -> None:
        tokens = sorted(ids, key=ids.__getitem__)  # kernels number the tokens in this order, for ids may have holes
        numbered = np.array([ids[token] for token in tokens], np.int64)
        lengths = np.array([len(token) for token in tokens], np.int64)
        secret = secret_numbers()
        self._vocabulary = Vocabulary(
            ids=numbered.astype(np.uint32),
            byte_tokens=np.searchsorted(numbered, [ids[bytes([byte])] for byte in range(256)]),
            pairs=_pair_table(numbered, merges, secret),
            secret=secret,
            slots=np.zeros(2 * power_of_two(2 * (len(tokens) + remembered + 1)), np.uint64),
            classes=CLASSES,
            byte_classes=BYTE_CLASSES,
        )
        words = 2 * int(np.minimum(lengths, SHORT).sum()) + 8 * remembered
        self._first = _memory(self._vocabulary.slots, np.empty(words, np.uint32), np.zeros(4, np.int64))
        self._idle = [self._first]
        with compiler.compiling("encoding", progress=False):
            self.encode_pieces(b"".join(tokens), np.cumsum(lengths))  # so that it remembers them
        self._first.used[2:] = self._first.used[:2]
        self._vocabulary = self._vocabulary._replace(slots=self._first.slots.copy())

    def encode(self, texts: Sequence[str], separators: Sequence[int] = ()) -> np.ndarray:
        """
        Encode texts by GPT-2's pattern.

        Parameters
        ----------
        texts : sequence of str
            Without lone surrogates.
        separators : sequence of int
            The ids that stand between them, one fewer than there are texts.

        Returns
        -------
        ids : array of shape (N,), uint32
        """
        parts = []
        for batch in _batches(texts, separators):
            data = [text.encode("utf-8") for text, _ in batch]
            ends = np.cumsum([len(part) for part in data])
            after = np.array([separator for _, separator in batch], np.int64)
            parts.append(self._run(b"".join(data), ends, after, False))
        return np.concatenate(parts) if len(parts) != 1 else parts[0]

    def encode_pieces(self, data: bytes, ends: np.ndarray) -> np.ndarray:
        """Encode consecutive pieces in UTF-8 that end at `ends`."""
        return self._run(data, np.asarray(ends, np.int64), np.full(len(ends), -1), True)

    def _run(self, data: bytes, ends: np.ndarray, separators: np.ndarray, are_pieces: bool) -> np.ndarray:
        out = np.empty(len(data) + len(separators), np.uint32)  # no byte gives more than one id
        text, place, scratch = padded(data), np.zeros(3, np.int64), np.empty(0, np.int64)
        memory = self._take_memory()
        with np.errstate(over="ignore"):  # hashes overflow; without the compiler NumPy would warn
            while too_long := encode_texts(
                text, ends, separators, are_pieces, place, out, self._vocabulary, memory, scratch
            ):
                scratch = np.empty(14 * too_long, np.int64)  # twice what it takes, so that this happens rarely
        self._idle.append(memory)
        return out[: place[2]].copy()

    def _take_memory(self) -> Memory:
        """A memory that no other thread uses. List operations are atomic, so this needs no lock."""
        try:
            return self._idle.pop()
        except IndexError:
            first = self._first
            store = np.empty_like(first.store)
            tokens_end = first.used[3]
            store[:tokens_end] = first.store[:tokens_end]  # other threads that use `first` do not write there
            return _memory(self._vocabulary.slots.copy(), store, np.tile(first.used[2:], 2))


def _memory(slots: np.ndarray, store: np.ndarray, used: np.ndarray) -> Memory:
    scratch = np.empty((2, SHORT), np.int64)
    return Memory(slots, store, store.view(np.uint8), used, scratch[0], scratch[1])


def _pair_table(numbered: np.ndarray, merges: Merges, secret: np.ndarray) -> np.ndarray:
    pairs = np.zeros(2 * power_of_two(2 * len(merges) + 1), np.uint64)
    if merges:
        tokens = np.searchsorted(numbered, np.array(list(merges)))
        ranks, joined = np.array(list(merges.values())).T
        values = ranks << 32 | np.searchsorted(numbered, joined)
        with np.errstate(over="ignore"):
            fill_pairs(pairs, tokens[:, 0].copy(), tokens[:, 1].copy(), values, secret)
    return pairs


def _batches(texts: Sequence[str], separators: Sequence[int]) -> Iterator[list[tuple[str, int]]]:
    """Texts and what follows them (-1 for nothing), cut where that is safe and gathered to about one chunk."""
    batch: list[tuple[str, Any]] = []
    size = 0
    for text, separator in zip(texts, chain(separators, repeat(-1)), strict=False):
        for part in chunks(text, _CHUNK) if len(text) > _CHUNK else [text]:
            if size + len(part) > _CHUNK and batch:
                yield batch
                batch, size = [], 0
            batch.append((part, -1))
            size += len(part)
        batch[-1] = (batch[-1][0], separator)
    if batch:
        yield batch

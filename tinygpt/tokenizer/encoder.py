"""
Ordinary text to ids: by the reference with a cache of pieces, since most words of a text repeat, or by the kernels
where there is enough text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import accumulate, zip_longest
from typing import TYPE_CHECKING

import numpy as np

from tinygpt.tokenizer.pattern import Pattern
from tinygpt.tokenizer.reference import Merges, chunks, last_cut, merge, merge_long, split
from tinygpt.tokenizer.switch import Switch, check_agreement, must_check

if TYPE_CHECKING:
    from tinygpt.tokenizer.kernels.compiled_encoder import CompiledEncoder

_REMEMBERED = 1 << 16  # pieces in the cache; then it is emptied, so that it is bounded and follows the text
_SHORT = 64  # bytes; longer pieces are rare: they are merged by the heap and not cached
_WORTH_A_CALL = 64  # characters; below, calling a kernel costs more than it saves
_SHARED_INTEGERS = 1 << 20  # a larger vocabulary has no table of its ids as Python's integers


class Encoder:
    """
    The merges of one vocabulary, applied to text that holds no special tokens and no lone surrogates.

    Parameters
    ----------
    ids : mapping of bytes to int
        The ordinary tokens, all single bytes among them.
    merges : sequence of (bytes, bytes)
        The earliest first.
    n_vocab : int
        Above the highest id, those of separators among them.
    pattern, whole_pieces
        As `Tokenizer` takes them. The kernels always merge; with `whole_pieces`, the reference encodes.
    """

    def __init__(
        self,
        ids: Mapping[bytes, int],
        merges: Sequence[tuple[bytes, bytes]],
        n_vocab: int,
        pattern: str | None = None,
        whole_pieces: bool = False,
    ) -> None:
        self._ids = ids
        self._whole = ids if whole_pieces else {}
        self._n_vocab = n_vocab
        self._byte_ids = [ids[bytes([byte])] for byte in range(256)]
        self._pairs = merges
        self._pattern = None if pattern is None else Pattern(pattern)
        self._remembered: dict[str, tuple[int, ...]] = {}
        self._switch = Switch("encoding")
        self._compiled: CompiledEncoder | None = None

    def encode(self, texts: Sequence[str], separators: Sequence[int] = ()) -> list[int] | np.ndarray:
        """
        Return the ids of texts, with the separators, one fewer, between them: a list, or uint32 of shape (N,).

        Examples
        --------
        >>> encoder = Encoder({bytes([b]): b for b in range(256)} | {b"he": 256}, [(b"h", b"e")], 258)
        >>> encoder.encode(["hen", "the"], [257])
        [256, 110, 257, 116, 256]
        """
        size = sum(map(len, texts))
        if self._whole or (size < _WORTH_A_CALL and not must_check()):
            return self.encode_by_reference(texts, separators)
        if not self._switch.to_kernels(size, ready=self._compiled is not None):
            return self.encode_by_reference(texts, separators)
        ids = self._encode_by_kernels(texts, separators)
        if must_check():
            check_agreement("Tokenizer.encode", ids, self.encode_by_reference(texts, separators))
        return ids

    def encode_to_list(self, texts: Sequence[str], separators: Sequence[int] = ()) -> list[int]:
        """Do the same, always into a list."""
        ids = self.encode(texts, separators)
        if isinstance(ids, list):
            return ids
        return ids.tolist() if self._integers is None else self._integers.take(ids).tolist()

    def encode_by_reference(self, texts: Sequence[str], separators: Sequence[int] = ()) -> list[int]:
        """Do the same as the reference does it."""
        ids: list[int] = []
        for text, separator in zip_longest(texts, separators):
            for chunk in chunks(text) if self._pattern is None else [text]:
                for piece in split(chunk) if self._pattern is None else self._pattern.split(chunk):
                    ids.extend(self._remembered.get(piece) or self.encode_piece(piece))
            if separator is not None:
                ids.append(separator)
        return ids

    def last_piece(self, text: str) -> str:
        """Return the last of the pieces that a text is split into; "" if the text is empty."""
        pieces = split(text[last_cut(text) :]) if self._pattern is None else self._pattern.split(text)
        return pieces[-1] if pieces else ""

    def merge_bytes(self, data: bytes) -> Sequence[int]:
        """Return the ids of bytes, which need not be whole characters, as if they were one piece."""
        ids = [self._byte_ids[byte] for byte in data]
        return merge(ids, self._merges) if len(ids) <= _SHORT else merge_long(ids, self._merges)

    def encode_piece(self, piece: str) -> Sequence[int]:
        """Return the ids of one piece."""
        data = piece.encode("utf-8")
        if data in self._whole:
            return (self._whole[data],)
        ids = self.merge_bytes(data)
        if len(data) > _SHORT:
            return ids
        if len(self._remembered) >= _REMEMBERED:
            self._remembered.clear()
        self._remembered[piece] = merged = tuple(ids)
        return merged

    def _encode_by_kernels(self, texts: Sequence[str], separators: Sequence[int]) -> np.ndarray:
        if self._compiled is None:
            from tinygpt.tokenizer.kernels.compiled_encoder import CompiledEncoder  # late: it imports Numba

            self._compiled = CompiledEncoder(self._ids, self._merges)
        if self._pattern is None:
            return self._compiled.encode(texts, separators)
        parts = []
        for text, separator in zip_longest(texts, separators):
            pieces = [piece.encode("utf-8") for piece in self._pattern.split(text)]
            ends = np.array(list(accumulate(map(len, pieces))), np.int64)
            parts.append(self._compiled.encode_pieces(b"".join(pieces), ends))
            if separator is not None:
                parts.append(np.array([separator], np.uint32))
        return np.concatenate(parts)

    @cached_property
    def _merges(self) -> Merges:
        """The merges in the form of the reference, made at first use."""
        ids = self._ids
        return {(ids[left], ids[right]): (rank, ids[left + right]) for rank, (left, right) in enumerate(self._pairs)}

    @cached_property
    def _integers(self) -> np.ndarray | None:
        """Each id as one integer object that all lists share: faster than making another."""
        return np.array(range(self._n_vocab), object) if self._n_vocab <= _SHARED_INTEGERS else None

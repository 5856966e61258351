"""
Ordinary text to ids: split it, merge each piece, and remember the pieces, because a text is mostly words that came
before.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence

from tinygpt.tokenizer.reference import chunks, merge, merge_long, split

_REMEMBERED = 1 << 16  # pieces; then the memory starts afresh, so that it is bounded and follows the text
_SHORT = 64  # bytes; longer pieces are rare: they are merged by the heap and not remembered


class Encoder:
    """
    The merges of one vocabulary, applied to text that holds no special tokens.

    Parameters
    ----------
    ids : mapping of bytes to int
        The ordinary tokens, all single bytes among them.
    merges : sequence of (bytes, bytes)
        The earliest first.
    """

    def __init__(self, ids: Mapping[bytes, int], merges: Sequence[tuple[bytes, bytes]]) -> None:
        self._byte_ids = [ids[bytes([byte])] for byte in range(256)]
        self._merges = {(ids[left], ids[right]): (rank, ids[left + right]) for rank, (left, right) in enumerate(merges)}
        self._remembered: dict[str, tuple[int, ...]] = {}

    def encode_into(self, ids: list[int] | array[int], text: str) -> None:
        """
        Append the ids of a text, which must have no lone surrogates, to a list or an array.

        Examples
        --------
        >>> ids = [7]
        >>> Encoder({bytes([b]): b for b in range(256)} | {b"he": 256}, [(b"h", b"e")]).encode_into(ids, "hen")
        >>> ids
        [7, 256, 110]
        """
        for chunk in chunks(text):
            for piece in split(chunk):
                ids.extend(self._remembered.get(piece) or self._encode_piece(piece))

    def _encode_piece(self, piece: str) -> Sequence[int]:
        ids = [self._byte_ids[byte] for byte in piece.encode("utf-8")]
        if len(ids) > _SHORT:
            return merge_long(ids, self._merges)
        if len(self._remembered) >= _REMEMBERED:
            self._remembered.clear()
        self._remembered[piece] = merged = tuple(merge(ids, self._merges))
        return merged

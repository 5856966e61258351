"""
Ordinary text to ids: split it, merge each piece, and remember the pieces, because a text is mostly words that came
before.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence

import regex

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
    pattern, whole_pieces
        As `Tokenizer` takes them.
    """

    def __init__(
        self,
        ids: Mapping[bytes, int],
        merges: Sequence[tuple[bytes, bytes]],
        pattern: str | None = None,
        whole_pieces: bool = False,
    ) -> None:
        self._pattern = compile_pattern(pattern)
        self._whole = ids if whole_pieces else {}
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
        for piece in pieces(text, self._pattern):
            ids.extend(self._remembered.get(piece) or self._encode_piece(piece))

    def _encode_piece(self, piece: str) -> Sequence[int]:
        data = piece.encode("utf-8")
        if data in self._whole:
            return (self._whole[data],)
        ids = [self._byte_ids[byte] for byte in data]
        if len(ids) > _SHORT:
            return merge_long(ids, self._merges)
        if len(self._remembered) >= _REMEMBERED:
            self._remembered.clear()
        self._remembered[piece] = merged = tuple(merge(ids, self._merges))
        return merged


def compile_pattern(pattern: str | None) -> regex.Pattern[str] | None:
    """
    Return a split pattern ready for use, None for GPT-2's.

    Raises
    ------
    TypeError, ValueError
        If it is not a regular expression.
    """
    if pattern is None:
        return None
    if not isinstance(pattern, str):
        raise TypeError(f"Tokenizer: pattern must be a str or None, got {type(pattern).__name__}")
    try:
        return regex.compile(pattern)
    except regex.error as error:
        raise ValueError(
            f"Tokenizer: pattern must be a regular expression of the package regex, got {pattern!r}: {error}"
        ) from None


def pieces(text: str, pattern: regex.Pattern[str] | None) -> Iterable[str]:
    r"""
    Cut a text into pieces, by GPT-2's pattern or by one of your own, and not all at once.

    Examples
    --------
    >>> list(pieces("12345 hens", None)), list(pieces("12345 hens", regex.compile(r"\p{N}{1,3}|.")))
    (['12345', ' hens'], ['123', '45', ' ', 'h', 'e', 'n', 's'])
    """
    if pattern is not None:
        return (match[0] for match in pattern.finditer(text))
    return (piece for chunk in chunks(text) for piece in split(chunk))

"""
The words of a corpus and the merges that they teach: by the reference, or, from where there is enough of it, by the
kernels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING

from tinygpt.tokenizer.pattern import Pattern
from tinygpt.tokenizer.reference import BYTE_ORDERS, chunks, learn_merges, split
from tinygpt.tokenizer.switch import Switch, check_agreement, must_check

if TYPE_CHECKING:
    from tinygpt.tokenizer.kernels.counting import WordCounts

Merge = tuple[bytes, bytes]
_TOGETHER = 1 << 20  # characters that wait to be counted in one call


class CorpusWords:
    """
    Counts the words of a corpus and learns merges from them; it keeps the words, not the texts.

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
        self._switch = Switch()
        self._check = must_check()
        self._counts: Counter[str] = Counter()
        self._compiled: WordCounts | None = None
        self._waiting: list[bytes] = []
        self._size_waiting = 0

    def add(self, text: str) -> None:
        """Count the words of a text without lone surrogates."""
        if self._compiled is None and self._switch.to_kernels(len(text)):
            from tinygpt.tokenizer.kernels.counting import WordCounts  # late: it imports Numba

            self._compiled = WordCounts()
        if self._pattern is not None:
            self._counts.update(self._pattern.split(text))
            return
        for chunk in chunks(text, _TOGETHER):
            if self._compiled is None or self._check:
                self._counts.update(split(chunk))
            if self._compiled is not None:
                self._waiting.append(chunk.encode("utf-8"))
                self._size_waiting += len(chunk)
                if self._size_waiting >= _TOGETHER:
                    self._count_waiting(self._compiled)

    def learn(self, byte_order: str, how_many: int) -> Iterator[list[Merge]]:
        """Learn merges, the most frequent pair first, a few at a time, until there are enough or no pair is left."""
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

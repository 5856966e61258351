"""
A text as Unicode 16 classifies it: characters that later versions added or changed are replaced by stand-ins.

For a split pattern, the package `regex` decides what a letter is, and each release of `regex` has the newest Unicode:
token ids would depend on the installed one. tiktoken 0.14 and Hugging Face's tokenizers 0.23 have Unicode 16,
whose tables are in `unicode_table.py`. So a pattern is matched against this text, of equal length, and the pieces are
cut from the original.

The stand-in of an added character is the nearest code point that no version has assigned: it has the properties that
the character had in Unicode 16, namely none, and lies in the same ranges of a pattern unless one ends between the two.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import regex

from tinygpt.tokenizer.unicode_table import UNASSIGNED

_CHANGED = {0x295: 0x296}  # a letter that was lowercase, and since Unicode 17 is without case; its neighbour still is


def as_unicode_16(text: str) -> str:
    r"""
    Replace characters that the installed `regex` classifies otherwise than Unicode 16.

    Examples
    --------
    >>> as_unicode_16("the hen, é, 汉字")
    'the hen, é, 汉字'
    >>> regex.findall(r"\p{L}", as_unicode_16("\u088f"))  # a letter since Unicode 17
    []
    """
    if text.isascii() or not _may_differ()[np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")].any():
        return text
    return text.translate(_stand_ins())


def _ranges() -> list[tuple[int, int]]:
    words = [word.partition("-") for word in UNASSIGNED.split()]
    return [(int(first, 16), int(last or first, 16)) for first, _, last in words]


@cache
def _may_differ() -> np.ndarray:
    """By code point: the ranges that were not assigned, and the characters that have changed."""
    table = np.zeros(0x110000, bool)
    for first, last in _ranges():
        table[first : last + 1] = True
    table[list(_CHANGED)] = True
    return table


@cache
def _stand_ins() -> dict[int, int]:
    table = _may_differ().copy()
    table[list(_CHANGED)] = False
    unassigned = np.flatnonzero(table).astype("<u4").tobytes().decode("utf-32-le")
    added = [ord(character) for character in regex.findall(r"\P{Cn}", unassigned)]
    table[added] = False
    mark = table.tobytes()
    stand_ins = dict(_CHANGED)
    for code in added:
        below, above = mark.rfind(b"\1", 0, code), mark.find(b"\1", code)
        stand_ins[code] = above if below < 0 or (above >= 0 and above - code < code - below) else below
    return stand_ins

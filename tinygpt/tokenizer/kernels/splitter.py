r"""
Splitting by GPT-2's pattern, on UTF-8 bytes: what `reference.split` does, without a regular expression.

    's|'t|'re|'ve|'m|'ll|'d    (1) a contraction
     ?\p{L}+| ?\p{N}+          (2) a run of one class, letters, numbers or others,
     ?[^\s\p{L}\p{N}]+             with at most one space before it
    \s+(?!\S)|\s+              (3) white space: all of it if the text ends there; its one character;
                                   else all but the last character

Source: OpenAI's gpt-2 `encoder.py` (the pattern); `unicode_table.py` (the classes).
"""

from __future__ import annotations

import numpy as np

from tinygpt.tokenizer.kernels import kernel
from tinygpt.tokenizer.reference import STAND_INS

APOSTROPHE, BLANK, D, E, L, M, R, S, T, V = b"' delmrstv"
OTHER, LETTER, NUMBER, SPACE, BEYOND_ASCII = range(5)

# The class of each code point. Those of bytes have a table of their own: its 256 bytes stay in the L1 cache.
CLASSES = np.full(256, OTHER, np.uint8)
for _class, _characters in (
    (LETTER, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"),
    (NUMBER, "0123456789"),
    (SPACE, "\t\n\v\f\r "),
):
    CLASSES[list(_characters.encode("ascii"))] = _class
CLASSES = CLASSES[STAND_INS]
BYTE_CLASSES = np.append(CLASSES[:128], np.full(128, BEYOND_ASCII, np.uint8))


@kernel
def code_and_width(text, at):
    """The code point of a character beyond ASCII and how many bytes it has; the bytes are known to be UTF-8."""
    first = np.int64(text[at])
    code = first & 0x1F
    if first < 0xE0:
        return code << 6 | np.int64(text[at + 1]) & 0x3F, 2
    code = (first & 0x0F) << 12 | (np.int64(text[at + 1]) & 0x3F) << 6 | np.int64(text[at + 2]) & 0x3F
    if first < 0xF0:
        return code, 3
    return code << 6 | np.int64(text[at + 3]) & 0x3F, 4


@kernel
def class_and_width(text, at, classes, byte_classes):
    """The class of the character that begins here, and how many bytes it has."""
    found = byte_classes[text[at]]
    if found != BEYOND_ASCII:
        return found, 1
    code, width = code_and_width(text, at)
    return classes[code], width


@kernel
def piece_end(text, start, end, classes, byte_classes):
    """Where the piece ends that begins at `start` in a text that ends at `end`."""
    first = text[start]
    at = start
    if first == APOSTROPHE:  # (1)
        length = contraction_length(text, start, end)
        if length:
            return start + length
    elif first == BLANK and start + 1 < end:
        at += 1
    kind, width = class_and_width(text, at, classes, byte_classes)
    if kind == SPACE:
        return white_space_end(text, start, end, classes, byte_classes)  # (3)
    at += width
    while at < end:  # (2)
        found = byte_classes[text[at]]
        width = 1
        if found == BEYOND_ASCII:
            found, width = class_and_width(text, at, classes, byte_classes)
        if found != kind:
            break
        at += width
    return at


@kernel
def contraction_length(text, start, end):
    """How many bytes the contraction has that begins with the apostrophe at `start`; 0 if none does."""
    if start + 1 >= end:
        return 0
    second = text[start + 1]
    if second in (S, T, M, D):
        return 2
    if start + 2 >= end:
        return 0
    third = text[start + 2]
    if third == E and second in (R, V):
        return 3
    return 3 if second == L and third == L else 0


@kernel
def white_space_end(text, start, end, classes, byte_classes):
    """Where white space ends that begins at `start`, short of the last character if something follows."""
    at = last = start
    while at < end:
        kind, width = class_and_width(text, at, classes, byte_classes)
        if kind != SPACE:
            return last if last > start else at
        last = at
        at += width
    return at

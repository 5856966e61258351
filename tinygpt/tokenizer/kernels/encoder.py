"""
Encoding: pieces to ids, from a cache if a piece was encoded before.

Pieces average four bytes and nearly all are whole tokens, so the time goes into splitting and into looking pieces up;
merging is rare. The cache (`Memory`) is a hash table of 16-byte slots and a store:

    slot       (key, value), both uint64; at most half of the slots are taken
    value      number of ids << 56 | length << 48 | where it is in the store
               or, for a key that is exact and a single id, 1 << 56 | id
    store      uint32 words: the piece's bytes if its key is a hash, then its ids

It begins with the ids of every token. When it is full, it is reset to them, so that it is bounded and follows the text.
Pieces longer than `SHORT` are rare and not cached.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tinygpt.tokenizer.kernels import inlined, kernel
from tinygpt.tokenizer.kernels.hashing import EMPTY, ONE, key_of, same_bytes, slot_of
from tinygpt.tokenizer.kernels.merging import merge_long, merge_short
from tinygpt.tokenizer.kernels.splitter import piece_end

SHORT = 64  # bytes

_COUNT_AT, _LENGTH_AT = np.uint64(56), np.uint64(48)
_PLACE, _ID, _BYTE = np.uint64((1 << 48) - 1), np.uint64((1 << 32) - 1), np.uint64(255)


class Vocabulary(NamedTuple):
    """The tables of a tokenizer's encoder, shared by all threads."""

    ids: np.ndarray  # (tokens,) uint32: the id of each ordinary token
    byte_tokens: np.ndarray  # (256,) int64: the number of each byte among them
    pairs: np.ndarray  # see merging.py
    secret: np.ndarray  # (3,) uint64
    slots: np.ndarray  # (2 * slots,) uint64: what memory begins with
    classes: np.ndarray  # (0x110000,) uint8, see splitter.py
    byte_classes: np.ndarray  # (256,) uint8


class Memory(NamedTuple):
    """The buffers and the cache of one encoding at a time."""

    slots: np.ndarray  # (2 * slots,) uint64
    store: np.ndarray  # (words,) uint32
    store_bytes: np.ndarray  # the same as uint8
    used: np.ndarray  # (4,) int64: slots taken, words taken; and how many the tokens take
    tokens: np.ndarray  # (SHORT,) int64, scratch
    merges: np.ndarray  # (SHORT,) int64, scratch


@kernel
def encode_texts(text, ends, separators, are_pieces, place, out, vocabulary, memory, scratch):
    """
    Encode texts that stand one after another, each up to its entry in `ends`.

    Each text is split by GPT-2's pattern, unless it is a piece already. After each comes its separator, an id, unless
    that is -1. `place` says where to begin and receives where it ends: (text, byte, number of ids).

    Returns 0, or, when a piece is too long for `scratch`, which must have seven int64 for each byte, the length of that
    piece, so that the caller can go on with more.
    """
    classes, byte_classes = vocabulary.classes, vocabulary.byte_classes
    start, at = place[1], place[2]
    for row in range(place[0], len(ends)):
        while start < ends[row]:
            stop = ends[row] if are_pieces else piece_end(text, start, ends[row], classes, byte_classes)
            if stop - start > SHORT and 7 * (stop - start) > len(scratch):
                place[0], place[1], place[2] = row, start, at
                return stop - start
            at = encode_piece(text, start, stop - start, out, at, vocabulary, memory, scratch)
            start = stop
        if separators[row] >= 0:
            out[at] = separators[row]
            at += 1
    place[0], place[1], place[2] = len(ends), start, at
    return 0


@inlined
def encode_piece(text, start, length, out, at, vocabulary, memory, scratch):
    """Write the ids of a piece into `out` from `at` on and return where they end."""
    if length == 1:
        out[at] = vocabulary.ids[vocabulary.byte_tokens[text[start]]]
        return at + 1
    if length > SHORT:
        return encode_long(text, start, length, out, at, vocabulary, scratch)
    slots = memory.slots
    key = key_of(text, start, length, vocabulary.secret)
    slot = find(text, start, length, key, slots, memory.store_bytes, vocabulary.secret)
    if slots[2 * slot] == EMPTY:
        return encode_new(text, start, length, key, slot, out, at, vocabulary, memory)
    value = slots[2 * slot + 1]
    if length < 8 and value >> _COUNT_AT == ONE:
        out[at] = value & _ID
        return at + 1
    place = np.int64(value & _PLACE) + words_for(length)
    count = np.int64(value >> _COUNT_AT)
    for offset in range(count):
        out[at + offset] = memory.store[place + offset]
    return at + count


@kernel
def find(text, start, length, key, slots, store_bytes, secret):
    """The slot that holds a piece, or else the free slot for it."""
    last = len(slots) // 2 - 1
    slot = slot_of(key, secret, last + 1)
    while slots[2 * slot] != EMPTY:
        if slots[2 * slot] == key:
            if length < 8:
                break
            value = slots[2 * slot + 1]
            place = 4 * np.int64(value & _PLACE)
            if np.int64(value >> _LENGTH_AT & _BYTE) == length and same_bytes(store_bytes, place, text, start, length):
                break
        slot = (slot + 1) & last
    return slot


@kernel
def words_for(length):
    """How many words of the store a piece's own bytes take."""
    return (length + 3) >> 2 if length >= 8 else 0


@kernel
def encode_new(text, start, length, key, slot, out, at, vocabulary, memory):
    """Merge a piece that is not in the cache, and put it into the free slot where the search ended."""
    for offset in range(length):
        memory.tokens[offset] = vocabulary.byte_tokens[text[start + offset]]
    count = merge_short(memory.tokens, length, memory.merges, vocabulary.pairs, vocabulary.secret)
    for offset in range(count):
        out[at + offset] = vocabulary.ids[memory.tokens[offset]]
    words = 0 if length < 8 and count == 1 else words_for(length) + count
    if 4 * (memory.used[0] + 1) > len(memory.slots) or memory.used[1] + words > len(memory.store):
        forget(memory.slots, vocabulary.slots, memory.used)
        return at + count  # not cached: its slot may be taken now
    value = np.uint64(out[at])
    if words:
        place = memory.used[1]
        for offset in range(length if length >= 8 else 0):
            memory.store_bytes[4 * place + offset] = text[start + offset]
        for offset in range(count):
            memory.store[place + words_for(length) + offset] = out[at + offset]
        value = np.uint64(length) << _LENGTH_AT | np.uint64(place)
    memory.slots[2 * slot] = key
    memory.slots[2 * slot + 1] = np.uint64(count) << _COUNT_AT | value
    memory.used[0] += 1
    memory.used[1] += words
    return at + count


@kernel
def forget(slots, first_slots, used):
    """Reset the cache to the tokens."""
    for at in range(len(slots)):
        slots[at] = first_slots[at]
    used[0], used[1] = used[2], used[3]


@kernel
def encode_long(text, start, length, out, at, vocabulary, scratch):
    """Merge a long piece by the heap."""
    tokens = scratch[6 * length : 7 * length]
    for offset in range(length):
        tokens[offset] = vocabulary.byte_tokens[text[start + offset]]
    count = merge_long(tokens, length, scratch[: 6 * length], vocabulary.pairs, vocabulary.secret)
    for offset in range(count):
        out[at + offset] = vocabulary.ids[tokens[offset]]
    return at + count

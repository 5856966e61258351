"""
The hash tables of the kernels, and the reading of bytes eight at a time.

Tables use open addressing with linear probing. The hash multiplies by random odd numbers, drawn per table, so that
no text can be written whose pieces all collide (hash flooding).

A table is a (2 * slots,) uint64 array of alternating keys and values, at most half full, so that probing ends soon.

Buffers of bytes end in `PADDING` spare bytes, so that eight bytes can be read wherever a piece begins.
"""

from __future__ import annotations

import os

import numpy as np

from tinygpt.tokenizer.kernels import kernel

PADDING = 16
EMPTY = np.uint64(0)  # no key is 0
ONE = np.uint64(1)
_EIGHT, _FOUR = np.uint64(8), np.uint64(4)
_HALF, _LENGTH_AT, _LAST = np.uint64(32), np.uint64(56), np.uint64(63)


def secret_numbers() -> np.ndarray:
    """Three random odd numbers, uint64: they only decide in which slots keys are."""
    return np.frombuffer(os.urandom(24), np.uint64) | ONE


def power_of_two(min_size: int) -> int:
    """The smallest power of two that is not below `min_size`."""
    return 1 << (min_size - 1).bit_length()


def padded(data: bytes) -> np.ndarray:
    """A copy of bytes as a uint8 array, with spare bytes behind."""
    buffer = np.empty(len(data) + PADDING, np.uint8)
    buffer[: len(data)] = np.frombuffer(data, np.uint8)
    buffer[len(data) :] = 0
    return buffer


@kernel
def load(data, at):
    """Eight bytes as one number, the first lowest. LLVM makes one instruction of this."""
    return (
        np.uint64(data[at])
        | np.uint64(data[at + 1]) << np.uint64(8)
        | np.uint64(data[at + 2]) << np.uint64(16)
        | np.uint64(data[at + 3]) << np.uint64(24)
        | np.uint64(data[at + 4]) << np.uint64(32)
        | np.uint64(data[at + 5]) << np.uint64(40)
        | np.uint64(data[at + 6]) << np.uint64(48)
        | np.uint64(data[at + 7]) << np.uint64(56)
    )


@kernel
def key_of(data, start, length, secret):
    """
    The key of a piece: of up to 7 bytes these and their number, exactly; else the highest bit and 63 bits of hash.

    The last eight bytes of a long piece overlap those before, which saves masking.
    """
    if length < 8:
        mask = (ONE << (np.uint64(length) * _EIGHT)) - ONE
        return load(data, start) & mask | np.uint64(length) << _LENGTH_AT
    last = start + length - 8
    key = np.uint64(length) * secret[0]
    for at in range(start, last, 8):
        key = (key ^ load(data, at)) * secret[1]
        key ^= key >> _HALF
    key = (key ^ load(data, last)) * secret[1]
    return key ^ key >> _HALF | ONE << _LAST


@kernel
def same_bytes(left, left_at, right, right_at, length):
    """Whether two runs of at least 8 bytes are equal."""
    for offset in range(0, length - 8, 8):
        if load(left, left_at + offset) != load(right, right_at + offset):
            return False
    return load(left, left_at + length - 8) == load(right, right_at + length - 8)


@kernel
def slot_of(key, secret, slots):
    """The first slot to probe for a key, in a table of `slots` slots, a power of two."""
    mixed = (key ^ secret[0]) * secret[1]
    mixed = (mixed ^ mixed >> _HALF) * secret[2]
    return np.int64(mixed >> _HALF) & (slots - 1)


@kernel
def rehash(old, new, secret):
    """Move the entries of a table into a larger, empty one."""
    for row in range(0, len(old), 2):
        if old[row] != EMPTY:
            slot = free_slot(old[row], new, secret)
            new[2 * slot] = old[row]
            new[2 * slot + 1] = old[row + 1]


@kernel
def free_slot(key, table, secret):
    """Where a table takes a key that it does not hold."""
    last = len(table) // 2 - 1
    slot = slot_of(key, secret, last + 1)
    while table[2 * slot] != EMPTY:
        slot = (slot + 1) & last
    return slot


def grown(array: np.ndarray, room: int) -> np.ndarray:
    """A copy of an array with room for more behind."""
    larger = np.empty(room, array.dtype)
    larger[: len(array)] = array
    return larger


def grown_table(table: np.ndarray, secret: np.ndarray) -> np.ndarray:
    """A table of twice as many slots that holds the same."""
    larger = np.zeros(2 * len(table), np.uint64)
    with np.errstate(over="ignore"):  # hashes overflow; without the compiler NumPy would warn
        rehash(table, larger, secret)
    return larger

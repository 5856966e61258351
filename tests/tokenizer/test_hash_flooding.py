"""Hostile words: whoever knows the numbers that a table hashes by can fill one corner of it; nobody knows them."""

from __future__ import annotations

from collections import Counter

import numpy as np

from tinygpt.tokenizer.kernels.compiled_encoder import CompiledEncoder
from tinygpt.tokenizer.kernels.counting import WordCounts
from tinygpt.tokenizer.kernels.hashing import free_slot, key_of, padded, secret_numbers, slot_of
from tinygpt.tokenizer.reference import split

SLOTS = 1 << 15
KNOWN = np.array([0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB], np.uint64)  # odd, and public


def hostile_words() -> list[bytes]:
    """Words of six letters whose keys want the first 64 slots of 32,768 in a table that hashes by the known numbers."""
    letters = np.arange(26, dtype=np.uint64) + np.uint64(ord("a"))
    keys = np.zeros(1, np.uint64)
    for place in range(5):
        keys = (keys[:, None] | letters << np.uint64(8 * place)).ravel()[: 1 << 21]
    keys = keys | np.uint64(ord("z")) << np.uint64(40) | np.uint64(6) << np.uint64(56)  # as key_of makes them
    mixed = (keys ^ KNOWN[0]) * KNOWN[1]
    mixed = (mixed ^ mixed >> np.uint64(32)) * KNOWN[2]
    wanted = keys[(mixed >> np.uint64(32)) % np.uint64(SLOTS) < 64]
    return [int(key).to_bytes(8, "little")[:6] for key in wanted]


def longest_search(words: list[bytes], secret: np.ndarray) -> int:
    """How many slots are looked at for the unluckiest of the words, all put into one table."""
    table, longest = np.zeros(2 * SLOTS, np.uint64), 0
    with np.errstate(over="ignore"):
        for word in words:
            key = np.uint64(key_of(padded(word), 0, len(word), secret))
            slot = free_slot(key, table, secret)
            table[2 * slot] = key
            longest = max(longest, (slot - slot_of(key, secret, SLOTS)) % SLOTS + 1)
    return longest


def test_words_that_flood_a_known_hash_do_not_flood_a_secret_one():
    words = hostile_words()
    assert len(set(words)) == len(words) > 3000
    assert longest_search(words, KNOWN) > len(words) - 64  # the attack works where the numbers are known
    assert longest_search(words, secret_numbers()) < 64  # an eighth full, so a few; 64 in a row would be a wonder


def test_every_table_has_numbers_of_its_own():
    merges = {(104, 101): (0, 256)}
    ids = {bytes([byte]): byte for byte in range(256)} | {b"he": 256}
    encoders = [CompiledEncoder(ids, merges)._vocabulary.secret for _ in range(2)]
    counts = [WordCounts()._secret for _ in range(2)]
    drawn = np.stack([*encoders, *counts])
    assert len(np.unique(drawn)) == drawn.size and np.all(drawn % np.uint64(2) == 1)


def test_hostile_text_is_encoded_and_counted_like_any_other(gpt2):
    words = hostile_words()[:3000]
    text = " ".join(word.decode("ascii") for word in words)
    kernels = CompiledEncoder(gpt2._ids, gpt2._encoder._merges)
    assert kernels.encode([text], []).tolist() == gpt2._encoder.encode_by_reference([text])
    counts = WordCounts()
    counts.add([text.encode("ascii")], are_pieces=False)
    assert counts.as_dict() == Counter(piece.encode("ascii") for piece in split(text))

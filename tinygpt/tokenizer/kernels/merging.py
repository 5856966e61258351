"""
Merging a piece's tokens, as `reference.merge` and `reference.merge_long` do.

Throughout this file
    tokens     (count,) int64: tokens by their number among the ordinary ones
    merge      int64, rank << 32 | number of the joined token: the lower the earlier; `NO_MERGE` is above all
    pairs      (2 * slots,) uint64: left << 32 | right with the highest bit set, then the merge; at most half full
"""

from __future__ import annotations

import numpy as np

from tinygpt.tokenizer.kernels import kernel
from tinygpt.tokenizer.kernels.hashing import EMPTY, ONE, free_slot, slot_of

NO_MERGE = np.int64((1 << 63) - 1)
_HALF, _LAST = np.uint64(32), np.uint64(63)
_LOW = np.int64((1 << 32) - 1)


@kernel
def pair_key(left, right):
    """The key of a pair, which is never `EMPTY`."""
    return ONE << _LAST | np.uint64(left) << _HALF | np.uint64(right)


@kernel
def fill_pairs(pairs, lefts, rights, merges, secret):
    """Put pairs and their merges into an empty table."""
    for row in range(len(lefts)):
        key = pair_key(lefts[row], rights[row])
        slot = free_slot(key, pairs, secret)
        pairs[2 * slot] = key
        pairs[2 * slot + 1] = np.uint64(merges[row])


@kernel
def merge_of(left, right, pairs, secret):
    """The merge of a pair, or `NO_MERGE`."""
    slots = len(pairs) // 2
    key = pair_key(left, right)
    slot = slot_of(key, secret, slots)
    while True:
        found = pairs[2 * slot]
        if found == key:
            return np.int64(pairs[2 * slot + 1])
        if found == EMPTY:
            return NO_MERGE
        slot = (slot + 1) & (slots - 1)


@kernel
def merge_short(tokens, count, merges, pairs, secret):
    """
    Merge the first `count` tokens in place and return how many are left; `merges` is scratch of the same length.

    Looks at all that is left for each merge, which for a word is less work than any order among its pairs.
    """
    for at in range(count - 1):
        merges[at] = merge_of(tokens[at], tokens[at + 1], pairs, secret)
    while count > 1:
        first = 0
        for at in range(1, count - 1):
            if merges[at] < merges[first]:
                first = at
        if merges[first] == NO_MERGE:
            break
        tokens[first] = merges[first] & _LOW
        count -= 1
        for at in range(first + 1, count):
            tokens[at] = tokens[at + 1]
            merges[at - 1] = merges[at]
        if first > 0:
            merges[first - 1] = merge_of(tokens[first - 1], tokens[first], pairs, secret)
        if first < count - 1:
            merges[first] = merge_of(tokens[first], tokens[first + 1], pairs, secret)
    return count


@kernel
def merge_long(tokens, count, scratch, pairs, secret):
    """
    Do the same for a long piece in n log n steps: a heap of pairs, lists of neighbours, stale entries skipped.

    An entry is rank << 32 | position. It is out of date unless the pair at its position has its rank. `scratch` is
    int64, six times `count` or more.
    """
    room = len(scratch) // 6
    merges, before, after = scratch[:room], scratch[room : 2 * room], scratch[2 * room : 3 * room]
    heap = scratch[3 * room :]  # one entry per pair, and two more for each of fewer than `count` merges
    size = 0
    for at in range(count):
        before[at], after[at] = at - 1, at + 1
        merges[at] = merge_of(tokens[at], tokens[at + 1], pairs, secret) if at + 1 < count else NO_MERGE
        if merges[at] != NO_MERGE:
            size = push(heap, size, merges[at] & ~_LOW | at)
    while size:
        entry = heap[0]
        size = pop(heap, size)
        at = entry & _LOW
        if merges[at] == NO_MERGE or merges[at] >> 32 != entry >> 32:
            continue
        gone = after[at]
        tokens[at], tokens[gone] = merges[at] & _LOW, -1
        merges[at], merges[gone] = NO_MERGE, NO_MERGE
        after[at] = after[gone]
        if after[at] < count:
            before[after[at]] = at
            merges[at] = merge_of(tokens[at], tokens[after[at]], pairs, secret)
            if merges[at] != NO_MERGE:
                size = push(heap, size, merges[at] & ~_LOW | at)
        left = before[at]
        if left >= 0:
            merges[left] = merge_of(tokens[left], tokens[at], pairs, secret)
            if merges[left] != NO_MERGE:
                size = push(heap, size, merges[left] & ~_LOW | left)
    return keep_tokens(tokens, count)


@kernel
def keep_tokens(tokens, count):
    """Move the entries that are not -1 to the front and return their number."""
    kept = 0
    for at in range(count):
        if tokens[at] >= 0:
            tokens[kept] = tokens[at]
            kept += 1
    return kept


@kernel
def push(heap, size, entry):
    """Add an entry to a min-heap of `size` entries and return its new size."""
    at = size
    while at > 0 and heap[(at - 1) >> 1] > entry:
        heap[at] = heap[(at - 1) >> 1]
        at = (at - 1) >> 1
    heap[at] = entry
    return size + 1


@kernel
def pop(heap, size):
    """Remove the smallest entry and return the new size."""
    size -= 1
    entry = heap[size]
    at = 0
    while 2 * at + 1 < size:
        child = 2 * at + 1
        if child + 1 < size and heap[child + 1] < heap[child]:
            child += 1
        if heap[child] >= entry:
            break
        heap[at] = heap[child]
        at = child
    heap[at] = entry
    return size

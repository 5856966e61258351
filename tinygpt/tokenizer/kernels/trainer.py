"""
Training: what `reference.learn_merges` does, on flat arrays.

A merge touches only the words that hold its pair. It makes pairs with its own token only, which is new, so the counts
of all others can only fall: an entry of the heap is never too low, and one that is too high goes back with its new
count when its turn comes.

Throughout this file
    tokens         (bytes,) int32: the words' tokens, each word from its first byte's place on
    pair           its number; pairs are numbered as they are met
    chain          the words that hold a pair: links, each with a word and the next link, -1 at the end
    heap           the highest count first, then the smallest (left, right), as two arrays
    sizes          (4,) int64: how many tokens, pairs, links and entries of the heap there are
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from tinygpt.tokenizer.kernels import compiler, kernel
from tinygpt.tokenizer.kernels.counting import WordCounts, Words
from tinygpt.tokenizer.kernels.hashing import EMPTY, grown, grown_table, power_of_two, secret_numbers, slot_of
from tinygpt.tokenizer.kernels.merging import pair_key

_BATCH = 256  # merges per update of a progress bar
_LOW, _HALF = np.uint64((1 << 31) - 1), np.uint64(32)
_TOKENS, _PAIRS, _LINKS, _ENTRIES = range(4)


class Corpus(NamedTuple):
    """The words, and the pairs in them."""

    tokens: np.ndarray  # (bytes,) int32
    starts: np.ndarray  # (words,) int64: where in `tokens` each word begins
    lengths: np.ndarray  # (words,) int64: how many tokens it has now
    word_counts: np.ndarray  # (words,) int64
    link_words: np.ndarray  # (links,) int32
    link_next: np.ndarray  # (links,) int32
    table: np.ndarray  # from the keys of pairs to their numbers, see hashing.py
    keys: np.ndarray  # (pairs,) uint64
    counts: np.ndarray  # (pairs,) int64
    chains: np.ndarray  # (pairs,) int64: the first link of each pair's chain
    heap_counts: np.ndarray  # (pairs,) int64
    heap_keys: np.ndarray  # (pairs,) uint64
    sizes: np.ndarray  # (4,) int64


def learn(words: Words, byte_order: bytes, how_many: int) -> Iterator[np.ndarray]:
    """
    Learn merges, the most frequent pair first, until there are enough or no pair is left.

    Parameters
    ----------
    words : Words
        The corpus.
    byte_order : bytes
        Which byte has which of the ids 0 to 255.
    how_many : int
        Merges.

    Yields
    ------
    pairs : array of shape (merges, 2), int64
        The next merges, as ids of their left and right tokens. The first merge of all makes token 256.
    """
    secret = secret_numbers()
    corpus = _corpus(words, byte_order)
    with np.errstate(over="ignore"):  # hashes overflow; without the compiler NumPy would warn
        count_pairs(corpus, secret)
    while how_many > 0:
        while not has_room(corpus):
            corpus = _with_more_room(corpus, secret)
        merges = np.empty((min(_BATCH, how_many), 2), np.int64)
        with np.errstate(over="ignore"):
            count = learn_merges(corpus, secret, merges)
        how_many -= count
        if not count:
            return
        yield merges[:count]


def compile_ahead() -> None:
    """Compile what counting words and learning merges from them needs, unless that is done: the smallest corpus."""
    if compiler.has_compiled("training"):
        return
    with compiler.compiling("training", progress=False):
        counts = WordCounts()
        counts.add([b"a hen, a hen"], are_pieces=False)
        grown_table(np.zeros(8, np.uint64), secret_numbers())
        for _ in learn(counts.words(), bytes(range(256)), 1):
            pass


def _corpus(words: Words, byte_order: bytes) -> Corpus:
    size = len(words.data)
    if 3 * size >= 1 << 31:
        raise ValueError(
            f"Tokenizer.train: the different words of the corpus must have fewer than {(1 << 31) // 3} bytes in all, "
            f"got {size}; train on a part of it"
        )
    ids = np.empty(256, np.int32)
    ids[list(byte_order)] = np.arange(256)
    room = power_of_two(min(size, 1 << 16) + 1024)  # pairs of bytes, and those of the first merge
    return Corpus(
        tokens=ids[words.data],
        starts=words.borders[:-1].copy(),
        lengths=np.diff(words.borders),
        word_counts=words.counts,
        link_words=np.empty(3 * size, np.int32),  # one for each place, and two more for each token that disappears
        link_next=np.empty(3 * size, np.int32),
        table=np.zeros(4 * room, np.uint64),
        keys=np.empty(room, np.uint64),
        counts=np.empty(room, np.int64),
        chains=np.empty(room, np.int64),
        heap_counts=np.empty(room, np.int64),
        heap_keys=np.empty(room, np.uint64),
        sizes=np.array([256, 0, 0, 0]),
    )


def _with_more_room(corpus: Corpus, secret: np.ndarray) -> Corpus:
    names = ("keys", "counts", "chains", "heap_counts", "heap_keys")
    room = 2 * len(corpus.keys)
    larger = {name: grown(getattr(corpus, name), room) for name in names}
    return corpus._replace(table=grown_table(corpus.table, secret), **larger)


@kernel
def has_room(corpus):
    """Whether the pairs of one more merge fit: each with a token before it, after it, or itself."""
    return corpus.sizes[_PAIRS] + 2 * corpus.sizes[_TOKENS] + 3 <= len(corpus.keys)


@kernel
def count_pairs(corpus, secret):
    """Count the pairs of all words, and make the heap."""
    for word in range(len(corpus.starts)):
        start = corpus.starts[word]
        for at in range(start, start + corpus.lengths[word] - 1):
            left, right = np.int64(corpus.tokens[at]), np.int64(corpus.tokens[at + 1])
            add(corpus, secret, left, right, corpus.word_counts[word], word)
    push_pairs(corpus, 0)


@kernel
def learn_merges(corpus, secret, merges):
    """Fill `merges` and return how many there are: fewer if no pair is left, or there is no more room."""
    learned = 0
    while learned < len(merges) and corpus.sizes[_ENTRIES] > 0 and has_room(corpus):
        key = corpus.heap_keys[0]
        pair = np.int64(corpus.table[2 * find_pair(key, corpus.table, secret) + 1])
        count = corpus.counts[pair]
        if count != corpus.heap_counts[0]:
            replace_top(corpus, count, key)
            continue
        replace_top(corpus, 0, key)
        left, right = np.int64(key >> _HALF & _LOW), np.int64(key & _LOW)
        merges[learned, 0], merges[learned, 1] = left, right
        learned += 1
        first_new = corpus.sizes[_PAIRS]
        joined = corpus.sizes[_TOKENS]
        corpus.sizes[_TOKENS] += 1
        link = corpus.chains[pair]
        while link >= 0:
            join(corpus, secret, np.int64(corpus.link_words[link]), left, right, joined)
            link = np.int64(corpus.link_next[link])
        corpus.counts[pair] = 0
        push_pairs(corpus, first_new)
    return learned


@kernel
def join(corpus, secret, word, left, right, joined):
    """Join a pair wherever it stands in a word, from left to right, and recount the pairs around it."""
    tokens, times = corpus.tokens, corpus.word_counts[word]
    start = corpus.starts[word]
    end = start + corpus.lengths[word]
    read = write = start
    while read < end:
        if tokens[read] != left or read + 1 == end or tokens[read + 1] != right:
            tokens[write] = tokens[read]
            read += 1
            write += 1
            continue
        if write > start:  # the neighbour as it is now: perhaps the token that was just written
            before = np.int64(tokens[write - 1])
            add(corpus, secret, before, left, -times, word)
            add(corpus, secret, before, joined, times, word)
        if read + 2 < end:
            after = np.int64(tokens[read + 2])
            add(corpus, secret, right, after, -times, word)
            add(corpus, secret, joined, after, times, word)
        tokens[write] = joined
        read += 2
        write += 1
    corpus.lengths[word] = write - start


@kernel
def add(corpus, secret, left, right, times, word):
    """Count a pair of a word `times` more often, and link the word to it if it gains."""
    key = pair_key(left, right)
    slot = find_pair(key, corpus.table, secret)
    if corpus.table[2 * slot] == EMPTY:
        pair = corpus.sizes[_PAIRS]
        corpus.sizes[_PAIRS] += 1
        corpus.table[2 * slot] = key
        corpus.table[2 * slot + 1] = np.uint64(pair)
        corpus.keys[pair] = key
        corpus.counts[pair] = 0
        corpus.chains[pair] = -1
    pair = np.int64(corpus.table[2 * slot + 1])
    corpus.counts[pair] += times
    first = corpus.chains[pair]
    if times > 0 and (first < 0 or corpus.link_words[first] != word):
        link = corpus.sizes[_LINKS]
        corpus.sizes[_LINKS] += 1
        corpus.link_words[link] = word
        corpus.link_next[link] = first
        corpus.chains[pair] = link


@kernel
def find_pair(key, table, secret):
    """The slot that holds a pair, or else the free slot for it."""
    last = len(table) // 2 - 1
    slot = slot_of(key, secret, last + 1)
    while table[2 * slot] != EMPTY and table[2 * slot] != key:
        slot = (slot + 1) & last
    return slot


@kernel
def push_pairs(corpus, first):
    """Put the pairs from number `first` on into the heap, unless they disappeared in the same merge."""
    counts, keys = corpus.heap_counts, corpus.heap_keys
    for pair in range(first, corpus.sizes[_PAIRS]):
        count, key = corpus.counts[pair], corpus.keys[pair]
        if count == 0:
            continue
        at = corpus.sizes[_ENTRIES]
        corpus.sizes[_ENTRIES] += 1
        while at > 0:
            above = (at - 1) >> 1
            if counts[above] > count or (counts[above] == count and keys[above] < key):
                break
            counts[at], keys[at] = counts[above], keys[above]
            at = above
        counts[at], keys[at] = count, key


@kernel
def replace_top(corpus, count, key):
    """Give the first entry of the heap another count, or take it out if that is 0."""
    counts, keys = corpus.heap_counts, corpus.heap_keys
    if count == 0:
        corpus.sizes[_ENTRIES] -= 1
        count, key = counts[corpus.sizes[_ENTRIES]], keys[corpus.sizes[_ENTRIES]]
    size = corpus.sizes[_ENTRIES]
    at = 0
    while 2 * at + 1 < size:
        child = 2 * at + 1
        if child + 1 < size and comes_first(counts, keys, child + 1, child):
            child += 1
        if counts[child] < count or (counts[child] == count and keys[child] > key):
            break
        counts[at], keys[at] = counts[child], keys[child]
        at = child
    counts[at], keys[at] = count, key


@kernel
def comes_first(counts, keys, one, other):
    """Whether one entry of the heap goes before another."""
    return counts[one] > counts[other] or (counts[one] == counts[other] and keys[one] < keys[other])

r"""
Byte-pair encoding as GPT-2 does it, written to be read: how a text becomes numbers.

    text    "the hen's egg"
    split   the | Ġhen | 's | Ġegg          pieces: words, numbers, signs, spaces. No token crosses a border.
    bytes   Each piece becomes its UTF-8 bytes, so that every text can be written, and 256 first tokens suffice.
    merge   In each piece, the pair of neighbours that was learned earliest becomes one token, until no pair is known.

Learning goes the same way round: the pair of neighbours that is most frequent in the corpus becomes a new token; then
again, with the new token in place, as often as there is room in the vocabulary.

All of it by example: three merges are learned from a line of text, and applied to a word that is not in it.

    >>> from collections import Counter
    >>> from itertools import islice
    >>> pieces = split("hug the hen then, the other hen")
    >>> pieces
    ['hug', ' the', ' hen', ' then', ',', ' the', ' other', ' hen']
    >>> counts = Counter(piece.encode() for piece in pieces)
    >>> learned = list(islice(learn_merges(counts, "raw"), 3))
    >>> learned  # in six of the pieces, then in four, then in three
    [(b'h', b'e'), (b't', b'he'), (b' ', b'the')]
    >>> vocab = [bytes([byte]) for byte in range(256)] + [left + right for left, right in learned]
    >>> id_of = {token: id for id, token in enumerate(vocab)}
    >>> merges = {(id_of[a], id_of[b]): (rank, id_of[a + b]) for rank, (a, b) in enumerate(learned)}
    >>> ids = merge(list(b" these"), merges)
    >>> [vocab[id] for id in ids]
    [b' the', b's', b'e']

Throughout this file
    id, ids         number of a token, list of such numbers
    piece           a run of text that the pattern allows to become one token
    merges          {(left id, right id): (rank, id of the joined token)}; rank 0 was learned first

Source: Sennrich, Haddow & Birch 2016, arXiv:1508.07909 (the algorithm); Radford et al. 2019, "Language Models are
Unsupervised Multitask Learners", section 2.2, with OpenAI's gpt-2 `encoder.py` (bytes, the pattern, the byte alphabet).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from heapq import heapify, heappop, heappush
from itertools import pairwise

import numpy as np
import regex

from tinygpt.tokenizer.unicode_table import LETTERS, NUMBERS, SPACES

Pair = tuple[int, int]
Merges = Mapping[Pair, tuple[int, int]]
PairCounts = defaultdict[Pair, int]
RowsWith = defaultdict[Pair, set[int]]  # the numbers of the words that hold a pair

# At each place the first alternative that matches is the piece. In words: an English contraction; or a run of letters,
# of numbers or of other signs, with at most one space before it; or a run of white space, which leaves its last
# character to what follows unless the text ends there.
GPT2_PATTERN = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")

_SAFE_CUT = regex.compile(r"(?<=[!-~])[\t\n\r ]")  # see `chunks`

# GPT-2 numbers the 188 bytes that print as themselves in Latin-1 first, then the others.
_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
BYTE_ORDERS = {"gpt2": bytes(_PRINTABLE + [b for b in range(256) if b not in _PRINTABLE]), "raw": bytes(range(256))}
"""Which byte has which of the ids 0 to 255: `BYTE_ORDERS["gpt2"][220]` is a space, `BYTE_ORDERS["raw"][32]` too."""

BYTE_CHARACTERS = {byte: chr(byte if id < 188 else 256 + id - 188) for id, byte in enumerate(BYTE_ORDERS["gpt2"])}
"""The visible character by which GPT-2's files write each byte: a space is `Ġ`, a line end is `Ċ`."""


def _stand_ins() -> np.ndarray:
    """For each code point, a character that the pattern treats the same: its own if ASCII, else one of its class."""
    table = np.full(0x110000, ord("!"), np.uint8)
    for stand_in, ranges in (("A", LETTERS), ("0", NUMBERS), ("\t", SPACES)):
        for run in ranges.split():
            first, _, last = run.partition("-")
            table[int(first, 16) : int(last or first, 16) + 1] = ord(stand_in)
    table[:128] = range(128)
    return table


STAND_INS = _stand_ins()
"""For each code point, an ASCII character of its class (uint8): the classes of the pattern."""


def split(text: str) -> list[str]:
    """
    Cut a text into pieces, by GPT-2's pattern and the letters, numbers and white space of Unicode 16.

    Of a character beyond ASCII, the pattern only uses the class. So it is run on a text that has an ASCII
    character of the same class in each such place, and the pieces are cut from the text itself. This makes the result
    independent of the Unicode version that the package `regex` knows, and costs far less than a set of 677 ranges.

    Examples
    --------
    >>> split("DON'T, don't:  2²ème")
    ['DON', "'", 'T', ',', ' don', "'t", ':', ' ', ' 2²', 'ème']
    """
    if text.isascii():
        return GPT2_PATTERN.findall(text)
    codes = np.frombuffer(text.encode("utf-32-le"), "<u4")
    pieces, start = [], 0
    for stand_in in GPT2_PATTERN.findall(STAND_INS[codes].tobytes().decode("ascii")):
        end = start + len(stand_in)
        pieces.append(text[start:end])
        start = end
    return pieces


def chunks(text: str, size: int = 1 << 20) -> Iterator[str]:
    """
    Cut a long text into parts that `split` into the same pieces, so that not all of its pieces need memory at once.

    A part has at least `size` characters (1 or more), and ends at the first border that is certain.

    Before white space there always is one, unless white space precedes it: no alternative of the pattern goes on from
    another character to white space, and none looks back.

    Examples
    --------
    >>> list(chunks("the hen  saw me", size=5))
    ['the hen', '  saw', ' me']
    """
    start = 0
    while start < len(text):
        cut = _SAFE_CUT.search(text, start + size)
        end = cut.start() if cut else len(text)
        yield text[start:end]
        start = end


def last_cut(text: str) -> int:
    """
    The last place at which `chunks` might cut a text, 0 if there is none.

    Examples
    --------
    >>> last_cut("the hen  saw me")
    12
    """
    for far in (1 << 10, 1 << 16, len(text)):  # it is nearly always close to the end
        cuts = [cut.start() for cut in _SAFE_CUT.finditer(text, max(len(text) - far, 0))]
        if cuts:
            return cuts[-1]
    return 0


def without_surrogates(text: str) -> str:
    r"""
    Make a text encodable as UTF-8, as tiktoken does: join surrogate pairs; a lone half becomes U+FFFD.

    Examples
    --------
    >>> without_surrogates("\ud83d\ude00 and \ud83d")
    '😀 and �'
    """
    try:
        text.encode("utf-8")
        return text
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def merge(ids: list[int], merges: Merges) -> list[int]:
    """
    Apply the merges to one piece: while any pair is known, join the one of lowest rank, the leftmost if it repeats.

    This is the definition. It looks at every pair again after each step, which suits a word; for long pieces see
    `merge_long`.

    Examples
    --------
    >>> merge([1, 1, 1, 2], {(1, 1): (0, 3), (3, 1): (1, 4)})
    [4, 2]
    """
    ids = list(ids)
    while found := [(*merges[pair], i) for i, pair in enumerate(pairwise(ids)) if pair in merges]:
        _, joined, i = min(found)
        ids[i : i + 2] = [joined]
    return ids


def merge_long(ids: list[int], merges: Merges) -> list[int]:
    """
    Do what `merge` does, in n log n steps rather than n squared: a heap holds the pairs, a linked list the tokens.

    A pair in the heap whose tokens have changed since is skipped when its turn comes.

    Examples
    --------
    >>> merge_long([1, 1, 1, 2], {(1, 1): (0, 3), (3, 1): (1, 4)})
    [4, 2]
    """
    tokens = [*ids, -1]  # a token that was joined to its left becomes -1, as the end is
    before, after = list(range(-1, len(ids))), list(range(1, len(ids) + 2))
    heap = [(*merges[pair], i, pair) for i, pair in enumerate(pairwise(ids)) if pair in merges]
    heapify(heap)
    while heap:
        _, joined, i, pair = heappop(heap)
        j = after[i]
        if (tokens[i], tokens[j]) != pair:
            continue
        tokens[i], tokens[j] = joined, -1
        after[i] = after[j]
        before[after[i]] = i
        for left, right in ((before[i], i), (i, after[i])):  # before[0] is -1: the end
            pair = (tokens[left], tokens[right])
            if pair in merges:
                heappush(heap, (*merges[pair], left, pair))
    return [token for token in tokens if token >= 0]


def learn_merges(words: Mapping[bytes, int], byte_order: str = "gpt2") -> Iterator[tuple[bytes, bytes]]:
    """
    Learn merges from a corpus, the most frequent pair first, until no pair of neighbours is left.

    Of equally frequent pairs, the one with the smallest (left id, right id) wins. The heap is lazy: an entry whose
    count has fallen since goes back with its new count. No count ever grows: a merge only makes pairs with its own
    token, and that is new. No later pair can spell it again, for wherever its bytes stand and no token crosses their
    ends, they have been joined by the same merges.

    Parameters
    ----------
    words : mapping of bytes to int
        How often each piece occurs.
    byte_order : {"gpt2", "raw"}
        How the first 256 ids are given to the bytes, which decides ties.

    Yields
    ------
    left, right : bytes
        The two tokens to join. Take as many as you need: nothing is computed ahead.

    Examples
    --------
    >>> list(learn_merges({b"hen": 3, b"then": 2, b"hat": 1}))
    [(b'e', b'n'), (b'h', b'en'), (b't', b'hen'), (b'a', b't'), (b'h', b'at')]
    """
    tokens = [bytes([byte]) for byte in BYTE_ORDERS[byte_order]]
    byte_ids = {byte: id for id, byte in enumerate(BYTE_ORDERS[byte_order])}
    rows = [([byte_ids[byte] for byte in word], count) for word, count in words.items()]
    counts: PairCounts = defaultdict(int)
    rows_with: RowsWith = defaultdict(set)
    for row, (word, count) in enumerate(rows):
        for pair in pairwise(word):
            counts[pair] += count
            rows_with[pair].add(row)
    heap = [(-count, pair) for pair, count in counts.items()]
    heapify(heap)
    while heap:
        count, pair = heappop(heap)
        if -count != counts[pair]:
            if counts[pair] > 0:
                heappush(heap, (-counts[pair], pair))
            continue
        left, right = (tokens[id] for id in pair)
        yield left, right
        tokens.append(left + right)
        for new in _join_everywhere(pair, len(tokens) - 1, rows, counts, rows_with):
            heappush(heap, (-counts[new], new))


def _join_everywhere(
    pair: Pair, joined: int, rows: list[tuple[list[int], int]], counts: PairCounts, rows_with: RowsWith
) -> set[Pair]:
    """Join a pair in the words that hold it, recount only those, and return the pairs that are new."""
    made = set()
    for row in rows_with.pop(pair):
        word, times = rows[row]
        merged = _join(word, pair, joined)
        rows[row] = (merged, times)
        for old in pairwise(word):
            counts[old] -= times
        for new in pairwise(merged):
            counts[new] += times
            if joined in new:
                rows_with[new].add(row)
                made.add(new)
    return made


def _join(word: list[int], pair: Pair, joined: int) -> list[int]:
    """Replace a pair wherever it stands, from left to right."""
    out, i = [], 0
    while i < len(word):
        if word[i] == pair[0] and word[i + 1 : i + 2] == [pair[1]]:
            out.append(joined)
            i += 2
        else:
            out.append(word[i])
            i += 1
    return out

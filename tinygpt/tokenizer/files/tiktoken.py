r"""
tiktoken's rank files: one line per token, with its bytes in base64, a space, and its rank, which is its id.

    IQ== 0
    Ig== 1
    IHRoZQ== 262

There are no merges in such a file, nor special tokens, nor the pattern. tiktoken joins those neighbours whose joined
bytes have the lowest rank, the leftmost first, and takes a piece that is a token as it is. Merges that do the same can
be found, one at most for each token:

    Take a moment at which neighbours x and y stand in some text and x + y is a token t. Nothing was ever joined across
    the ends of x + y. So what happened within it is what happens when the bytes of t are merged alone: the choice among
    its pairs does not depend on what surrounds them. Merging t alone passes through one state of two parts at most,
    since each step makes one part fewer. So (x, y) is always the same pair, the last one when t is merged alone.

A token that merging its own bytes does not reach is only ever found as a whole piece (`whole_pieces` of `Tokenizer`).
For GPT-2's vocabulary this finds exactly GPT-2's merges.

Source: tiktoken 0.14, `load.py` (the form) and `_educational.py` (the rule).
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Iterable, Mapping, Sequence
from heapq import heappop, heappush
from itertools import pairwise

from tinygpt.files.atomic import atomic_write
from tinygpt.files.input_file import MEGABYTE, read_bytes
from tinygpt.files.one_line import brief, shown
from tinygpt.tokenizer.files.reading import MOST_TOKENS

LARGEST_FILE = 8 * MEGABYTE  # o200k_base, the largest in use, has 3.6 MB
LONGEST_LINE = 4096  # bytes
_SHORT = 32  # bytes; longer tokens are merged by a heap


def read_ranks(path: str | os.PathLike[str]) -> dict[bytes, int]:
    """
    Read a rank file: rank by token, in the order of the file. Ranks may have holes; empty lines are passed over.

    Raises
    ------
    FileNotFoundError
        If the file is missing.
    ValueError
        If a line is malformed, a token or a rank is there twice, or a byte is missing: names the file and the line.
    """
    ranks: dict[bytes, int] = {}
    lines_of: dict[int, int] = {}
    data = read_bytes(path, LARGEST_FILE, "from_tiktoken", "it must be a rank file", "a rank file")
    if data.count(b" ") > MOST_TOKENS:
        raise ValueError(f"{shown(path)}: must hold at most {MOST_TOKENS:,} tokens; use another copy")
    for number, line in enumerate(data.split(b"\n"), start=1):
        line = line.removesuffix(b"\r")
        if not line:
            continue
        where = f"{shown(path)}, line {number}"
        token, rank = _read_line(where, line)
        if token in ranks:
            raise ValueError(
                f"{where}: must hold a new token, got {brief(token)} of line {lines_of[ranks[token]]} again"
            )
        if rank in lines_of:
            raise ValueError(
                f"{where}: must have a rank of its own, got {rank}, that of line {lines_of[rank]}; "
                "if it is the last line, the file may be cut off: copy it again"
            )
        ranks[token] = rank
        lines_of[rank] = number
    for byte in range(256):
        if bytes([byte]) not in ranks:
            raise ValueError(
                f"{shown(path)}: must hold all 256 single bytes, {bytes([byte])!r} is missing; the file may be cut off"
            )
    return ranks


def _read_line(where: str, line: bytes) -> tuple[bytes, int]:
    if len(line) > LONGEST_LINE:
        raise ValueError(f"{where}: must have at most {LONGEST_LINE:,} bytes, got {len(line):,}; use another copy")
    written, _, rank = line.partition(b" ")
    got = brief(line[:60].decode("utf-8", "replace"))
    if not rank.isdigit() or int(rank) >= 1 << 32:
        raise ValueError(
            f"{where}: needs base64, a space and a rank from 0 to 2**32 - 1, got {got}; the file may be cut off"
        )
    try:
        token = base64.b64decode(written, validate=True)
    except binascii.Error as error:
        raise ValueError(f"{where}: the token must be in base64 ({error}), got {got}; copy the file again") from None
    if not token:
        raise ValueError(f"{where}: a token must not be empty, got {got}")
    return token, int(rank)


def merges_of(ranks: Mapping[bytes, int]) -> tuple[list[tuple[bytes, bytes]], bool]:
    """
    Find the merges that do what tiktoken does with these ranks.

    Returns
    -------
    merges : list of (bytes, bytes)
        At most one for each token, in the order of the ranks.
    whole_pieces : bool
        Whether there are tokens that no merge makes.

    Examples
    --------
    >>> ranks = {bytes([b]): b for b in range(256)} | {b"he": 256, b"the": 257, b"xyz": 258}
    >>> merges_of(ranks)
    ([(b'h', b'e'), (b't', b'he')], True)
    """
    longer = sorted((token for token in ranks if len(token) > 1), key=ranks.__getitem__)
    found = [(token, _last_pair(token, ranks)) for token in longer]
    merges = [pair for token, pair in found if pair is not None]
    return merges, len(merges) < len(found)


def _last_pair(token: bytes, ranks: Mapping[bytes, int]) -> tuple[bytes, bytes] | None:
    """Merge the bytes of a token by rank: the two parts before the last step, or None if the token is not reached."""
    if len(token) > _SHORT:
        return _last_pair_of_long(token, ranks)
    never = 1 << 32
    parts = [bytes([byte]) for byte in token]
    found = [ranks.get(left + right, never) for left, right in pairwise(parts)]
    while len(parts) > 2:
        lowest = min(found)
        if lowest == never:
            return None
        i = found.index(lowest)
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
        del found[i]
        if i > 0:
            found[i - 1] = ranks.get(parts[i - 1] + parts[i], never)
        if i < len(found):
            found[i] = ranks.get(parts[i] + parts[i + 1], never)
    return parts[0], parts[1]


def _last_pair_of_long(token: bytes, ranks: Mapping[bytes, int]) -> tuple[bytes, bytes] | None:
    """Do the same in n log n steps, not n squared: a heap holds the pairs; a pair that has changed is skipped."""
    n = len(token)
    end_of, before = (
        list(range(1, n + 1)),
        list(range(-1, n - 1)),
    )  # of the part that begins here; and its left neighbour
    is_part = [True] * n
    heap: list[tuple[int, int, int]] = []

    def consider(start: int) -> None:
        """The pair whose left part begins at `start`."""
        if start >= 0 and end_of[start] < n:
            end = end_of[end_of[start]]
            rank = ranks.get(token[start:end])
            if rank is not None:
                heappush(heap, (rank, start, end))

    for start in range(n - 1):
        consider(start)
    parts = n
    while parts > 2:
        if not heap:
            return None
        _, start, end = heappop(heap)
        middle = end_of[start]
        if not is_part[start] or middle >= n or end_of[middle] != end:
            continue
        is_part[middle], end_of[start], parts = False, end, parts - 1
        if end < n:
            before[end] = start
        consider(before[start])
        consider(start)
    return token[: end_of[0]], token[end_of[0] :]


def save(
    path: str | os.PathLike[str],
    vocab: Mapping[int, bytes],
    merges: Sequence[tuple[bytes, bytes]],
    whole_pieces: bool,
) -> None:
    """
    Write a rank file, lowest rank first.

    Raises
    ------
    ValueError
        If tiktoken would not do the same with it, because the merges are in another order than the ids of what they
        make, or say what ids cannot say.
    """
    ranks = {token: id for id, token in sorted(vocab.items())}
    _check_order(ranks, merges)
    needed, unreached = merges_of(ranks)
    if missing := _first_missing(needed, merges):
        raise ValueError(
            f"to_tiktoken: a rank file implies the merge of {missing[0]!r} and {missing[1]!r}, which this tokenizer "
            "does not have, so tiktoken's ids would differ; use to_tokenizer_json"
        )
    if unreached and not whole_pieces:
        made = {left + right for left, right in needed}
        token = next(token for token in ranks if len(token) > 1 and token not in made)
        raise ValueError(
            f"to_tiktoken: no merge makes the token {token!r}, but tiktoken would take it for a whole piece; "
            "use to_tokenizer_json"
        )
    lines = [f"{base64.b64encode(token).decode('ascii')} {rank}\n" for token, rank in ranks.items()]
    atomic_write(path, "".join(lines))


def _check_order(ranks: Mapping[bytes, int], merges: Sequence[tuple[bytes, bytes]]) -> None:
    made = [left + right for left, right in merges]
    for first, second in pairwise(made):
        if ranks[first] > ranks[second]:
            raise ValueError(
                f"to_tiktoken: ids must rise with the merges, since tiktoken merges by id; {first!r} is made before "
                f"{second!r}, with the ids {ranks[first]} and {ranks[second]}; use to_tokenizer_json"
            )


def _first_missing(
    needed: Iterable[tuple[bytes, bytes]], merges: Iterable[tuple[bytes, bytes]]
) -> tuple[bytes, bytes] | None:
    present = set(merges)
    return next((pair for pair in needed if pair not in present), None)

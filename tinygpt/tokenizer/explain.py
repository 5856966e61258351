r"""
How a text becomes tokens, drawn: its pieces, and for each piece the tree of merges that makes its tokens.

With GPT-2's vocabulary, `explain("the hens", tokenizer)` is this:

    2 pieces, 3 tokens

    piece 1: 'the', 1 token
      'the'                                     id 1169, rank 913
      ├─ 't'                                    id 83
      └─ 'he'                                   id 258, rank 2
         ├─ 'h'                                 id 71
         └─ 'e'                                 id 68

    piece 2: ' hens', 2 tokens
      ' he'                                     id 339, rank 83
      ├─ ' '                                    id 220
      └─ 'he'                                   id 258, rank 2
         ├─ 'h'                                 id 71
         └─ 'e'                                 id 68
      'ns'                                      id 5907, rank 5651
      ├─ 'n'                                    id 77
      └─ 's'                                    id 82

Read it from the leaves. The first piece is three bytes, so two pairs of neighbours: t + h and h + e. The lower the
rank, the earlier a merge was learned and the sooner it is made: h + e (rank 2). One pair is left, t + he, and it is
known too (rank 913). The second piece shows what merging is not: a search for the longest token. GPT-2 has a token
' hen', but ' hens' does not become ' hen' and 's'. After h + e and ' ' + he, the pairs left are ' he' + n (rank 30707)
and n + s (rank 5651): the latter comes first, and takes the n. No merge joins two pieces.

The tree of a token depends on its bytes alone: in any text, it is merged as if it stood alone
(files/tiktoken.py says why). So the trees are found by merging each token's own bytes once more.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from tinygpt.files.one_line import columns
from tinygpt.tokenizer.pattern import Pattern
from tinygpt.tokenizer.reference import Merges, merge_long, split, without_surrogates
from tinygpt.tokenizer.special_tokens import split_off

if TYPE_CHECKING:
    from tinygpt.tokenizer.tokenizer import Tokenizer

COLUMNS = 100
_TEXT_COLUMNS = 28  # of a token, longer ones are cut
_DEEPEST = 8  # levels below a token that are drawn


class Node(NamedTuple):
    """A token and how it was made: by joining two others, or, if there are none, not by a merge."""

    id: int
    rank: int | None
    parts: tuple[Node, Node] | None


def explain(text: str, tokenizer: Tokenizer) -> str:
    """
    Draw how a text becomes tokens, in lines of at most 100 columns.

    Parameters
    ----------
    text : str
        Special tokens in it take effect.
    tokenizer : Tokenizer

    Returns
    -------
    str
        A piece that came before is only named again.

    Examples
    --------
    >>> from tinygpt import Tokenizer
    >>> tokenizer = Tokenizer.train("hen then when", 259, progress=False)
    >>> print(explain("hen hen", tokenizer))  # doctest: +NORMALIZE_WHITESPACE
    2 pieces, 3 tokens
    <BLANKLINE>
    piece 1: 'hen', 1 token
      'hen'                               id 257, rank 1
      ├─ 'h'                              id 71
      └─ 'en'                             id 256, rank 0
         ├─ 'e'                           id 68
         └─ 'n'                           id 77
    <BLANKLINE>
    piece 2: ' hen', 2 tokens
      ' '                                 id 220
      'hen'                               id 257, rank 1, drawn above
    """
    return "\n".join(_lines(text, tokenizer))


def _lines(text: str, tokenizer: Tokenizer) -> Iterator[str]:
    ids = {token: id for id, token in tokenizer.vocab.items()}
    merges = {(ids[left], ids[right]): (rank, ids[left + right]) for rank, (left, right) in enumerate(tokenizer.merges)}
    found: list[tuple[bytes, list[int]]] = []
    for number, part in enumerate(
        split_off(without_surrogates(text), tokenizer.special_tokens, tokenizer.special_flags)
    ):
        if number % 2:
            found.append((part.encode("utf-8"), [tokenizer.special_tokens[part]]))
            continue
        for piece in split(part) if tokenizer.pattern is None else Pattern(tokenizer.pattern).split(part):
            data = piece.encode("utf-8")
            whole = tokenizer.whole_pieces and data in ids
            found.append((data, [ids[data]] if whole else merge_long([ids[bytes([byte])] for byte in data], merges)))
    yield f"{_count(len(found), 'piece')}, {_count(sum(len(tokens) for _, tokens in found), 'token')}"
    drawn: set[int] = set()
    first: dict[bytes, int] = {}
    for number, (data, tokens) in enumerate(found, start=1):
        again = f", as piece {first[data]}" if data in first else ""
        yield f"\npiece {number}: {shown(data)}, {_count(len(tokens), 'token')}{again}"
        if data not in first:
            first[data] = number
            for id in tokens:
                yield from _draw_token(id, tokenizer, merges, ids, drawn)


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def shown(data: bytes) -> str:
    r"""
    Return bytes as people read them, cut to what fits.

    Examples
    --------
    >>> shown(" é\n".encode("utf-8")), shown(b"\xc3"), shown(b"a" * 100)
    ("' é\\n'", "b'\\xc3'", "'aaaaaaaaaaaaaaaaaaaaaaaaa'…")
    """
    try:
        text = repr(data.decode("utf-8"))
    except UnicodeDecodeError:
        text = repr(data)
    if columns(text) <= _TEXT_COLUMNS:
        return text
    quote = text[-1]
    while columns(text) > _TEXT_COLUMNS - 2:
        text = text[: min(len(text) - 1, _TEXT_COLUMNS)]
    return f"{text}{quote}…"


def _draw_token(id: int, tokenizer: Tokenizer, merges: Merges, ids: dict[bytes, int], drawn: set[int]) -> Iterator[str]:
    if id in tokenizer.special_tokens.values():
        yield _line("", tokenizer.decode_bytes([id]), f"id {id}, special: found before any piece")
        return
    node = tree(tokenizer.vocab[id], merges, ids)
    if node is None:
        yield _line("", tokenizer.vocab[id], f"id {id}, taken whole: the piece is a token")
    elif id in drawn and node.parts:
        yield _line("", tokenizer.vocab[id], f"id {id}, rank {node.rank}, drawn above")
    else:
        drawn.add(id)
        yield from _draw(node, "", "", 0, tokenizer)


def _draw(node: Node, own: str, below: str, depth: int, tokenizer: Tokenizer) -> Iterator[str]:
    made = "" if node.rank is None else f", rank {node.rank}"
    hidden = node.parts is not None and depth == _DEEPEST
    yield _line(own, tokenizer.vocab[node.id], f"id {node.id}{made}{', not drawn' if hidden else ''}")
    if node.parts and not hidden:
        yield from _draw(node.parts[0], below + "├─ ", below + "│  ", depth + 1, tokenizer)
        yield from _draw(node.parts[1], below + "└─ ", below + "   ", depth + 1, tokenizer)


def _line(prefix: str, data: bytes, what: str) -> str:
    text = f"  {prefix}{shown(data)}"
    return f"{text}{' ' * max(2, 44 - columns(text))}{what}"


def tree(token: bytes, merges: Merges, ids: dict[bytes, int]) -> Node | None:
    """
    Merge the bytes of a token and keep every step; None if they do not become that token.

    Examples
    --------
    >>> tree(b"aab", {(0, 0): (0, 2), (2, 1): (1, 3)}, {b"a": 0, b"b": 1, b"aa": 2, b"aab": 3}).parts[0]
    Node(id=2, rank=0, parts=(Node(id=0, rank=None, parts=None), Node(id=0, rank=None, parts=None)))
    """
    nodes = [Node(ids[bytes([byte])], None, None) for byte in token]
    while len(nodes) > 1:
        pairs = ((left.id, right.id) for left, right in pairwise(nodes))
        known = [(*merges[pair], i) for i, pair in enumerate(pairs) if pair in merges]
        if not known:
            return None
        rank, joined, i = min(known)
        nodes[i : i + 2] = [Node(joined, rank, (nodes[i], nodes[i + 1]))]
    return nodes[0]

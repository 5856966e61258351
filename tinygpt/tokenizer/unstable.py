r"""
The tokens at the end of a text that will go on: which of them are certain, and what the others may become.

A prompt that ends inside a word ends in tokens that a model has never seen before the rest of that word. With GPT-2's
vocabulary:

    "hello fanta"             hello | Ġf | anta
    "hello fantasy"           hello | Ġfantasy        what follows replaces two tokens by one
    "hello fantastic"         hello | Ġfantastic

    stable        hello       No token crosses the border of two pieces, so all before the last piece is certain,
    unstable      " fanta"    and the last piece is not.
    completions   Ġf | anta, Ġfantasy, Ġfantastic, Ġfant | antly, ...

A completion is a sequence of tokens whose text begins with the unstable text. Its last token begins inside the unstable
text, and ends where that ends or beyond it. So each is found from a token that begins with an end of the unstable text,
such as "anta" or "a": the text before it and the token are encoded, and the tokens up to the end of the unstable text
are the completion.

Two borders of pieces in white space are less certain than others, and are treated as in tiktoken:

    "a \n" + "\nb"   Patterns such as cl100k's join white space that they have split before. So where the last piece
                     begins with a token of white space, the tokens of white space before it are unstable too.
    "\n\n" + "b"     GPT-2's pattern leaves the last character of white space to what follows: "\n" | "\n" | "b". So
                     there is one more completion, which is split before the last character.

Special tokens are not among the completions.

Source: tiktoken 0.14, `_encode_unstable_native` in src/lib.rs, which has these rules and gives the same completions.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate

from tinygpt.tokenizer.encoder import Encoder
from tinygpt.tokenizer.reference import STAND_INS

_BLANKS = b" \n\t"
_WHITE_SPACE = frozenset(b" \t\n\v\f\r")  # among the stand-ins, which have "\t" for white space beyond ASCII

Stable = list[int]
Completions = list[list[int]]


def encode_with_unstable(
    texts: Sequence[str],
    separators: Sequence[int],
    encoder: Encoder,
    vocab: Mapping[int, bytes],
    sorted_tokens: Sequence[tuple[bytes, int]],
) -> tuple[Stable, Completions]:
    """
    Encode texts, with separators between them, up to where the tokens are certain, and say how they may go on.

    Parameters
    ----------
    texts, separators
        As `Encoder.encode` takes them.
    encoder : Encoder
    vocab : mapping of int to bytes
        Its tokens.
    sorted_tokens : sequence of (bytes, int)
        The same the other way round, in ascending order.

    Returns
    -------
    stable : list of int
    completions : list of list of int
        In ascending order, each once; no completions if the last text is empty: after a separator, all is certain.

    Examples
    --------
    >>> ids = {bytes([b]): b for b in range(256)} | {b"he": 256, b"hen": 257}
    >>> encoder = Encoder(ids, [(b"h", b"e"), (b"he", b"n")], 258)
    >>> encode_with_unstable(["a he"], [], encoder, {id: token for token, id in ids.items()}, sorted(ids.items()))
    ([97], [[32, 256], [32, 257]])
    """
    ids = encoder.encode_to_list(texts, separators)
    last = encoder.last_piece(texts[-1])
    if not last:
        return ids, []
    stable = len(ids) - len(encoder.encode_piece(last))
    if _is_blank(ids[stable], vocab):
        while stable > 0 and _is_blank(ids[stable - 1], vocab):
            stable -= 1
    unstable = b"".join([vocab[id] for id in ids[stable:]])
    return ids[:stable], sorted(map(list, _completions(unstable, encoder, vocab, sorted_tokens)))


def _is_blank(id: int, vocab: Mapping[int, bytes]) -> bool:
    """Whether a token is of white space only; a separator, which is not in the vocabulary, is not."""
    return id in vocab and not vocab[id].strip(_BLANKS)


def _completions(
    unstable: bytes, encoder: Encoder, vocab: Mapping[int, bytes], sorted_tokens: Sequence[tuple[bytes, int]]
) -> set[tuple[int, ...]]:
    found: set[tuple[int, ...]] = {(id,) for _, id in _beginning_with(unstable, sorted_tokens)}
    for start in range(1, len(unstable)):
        for token, _ in _beginning_with(unstable[start:], sorted_tokens):
            ids = _encoded(unstable[:start] + token, encoder)
            ends = accumulate(len(vocab[id]) for id in ids)
            needed = next(count for count, end in enumerate(ends, start=1) if end >= len(unstable))
            found.add(tuple(ids[:needed]))
    text = unstable.decode("utf-8")
    if len(text) > 1 and STAND_INS[ord(text[-1])] in _WHITE_SPACE:
        before, after = text[:-1].encode("utf-8"), text[-1].encode("utf-8")
        found.add((*encoder.merge_bytes(before), *encoder.merge_bytes(after)))
    return found


def _beginning_with(data: bytes, sorted_tokens: Sequence[tuple[bytes, int]]) -> Iterator[tuple[bytes, int]]:
    """The tokens that begin with some bytes."""
    place = bisect_left(sorted_tokens, (data,))
    while place < len(sorted_tokens) and sorted_tokens[place][0].startswith(data):
        yield sorted_tokens[place]
        place += 1


def _encoded(data: bytes, encoder: Encoder) -> Sequence[int]:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:  # the token ends inside a character: there is no text to be split into pieces
        return encoder.merge_bytes(data)
    return encoder.encode_by_reference([text])

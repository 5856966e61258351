"""Checks of a vocabulary, its merges and its special tokens, before a tokenizer is built, and of lists of texts."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any


def list_of_texts(who: str, texts: Any) -> list[str]:
    """
    Return the texts as a list, or raise TypeError: a str is a sequence of str too, but never the one that is meant.

    Examples
    --------
    >>> list_of_texts("split_documents: documents", ("a", "b"))
    ['a', 'b']
    >>> list_of_texts("split_documents: documents", "ab")
    Traceback (most recent call last):
    ...
    TypeError: split_documents: documents must be a list of str, got a str; write [text]
    """
    if isinstance(texts, str):
        raise TypeError(f"{who} must be a list of str, got a str; write [text]")
    if isinstance(texts, (bytes, bytearray, Mapping)) or not isinstance(texts, Iterable):
        raise TypeError(f"{who} must be a list of str, got {type(texts).__name__}")
    found = list(texts)
    for number, text in enumerate(found):
        if not isinstance(text, str):
            raise TypeError(f"{who} must be a list of str, got {type(text).__name__} at place {number}")
    return found


def check_special_tokens(special_tokens: Mapping[str, int], taken: Container[int]) -> None:
    """Raise TypeError or ValueError, naming the token, unless names and ids can be used and no id is taken."""
    texts: dict[int, str] = {}
    for text, id in special_tokens.items():
        if not isinstance(text, str):
            raise TypeError(f"Tokenizer: a special token must be a str, got {type(text).__name__} {text!r}")
        if not text:
            raise ValueError("Tokenizer: a special token must not be empty; give it a name, or leave it out")
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise ValueError(
                f"Tokenizer: a special token must be encodable as UTF-8, got the lone surrogate in {text!r}"
            )
        if type(id) is not int:
            raise TypeError(f"Tokenizer: the id of {text!r} must be an int, got {type(id).__name__}")
        if not 0 <= id < 1 << 32:
            raise ValueError(f"Tokenizer: the id of {text!r} must be from 0 to 2**32 - 1, got {id}")
        if id in taken or id in texts:
            raise ValueError(f"Tokenizer: the id of {text!r} must be its own, got {id}, which another token has")
        texts[id] = text


def merges_in_pairs(merges: Sequence[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Return the merges as tuples, or raise TypeError, naming the first that is not two tokens."""
    for number, merge in enumerate(merges):
        if not isinstance(merge, (tuple, list)) or len(merge) != 2 or {*map(type, merge)} != {bytes}:
            raise TypeError(f"Tokenizer: a merge must be two tokens, (bytes, bytes); merge {number} is {merge!r}")
    return [(left, right) for left, right in merges]


def check_vocabulary(vocab: Mapping[int, bytes], merges: Sequence[tuple[bytes, bytes]]) -> dict[bytes, int]:
    """Return the ids by token, or raise TypeError or ValueError, naming the fault."""
    ids: dict[bytes, int] = {}
    for id, token in vocab.items():
        if not isinstance(token, bytes) or type(id) is not int:
            raise TypeError(f"Tokenizer: vocab must map int to bytes, got {id!r}: {token!r}")
        if not token or not 0 <= id < 1 << 32:
            raise ValueError(
                f"Tokenizer: a token must not be empty and its id from 0 to 2**32 - 1, got {id}: {token!r}"
            )
        if token in ids:
            raise ValueError(f"Tokenizer: tokens must differ, {token!r} has the ids {ids[token]} and {id}")
        ids[token] = id
    for byte in range(256):
        if bytes([byte]) not in ids:
            raise ValueError(f"Tokenizer: vocab must hold all 256 single bytes, {bytes([byte])!r} is missing")
    for number, (left, right) in enumerate(merges):
        if not (left in ids and right in ids and left + right in ids):
            missing = next(token for token in (left, right, left + right) if token not in ids)
            raise ValueError(f"Tokenizer: merge {number} names {missing!r}, which is not in vocab")
    if len(set(merges)) < len(merges):
        raise ValueError("Tokenizer: merges must differ, but at least one is there twice")
    return ids

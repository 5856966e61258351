"""
Special tokens: names such as `<|endoftext|>` that have an id of their own and no bytes to merge.

Their text must not take effect unasked: a stranger who types `<|endoftext|>` must not end a document. So a tokenizer
looks for them before anything else, and the caller says which may take effect and which may not occur at all.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

import regex

END_OF_TEXT = "<|endoftext|>"
Names = Literal["all"] | Collection[str]


def split_off(text: str, names: Collection[str]) -> list[str]:
    """
    Cut a text at special tokens, the longest first where several begin: text, special token, text, ..., text.

    Examples
    --------
    >>> split_off("once<|end|>upon", ["<|end|>"])
    ['once', '<|end|>', 'upon']
    >>> split_off("once", [])
    ['once']
    """
    return regex.split(f"({_any_of(names)})", text) if names else [text]


def allowed_names(
    text: str, special_tokens: Collection[str], allowed_special: Names, disallowed_special: Names
) -> set[str]:
    """
    Return the special tokens that take effect in a text, by tiktoken's rules.

    Raises
    ------
    ValueError
        If the text holds a disallowed one.
    """
    for argument, names in (("allowed_special", allowed_special), ("disallowed_special", disallowed_special)):
        if isinstance(names, str) and names != "all":
            raise TypeError(
                f"Tokenizer.encode: {argument} must be 'all' or a set of str, got {names!r}; write {{{names!r}}}"
            )
        if not isinstance(names, Collection) or isinstance(names, (bytes, bytearray)):
            got = type(names).__name__
            raise TypeError(f"Tokenizer.encode: {argument} must be 'all' or a set of str, got {got}; write () for none")
        if names != "all":
            for name in names:
                if not isinstance(name, str) or not name:
                    raise TypeError(f"Tokenizer.encode: {argument} must hold names of special tokens, got {name!r}")
    allowed = set(special_tokens) if allowed_special == "all" else set(special_tokens).intersection(allowed_special)
    disallowed = set(special_tokens) - allowed if disallowed_special == "all" else set(disallowed_special)
    found = regex.search(_any_of(disallowed), text) if disallowed else None
    if found:
        raise ValueError(
            f"Tokenizer.encode: the text must not hold the special token {found[0]!r}, got it at character "
            f"{found.start()}; pass allowed_special={{{found[0]!r}}} to encode it as its id, or disallowed_special=() "
            "to encode it as text"
        )
    return allowed


def _any_of(names: Collection[str]) -> str:
    return "|".join(map(regex.escape, sorted(names, key=len, reverse=True)))

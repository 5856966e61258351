"""
Special tokens: names such as `<|endoftext|>` that have an id of their own and no bytes to merge.

Their text must not take effect by accident: a user who types `<|endoftext|>` must not end a document. So a tokenizer
looks for them first, and the caller says which of them take effect and which must not occur.

Tokens are searched as Hugging Face's `AddedToken` says; GPT-2's own have none of these flags.

    lstrip, rstrip    the token takes the white space before it, or after it
    single_word       it counts only where no letter, digit or underscore is next to it
    normalized        it is searched after the others, in the remaining text

Source: added_vocabulary.rs of tokenizers 0.23.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Literal, NamedTuple

import regex

END_OF_TEXT = "<|endoftext|>"
Names = Literal["all"] | Collection[str]
_SPACE_BEFORE = regex.compile(r"(?r)\p{White_Space}*")  # matched from right to left: the text before is not read
_SPACE = regex.compile(r"\p{White_Space}*")
_WORD = regex.compile(r"[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]")
_MOST_PARTS = 20_000_000  # a thousand names of 27 characters each


class Flags(NamedTuple):
    """How a special token is searched; see above."""

    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False
    normalized: bool = False


def split_off(text: str, names: Collection[str], flags: Mapping[str, Flags] | None = None) -> list[str]:
    """
    Cut a text at special tokens, the longest first where several begin: text, special token, text, ..., text.

    Parameters
    ----------
    text : str
    names : collection of str
        The special tokens.
    flags : mapping of str to Flags, optional
        Of those that have any.

    Examples
    --------
    >>> split_off("once<|end|>upon", ["<|end|>"])
    ['once', '<|end|>', 'upon']
    >>> split_off("once", [])
    ['once']
    >>> split_off("the <mask> hen", ["<mask>"], {"<mask>": Flags(lstrip=True)})
    ['the', '<mask>', ' hen']
    """
    if not names:
        return [text]
    if not flags:
        return regex.split(f"({_any_of(names)})", text)
    parts = [text]
    for later in (False, True):
        chosen = [name for name in names if flags.get(name, Flags()).normalized == later]
        if chosen:
            cut = [_cut(part, chosen, flags) if place % 2 == 0 else [part] for place, part in enumerate(parts)]
            parts = [part for pieces in cut for part in pieces]
    return parts


def _cut(text: str, names: Collection[str], flags: Mapping[str, Flags]) -> list[str]:
    parts, done = [], 0
    for match in regex.finditer(_any_of(names), text):
        own, (start, end) = flags.get(match[0], Flags()), match.span()
        before, after = text[start - 1 : start], text[end : end + 1]
        if own.single_word and (_WORD.match(before) or _WORD.match(after)):
            continue
        if own.lstrip:
            start = _SPACE_BEFORE.match(text, done, start).start() if done < start else done
        if own.rstrip:
            end = _SPACE.match(text, max(end, done)).end()  # up to `done`, all is space
        if start < end:  # else the token before, which strips, takes all of it
            parts += [text[done:start], match[0]]
        done = end
    return [*parts, text[done:]]


def flags_that_matter(special_tokens: Collection[str], flags: Mapping[str, Flags]) -> dict[str, Flags]:
    """
    The flags without those that change nothing: `normalized`, unless a token that has it can meet one that has not.

    So equal tokenizers have equal flags, whichever version of transformers wrote them.

    Examples
    --------
    >>> flags_that_matter(["<a>", "<b>"], {"<b>": Flags(normalized=True)})
    {}
    >>> flags_that_matter(["<a>", "a>b"], {"a>b": Flags(normalized=True)})
    {'a>b': Flags(lstrip=False, rstrip=False, single_word=False, normalized=True)}
    """
    later = {name for name in special_tokens if flags.get(name, Flags()).normalized}
    first = set(special_tokens) - later
    if (not _can_meet(first, later) and not any(any(own[:3]) for own in flags.values())) or not first or not later:
        flags = {name: own._replace(normalized=False) for name, own in flags.items()}
    return {name: own for name, own in flags.items() if any(own)}


def _can_meet(first: Collection[str], later: Collection[str]) -> bool:
    """Whether a token of the one kind can share characters of a text with one of the other."""

    def ends(names: Collection[str]) -> tuple[set[str], set[str], set[str]]:
        prefixes = {name[:end] for name in names for end in range(1, len(name) + 1)}
        suffixes = {name[start:] for name in names for start in range(len(name))}
        return prefixes, suffixes, {suffix[:end] for suffix in suffixes for end in range(1, len(suffix) + 1)}

    if not first or not later:
        return False
    if sum(len(name) ** 3 for name in (*first, *later)) > _MOST_PARTS:
        return True  # perhaps: the parts of so many names, or of such long ones, would take too much memory
    first_prefixes, first_suffixes, first_parts = ends(first)
    later_prefixes, later_suffixes, later_parts = ends(later)
    return not (
        first_suffixes.isdisjoint(later_prefixes)
        and later_suffixes.isdisjoint(first_prefixes)
        and first_parts.isdisjoint(later)
        and later_parts.isdisjoint(first)
    )


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

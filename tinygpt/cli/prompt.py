"""Texts that are typed as options: the prompt of `tinygpt generate` and `tinygpt inspect`, and stop texts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tinygpt.cli.escapes import unescape

if TYPE_CHECKING:
    from tinygpt.tokenizer import Tokenizer


def typed(option: str, given: str, escape: bool) -> str:
    """The bytes that the shell has passed, which Python keeps as surrogates, read as UTF-8; escapes, if they count."""
    from tinygpt.text.decoding import plain_text

    text = plain_text(given.encode("utf-8", "surrogateescape"), option)
    return unescape(option, text) if escape else text


def typed_prompt(given: str, escape: bool, remedy: str = "") -> str:
    """The text of --prompt, which must not be empty."""
    text = typed("--prompt", given, escape)
    if not text:
        raise ValueError(f"the prompt must not be empty{remedy}")
    return text


def require_ordinary(prompt: str, tokenizer: Tokenizer) -> None:
    """Raise ValueError if a prompt holds the name of a special token, for whoever has not given --allow-special."""
    from tinygpt.tokenizer.special_tokens import split_off

    before, *found = split_off(prompt, tokenizer.special_tokens)
    if found:
        raise ValueError(
            f"the prompt must not hold the special token {found[0]!r}, got it at character {len(before)}; with "
            "--allow-special it becomes its id"
        )

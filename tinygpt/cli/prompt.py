"""The prompt of `tinygpt generate` and `tinygpt inspect`, as it was typed."""

from __future__ import annotations


def prompt_argument(given: str, remedy: str = "") -> str:
    """The text of --prompt: the bytes that the shell has passed, which Python keeps as surrogates, read as UTF-8."""
    from tinygpt.text.decoding import plain_text

    text = plain_text(given.encode("utf-8", "surrogateescape"), "--prompt")
    if not text:
        raise ValueError(f"the prompt must not be empty{remedy}")
    return text

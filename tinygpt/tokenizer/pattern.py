"""
Patterns of one's own: how other tokenizers cut a text into pieces, by any regular expression of the package `regex`.

Letters, numbers and all other properties are those of Unicode 16, whichever version the installed `regex` knows: the
ids are then those of tiktoken 0.14 and Hugging Face's tokenizers 0.23; see `unicode_16.py`.
"""

from __future__ import annotations

import regex

from tinygpt.tokenizer.unicode_16 import as_unicode_16

# Published patterns by the names that commands know them by. GPT-2's has code of its own: None is its name inside.
# Source: OpenAI's tiktoken, tiktoken_ext/openai_public.py.
PATTERNS = {
    "gpt2": None,
    "cl100k": r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$"
    r"|\s*[\r\n]|\s+(?!\S)|\s",
}


class Pattern:
    r"""
    A split pattern. All of a text must be in pieces, for what is in none would be lost.

    Parameters
    ----------
    pattern : str

    Examples
    --------
    >>> Pattern(r"\p{N}{1,3}|\P{N}+").split("in 2025")
    ['in ', '202', '5']
    """

    def __init__(self, pattern: str) -> None:
        if not isinstance(pattern, str):
            raise TypeError(f"Tokenizer: pattern must be a str or None, got {type(pattern).__name__}")
        try:
            self._pattern = regex.compile(pattern)
        except regex.error as error:
            raise ValueError(f"Tokenizer: pattern must be a regular expression, got {pattern!r}: {error}") from None

    def split(self, text: str) -> list[str]:
        """Cut a text into pieces; raises ValueError if a character is in none."""
        seen = as_unicode_16(text)
        if self._pattern.groups or seen is not text:  # findall would give the groups, or the stand-ins
            pieces = [text[slice(*match.span())] for match in self._pattern.finditer(seen)]
        else:
            pieces = self._pattern.findall(text)
        if sum(map(len, pieces)) != len(text):
            raise ValueError(f"Tokenizer: the pattern must match all of a text, {self._left_out(text)}")
        return [piece for piece in pieces if piece] if "" in pieces else pieces

    def _left_out(self, text: str) -> str:
        end = 0
        for match in self._pattern.finditer(as_unicode_16(text)):
            if match.start() > end:
                break
            end = match.end()
        return f"character {end}, {text[end]!r}, is in no piece; add an alternative such as |. with (?s)"

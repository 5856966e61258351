"""
Split patterns other than GPT-2's: any regular expression of the package `regex` can cut a text into pieces.

Letters, numbers and all other properties are those of Unicode 16, with any version of `regex` installed: the
ids are then those of tiktoken 0.14 and Hugging Face's tokenizers 0.23; see `unicode_16.py`.

A pattern can come from an untrusted file, and take exponential time: to compile, since `regex` expands counted repeats,
and to match, since it tries all ways to divide a text among nested repeats. So a pattern that would become too large is
refused before it is compiled, and matching has a time limit that no ordinary pattern reaches.
"""

from __future__ import annotations

import re

import regex

from tinygpt.files.one_line import brief
from tinygpt.tokenizer.unicode_16 import as_unicode_16

LONGEST = 10_000  # characters; the longest in use have 500
DEEPEST = 50  # groups inside each other
LARGEST = 50_000  # elements of a pattern whose repeats are written out
_SECONDS = 2.0  # of this process's time, for any text at all
_CHARACTERS_PER_SECOND = 100_000  # a twentieth of the speed of the published patterns

# One element of a pattern: a class in brackets, an escape, the start of a group, a quantifier, any other character.
_ELEMENT = re.compile(
    r"\[\^?\]?(?:\\.|\[:\^?\w+:\]|[^\]\\])*\]|\\.|\((?:\?(?:[:=!>|]|<[=!]|P?<\w+>|[a-zA-Z0-9-]+[:)]))?|\{\d*,?\d*\}|.",
    re.DOTALL,
)

# Published patterns by their names on the command line. GPT-2's has its own code: inside, it is None.
# Source: OpenAI's tiktoken, tiktoken_ext/openai_public.py.
PATTERNS = {
    "gpt2": None,
    "cl100k": r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$"
    r"|\s*[\r\n]|\s+(?!\S)|\s",
}

# Patterns that are known to take linear time: those of other models, as their tokenizer.json has them. A time limit
# makes `regex` take twice as long, so these have none.
_LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
_WORD_OF_O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
)
_O200K = _WORD_OF_O200K + r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_QWEN_2 = _LLAMA_3.replace(r"\p{N}{1,3}", r"\p{N}")


def covering(pattern: str) -> str:
    r"""
    Return the pattern with one more alternative: each run of characters where no match begins.

    Examples
    --------
    >>> Pattern(covering("[0-9]")).split("in 12")
    ['in ', '1', '2']
    """
    return rf"{pattern}|(?:(?!{pattern})[\s\S])+"


_LINEAR = {PATTERNS["cl100k"], _LLAMA_3, _QWEN_2, _O200K}
_LINEAR |= {covering(pattern) for pattern in (_LLAMA_3, _QWEN_2, _O200K)}


class Pattern:
    r"""
    A split pattern. The pieces must cover the text: characters in no piece would be lost.

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
        require_size(pattern)
        try:
            self._pattern = regex.compile(pattern)
        except (regex.error, ValueError, OverflowError, RecursionError) as error:
            raise ValueError(
                f"Tokenizer: pattern must be a regular expression, got {brief(pattern)}: {error}"
            ) from None

    def split(self, text: str) -> list[str]:
        """Cut a text into pieces; raises ValueError if a character is in none, or the pattern takes too long."""
        source, seen = self._pattern.pattern, as_unicode_16(text)
        seconds = None if source in _LINEAR else _SECONDS + len(text) / _CHARACTERS_PER_SECOND
        try:
            if self._pattern.groups or seen is not text:  # findall would give the groups, or the stand-ins
                pieces = [text[slice(*match.span())] for match in self._pattern.finditer(seen, timeout=seconds)]
            else:
                pieces = self._pattern.findall(text, timeout=seconds)
            if sum(map(len, pieces)) != len(text):
                left_out = self._left_out(text, seen, seconds)
                raise ValueError(f"Tokenizer: the pattern must match all of a text, {left_out}")
        except TimeoutError:
            raise ValueError(
                f"Tokenizer: the pattern must cut {len(text):,} characters within {seconds:.0f} s, and does not: it "
                f"tries too many ways, as nested repeats do, got {brief(source)}; write it otherwise"
            ) from None
        except MemoryError:
            raise ValueError(
                f"Tokenizer: the pattern must cut {len(text):,} characters within a gigabyte, and does not, got "
                f"{brief(source)}; write it otherwise"
            ) from None
        return [piece for piece in pieces if piece] if "" in pieces else pieces

    def _left_out(self, text: str, seen: str, seconds: float | None) -> str:
        end = 0
        for match in self._pattern.finditer(seen, timeout=seconds):
            if match.start() > end:
                break
            end = match.end()
        return f"character {end}, {text[end]!r}, is in no piece; add an alternative such as |. with (?s)"


def require_size(pattern: str) -> None:
    r"""
    Raise ValueError if a pattern is too long, too deep, or too large once its repeats are written out.

    Examples
    --------
    >>> require_size(r"\p{N}{1,3}+|\s++$")
    >>> require_size("(?:(?:(?:a{99}){99}){99})")
    Traceback (most recent call last):
    ValueError: Tokenizer: pattern must be at most 50,000 elements with its repeats written out, got more: '(?:(?:(?:a{99}){99}){99})'
    """  # noqa: E501
    if len(pattern) > LONGEST:
        raise ValueError(f"Tokenizer: pattern must have at most {LONGEST:,} characters, got {len(pattern):,}")
    sizes, last, repeated = [0], 0, False  # of the groups that are open; of the last element; whether it is a repeat
    for element in _ELEMENT.findall(pattern):
        least = _least(element)
        if least is not None:
            if not repeated:  # else it says how to repeat, lazily or possessively
                sizes[-1] += last * least
                last *= least + 1
            repeated = not repeated
        elif element == ")" and len(sizes) > 1:
            last, repeated = sizes.pop(), False
            sizes[-1] += last
        elif element.startswith("(") and not element.endswith(")"):
            sizes.append(1)
            last, repeated = 1, False
        else:
            sizes[-1] += 1
            last, repeated = 1, False
        if len(sizes) > DEEPEST:
            raise ValueError(f"Tokenizer: pattern must nest at most {DEEPEST} groups, got more: {brief(pattern)}")
        if sum(sizes) > LARGEST:
            raise ValueError(
                f"Tokenizer: pattern must be at most {LARGEST:,} elements with its repeats written out, got more: "
                f"{brief(pattern)}"
            )


def _least(element: str) -> int | None:
    """How often a quantifier repeats at least, which `regex` writes out; None if it is none."""
    if element in ("*", "?"):
        return 0
    if element == "+":
        return 1
    if len(element) > 1 and element[0] == "{" and element != "{,}":
        least = element[1:-1].partition(",")[0]
        return int(least or 0) if len(least) < 9 else LARGEST
    return None

r"""
Split patterns in two dialects: that of the package `regex` (and of tiktoken), and that of `tokenizer.json`.

Hugging Face's tokenizers match with Oniguruma, where three signs of `regex` mean something else:

    regex       Oniguruma            what it means in regex
    X{1,3}+     (?>X{1,3})           up to three, none of them given back; in Oniguruma, `+` repeats the whole
    $           (?=\n?\z)            the end of the text, or the line end there; in Oniguruma, the end of any line
    ^           \A                   the start of the text; in Oniguruma, of any line

Source: the manual of Oniguruma, doc/RE, for Ruby's syntax.
"""

from __future__ import annotations

import regex

from tinygpt.files.one_line import brief

# One element of a pattern: a class in brackets, an escape, the start of a group, a quantifier, any other character.
_ELEMENT = regex.compile(
    r"\[\^?\]?(?:\\.|\[:\^?\w+:\]|[^\]\\])*\]|\\[pPx]\{[^}]*\}|\\."
    r"|\(\?(?:[:=!>]|<[=!]|[a-zA-Z-]+[:)])?|\{\d*,?\d*\}\+?|.",
    regex.DOTALL,
)
_GROUPS = {"(?:", "(?=", "(?!", "(?>", "(?<=", "(?<!", "(?i:", "(?i)", "(?-i:"}  # the same in both


def to_onig(pattern: str) -> str:
    r"""
    Write a pattern of `regex` as Oniguruma reads it.

    Raises
    ------
    ValueError
        If it holds something that we cannot write otherwise.

    Examples
    --------
    >>> print(to_onig(r"\p{N}{1,3}+|\s++$|[$^]"))
    (?>\p{N}{1,3})|\s++(?=\n?\z)|[$^]
    """
    return _translate(pattern, {"$": r"(?=\n?\z)", "^": r"\A", r"\Z": r"\z"}, "(?>", ")")


def from_onig(pattern: str) -> str:
    r"""
    Write a pattern of Oniguruma as `regex` reads it.

    Raises
    ------
    ValueError
        If it holds something that we cannot write otherwise.

    Examples
    --------
    >>> print(from_onig(r"\p{N}{1,3}+|\s+$|\z"))
    (?:\p{N}{1,3})+|\s+(?m:$)|\Z
    """
    signs = {"$": "(?m:$)", "^": "(?m:^)", r"\z": r"\Z", r"\Z": r"(?=\n?\Z)", r"\h": "[0-9a-fA-F]"}
    return _translate(pattern, signs, "(?:", ")+")


def _translate(pattern: str, signs: dict[str, str], before: str, after: str) -> str:
    written: list[str] = []
    for element in _ELEMENT.findall(pattern):
        counted = element.startswith("{") and element.endswith("}+")
        if counted and written and not written[-1].endswith((")", ")+")):
            written[-1] = before + written[-1] + element[:-1] + after
        elif counted or (element.startswith("(?") and element not in _GROUPS):
            raise ValueError(
                f"the split pattern must do without {brief(element)}, which means something else in "
                f"tokenizer.json than "
                f"here; write it otherwise, for example (?>X{{1,3}}) for X{{1,3}}+; got {brief(pattern)}"
            )
        else:
            written.append(signs.get(element, element))
    return "".join(written)

r"""What `--escape` means: `\n` in a text that was typed is a line end, `\\` a backslash."""

from __future__ import annotations

import re

_ESCAPE = re.compile(r"\\(?:u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|.|$)", re.DOTALL)
_SHORT = {r"\n": "\n", r"\t": "\t", r"\\": "\\"}


def unescape(option: str, text: str) -> str:
    r"""
    Read the escapes in a text.

    Parameters
    ----------
    option : str
        What an error names.
    text : str

    Raises
    ------
    ValueError
        If a backslash begins none of these escapes, or the character is half of a surrogate pair.

    Examples
    --------
    >>> unescape("--stop", r"The end.\n\u00e9")
    'The end.\né'
    >>> unescape("--stop", r"C:\hens")
    Traceback (most recent call last):
    ...
    ValueError: --stop must hold no other escapes than \n, \t, \\, \u00e9 and \U0001f600, got \h at character 2; write \\ for a backslash, or leave out --escape
    """  # noqa: E501

    def character(found: re.Match[str]) -> str:
        if found[0] in _SHORT:
            return _SHORT[found[0]]
        code = int(found[0][2:], 16) if len(found[0]) > 2 else -1
        if not 0 <= code <= 0x10FFFF or 0xD800 <= code <= 0xDFFF:
            length = 10 if found[0].lower() == r"\u" else len(found[0])
            got = text[found.start() :][:length]
            raise ValueError(
                rf"{option} must hold no other escapes than \n, \t, \\, \u00e9 and \U0001f600, got {got} at character "
                rf"{found.start()}; write \\ for a backslash, or leave out --escape"
            )
        return chr(code)

    return _ESCAPE.sub(character, text)

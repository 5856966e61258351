"""
Untrusted text in an error message: one line, of bounded length.

A name in a file, the name of a file, the answer of a server: each can hold line ends, terminal escape sequences or a
million characters. Written unchanged, it could forge lines of a log, or hide the text before it.
"""

from __future__ import annotations

import reprlib
import unicodedata
from typing import Any

_LONGEST_VALUE = 120  # characters of a value that an error quotes
_LONGEST_NAME = 1000  # characters of a file's name

_short = reprlib.Repr()
_short.maxlevel, _short.maxstring, _short.maxother = 2, 80, 80
_short.maxlist = _short.maxtuple = _short.maxdict = 4


def one_line(text: object) -> str:
    r"""
    Return a text with every character that a terminal would not show written as an escape.

    Parameters
    ----------
    text : object
        Anything; what `str` makes of it counts.

    Returns
    -------
    str

    Examples
    --------
    >>> print(one_line("a\nb \x1b[2J, é"))
    a\nb \x1b[2J, é
    """
    text = str(text)
    if text.isprintable():
        return text
    return "".join([character if character.isprintable() else _escape(character) for character in text])


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def brief(value: Any) -> str:
    """
    Return the `repr` of a value that came from elsewhere, shortened in its middle, however deep or long it is.

    Parameters
    ----------
    value : object

    Returns
    -------
    str

    Examples
    --------
    >>> brief("ab"), brief([[[[1]]]]), len(brief("a" * 1000))
    ("'ab'", '[[[...]]]', 80)
    """
    text = one_line(_short.repr(value))
    return text if len(text) <= _LONGEST_VALUE else text[: _LONGEST_VALUE - 3] + "..."


def shown(path: object) -> str:
    r"""
    Return the name of a file as error messages show it: as it is, or quoted where it would not be one line.

    Parameters
    ----------
    path : path

    Returns
    -------
    str

    Examples
    --------
    >>> print(shown("runs/tiny"), shown("runs/a\nb"))
    runs/tiny 'runs/a\nb'
    """
    text = str(path)
    if len(text) > _LONGEST_NAME:
        text = text[:_LONGEST_NAME] + "..."
    return text if text.isprintable() else repr(text)


def columns(text: str) -> int:
    """
    Return how many columns a terminal gives a text: two for each Chinese, Japanese or Korean character and most emoji.

    Parameters
    ----------
    text : str

    Returns
    -------
    int

    Examples
    --------
    >>> columns("hen"), columns("数学")
    (3, 4)
    """
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)

"""How `tinygpt explain` lays out a page of text: titles, wrapped statements, named arrays."""

from __future__ import annotations

import textwrap
from typing import Any

import numpy as np

WIDTH = 100


def titled(title: str, text: str, line: str = "-") -> str:
    """
    A text below its title.

    Examples
    --------
    >>> print(titled("Result", "out = 3"))
    Result
    ------
    out = 3
    """
    return f"{title}\n{line * len(title)}\n{text}".rstrip()


def wrapped(before: str, statement: str, width: int = WIDTH) -> list[str]:
    """
    A line of code in lines of at most `width`, the first of which begins with `before`.

    Examples
    --------
    >>> wrapped("(1) ", "a = f(x, y, z)", width=16)
    ['(1) a = f(x, y,', '        z)']
    """
    code = statement.lstrip()
    indent = " " * (len(statement) - len(code))
    rest = " " * len(before) + indent + "    "
    return textwrap.wrap(code, width, initial_indent=before + indent, subsequent_indent=rest, break_on_hyphens=False)


def named(name: str, value: Any, indent: int = 4) -> str:
    """
    A name, its shape and its value, with three decimals.

    Examples
    --------
    >>> print(named("x", np.array([[1.0, -0.25], [0.0, 2.0]]), indent=0))
    x (2, 2) =
        [[ 1.   -0.25]
         [ 0.    2.  ]]
    >>> print(named("n_head", 2, indent=0))
    n_head = 2
    """
    margin = " " * indent
    if isinstance(value, (tuple, list)) and any(isinstance(part, np.ndarray) for part in value):
        return "\n".join(named(f"{name}[{i}]", part, indent) for i, part in enumerate(value))
    if not isinstance(value, (np.ndarray, np.generic)):
        return f"{margin}{name} = {value!r}"
    array = np.asarray(value)
    numbers = np.round(array, 3) + 0.0 if array.dtype.kind == "f" else array  # + 0.0: no -0.
    text = np.array2string(numbers, suppress_small=True, threshold=40, edgeitems=2, max_line_width=WIDTH - 12)
    title = f"{name}{f' {array.shape}' if array.ndim else ''}{' float32' if array.dtype == np.float32 else ''} ="
    if array.ndim == 2 and array.shape[1] == 1:  # a column takes one line
        text = text.replace("\n ", " ")
    shown = f"{title}\n{textwrap.indent(text, '    ')}" if "\n" in text else f"{title} {text}"
    return textwrap.indent(shown, margin)

"""Integers from whatever is one: Python's, NumPy's, and tensors or arrays of one integer."""

from __future__ import annotations

from operator import index
from typing import Any


def whole_number(who: str, value: Any) -> int:
    """
    `value` as Python's integer, or a TypeError that says what came instead.

    Examples
    --------
    >>> whole_number("topk: k", 2.5)
    Traceback (most recent call last):
    ...
    TypeError: topk: k must be an integer, got 2.5
    """
    try:
        return index(value)
    except TypeError:
        raise TypeError(f"{who} must be an integer, got {value!r}") from None

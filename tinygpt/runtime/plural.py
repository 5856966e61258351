"""A count with its noun: "1 step", "2,000 steps"."""

from __future__ import annotations


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """
    A number with thousands separators, and the noun in the form that it asks for.

    Parameters
    ----------
    number : int
    noun : str
        For one.
    plural : str, optional
        For any other number, where it is not the noun and an s.

    Returns
    -------
    str

    Examples
    --------
    >>> counted(1, "step"), counted(2000, "step"), counted(0, "entry", "entries")
    ('1 step', '2,000 steps', '0 entries')
    """
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"

"""
Seeds: unrelated 64-bit keys from seeds that may be 1, 2, 3 and so on.

Source: splitmix64, Steele, Lea & Flood 2014, "Fast Splittable Pseudorandom Number Generators", OOPSLA.
"""

from __future__ import annotations

from operator import index
from typing import Any


def splitmix64(seed: int) -> int:
    """
    A 64-bit seed scrambled so that consecutive seeds have nothing in common (Python integers, modulo 2^64).

    Examples
    --------
    >>> hex(splitmix64(0)), hex(splitmix64(1))
    ('0xe220a8397b1dcdaf', '0x910a2dec89025cc1')
    """
    modulus = 2**64
    z = (int(seed) + 0x9E3779B97F4A7C15) % modulus  # int: NumPy's integers would overflow
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % modulus
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % modulus
    return z ^ (z >> 31)


def check_seed(who: str, seed: Any) -> int:
    """
    `seed` as Python's integer, of at least 0, for NumPy's generators; their own error does not say whose seed it is.

    Examples
    --------
    >>> check_seed("GPT", -1)
    Traceback (most recent call last):
    ...
    ValueError: GPT: seed must be an integer of at least 0, got -1; any other will do, such as 0
    """
    try:
        number = index(seed)
    except TypeError:
        raise TypeError(
            f"{who}: seed must be an integer of at least 0, got {seed!r}; write an int, such as 0"
        ) from None
    if number < 0:
        raise ValueError(f"{who}: seed must be an integer of at least 0, got {seed}; any other will do, such as 0")
    return number

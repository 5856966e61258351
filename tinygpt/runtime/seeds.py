"""
Seeds: which numbers they may be, and unrelated 64-bit keys from seeds that are 1, 2, 3 and so on.

Source: splitmix64, Steele, Lea & Flood 2014, "Fast Splittable Pseudorandom Number Generators", OOPSLA.
"""

from __future__ import annotations

from operator import index
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

REMEDY = "any whole number from 0 on is a seed, such as 1"


def check_seed(who: str, seed: int | None) -> None:
    """
    Raise TypeError or ValueError unless a seed is an integer of at least 0, as NumPy's generators take it, or None.

    Examples
    --------
    >>> check_seed("GPT", 1)
    >>> check_seed("GPT", -1)
    Traceback (most recent call last):
    ...
    ValueError: GPT: seed must be at least 0, got -1; any whole number from 0 on is a seed, such as 1
    """
    if seed is None:
        return
    try:
        value = index(seed)
    except TypeError:
        raise TypeError(f"{who}: seed must be an integer, got {type(seed).__name__}; {REMEDY}") from None
    if value < 0:
        raise ValueError(f"{who}: seed must be at least 0, got {value}; {REMEDY}")


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


def dropout_keys(seeds: np.ndarray) -> np.ndarray:
    """
    The low and the high half of `splitmix64` of each seed.

    Parameters
    ----------
    seeds : integer array, shape (N,)
        From 0 to 2^64 - 1.

    Returns
    -------
    ndarray, uint32, shape (N, 2)

    Examples
    --------
    >>> import numpy as np
    >>> [[hex(half) for half in keys] for keys in dropout_keys(np.array([0, 1])).tolist()]
    [['0x7b1dcdaf', '0xe220a839'], ['0x89025cc1', '0x910a2dec']]
    """
    import numpy as np  # not with this file: the command line reads it before anything needs NumPy

    z = seeds.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return np.stack([z & np.uint64(0xFFFFFFFF), z >> np.uint64(32)], axis=-1).astype(np.uint32)

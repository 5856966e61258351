"""
bfloat16 with NumPy, which has no such type: the upper 16 bits of a float32, kept as uint16.

One bit of sign, 8 of exponent, 7 of fraction: the range of float32, at a relative error of up to 2^-9.

Source: https://en.wikipedia.org/wiki/Bfloat16_floating-point_format
"""

from __future__ import annotations

import numpy as np


def to_bfloat16(array: np.ndarray) -> np.ndarray:
    """
    The nearest bfloat16 of each number, of two equally near ones the one with an even fraction. NaN stays NaN.

    Parameters
    ----------
    array : ndarray, float32

    Returns
    -------
    ndarray, uint16, of the same shape

    Examples
    --------
    >>> bits = to_bfloat16(np.array([1.0, 3.14159], np.float32))
    >>> bits
    array([16256, 16457], dtype=uint16)
    >>> to_float32(bits)
    array([1.      , 3.140625], dtype=float32)
    """
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    odd = bits >> np.uint32(16) & np.uint32(1)
    nearest = (bits + np.uint32(0x7FFF) + odd) >> np.uint32(16)
    return np.where(np.isnan(array), bits >> np.uint32(16) | np.uint32(0x40), nearest).astype(np.uint16)


def to_float32(bits: np.ndarray) -> np.ndarray:
    """The float32 of each bfloat16, exactly; uint16 in, float32 out."""
    return (np.asarray(bits, np.uint32) << np.uint32(16)).view(np.float32)

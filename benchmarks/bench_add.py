"""
Addition, forward and backward, against NumPy and PyTorch; and the size from which its kernel is faster.

The rows below `ADD.min_size` show the reason for `min_size`: there NumPy, which runs in their place, is faster.
"""

from __future__ import annotations

import numpy as np

from benchmarks.sides import Given, by_autograd
from tinygpt.ops.basic import ADD as OP

__all__ = ["OP"]

CASES = {f"{rows} x {columns}": {"shape": (rows, columns)}
         for rows, columns in ((1, OP.min_size // 16), (1, OP.min_size // 2), (256, 768), (1024, 768))}  # fmt: skip
TOLERANCE = 0  # one rounding per element, on all sides


def given(case, rng):
    """Both terms and the gradient of the sum."""
    a, b, dout = rng.standard_normal((3, *case["shape"]), np.float32)
    return Given([a, b], dout)


def torch(given):
    """Its sum and autograd."""
    import torch

    return by_autograd(torch.add, given)


def cost(case):
    """Forward moves 3 arrays, backward none: it returns the gradient of the sum for both terms."""
    return {"bytes": 3 * 4 * int(np.prod(case["shape"]))}

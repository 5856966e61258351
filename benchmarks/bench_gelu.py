"""GELU, forward and backward, against NumPy and PyTorch."""

from __future__ import annotations

import numpy as np

from benchmarks.sides import Given
from tinygpt.ops.gelu import GELU as OP

__all__ = ["OP"]

CASES = {f"N={rows}": {"shape": (rows, 3072)} for rows in (256, 1024)}
TOLERANCE = 3e-6


def given(case, rng):
    """x and the gradient of the output."""
    x, dout = rng.standard_normal((2, *case["shape"]), np.float32)
    return Given([x], dout)


def torch(given):
    """Its two plain calls, into memory that is there."""
    import torch

    x, dout = torch.from_numpy(given.arrays[0]), torch.from_numpy(given.dout)
    out, dx = torch.empty_like(x), torch.empty_like(x)

    def run():
        torch.ops.aten.gelu.out(x, approximate="tanh", out=out)
        torch.ops.aten.gelu_backward.grad_input(dout, x, approximate="tanh", grad_input=dx)
        return [out.numpy(), dx.numpy()]

    return run


def cost(case):
    """Forward moves 2 arrays, backward 3."""
    return {"bytes": 5 * 4 * int(np.prod(case["shape"]))}

"""Dropout, forward and backward, against NumPy and PyTorch."""

from __future__ import annotations

import numpy as np

from benchmarks.sides import Given
from tinygpt.ops.dropout import DROPOUT as OP

__all__ = ["OP"]

CASES = {f"N={rows}": {"shape": (rows, 768)} for rows in (1024, 8192)}
TOLERANCE = 1e-6


def given(case, rng):
    """x and the gradient of the output."""
    x, dout = rng.standard_normal((2, *case["shape"]), np.float32)
    return Given([x], dout, {"p": 0.1, "seed": 7})


def torch(given):
    """Its own generator draws another mask, so the mask is ours when results are compared."""
    import torch

    from tinygpt.ops.dropout import dropout_mask

    x, dout = torch.from_numpy(given.arrays[0]), torch.from_numpy(given.dout)
    mask = torch.from_numpy(dropout_mask(x.shape, given.attrs["p"], given.attrs["seed"], np.float32))
    first = True

    def run():
        nonlocal first
        if first:
            first = False
            return [(x * mask).numpy(), (dout * mask).numpy()]
        out, kept = torch.ops.aten.native_dropout(x, given.attrs["p"], True)
        dx = torch.ops.aten.native_dropout_backward(dout, kept, 1 / (1 - given.attrs["p"]))
        return [out.numpy(), dx.numpy()]

    return run


def cost(case):
    """Each way moves 2 arrays."""
    return {"bytes": 4 * 4 * int(np.prod(case["shape"]))}

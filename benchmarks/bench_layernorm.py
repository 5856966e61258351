"""Layer normalization, forward and backward, against NumPy and PyTorch."""

from __future__ import annotations

import numpy as np

from benchmarks.sides import Given
from tinygpt.ops.layernorm import LAYERNORM as OP

__all__ = ["OP"]

CASES = {f"N={rows}": {"shape": (rows, 768)} for rows in (256, 1024, 8192)}
TOLERANCE = 1e-5  # dweight and dbias sum up to 8192 rows


def given(case, rng):
    """x, weight, bias and the gradient of the output."""
    x, dout = rng.standard_normal((2, *case["shape"]), np.float32)
    return Given([x, *rng.standard_normal((2, case["shape"][1]), np.float32)], dout, {"eps": 1e-5})


def torch(given):
    """Its two plain calls."""
    import torch

    x, weight, bias, dout = (torch.from_numpy(array) for array in (*given.arrays, given.dout))
    shape = [x.shape[1]]

    def run():
        out, mean, rstd = torch.ops.aten.native_layer_norm(x, shape, weight, bias, 1e-5)
        gradients = torch.ops.aten.native_layer_norm_backward(dout, x, shape, mean, rstd, weight, bias, [True] * 3)
        return [tensor.numpy() for tensor in (out, *gradients)]

    return run


def cost(case):
    """Forward moves 2 arrays, backward 3."""
    return {"bytes": 5 * 4 * int(np.prod(case["shape"]))}

"""
The head with its loss, forward and backward, against NumPy and PyTorch.

Forward computes the gradients, too, in memory that `Accumulator.reserve` gives it: the place where they stay. The row
"copied" is the same without that: elsewhere, and a pass over 154 MB later. Their difference is the gain from `reserve`.
"""

from __future__ import annotations

import numpy as np

from benchmarks.sides import Given, by_autograd
from tinygpt.ops.linear_cross_entropy import LINEAR_CROSS_ENTROPY as OP

__all__ = ["OP"]

CASES = {f"N={rows}, V=50257": {"rows": rows, "C": 768, "V": 50257, "reserve": True} for rows in (256, 1024)}
CASES["N=1024, V=50257, copied"] = {"rows": 1024, "C": 768, "V": 50257, "reserve": False}
TOLERANCE = 1e-4  # gradients are sums of 50257 terms, nearly all of them tiny
PRECISIONS = ("highest", "medium")


def given(case, rng):
    """x, weight and targets; the gradient of the loss is 1."""
    x = rng.standard_normal((case["rows"], case["C"]), np.float32)
    weight = np.float32(0.02) * rng.standard_normal((case["V"], case["C"]), np.float32)
    attrs = {"targets": rng.integers(0, case["V"], case["rows"])}
    return Given([x, weight], np.float32(1), attrs, reserve=case["reserve"])


def torch(given):
    """A product, cross_entropy and autograd; autocast where products are bfloat16."""
    import torch

    from tinygpt.runtime import settings

    targets, bfloat16 = torch.from_numpy(given.attrs["targets"]), settings.get_float32_matmul_precision() == "medium"

    def loss(x, weight):
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            return torch.nn.functional.cross_entropy(torch.nn.functional.linear(x, weight), targets)

    return by_autograd(loss, given)


def cost(case):
    """Three products of 2 N V C operations."""
    return {"flops": 6 * case["rows"] * case["V"] * case["C"]}

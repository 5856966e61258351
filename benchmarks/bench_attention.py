"""Causal attention, forward and backward, against NumPy and PyTorch's scaled_dot_product_attention."""

from __future__ import annotations

import numpy as np

from benchmarks.sides import Given, by_autograd
from tinygpt.ops.attention import ATTENTION as OP

__all__ = ["OP"]

CASES = {
    f"B={B} T={T} H=12 D=64": {"B": B, "T": T, "H": 12, "D": 64}
    for B, T in ((4, 64), (4, 256), (1, 512), (1, 1024), (1, 2048))
}
TOLERANCE = 2e-5
PRECISIONS = ("highest", "medium")


def given(case, rng):
    """qkv and the gradient of the output."""
    width = case["H"] * case["D"]
    qkv = rng.standard_normal((case["B"], case["T"], 3 * width), np.float32)
    return Given([qkv], rng.standard_normal((case["B"], case["T"], width), np.float32), {"n_head": case["H"]})


def torch(given):
    """From the packed qkv to the merged heads, as a model has it."""
    import torch

    from tinygpt.runtime import settings

    dtype = torch.bfloat16 if settings.get_float32_matmul_precision() == "medium" else torch.float32
    n_head = given.attrs["n_head"]

    def attention(qkv):
        B, T, width = qkv.shape
        C = width // 3
        q, k, v = (part.view(B, T, n_head, C // n_head).transpose(1, 2) for part in qkv.to(dtype).split(C, dim=2))
        heads = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return heads.transpose(1, 2).reshape(B, T, C).float()

    return by_autograd(attention, given)


def cost(case):
    """Half of 4 T^2 C operations forward and of 10 T^2 C backward: the future is left out."""
    return {"flops": 7 * case["B"] * case["T"] ** 2 * case["H"] * case["D"]}

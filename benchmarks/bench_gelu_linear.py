"""GELU and the linear layer after it, forward and backward, against NumPy and PyTorch."""

from __future__ import annotations

from benchmarks.bench_linear import cost, given
from benchmarks.sides import by_autograd
from tinygpt.ops.gelu_linear import GELU_LINEAR as OP

__all__ = ["OP", "cost", "given"]

CASES = {f"mlp c_proj, N={rows}": {"rows": rows, "inputs": 3072, "outputs": 768} for rows in (256, 1024)}
TOLERANCE = 1e-5  # sums of up to 3072 products in float32
PRECISIONS = ("highest", "medium")


def torch(given):
    """gelu, addmm and autograd; autocast where products are bfloat16."""
    import torch

    from tinygpt.runtime import settings

    bfloat16 = settings.get_float32_matmul_precision() == "medium"

    def mlp(x, weight, bias):
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            return torch.addmm(bias, torch.nn.functional.gelu(x, approximate="tanh"), weight).float()

    return by_autograd(mlp, given)

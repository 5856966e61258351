"""Linear: GPT-2's four products per layer, forward and backward, against NumPy and PyTorch."""

from __future__ import annotations

import numpy as np

from benchmarks.sides import Given
from tinygpt.ops.linear import LINEAR as OP

__all__ = ["OP"]

LAYERS = {"c_attn": (768, 2304), "c_proj": (768, 768), "c_fc": (768, 3072), "mlp c_proj": (3072, 768)}
CASES = {
    f"{name}, N={rows}": {"rows": rows, "inputs": inputs, "outputs": outputs}
    for rows in (256, 1024)
    for name, (inputs, outputs) in LAYERS.items()
}
TOLERANCE = 1e-5  # sums of up to 3072 products in float32
PRECISIONS = ("highest", "medium")


def given(case, rng):
    """x, weight, bias and the gradient of the output."""
    shapes = [(case["rows"], case["inputs"]), (case["inputs"], case["outputs"]), (case["outputs"],)]
    arrays = [rng.standard_normal(shape, np.float32) for shape in shapes]
    return Given(arrays, rng.standard_normal((case["rows"], case["outputs"]), np.float32))


def torch(given):
    """addmm, and its three products backward, without autograd's bookkeeping; bfloat16 as autocast has it."""
    import torch

    from tinygpt.runtime import settings

    x, weight, bias, dout = (torch.from_numpy(array) for array in (*given.arrays, given.dout))
    if settings.get_float32_matmul_precision() != "medium":
        out, dx, dweight, dbias = (torch.empty_like(tensor) for tensor in (dout, x, weight, bias))

        def run():
            torch.addmm(bias, x, weight, out=out)
            torch.mm(dout, weight.T, out=dx)
            torch.mm(x.T, dout, out=dweight)
            torch.sum(dout, 0, out=dbias)
            return [tensor.numpy() for tensor in (out, dx, dweight, dbias)]

        return run
    x, bias, dout = (tensor.bfloat16() for tensor in (x, bias, dout))  # autocast's activations; weights are float32

    def run_bfloat16():
        rounded = weight.bfloat16()
        out = torch.addmm(bias, x, rounded)
        results = [out, dout @ rounded.T, (x.T @ dout).float(), dout.sum(0).float()]
        return [tensor.float().numpy() for tensor in results]

    return run_bfloat16


def cost(case):
    """Three products of 2 N I O operations."""
    return {"flops": 6 * case["rows"] * case["inputs"] * case["outputs"]}

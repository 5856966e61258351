"""Linear: GPT-2's four products a layer, forward and backward, against NumPy and PyTorch."""

from __future__ import annotations

import numpy as np

from tinygpt.buffers import Slot
from tinygpt.kernels.linear import backward, forward
from tinygpt.ops.linear import linear_backward, linear_forward

LAYERS = {"c_attn": (768, 2304), "c_proj": (768, 768), "c_fc": (768, 3072), "mlp c_proj": (3072, 768)}
CASES = {
    f"{name}, N={rows}": {"rows": rows, "inputs": inputs, "outputs": outputs}
    for rows in (256, 1024)
    for name, (inputs, outputs) in LAYERS.items()
}
TOLERANCE = 1e-5  # of the largest value; sums of up to 3072 products in float32


def inputs(case, rng):
    """x, weight, bias and the gradient of the output."""
    shapes = {
        "x": (case["rows"], case["inputs"]),
        "weight": (case["inputs"], case["outputs"]),
        "bias": (case["outputs"],),
        "dout": (case["rows"], case["outputs"]),
    }
    return {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}


def ours(arrays):
    """The kernel, into memory that is there, as in a training step."""
    into = [Slot(np.empty_like(arrays[name]), add=False) for name in ("x", "weight", "bias")]

    def run():
        out, saved = forward(arrays["x"], arrays["weight"], arrays["bias"])
        backward(arrays["dout"], saved, into)
        return [out, *(slot.array for slot in into)]

    return run


def numpy(arrays):
    """The reference."""

    def run():
        out, saved = linear_forward(arrays["x"], arrays["weight"], arrays["bias"])
        return [out, *linear_backward(arrays["dout"], saved)]

    return run


def torch(arrays):
    """PyTorch's addmm, and its three products backward, without autograd's bookkeeping."""
    import torch

    x, weight, bias, dout = (torch.from_numpy(arrays[name]) for name in ("x", "weight", "bias", "dout"))
    out, dx, dweight, dbias = (torch.empty_like(tensor) for tensor in (dout, x, weight, bias))

    def run():
        torch.addmm(bias, x, weight, out=out)
        torch.mm(dout, weight.T, out=dx)
        torch.mm(x.T, dout, out=dweight)
        torch.sum(dout, 0, out=dbias)
        return [tensor.numpy() for tensor in (out, dx, dweight, dbias)]

    return run


def cost(case):
    """Three products of 2 N I O operations."""
    return {"flops": 6 * case["rows"] * case["inputs"] * case["outputs"]}

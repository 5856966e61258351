"""SGD over the parameters of a GPT-2, against NumPy and PyTorch's fused one."""

from __future__ import annotations

import numpy as np

from benchmarks.sides import Given
from tinygpt.kernels import sgd
from tinygpt.optim.sgd import sgd_update

CASES = {
    "7 M parameters": {"size": 7_077_888, "momentum": 0.9},
    "7 M parameters, no momentum": {"size": 7_077_888, "momentum": 0.0},
    "40 M parameters": {"size": 40_000_000, "momentum": 0.9},
}
TOLERANCE = 1e-5
OPTIONS = {"lr": 1e-3, "dampening": 0.0, "weight_decay": 0.1, "nesterov": False}


def given(case, rng):
    """Parameters, their gradient and the buffer."""
    parameter, gradient, buffer = rng.standard_normal((3, case["size"]), np.float32)
    return Given([parameter, buffer], gradient, {"momentum": case["momentum"]})


def _repeated(update, given):
    """A step on a copy, again and again; only the first result is compared."""
    parameter, buffer = (array.copy() for array in given.arrays)

    def run():
        update(parameter, given.dout, buffer, **given.attrs, **OPTIONS)
        return [parameter, buffer]

    return run


def ours(given):
    """The kernel."""
    return _repeated(sgd.update, given)


def numpy(given):
    """The reference."""
    return _repeated(sgd_update, given)


def torch(given):
    """The fused kernel, called as the optimizer calls it."""
    import torch

    parameter, buffer = (torch.from_numpy(array.copy()) for array in given.arrays)
    gradient = torch.from_numpy(given.dout)

    def run():
        torch._fused_sgd_(
            [parameter], [gradient], [buffer] if given.attrs["momentum"] else [], maximize=False,
            is_first_step=False, **given.attrs, **OPTIONS,
        )  # fmt: skip
        return [parameter.numpy(), buffer.numpy()]

    return run


def cost(case):
    """Reads three arrays, writes two; without momentum, two and one."""
    return {"bytes": (20 if case["momentum"] else 12) * case["size"]}

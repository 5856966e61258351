"""AdamW over the parameters of a GPT-2, against NumPy and PyTorch's fused one."""

from __future__ import annotations

import numpy as np

from benchmarks.sides import Given
from tinygpt.kernels import adamw
from tinygpt.optim.adamw import adamw_update

CASES = {"7 M parameters": {"size": 7_077_888}, "40 M parameters": {"size": 40_000_000}}
TOLERANCE = 1e-5
OPTIONS = {"lr": 1e-3, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}


def given(case, rng):
    """Parameters, their gradient and both moments."""
    parameter, gradient, m = rng.standard_normal((3, case["size"]), np.float32)
    return Given([parameter, m, np.square(m)], gradient)


def _repeated(update, given):
    """Step 10 on a copy, so that every run does the same work; only the first result is compared."""
    parameter, m, v = (array.copy() for array in given.arrays)

    def run():
        update(parameter, given.dout, m, v, 10, **OPTIONS)
        return [parameter, m, v]

    return run


def ours(given):
    """The kernel."""
    return _repeated(adamw.update, given)


def numpy(given):
    """The reference."""
    return _repeated(adamw_update, given)


def torch(given):
    """The fused kernel, called as the optimizer calls it."""
    import torch

    parameter, m, v = (torch.from_numpy(array.copy()) for array in given.arrays)
    gradient, step = torch.from_numpy(given.dout), torch.tensor(10.0)
    beta1, beta2 = OPTIONS["betas"]

    def run():
        torch._fused_adamw_(
            [parameter], [gradient], [m], [v], [], [step], lr=OPTIONS["lr"], beta1=beta1, beta2=beta2,
            weight_decay=OPTIONS["weight_decay"], eps=OPTIONS["eps"], amsgrad=False, maximize=False,
        )  # fmt: skip
        return [parameter.numpy(), m.numpy(), v.numpy()]

    return run


def cost(case):
    """Reads four arrays, writes three."""
    return {"bytes": 28 * case["size"]}

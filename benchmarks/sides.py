"""
The sides of a race: an op's kernel, its NumPy reference, and the PyTorch version of each benchmark module.

A benchmark module `bench_<name>` has

    CASES         dict: what a row is called -> its sizes
    TOLERANCE     how far a result may be from the reference's, as a share of the largest value
    given(case, rng)           -> Given: inputs and the gradient of the output
    OP            the op, whose kernel is "tinygpt" and whose reference is "numpy"; else the functions ours, numpy
    torch(given)  -> a function that does the same with PyTorch and returns arrays in the same order
    cost(case)    -> {"flops": n} or {"bytes": n}, what it must compute or move
    PRECISIONS    optional: the precisions of products to race in
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from tinygpt.autograd.gradients import Reservation
from tinygpt.runtime.memory import Slot

Run = Callable[[], list[np.ndarray]]


class Given(NamedTuple):
    """
    The differentiable inputs, the gradient of the output, and everything else the op takes.

    `reserve`: whether a kernel that computes gradients in its forward may do so where they stay, as in training; if
    not, it computes them elsewhere, and backward copies them.
    """

    arrays: list[np.ndarray]
    dout: np.ndarray
    attrs: dict[str, Any] = {}  # noqa: RUF012 (never written)
    reserve: bool = True


def ours(module: ModuleType, given: Given) -> Run:
    """The kernel, forward and backward, into memory that is there, as in a training step."""
    if not hasattr(module, "OP"):
        return module.ours(given)
    kernel = importlib.import_module(module.OP.kernel)
    into = [Slot(np.empty_like(array), add=False) for array in given.arrays]
    extra = {}
    if getattr(kernel, "GRADIENTS_IN_FORWARD", False):
        places = [slot.array if given.reserve else np.empty_like(slot.array) for slot in into]
        extra = {"reserved": [Reservation(array) for array in places]}

    def run() -> list[np.ndarray]:
        out, saved = kernel.forward(*given.arrays, **given.attrs, **extra)
        if not hasattr(kernel, "backward"):
            return [out, *module.OP.backward(given.dout, saved)]
        kernel.backward(given.dout, saved, into)
        return [out, *(slot.array for slot in into)]

    return run


def numpy(module: ModuleType, given: Given) -> Run:
    """The reference."""
    if not hasattr(module, "OP"):
        return module.numpy(given)

    def run() -> list[np.ndarray]:
        out, saved = module.OP.forward(*given.arrays, **given.attrs)
        return [out, *module.OP.backward(given.dout, saved)]

    return run


def torch(module: ModuleType, given: Given) -> Run:
    """PyTorch."""
    return module.torch(given)


def by_autograd(function: Callable, given: Given) -> Run:
    """PyTorch's own forward and backward of `function(*tensors)`, where it offers no plain call of the latter."""
    import torch

    tensors = [torch.from_numpy(array).requires_grad_() for array in given.arrays]
    dout = torch.from_numpy(np.asarray(given.dout))

    def run() -> list[np.ndarray]:
        out = function(*tensors)
        gradients = torch.autograd.grad(out, tensors, dout)
        return [out.detach().float().numpy(), *(gradient.numpy() for gradient in gradients)]

    return run

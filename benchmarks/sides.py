"""
The sides of a race: an op's kernel, its NumPy reference, and a PyTorch version.

A benchmark module is `bench_<name>` in this folder, or one of a user's own. It has

    OP            the op, whose kernel is "tinygpt" and whose reference is "numpy"
    torch(given)  -> a function without arguments that does the same with PyTorch, forward and backward, in its best
                  form, and returns arrays: the output and the gradients, in the order of the inputs
    CASES         dict: what a row is called -> its sizes
    TOLERANCE     how far a result may be from the reference's, as a share of the largest value
    given(case, rng)           -> Given: inputs and the gradient of the output; a plain tuple of the same will do
    cost(case)    -> {"flops": n} or {"bytes": n}, what it must compute or move
    PRECISIONS    optional: the precisions of products to race in
    ours(given), numpy(given)  optional: such functions in place of those that OP gives

A user's module needs only OP. Then, unless it says otherwise,

    torch_forward(*tensors, **attrs)  in place of `torch`: a forward alone, whose backward is PyTorch's autograd; with
                  neither, the race is against NumPy only
    OP            may have any name if it is the only one; `module:NAME` chooses one of several
    CASES         are two, each with a key "shape"; "shapes" has one shape for each input, "attrs" what else OP takes
    given         is normal numbers of these shapes
    TOLERANCE     is 1e-5
    cost          is the bytes of inputs and output, as forward and backward read and write each of them once
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tinygpt import Op
from tinygpt.autograd.dispatch import kernel_of
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


def ours(op: Op, given: Given) -> Run:
    """The kernel, forward and backward, into memory that is there, as in a training step; or the reference."""
    if op.kernel is None:
        return numpy(op, given)
    kernel = kernel_of(op)
    if getattr(kernel, "accepts", None) is not None and not kernel.accepts(*given.arrays, **given.attrs):
        raise ValueError(f"{op.name}: its kernel does not accept these inputs: {_described(given)}")
    into = [Slot(np.empty_like(array), add=False) for array in given.arrays]
    extra = {}
    if getattr(kernel, "GRADIENTS_IN_FORWARD", False):
        places = [slot.array if given.reserve else np.empty_like(slot.array) for slot in into]
        extra = {"reserved": [Reservation(array) for array in places]}

    def run() -> list[np.ndarray]:
        out, saved = kernel.forward(*given.arrays, **given.attrs, **extra)
        if getattr(kernel, "backward", None) is None:
            return [out, *op.backward(given.dout, saved)]
        kernel.backward(given.dout, saved, into)
        return [out, *(slot.array for slot in into)]

    return run


def numpy(op: Op, given: Given) -> Run:
    """The reference."""

    def run() -> list[np.ndarray]:
        out, saved = op.forward(*given.arrays, **given.attrs)
        return [out, *op.backward(given.dout, saved)]

    return run


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


def _described(given: Given) -> str:
    return ", ".join(f"{array.dtype} {array.shape}" for array in given.arrays)

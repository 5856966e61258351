"""The speed of an operation's kernel at the sizes of GPT-2, as a share of this machine's measured peak."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tinygpt.autograd.dispatch import kernel_of
from tinygpt.autograd.gradients import Reservation
from tinygpt.autograd.graph import Op
from tinygpt.kernels.rates import fastest_seconds, in_words, rates
from tinygpt.runtime.memory import Slot
from tinygpt.study.samples import every_op

N, C, V = 1024, 768, 50257  # four rows of 256 tokens, GPT-2's features and vocabulary


class Size(NamedTuple):
    """Shapes of the differentiable inputs and of the output, attributes, bytes or operations of both directions."""

    shapes: list[tuple[int, ...]]
    out: tuple[int, ...]
    attrs: dict[str, Any]
    unit: str
    amount: float


_IDS = np.random.default_rng(3).integers(0, V, N)
SIZES = {
    "layernorm": Size([(N, C), (C,), (C,)], (N, C), {}, "bytes", 5 * 4 * N * C),
    "gelu": Size([(N, 4 * C)], (N, 4 * C), {}, "bytes", 5 * 4 * N * 4 * C),
    "dropout": Size([(N, C)], (N, C), {"p": 0.1, "seed": 3}, "bytes", 4 * 4 * N * C),
    "embedding": Size([(V, C)], (N, C), {"ids": _IDS}, "bytes", 5 * 4 * N * C),
    "cross_entropy": Size([(N // 4, V)], (), {"targets": _IDS[: N // 4]}, "bytes", 3 * 4 * N // 4 * V),
    "linear": Size([(N, C), (C, 4 * C), (4 * C,)], (N, 4 * C), {}, "flops", 6 * N * C * 4 * C),
    "gelu_linear": Size([(N, 4 * C), (4 * C, C), (C,)], (N, C), {}, "flops", 6 * N * C * 4 * C),
    "attention": Size([(4, 256, 3 * C)], (4, 256, C), {"n_head": 12}, "flops", 7 * 4 * 256**2 * C),
    "linear_cross_entropy": Size([(N // 4, C), (V, C)], (), {"targets": _IDS[: N // 4]}, "flops", 6 * N // 4 * V * C),
}


def speed(op: Op) -> str:
    """
    Milliseconds of forward and backward together, and the share of the machine's peak, as text.

    "" for an operation without a kernel, or one that has no size here, such as a user's.
    """
    if op.name not in SIZES or op.kernel is None or every_op().get(op.name) is not op:
        return ""
    size = SIZES[op.name]
    seconds = fastest_seconds(_work(kernel_of(op), size))
    kind = "read_gbytes" if size.unit == "bytes" else "float32_gflops"
    best, rate = rates()[kind], size.amount / seconds / 1e9
    unit = "B/s" if size.unit == "bytes" else "FLOP/s"
    shapes = ", ".join(map(str, size.shapes))
    return (f"Measured now, on {shapes}\n    kernel, forward and backward: {1e3 * seconds:.2f} ms, "
            f"{in_words(rate, unit)}, {rate / best:.0%} of the {in_words(best, unit)} that this machine showed "
            "in the same minute")  # fmt: skip


def _work(kernel: Any, size: Size) -> Callable[[], None]:
    rng = np.random.default_rng(1)
    arrays = [rng.standard_normal(shape, np.float32) for shape in size.shapes]
    dout = np.ones(size.out, np.float32)
    slots = [Slot(np.empty_like(array), add=False) for array in arrays]
    ahead = getattr(kernel, "GRADIENTS_IN_FORWARD", False)
    extra = {"reserved": [Reservation(slot.array) for slot in slots]} if ahead else {}

    def run() -> None:
        _, saved = kernel.forward(*arrays, **size.attrs, **extra)
        kernel.backward(dout, saved, slots)

    return run

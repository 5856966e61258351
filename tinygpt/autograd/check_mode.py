"""
Check mode, `implementation("check")`: kernel and reference side by side, and an error at the first operation, forward
or backward, where they differ.

Each works with what it has saved itself. They round differently, so they may differ by a small share of the result's
largest value. Where they differ by more, terms may have cancelled: then the effect of rounding on each element is
measured (see `rounding.py`), and a multiple of it is allowed as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from tinygpt.autograd.contract import run_twice
from tinygpt.autograd.graph import WRITTEN, Node, Op
from tinygpt.autograd.rounding import largest, scatter
from tinygpt.runtime import settings
from tinygpt.runtime.memory import Slot

# As `Implementation` in dispatch.py has them.
Forward = Callable[[Sequence[np.ndarray], dict[str, Any], Sequence[Node | None]], tuple[Any, Any]]
Backward = Callable[[np.ndarray, Any, Sequence[Callable[[], Slot] | None]], Sequence[Any]]
_NOISE = 32  # allowed difference in standard deviations of rounding: few samples are drawn, of one code


def side_by_side(op: Op, reference: Op, kernel_forward: Forward, kernel_backward: Backward) -> tuple[Forward, Backward]:
    """
    A forward and a backward that compute what the kernel's do, and compare it with the reference's.

    Parameters
    ----------
    op : Op
        The operation: its forward and backward measure the effect of rounding.
    reference : Op
        The same, as it is called to be compared with.
    kernel_forward, kernel_backward : callable
        Those of the kernel's `Implementation`.
    """

    def forward(arrays: Sequence[np.ndarray], attrs: dict[str, Any], parents: Sequence[Node | None]) -> tuple[Any, Any]:
        out, kernel_saved = kernel_forward(arrays, attrs, parents)
        reference_out, saved = reference.forward(*arrays, **attrs)
        compare(op.name, "forward", [out], [reference_out], (lambda *inputs: [op.forward(*inputs, **attrs)[0]], arrays))
        return out, (kernel_saved, saved, arrays, attrs)

    def backward(dout: np.ndarray, saved: Any, destinations: Sequence[Callable[[], Slot] | None]) -> Sequence[Any]:
        kernel_saved, reference_saved, arrays, attrs = saved
        wanted = [i for i, slot in enumerate(destinations) if slot is not None]
        by_kernel = partial(_into_new_memory, kernel_backward, dout, kernel_saved, arrays, wanted)
        ours = run_twice(f"{op.name}.backward", by_kernel, {}, ValueError)
        theirs = reference.backward(dout, reference_saved)
        computed = partial(_gradients_from_inputs, op, attrs, wanted), [dout, *arrays]
        compare(op.name, "backward", [ours[i] for i in wanted], [theirs[i] for i in wanted], computed)
        return ours

    return forward, backward


def _into_new_memory(
    backward: Backward, dout: np.ndarray, saved: Any, arrays: Sequence[np.ndarray], wanted: Sequence[int]
) -> list[Any]:
    """The gradients of a kernel's backward, in arrays that were full of NaN: so a read before the first write shows."""
    memory = [np.full(array.shape, np.nan, array.dtype) for array in arrays]
    slots = [partial(Slot, each, add=False) if i in wanted else None for i, each in enumerate(memory)]
    written = backward(dout, saved, slots)
    return [memory[i] if gradient is WRITTEN else gradient for i, gradient in enumerate(written)]


def _gradients_from_inputs(
    op: Op, attrs: dict[str, Any], wanted: Sequence[int], dout: np.ndarray, *inputs: np.ndarray
) -> list[Any]:
    """The reference, forward and backward: how rounding reaches its gradients is measured on all of it."""
    gradients = op.backward(dout, op.forward(*inputs, **attrs)[1])
    return [gradients[i] for i in wanted]


def compare(
    name: str,
    direction: str,
    ours: Sequence[Any],
    theirs: Sequence[Any],
    computed: Any = None,
    tolerance: float | None = None,
) -> None:
    """
    Raise ValueError, naming the op, where a kernel's results are not the reference's within the tolerance.

    The tolerance is a share of each result's largest value (by default `kernel_tolerance`). Where that is exceeded and
    `computed`, the reference and its arguments, is given, the effect of rounding on each element is measured (see
    `rounding.py`): a multiple of that is allowed as well.
    """
    kinds = [[f"{np.asarray(result).dtype} {np.shape(result)}" for result in results] for results in (ours, theirs)]
    if kinds[0] != kinds[1]:
        raise ValueError(f"{name}.{direction}: kernel gives {', '.join(kinds[0])}, reference {', '.join(kinds[1])}")
    noise: list[Any] | None = None
    for index, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        share = settings.kernel_tolerance(np.asarray(b).dtype == np.float64) if tolerance is None else tolerance
        allowed = share * largest(b)
        if np.allclose(a, b, rtol=0, atol=allowed, equal_nan=True):
            continue
        gap = np.abs(np.asarray(a, np.float64) - b)
        if computed is not None:
            noise = _noise(computed[0], computed[1], theirs) if noise is None else noise
            if np.all((gap <= allowed + _NOISE * noise[index]) | (np.isnan(a) & np.isnan(b)) | (a == b)):
                continue
        raise ValueError(
            f"{name}.{direction}: kernel and reference disagree on result {index} by {np.max(gap):.3g}, "
            f"where {allowed:.3g} is allowed; implementation('numpy') runs the reference alone"
        )


def _noise(reference: Callable[..., Any], arrays: Sequence[np.ndarray], results: Sequence[Any]) -> list[Any]:
    """The effect of rounding on each element of each result; 0 where it cannot be measured."""
    try:
        float64 = any(np.asarray(result).dtype == np.float64 for result in results)
        found = scatter(reference, arrays, settings.unit_of_rounding(float64))
        return [np.where(np.isfinite(share), share, 0) for share in found]
    except Exception:  # a reference may refuse other arrays than plain ones
        return [0.0] * len(results)

"""
A gradient check of every operation, as a table.

    reference    the backward of ops/ in float64, against central differences, element by element; in float32 it must
                 give float32
    float32      the kernel, against the reference in float64: its output, and its gradients, overwriting and added
    bfloat16     the same with bfloat16 operands, where the operation has matrix products
    torch        the reference in float64, against PyTorch's autograd in float64

An error is a share of the largest derivative of its input. The differences use a step of 1e-6. The table also has the
best step, which is searched along one direction from 1e-2 to 1e-10: a larger step suffers from truncation (the
function's curvature), a smaller one from rounding.
"""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from tinygpt.autograd import Tensor, apply, no_grad
from tinygpt.autograd.contract import Contract
from tinygpt.autograd.gradient_check import loss_magnitude, numeric_gradient
from tinygpt.autograd.graph import Op
from tinygpt.autograd.rounding import relative_gap
from tinygpt.autograd.watch import watching
from tinygpt.files.one_line import described
from tinygpt.runtime import settings
from tinygpt.study import torch_twins
from tinygpt.study.samples import Sample

# Shares of the largest derivative. float64: truncation and rounding of a difference, with a margin. float32: some
# rounding errors of 6e-8, summed. bfloat16: an operand has 8 bits, and where one product enters another, errors add up.
# PyTorch: two float64 computations of the same sums.
BOUNDS = {"reference": 1e-6, "float32": 2e-6, "bfloat16": 3e-2, "torch": 1e-11}
ROUNDED = ("linear", "gelu_linear", "attention", "linear_cross_entropy")
STEPS = [10.0**-exponent for exponent in np.arange(2, 10.25, 0.5)]
STEP = 1e-6


class Finding(NamedTuple):
    """
    One line of the table.

    Attributes
    ----------
    op, input, implementation : str
    error : float
        The largest of all samples, as a share of the largest derivative; infinite if there is a problem.
    where : str
        In which sample, and at which index.
    best_step : float or None
        The step with the most accurate difference; None unless differences were computed.
    problem : str
        The exception, or what else is wrong; "" if nothing.
    got, expected : float or None
        The derivative there, as it was computed and as the comparison has it; None if there is none.
    """

    op: str
    input: str
    implementation: str
    error: float
    where: str
    best_step: float | None = None
    problem: str = ""
    got: float | None = None
    expected: float | None = None

    @property
    def passed(self) -> bool:
        """Whether the error is within the bound of the implementation."""
        return not self.problem and self.error <= BOUNDS[self.implementation]


class Worst(NamedTuple):
    """Where a gradient is farthest from what is expected: its error there, and both numbers."""

    error: float
    where: str
    got: float | None = None
    expected: float | None = None
    best_step: float | None = None


def check_op(op: Op, samples: Sequence[Sample], torch: bool = False) -> Iterator[Finding]:
    """
    All lines of one operation; with `torch`, also against PyTorch's gradients, where PyTorch has the operation.

    Examples
    --------
    >>> from tinygpt.ops.gelu import GELU
    >>> from tinygpt.study.samples import SAMPLES
    >>> [(finding.implementation, finding.passed) for finding in check_op(GELU, SAMPLES["gelu"])]
    [('reference', True), ('float32', True)]
    """
    names = input_names(op, max(len(sample.arrays) for sample in samples))
    yield from _worst(op, "reference", names, samples, _against_differences)
    if op.kernel is not None:
        yield from _worst(op, "float32", names, samples, _against_reference)
        if op.name in ROUNDED and _has_bfloat16():
            yield from _worst(op, "bfloat16", names, samples, _against_reference)
    if torch:
        yield from _worst(op, "torch", names, samples, _against_torch)


def input_names(op: Op, count: int) -> list[str]:
    """The names of an operation's differentiable inputs: the first parameters of its forward."""
    parameters = list(inspect.signature(op.forward).parameters.values())
    if parameters and parameters[0].kind is inspect.Parameter.VAR_POSITIONAL:
        return [f"{parameters[0].name}[{i}]" for i in range(count)]
    return [parameter.name for parameter in parameters[:count]]


def _worst(op, implementation, names, samples, compare) -> Iterator[Finding]:
    """For each input, the finding with the largest error of all samples."""
    found: dict[int, Finding] = {}
    for number, sample in enumerate(samples):
        try:
            results = compare(op, sample, implementation)
        except (Exception, SystemExit) as error:  # a user's op may raise anything: a finding, not the end of the check
            where = f"sample {number}"
            found[0] = Finding(op.name, names[0], implementation, np.inf, where, problem=problem_of(error))
            break
        for index, worst in enumerate(results):
            if index not in found or worst.error > found[index].error:
                found[index] = Finding(op.name, names[index], implementation, worst.error,
                                       f"sample {number}, {worst.where}", worst.best_step, got=worst.got,
                                       expected=worst.expected)  # fmt: skip
    yield from (found[index] for index in sorted(found))


def problem_of(error: BaseException) -> str:
    """
    An exception in one line; of Numba's pages on what it cannot compile, the reason and the place.

    Examples
    --------
    >>> problem_of(ValueError("one\\ntwo"))
    'ValueError: one'
    """
    lines = [line.strip().removeprefix(">>> ") for line in str(error).splitlines() if line.strip()] or [""]
    place = re.search(r'^File "(.+)", (line \d+)', str(error), re.MULTILINE)
    if not type(error).__module__.startswith("numba.") or len(lines) < 2:
        return described(error, lines[0])
    reason = f"{lines[1]} {lines[2]}" if lines[1].endswith(":") and len(lines) > 2 else lines[1]
    where = f" ({os.path.basename(place[1])}, {place[2]})" if place else ""
    return described(error, f"{reason}{where}")


def _against_differences(op: Op, sample: Sample, implementation: str) -> list[Worst]:
    arrays = [np.array(array, np.float64) for array in sample.arrays]
    with settings.implementation("numpy"):
        with watching(Contract(ValueError)):
            gradients, _, weights = _gradients(op, arrays, sample.attrs)

        def output() -> np.ndarray:
            with no_grad():
                return apply(op, *(Tensor(array) for array in arrays), **sample.attrs).data

        def loss() -> float:
            return float(np.sum(output() * weights))

        if not np.all(np.isfinite(output())):
            raise ValueError("forward: gives nan or infinity; give samples for which it is defined")
        floor = 1e-3 * loss_magnitude(output(), weights)
        results = []
        for array, gradient in zip(arrays, gradients, strict=True):
            numeric = numeric_gradient(loss, array, STEP)
            results.append(_worst_of(gradient, numeric, floor)._replace(best_step=best_step(loss, array, gradient)))
        _require_float32(op, sample)
    return results


def _require_float32(op: Op, sample: Sample) -> None:
    """Raise ValueError unless the reference gives float32 for float32; one that is told the dtype is not asked."""
    if "dtype" in sample.attrs:
        return
    remedy = "write constants as 2, not np.float64(2)"
    with np.errstate(all="ignore"):  # a sample may be out of its range
        tensors = [Tensor(np.asarray(array, np.float32), requires_grad=True) for array in sample.arrays]
        out = apply(op, *tensors, **sample.attrs)
        if out.dtype != np.float32:
            raise ValueError(f"{op.name}.forward: must return float32 for float32, got {out.dtype}; {remedy}")
        try:
            out.backward(np.ones(out.shape, np.float32))
        except ValueError as error:
            raise ValueError(f"{error}; {remedy}") from None


def _against_reference(op: Op, sample: Sample, implementation: str) -> list[Worst]:
    with settings.implementation("numpy"):
        exact, exact_out, dout = _gradients(op, [np.array(array, np.float64) for array in sample.arrays], sample.attrs)
    precision = settings.float32_matmul_precision("medium" if implementation == "bfloat16" else "highest")
    with precision, settings.implementation("kernels"):
        arrays = [np.asarray(array, np.float32) for array in sample.arrays]
        with watching(Contract(ValueError)):
            ours, out, _ = _gradients(op._replace(min_size=0), arrays, sample.attrs, dout)
        twice, _, _ = _gradients(op._replace(min_size=0), arrays, sample.attrs, dout, times=2)
    if out.dtype != np.float32 or out.shape != exact_out.shape:
        raise ValueError(f"forward: must return float32 {exact_out.shape}, got {out.dtype} {out.shape}")
    error, place = farthest(out, exact_out, floor=1e-3)
    if not error <= BOUNDS[implementation]:
        raise ValueError(f"forward: off by {error:.1e} of the largest output, {place}")
    results = [_worst_of(a, b, floor=1e-3) for a, b in zip(ours, exact, strict=True)]
    for index, (a, b) in enumerate(zip(twice, exact, strict=True)):
        worst = _worst_of(a / 2, b, floor=1e-3)
        if not worst.error <= BOUNDS[implementation] and results[index].error <= BOUNDS[implementation]:
            results[index] = worst._replace(where=f"{worst.where}, added to a gradient")
    return results


def _against_torch(op: Op, sample: Sample, implementation: str) -> list[Worst]:
    with settings.implementation("numpy"):
        ours, _, dout = _gradients(op, [np.array(array, np.float64) for array in sample.arrays], sample.attrs)
    theirs = torch_twins.gradients(op.name, sample, dout)
    return [] if theirs is None else [_worst_of(a, b, floor=1e-3) for a, b in zip(ours, theirs, strict=True)]


def _gradients(op: Op, arrays: list[np.ndarray], attrs: dict[str, Any], dout=None, times=1) -> tuple[list, Any, Any]:
    """The gradient of each input for random weights of the output, the output, and these weights."""
    tensors = [Tensor(array, requires_grad=True) for array in arrays]
    for _ in range(times):  # every time but the first, gradients are added to those that are there
        out = apply(op, *tensors, **attrs)
        if dout is None:
            dout = np.random.default_rng(4).standard_normal(out.shape)
        out.backward(np.asarray(dout, out.dtype))
    return [np.zeros_like(t.data) if t.grad is None else t.grad for t in tensors], out.data, dout


def farthest(gradient: Any, expected: np.ndarray, floor: float = 0.0) -> tuple[float, str]:
    """The largest error of an element, as a share of the largest element that is expected, and which one it is."""
    worst = _worst_of(gradient, expected, floor)
    return worst.error, worst.where


def _worst_of(gradient: Any, expected: np.ndarray, floor: float) -> Worst:
    gap = relative_gap(gradient, expected, floor)
    if not gap.size:
        return Worst(0.0, "no elements")
    index = np.unravel_index(np.argmax(gap), gap.shape)
    got, right = (float(np.broadcast_to(array, gap.shape)[index]) for array in (gradient, expected))
    return Worst(float(gap[index]), "index " + str(tuple(map(int, index))), got, right)


def errors_by_step(loss: Any, array: np.ndarray, gradient: np.ndarray) -> list[float]:
    """For each of STEPS, the error of the difference along one random direction, as a share of the derivative."""
    direction = np.random.default_rng(7).standard_normal(array.shape)
    direction /= max(float(np.linalg.norm(direction)), 1e-300)
    analytic, before = float(np.sum(gradient * direction)), array.copy()
    scale = max(abs(analytic), float(np.linalg.norm(gradient)) / np.sqrt(max(array.size, 1)), 1e-3)
    errors = []
    for step in STEPS:
        ends = []
        for sign in (1, -1):
            np.copyto(array, before + sign * step * direction)
            ends.append(loss())
        np.copyto(array, before)
        errors.append(abs((ends[0] - ends[1]) / (2 * step) - analytic) / scale)
    return errors


def best_step(loss: Any, array: np.ndarray, gradient: np.ndarray) -> float | None:
    """The step with the most accurate difference."""
    return STEPS[int(np.argmin(errors_by_step(loss, array, gradient)))] if array.size else None


def _has_bfloat16() -> bool:
    from tinygpt.kernels.simd.cpu import BFLOAT16

    return bool(BFLOAT16)

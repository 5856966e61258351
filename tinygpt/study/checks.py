"""
The gradients of every operation against what they should be, as a table.

    reference    the backward of ops/ in float64, against central differences, element by element
    float32      the kernel, against the reference in float64
    bfloat16     the same with products of bfloat16 factors, where an operation has any
    torch        the reference in float64, against PyTorch's autograd in float64

An error is a share of the largest derivative of its input. The differences are computed with a step of 1e-6; the step
that would have been best is found along one direction, by trying steps from 1e-2 to 1e-10: larger ones suffer from the
curvature, smaller ones from rounding, and between them the error of the *check* is least.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from tinygpt.autograd import Tensor, apply, no_grad
from tinygpt.autograd.contract import Contract
from tinygpt.autograd.gradient_check import loss_magnitude, numeric_gradient
from tinygpt.autograd.graph import Op
from tinygpt.autograd.watch import watching
from tinygpt.runtime import settings
from tinygpt.study import torch_twins
from tinygpt.study.samples import Sample

# Shares of the largest derivative. float64: truncation and rounding of a difference, with room. float32: some rounding
# errors of 6e-8, summed. bfloat16: a factor has 8 bits, and where one product enters another they add up.
# PyTorch: two float64 computations of the same sums.
BOUNDS = {"reference": 1e-6, "float32": 2e-6, "bfloat16": 3e-2, "torch": 1e-11}
ROUNDED = ("linear", "gelu_linear", "attention", "linear_cross_entropy")
STEPS = [10.0**-exponent for exponent in np.arange(2, 10.25, 0.5)]
_STEP = 1e-6


class Finding(NamedTuple):
    """
    One line of the table.

    Attributes
    ----------
    op, input, implementation : str
    error : float
        The worst of all samples, as a share of the largest derivative; infinite where there is a problem.
    where : str
        Of which sample, and at which index.
    best_step : float or None
        The step at which the difference came nearest, for the reference.
    problem : str
        What was raised, or is wrong besides the numbers; "" if nothing.
    """

    op: str
    input: str
    implementation: str
    error: float
    where: str
    best_step: float | None = None
    problem: str = ""

    @property
    def passed(self) -> bool:
        """Whether the error is within the bound of the implementation."""
        return not self.problem and self.error <= BOUNDS[self.implementation]


def check_op(op: Op, samples: Sequence[Sample], torch: bool = False) -> Iterator[Finding]:
    """
    All lines of one operation; with `torch`, one for PyTorch's gradients too, where it has the operation.

    Examples
    --------
    >>> from tinygpt.ops.gelu import GELU
    >>> from tinygpt.study.samples import SAMPLES
    >>> [(finding.implementation, finding.passed) for finding in check_op(GELU, SAMPLES["gelu"])]
    [('reference', True), ('float32', True)]
    """
    names = input_names(op, len(samples[0].arrays))
    yield from _worst(op, "reference", names, samples, _against_differences)
    if op.kernel is not None:
        yield from _worst(op, "float32", names, samples, _against_reference)
        if op.name in ROUNDED and _has_bfloat16():
            yield from _worst(op, "bfloat16", names, samples, _against_reference)
    if torch:
        yield from _worst(op, "torch", names, samples, _against_torch)


def input_names(op: Op, count: int) -> list[str]:
    """The names of an operation's differentiable inputs, as its forward has them."""
    parameters = list(inspect.signature(op.forward).parameters.values())
    if parameters and parameters[0].kind is inspect.Parameter.VAR_POSITIONAL:
        return [f"{parameters[0].name}[{i}]" for i in range(count)]
    return [parameter.name for parameter in parameters[:count]]


def _worst(op, implementation, names, samples, compare) -> Iterator[Finding]:
    """For each input the sample on which it is farthest off."""
    found: dict[int, Finding] = {}
    for number, sample in enumerate(samples):
        try:
            results = compare(op, sample, implementation)
        except Exception as error:  # a user's op may do anything: that is a finding, not the end of the check
            where = f"sample {number}"
            problem = f"{type(error).__name__}: {error}".split("\n")[0]
            found[0] = Finding(op.name, names[0], implementation, np.inf, where, problem=problem)
            break
        for index, (gap, place, step) in enumerate(results):
            if index not in found or gap > found[index].error:
                where = f"sample {number}, {place}"
                found[index] = Finding(op.name, names[index], implementation, gap, where, step)
    yield from (found[index] for index in sorted(found))


def _against_differences(op: Op, sample: Sample, implementation: str) -> list[tuple[float, str, float | None]]:
    arrays = [np.array(array, np.float64) for array in sample.arrays]
    with settings.implementation("numpy"):
        with watching(Contract(ValueError)):
            gradients, weights = _gradients(op, arrays, sample.attrs)

        def output() -> np.ndarray:
            with no_grad():
                return apply(op, *(Tensor(array) for array in arrays), **sample.attrs).data

        def loss() -> float:
            return float(np.sum(output() * weights))

        floor = 1e-3 * loss_magnitude(output(), weights)
        results = []
        for array, gradient in zip(arrays, gradients, strict=True):
            numeric = numeric_gradient(loss, array, _STEP)
            error, place = _farthest(gradient, numeric, floor)
            results.append((error, place, best_step(loss, array, gradient)))
    return results


def _against_reference(op: Op, sample: Sample, implementation: str) -> list[tuple[float, str, float | None]]:
    with settings.implementation("numpy"):
        exact, dout = _gradients(op, [np.array(array, np.float64) for array in sample.arrays], sample.attrs)
    precision = settings.float32_matmul_precision("medium" if implementation == "bfloat16" else "highest")
    with precision, settings.implementation("kernels"):
        arrays = [np.asarray(array, np.float32) for array in sample.arrays]
        ours, _ = _gradients(op._replace(min_size=0), arrays, sample.attrs, dout)
    return [(*_farthest(a, b, floor=1e-3), None) for a, b in zip(ours, exact, strict=True)]


def _against_torch(op: Op, sample: Sample, implementation: str) -> list[tuple[float, str, float | None]]:
    with settings.implementation("numpy"):
        ours, dout = _gradients(op, [np.array(array, np.float64) for array in sample.arrays], sample.attrs)
    theirs = torch_twins.gradients(op.name, sample, dout)
    return [] if theirs is None else [(*_farthest(a, b, floor=1e-3), None) for a, b in zip(ours, theirs, strict=True)]


def _gradients(op: Op, arrays: list[np.ndarray], attrs: dict[str, Any], dout=None) -> tuple[list, np.ndarray]:
    """The gradient of each input for random weights of the output, and these weights."""
    tensors = [Tensor(array, requires_grad=True) for array in arrays]
    out = apply(op, *tensors, **attrs)
    if dout is None:
        dout = np.random.default_rng(4).standard_normal(out.shape)
    out.backward(np.asarray(dout, out.dtype))
    return [np.zeros_like(t.data) if t.grad is None else t.grad for t in tensors], dout


def _farthest(gradient: np.ndarray, expected: np.ndarray, floor: float) -> tuple[float, str]:
    """How far the worst element is off, as a share of the largest, and which it is. NaN is infinitely far."""
    gap = np.abs(np.asarray(gradient, np.float64) - expected)
    gap = np.where(np.isnan(gap), np.inf, gap)
    if not gap.size:
        return 0.0, "no elements"
    scale = max(np.max(np.abs(expected)), np.max(np.abs(gradient)), floor) or 1.0  # all are 0: no error, of any scale
    index = np.unravel_index(np.argmax(gap), gap.shape)
    place = "index " + str(tuple(map(int, index)))
    return (float(gap[index] / scale) if np.isfinite(scale) else np.inf), place


def errors_by_step(loss: Any, array: np.ndarray, gradient: np.ndarray) -> list[float]:
    """For each of STEPS, how far the difference along one random direction is from what the gradient says."""
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
    """The step at which the difference is nearest to the gradient."""
    return STEPS[int(np.argmin(errors_by_step(loss, array, gradient)))] if array.size else None


def _has_bfloat16() -> bool:
    from tinygpt.kernels.simd.cpu import BFLOAT16

    return bool(BFLOAT16)

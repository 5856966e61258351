"""The table of `tinygpt gradcheck`, and its pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tinygpt.autograd import Tensor, apply, no_grad
from tinygpt.autograd.graph import Op
from tinygpt.files.figures import new_figure, save
from tinygpt.runtime.plural import counted
from tinygpt.runtime.settings import implementation
from tinygpt.study.checks import BOUNDS, STEPS, Finding, errors_by_step, input_names
from tinygpt.study.samples import Sample


def table(findings: Sequence[Finding]) -> str:
    """A line for each finding: the largest error as a share of the largest derivative, where it is, the best step."""
    header = ("operation", "input", "implementation", "worst error", "allowed", "where", "best step", "")
    rows = [header]
    for finding in findings:
        step = "" if finding.best_step is None else f"{finding.best_step:.0e}"
        rows.append((finding.op, finding.input, finding.implementation, f"{finding.error:.1e}",
                     f"{BOUNDS[finding.implementation]:.0e}", finding.where, step, verdict(finding)))  # fmt: skip
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    failed = sum(not finding.passed for finding in findings)
    passed = f"{failed} failed" if failed else "passed" if len(findings) == 1 else "all passed"
    lines.append(f"{counted(len(findings), 'check')}, {passed}")
    return "\n".join(lines)


def verdict(finding: Finding) -> str:
    """The text of the last column."""
    return "ok" if finding.passed else f"FAILED {finding.problem}".rstrip()


def draw_sweep(checked: Sequence[tuple[Op, Sequence[Sample]]], path: Path) -> None:
    """
    Draw the error of a difference against its step, for each input of each operation on its first sample.

    The curve has a minimum: to its right the error rises with the square of the step (truncation), to its left with
    1 / step (rounding of the loss). The curve of a wrong gradient is flat.

    Raises
    ------
    ValueError
        If matplotlib is not installed.
    """
    figure = new_figure("gradcheck: --sweep", figsize=(9, 6), layout="constrained")
    axes = figure.subplots()
    for op, samples in checked:
        for name, errors in zip(input_names(op, len(samples[0].arrays)), _sweep(op, samples[0]), strict=True):
            axes.loglog(STEPS, np.maximum(errors, 1e-17), marker=".", label=f"{op.name}, {name}", linewidth=1)
    axes.set(xlabel="step h", ylabel="error of the difference, as a share of the derivative",
             title="truncation falls with h squared, rounding rises as 1 / h")  # fmt: skip
    axes.grid(alpha=0.3)
    if len(checked) <= 8:
        axes.legend(fontsize=8)
    save(figure, path)


def _sweep(op: Op, sample: Sample) -> list[list[float]]:
    arrays = [np.array(array, np.float64) for array in sample.arrays]
    with implementation("numpy"):
        tensors = [Tensor(array, requires_grad=True) for array in arrays]
        out = apply(op, *tensors, **sample.attrs)
        weights = np.random.default_rng(4).standard_normal(out.shape)
        out.backward(weights)

        def loss() -> float:
            with no_grad():
                return float(np.sum(apply(op, *(Tensor(array) for array in arrays), **sample.attrs).data * weights))

        pairs = zip(arrays, tensors, strict=True)
        return [errors_by_step(loss, array, np.asarray(tensor.grad)) for array, tensor in pairs]

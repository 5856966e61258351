"""
The picture of `tinygpt gradcheck --sweep`: how the error of a finite difference depends on its step.

Each operation has a panel, with a curve for each input, on its largest sample. A curve has the form of a V: the error
rises on the right with the square of the step (truncation), on the left with 1 / step (rounding of the loss). An
operation that is linear in an input has no truncation, and the left half alone. The curve of a wrong gradient is flat.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tinygpt.autograd import Tensor, apply, no_grad
from tinygpt.autograd.graph import Op
from tinygpt.files.figures import WIDTH, label, new_figure, save
from tinygpt.files.one_line import one_line
from tinygpt.runtime.settings import implementation
from tinygpt.study.checks import STEP, STEPS, errors_by_step, input_names
from tinygpt.study.samples import Sample

_EXACT = 1e-17  # where an error of 0 is drawn
_STYLES = (("-", "black", "o"), ("--", "#c04000", "s"), (":", "#0072b2", "^"), ("-.", "#009e73", "D"))
_HEIGHTS = {1: 4.2, 2: 2.6, 3: 1.9, 4: 1.5, 5: 1.25}  # inches of a panel, by how many stand side by side


def draw_sweep(checked: Sequence[tuple[Op, Sequence[Sample]]], path: Path) -> None:
    """
    Draw one panel for each operation.

    Parameters
    ----------
    checked : sequence of (Op, samples)
    path : Path
        The file to write, by its ending a PNG, SVG or PDF.

    Raises
    ------
    ValueError
        If matplotlib is not installed.
    """
    figure = new_figure("gradcheck: --sweep")
    columns = min(5, math.ceil(math.sqrt(len(checked))))
    rows = -(-len(checked) // columns)
    height = rows * (_HEIGHTS[columns] + 0.25) + 1.45
    figure.set_size_inches(WIDTH, height)
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    figure.subplots_adjust(
        0.75 / WIDTH, 0.5 / height, 1 - 0.15 / WIDTH, 1 - 0.95 / height, 0.08, 0.25 / _HEIGHTS[columns]
    )
    size = 8 if columns == 1 else 7
    largest = 1e-3
    for axes, (op, samples) in zip(panels.flat, checked, strict=False):
        try:
            curves = _errors(op, max(samples, key=lambda sample: sum(np.size(array) for array in sample.arrays)))
        except Exception as error:  # a user's op may raise anything; the table says more
            curves = {}
            axes.text(
                0.5, 0.5, label(one_line(type(error).__name__), 90, 7), transform=axes.transAxes, ha="center", size=7
            )
        for number, (name, errors) in enumerate(curves.items()):
            line, color, marker = _STYLES[number % len(_STYLES)]
            best = int(np.argmin(errors))
            axes.plot(STEPS, errors, line, color=color, linewidth=1.3, label=label(name, 60, size))
            axes.plot(STEPS[best], errors[best], marker, color=color, markersize=5, markerfacecolor="white")
            largest = max(largest, *errors)
        axes.set_title(label(op.name, 72 * 6.5 / columns, size + 1), size=size + 1, pad=3)
        if curves:
            axes.legend(loc="upper center", fontsize=size - 1, handlelength=2.2, labelspacing=0.15, borderpad=0.1,
                        framealpha=1, edgecolor="none")  # fmt: skip
    for axes in panels.flat[len(checked) :]:
        axes.set_visible(False)
    _scales(panels, largest, len(checked))
    _explain(figure, panels[0, 0], height)
    save(figure, path)


def _scales(panels: np.ndarray, largest: float, count: int) -> None:
    """The same for all, with labels where nothing is below, and lines of both slopes."""
    from matplotlib.ticker import LogLocator, NullLocator

    steps = np.array(STEPS)
    for number, axes in enumerate(panels.flat[:count]):
        axes.set(xscale="log", yscale="log", xlim=(steps.min() / 2, 2 * steps.max()), ylim=(_EXACT / 4, 300 * largest))
        axes.xaxis.set_major_locator(LogLocator(numticks=9 if panels.shape[1] == 1 else 4))
        axes.yaxis.set_major_locator(LogLocator(numticks=9 if panels.shape[1] == 1 else 5))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_minor_locator(NullLocator())
        axes.tick_params(labelsize=7, labelbottom=number + panels.shape[1] >= count)
        axes.plot(steps, steps**2, color="0.8", linewidth=3, zorder=0, solid_capstyle="butt")
        axes.plot(steps, np.finfo(float).eps / steps, color="0.8", linewidth=3, zorder=0, solid_capstyle="butt")
        axes.axvline(STEP, color="0.3", linewidth=0.8, linestyle=(0, (1, 2)), zorder=0)


def _explain(figure: Any, axes: Any, height: float) -> None:
    """The title, the names of the axes, and what the marks mean."""
    from matplotlib.lines import Line2D

    left = 0.75 / WIDTH
    figure.text(left, 1 - 0.12 / height, "error of a central difference against its step h", size=12, va="top")
    keys = [
        Line2D([], [], color="0.8", linewidth=3, label="slopes: ε / h (rounding) and h² (truncation)"),
        Line2D(
            [],
            [],
            color="0.3",
            linewidth=0.8,
            linestyle=(0, (1, 2)),
            label=f"step of the check, {STEP:.0e}".replace("e-0", "e-"),
        ),
        Line2D([], [], color="black", marker="o", markerfacecolor="white", linestyle="", label="best step"),
    ]
    figure.legend(handles=keys, loc="upper left", bbox_to_anchor=(left - 0.1 / WIDTH, 1 - 0.36 / height), ncols=3,
                  fontsize=8, frameon=False)  # fmt: skip
    figure.text(0.5, 0.12 / height, "step h", size=9, ha="center")
    figure.text(0.12 / WIDTH, 0.5, "error, as a share of the derivative", size=9, va="center", rotation=90)


def _errors(op: Op, sample: Sample) -> dict[str, np.ndarray]:
    """For each input that has elements, the error at each of STEPS."""
    arrays = [np.array(array, np.float64) for array in sample.arrays]
    with implementation("numpy"):
        tensors = [Tensor(array, requires_grad=True) for array in arrays]
        out = apply(op, *tensors, **sample.attrs)
        weights = np.random.default_rng(4).standard_normal(out.shape)
        out.backward(weights)

        def loss() -> float:
            with no_grad():
                return float(np.sum(apply(op, *(Tensor(array) for array in arrays), **sample.attrs).data * weights))

        found = {}
        for name, array, tensor in zip(input_names(op, len(arrays)), arrays, tensors, strict=True):
            gradient = np.zeros_like(array) if tensor.grad is None else np.asarray(tensor.grad)
            if array.size:
                found[name] = np.maximum(errors_by_step(loss, array, gradient), _EXACT)
        return found

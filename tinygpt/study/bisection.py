"""
Where trouble began: the step, by the log; then that step is computed again (replay.py), and the operation is named.

    bisect        one run: the first figure that is not finite, or the first spike; then the first value of that step
                  that is not finite, or the first operation at which gradients have grown since the step before
    bisect_runs   two runs: the first line of the log that differs, then the first value of that step that does

A spike is a loss or a gradient norm beyond what the steps before it explain: further above their median than `SPIKE`
times their median distance from it, and above 1.25 times that median for the loss, 3 times for the norm. The median of
the last `WINDOW` steps follows a loss that falls, and one spike does not move it.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tinygpt.autograd.rounding import relative_gap
from tinygpt.files.one_line import brief, shown
from tinygpt.study.replay import FIGURES, Replay, Rerun

WINDOW, LEAST = 50, 10  # steps before one that it is held to: at most, and at least
SPIKE = 8.0  # median distances
_SHARES = {"loss": 1.25, "grad_norm": 3.0}  # of the median, at least
_AXES = {4: ("micro-batch", "row", "token", "feature"), 3: ("row", "token", "feature"), 2: ("row", "column"),
         1: ("number",), 0: ()}  # fmt: skip


class Place(NamedTuple):
    """
    A value of a step, and a number in it.

    Attributes
    ----------
    name : str
        As `replay` has it.
    at : tuple of int
        Its place in the array.
    note : str
        What is the matter there.
    """

    name: str
    at: tuple[int, ...]
    note: str

    def __str__(self) -> str:
        axes = _AXES.get(len(self.at), tuple(f"axis {axis}" for axis in range(len(self.at))))
        where = ", ".join(f"{axis} {place}" for axis, place in zip(axes, self.at, strict=True))
        return f"{self.name}{f' ({where})' if where else ''}: {self.note}"


class Onset(NamedTuple):
    """
    Where trouble in a run began.

    Attributes
    ----------
    step : int
    figure : str
        "loss" or "grad_norm".
    value, usual : float
        The figure, and the median of the steps before; NaN where there are none.
    row : str
        The row of the batch with the largest loss, how it compares with the others, and how its text begins.
    place : Place or None
        Where in the step it is first seen.
    """

    step: int
    figure: str
    value: float
    usual: float
    row: str
    place: Place | None


class Difference(NamedTuple):
    """
    Where two runs part.

    Attributes
    ----------
    equal : int
        How many steps have the same figures before.
    step : int or None
        The first one that does not; None if all that both have are equal.
    figures : dict of str to (float, float)
        Those that differ.
    place : Place or None
        The first value of that step that differs; None if no value does, or they cannot be compared.
    settings : dict of str to (object, object)
        What the settings of both runs differ in.
    """

    equal: int
    step: int | None
    figures: dict[str, tuple[Any, Any]]
    place: Place | None
    settings: dict[str, tuple[Any, Any]]


def first_trouble(lines: Sequence[Mapping[str, Any]]) -> tuple[int, str, float, float] | None:
    """
    The first figure of a log that is not finite or a spike: step, name, value, and the median before it.

    Parameters
    ----------
    lines : sequence of mapping
        Of steps, with "step", "loss" and "grad_norm"; None stands for what is not finite.

    Examples
    --------
    >>> lines = [{"step": n, "loss": 3 - n / 100, "grad_norm": 1 + n % 3 / 10} for n in range(1, 40)]
    >>> first_trouble(lines) is None
    True
    >>> lines[29]["loss"] = 4.5
    >>> first_trouble(lines)[:3]
    (30, 'loss', 4.5)
    """
    for place, line in enumerate(lines):
        for name, share in _SHARES.items():
            value = math.nan if line[name] is None else float(line[name])
            before = [each[name] for each in lines[max(0, place - WINDOW) : place] if each[name] is not None]
            middle = statistics.median(before) if before else math.nan
            if not math.isfinite(value):
                return line["step"], name, value, middle
            if len(before) < LEAST:
                continue
            distance = statistics.median(abs(each - middle) for each in before)
            if value > middle + SPIKE * distance and value > share * middle:
                return line["step"], name, value, middle
    return None


def bisect(rerun: Rerun) -> Onset | None:
    """
    Where trouble in a run began; None if its log has none.

    A run that ended before its last step is asked for the step after the last in its log, too: one that diverges is not
    logged.

    Parameters
    ----------
    rerun : Rerun
    """
    lines = [{"step": step, **figures} for step in sorted(rerun.logged_steps) if (figures := rerun.logged(step))]
    found = first_trouble(lines)
    if found is None:
        last = max(rerun.logged_steps, default=0)
        if last >= rerun.settings.steps:
            return None
        with np.errstate(all="ignore"):
            again = rerun.replay(last + 1)
        ends = {"loss": again.loss, "grad_norm": again.grad_norm}
        bad = [name for name, value in ends.items() if not math.isfinite(value)]
        if not bad:
            return None
        found = last + 1, bad[0], ends[bad[0]], math.nan
    step, name, value, usual = found
    with np.errstate(all="ignore"):
        now = rerun.replay(step, ["*"])
        row = _row(rerun, now)
        place = first_not_finite(now.values)
        if place is None and step > 1:
            place = first_growth(rerun.replay(step - 1, ["*backward.*"]).values, now.values)
    return Onset(step, name, value, usual, row, place)


def first_not_finite(values: Mapping[str, np.ndarray]) -> Place | None:
    """The first value of a step, in the order in which they come about, that has a number that is not finite."""
    for name in in_order(values):
        bad = ~np.isfinite(values[name])
        if bad.any():
            index = np.unravel_index(int(bad.argmax()), bad.shape)
            note = f"{bad.sum()} of {bad.size} numbers are not finite, the first is {values[name][index]}"
            return Place(name, tuple(map(int, index)), note)
    return None


def in_order(values: Mapping[str, np.ndarray]) -> Iterator[str]:
    """The names of values of a step: the batch, the weights, what operations compute, the gradients of parameters."""
    last = [name for name in values if name.startswith("gradient.")]
    yield from (name for name in values if not name.startswith("gradient."))
    yield from last


def first_growth(before: Mapping[str, np.ndarray], now: Mapping[str, np.ndarray]) -> Place | None:
    """The first gradient of a step, in the order of backward, with half of what any norm has grown since another."""
    norms = {name: _norm(array) for name, array in before.items() if "backward." in name}
    grown = {name: _norm(now[name]) / norm for name, norm in norms.items() if norm > 0 and name in now}
    most = max(grown.values(), default=0.0)
    for name, growth in grown.items():
        if growth >= most / 2:
            index = np.unravel_index(int(np.abs(now[name]).argmax()), now[name].shape)
            note = f"its norm is {growth:.3g} times that of the step before, its largest number {now[name][index]:.3g}"
            return Place(name, tuple(map(int, index)), note)
    return None


def _norm(array: np.ndarray) -> float:
    return float(np.sqrt(np.square(array, dtype=np.float64).sum()))


def _row(rerun: Rerun, found: Replay) -> str:
    """Which row of the batch has the largest loss, without dropout, by the weights before the step."""
    losses = rerun.row_losses(found.step)
    flat = losses.reshape(-1)
    worst = int(np.nanargmax(np.where(np.isfinite(flat), flat, np.inf)))
    number, row = divmod(worst, losses.shape[1])
    others = np.delete(flat, worst)
    of = f" of micro-batch {number + 1}" if len(losses) > 1 else ""
    beside = f", the others {others.min():.4g} to {others.max():.4g}" if others.size else ""
    tokens = found.values["inputs"].reshape(len(losses), losses.shape[1], -1)[number, row]
    return f"row {row}{of} has loss {flat[worst]:.4g}{beside}; it is {brief(rerun.data.tokenizer.decode(tokens))}"


def bisect_runs(a: Rerun, b: Rerun) -> Difference:
    """
    Where two runs part.

    Parameters
    ----------
    a, b : Rerun
    """
    settings = {name: (mine, theirs) for name, mine in a.settings.to_json_values().items()
                if (theirs := b.settings.to_json_values().get(name)) != mine}  # fmt: skip
    both = sorted(a.logged_steps & b.logged_steps)
    if not both:
        raise ValueError("bisect: the logs must have a step in common, and have none")
    for place, step in enumerate(both):
        mine, theirs = a.logged(step) or {}, b.logged(step) or {}
        figures = {name: (mine[name], theirs[name]) for name in FIGURES if mine[name] != theirs[name]}
        if figures.keys() - {"lr"}:  # which has an effect on the steps after it
            with np.errstate(all="ignore"):
                values = [each.replay(step, ["*"]).values for each in (a, b)]
            return Difference(place, step, figures, first_difference(*values), settings)
    return Difference(len(both), None, {}, None, settings)


def first_difference(a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray]) -> Place | None:
    """The first value of a step, in the order in which they come about, that is not the same in both."""
    for name in in_order(a):
        if name not in b:
            return Place(name, (), "the other run has none")
        x, y = a[name], b[name]
        if x.shape != y.shape:
            return Place(name, (), f"the shape is {x.shape} in one and {y.shape} in the other")
        different = ~((x == y) | (np.isnan(x) & np.isnan(y))) if x.dtype.kind == "f" else x != y
        if different.any():
            index = np.unravel_index(int(different.argmax()), x.shape)
            share = float(np.max(relative_gap(np.asarray(x, np.float64), np.asarray(y, np.float64)), initial=0))
            note = (
                f"{x[index]} and {y[index]}; {different.sum()} of {x.size} differ, by up to {share:.2g} of the largest"
            )
            return Place(name, tuple(map(int, index)), note)
    return None


def require_other(run: Path | str, other: Path | str) -> None:
    """Raise ValueError if both are the same folder."""
    if Path(run).resolve() == Path(other).resolve():
        raise ValueError(f"bisect: the other run must be another one, got {shown(run)} twice")

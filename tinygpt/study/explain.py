"""
One operation on one page: its derivation, the reference and the kernel side by side by step number, an example on tiny
arrays with every intermediate, and its check.

The numbers in comments, `# (3)`, join the three: a line of the reference, a line of the kernel, and a line of the
derivation that have the same number say the same thing.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from tinygpt.autograd.graph import Op
from tinygpt.study.checks import BOUNDS, check_op
from tinygpt.study.measure import speed
from tinygpt.study.samples import SAMPLES, Sample, page_of

WIDTH = 110
_ARRAYS = (np.ndarray, np.generic)
_STEP = re.compile(r"#\s*\((\d+(?:\s*,\s*\d+)*)\)")


class Line(NamedTuple):
    """A line of source, the steps that its comment names, and its number in the file."""

    text: str
    steps: tuple[int, ...]
    number: int


def page(op: Op) -> Iterator[str]:
    """
    The page, a section at a time.

    Examples
    --------
    >>> from tinygpt.ops.gelu import GELU
    >>> next(page(GELU)).splitlines()[0].startswith("GELU")
    True
    """
    yield page_of(op)
    for direction in ("forward", "backward"):
        yield side_by_side(op, direction)
    yield from worked_example(op)
    yield checked(op)
    if measured := speed(op):
        yield measured


def numbered_lines(function: Callable) -> list[Line]:
    """The lines of a function whose comments name steps."""
    lines, first = inspect.getsourcelines(inspect.unwrap(getattr(function, "py_func", function)))
    found = []
    for offset, line in enumerate(lines):
        match = _STEP.search(line)
        if match:
            steps = tuple(int(step) for step in match.group(1).split(","))
            found.append(Line(line[: match.start()].strip(), steps, first + offset))
    return found


def side_by_side(op: Op, direction: str) -> str:
    """The numbered lines of reference and kernel in two columns, a step after the other."""
    left = numbered_lines(getattr(op, direction))
    right = _kernel_lines(op, direction)
    half = (WIDTH - 8) // 2
    header = f"      {f'reference, {op.name}_{direction}':{half}}  {f'kernel, {op.kernel}' if right else ''}".rstrip()
    rows = [header]
    for step in sorted({step for line in left + right for step in line.steps}):
        mine = [line for line in left if step in line.steps]
        theirs = [line for line in right if step in line.steps]
        for i in range(max(len(mine), len(theirs))):
            cells = [_wrapped(lines[i].text, half) if i < len(lines) else [""] for lines in (mine, theirs)]
            for j in range(max(map(len, cells))):
                a, b = (cell[j] if j < len(cell) else "" for cell in cells)
                label = f"({step})" if i == j == 0 else ""
                rows.append(f"{label:>5} {a:{half}}  {b}".rstrip())
    return "\n".join(rows)


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, subsequent_indent="    ") or [""]


def _kernel_lines(op: Op, direction: str) -> list[Line]:
    """Of the kernel's own functions for one direction: its entry, and what it calls in its module."""
    if op.kernel is None:
        return []
    kernel = importlib.import_module(op.kernel) if isinstance(op.kernel, str) else op.kernel
    entry = getattr(kernel, direction, None)
    if entry is None:
        return []
    functions, seen = [entry], set()
    lines: list[Line] = []
    for function in functions:  # grows while it is walked
        plain = getattr(function, "py_func", function)
        if plain in seen:
            continue
        seen.add(plain)
        lines += numbered_lines(plain)
        for name in plain.__code__.co_names:
            other = vars(kernel).get(name)
            if getattr(getattr(other, "py_func", other), "__module__", None) == kernel.__name__ and callable(other):
                functions.append(other)
    return lines


def worked_example(op: Op, sample: Sample | None = None) -> Iterator[str]:
    """What each numbered line computes, on the smallest sample: the names that it assigns, and their values."""
    readable = [each for each in SAMPLES[op.name] if all(array.ndim for array in each.arrays)]
    sample = sample or min(readable or SAMPLES[op.name], key=lambda each: sum(array.size for array in each.arrays))
    arrays = [np.round(array, 1) for array in sample.arrays]
    names = list(inspect.signature(op.forward).parameters)
    given = "\n".join(_shown(name, array) for name, array in zip(names, arrays, strict=False))
    yield f"an example: {op.name} of\n{given}" + "".join(f"\n    {k} = {v!r}" for k, v in sample.attrs.items())
    out: Any = None
    saved: Any = None

    def forward() -> None:
        nonlocal out, saved
        out, saved = op.forward(*arrays, **sample.attrs)

    yield from _traced(op.forward, forward)
    dout = np.ones(np.shape(out))
    yield "backward, for a gradient of ones\n" + _shown("dout", dout)
    yield from _traced(op.backward, lambda: op.backward(dout, saved))


def _traced(function: Callable, run: Callable[[], Any]) -> Iterator[str]:
    """Run it, and say after each numbered line what changed."""
    steps = {line.number: line for line in numbered_lines(function)}
    said: list[str] = []
    before: dict[str, Any] = {}
    last: list[int] = []

    def look(frame: Any, event: str, _: Any) -> Any:
        if frame.f_code is not function.__code__:
            return None
        if last and last[0] in steps and event in ("line", "return"):
            line = steps[last[0]]
            changed = [(name, value) for name, value in frame.f_locals.items()
                       if isinstance(value, _ARRAYS) and not _same(before.get(name), value)]  # fmt: skip
            label = ",".join(map(str, line.steps))
            said.append("\n".join([f"({label}) {line.text}", *(_shown(name, value) for name, value in changed)]))
        last[:] = [frame.f_lineno]
        before.clear()
        before.update({k: np.array(v) for k, v in frame.f_locals.items() if isinstance(v, _ARRAYS)})
        return look

    previous = sys.gettrace()
    sys.settrace(look)
    try:
        run()
    finally:
        sys.settrace(previous)
    yield from said


def _same(a: Any, b: Any) -> bool:
    return a is not None and a.shape == b.shape and np.array_equal(a, b, equal_nan=b.dtype.kind == "f")


def _shown(name: str, array: Any) -> str:
    array = np.asarray(array)
    text = np.array2string(array, precision=3, suppress_small=True, threshold=40, edgeitems=2, max_line_width=WIDTH - 8)
    title = f"    {name} {array.shape} = "
    if "\n" not in text:
        return title + text
    return title.rstrip() + "\n" + textwrap.indent(text, " " * 8)


def checked(op: Op) -> str:
    """The gradient check in a line for each implementation."""
    worst: dict[str, float] = {}
    for finding in check_op(op, SAMPLES[op.name]):
        worst[finding.implementation] = max(worst.get(finding.implementation, 0.0), finding.error)
    lines = [f"    {name:10} worst error {error:.1e} of the largest derivative, {BOUNDS[name]:.0e} is allowed"
             for name, error in worst.items()]  # fmt: skip
    return "the gradient check\n" + "\n".join(lines)

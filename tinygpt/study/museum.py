"""The museum of bugs: an operation with one line of its backward changed, to be found by reading or by the check."""

from __future__ import annotations

import ast
import inspect
import re
import sys
import textwrap
from types import FunctionType
from typing import Any

import numpy as np

from tinygpt.autograd.gradient_check import GradientCheckError, gradcheck
from tinygpt.autograd.graph import Op
from tinygpt.optim import adamw
from tinygpt.optim.adamw import adamw_update
from tinygpt.study.bugs import Bug
from tinygpt.study.samples import SAMPLES, every_op


def broken(bug: Bug) -> Op:
    """
    The operation with its mistake, and no kernel. The package itself is not touched.

    Examples
    --------
    >>> from tinygpt.study.bugs import BUGS
    >>> op = broken(BUGS[0])
    >>> op.name, op.kernel is None
    ('layernorm', True)
    """
    op = every_op()[bug.op]
    names = dict(vars(module_of(bug)))
    names[bug.function] = broken_function(bug)
    backward = names[bug.function]
    if bug.function != op.backward.__name__:  # the mistake is in a helper: the backward is to call that one
        backward = FunctionType(op.backward.__code__, names, op.backward.__name__, op.backward.__defaults__)
    return op._replace(backward=backward, kernel=None)


def broken_function(bug: Bug) -> Any:
    """The function that has the mistake in it."""
    original = function_of(bug)
    names = {**vars(sys.modules[original.__module__]), **vars(module_of(bug))}
    exec(compile(source_with(bug), f"<museum: {bug.function}>", "exec"), names)
    return names[bug.function]


def complaint(bug: Bug) -> str:
    """What finds the mistake says: the gradient check, or for AdamW the comparison with the right update."""
    if bug.op == "adamw":
        gap = update_gap(broken_function(bug), adamw_update)
        return f"after five steps of adamw_update the parameters are off by {gap:.3g}"
    op = broken(bug)
    for sample in SAMPLES[bug.op]:
        try:
            gradcheck(sample.f(op), sample.arrays)
        except (GradientCheckError, IndexError, ValueError) as error:
            return str(error)
    raise AssertionError(f"museum: nothing was found in {bug.op}")  # the tests see to it


def update_gap(one: Any, other: Any) -> float:
    """How far two AdamW updates are apart after five steps from the same beginning."""
    rng = np.random.default_rng(1)
    start, gradients = rng.standard_normal((4, 3)), 1e-3 * rng.standard_normal((5, 4, 3))
    ends = []
    for update in (one, other):
        parameter, m, v = start.copy(), np.zeros_like(start), np.zeros_like(start)
        for step, gradient in enumerate(gradients, 1):
            update(parameter, gradient, m, v, step, 1e-2, (0.9, 0.999), 1e-8, 0.1)
        ends.append(parameter)
    return float(np.max(np.abs(ends[0] - ends[1])))


def module_of(bug: Bug) -> Any:
    """The module whose names the exhibit's code knows."""
    return adamw if bug.op == "adamw" else sys.modules[every_op()[bug.op].backward.__module__]


def function_of(bug: Bug) -> Any:
    """The right function, of the operation's own module or one that it imports from."""
    return vars(module_of(bug))[bug.function]


def source_with(bug: Bug) -> str:
    """The source of the function, without its docstring, with the mistake in it."""
    source = _without_docstring(textwrap.dedent(inspect.getsource(function_of(bug))))
    lines = [line for line in source.splitlines() if bug.right in line]
    if len(lines) != 1 or source.count(bug.right) != 1:
        raise ValueError(f"museum: {bug.right!r} must be in {bug.function} once, got {source.count(bug.right)} times")
    changed = lines[0].replace(bug.right, bug.wrong)
    code, _, comment = changed.partition("  # ")
    marks = re.match(r"(\([^)]*\)[ :;]*)*", comment)  # step numbers and shapes stay; words may give it away
    kept = f"  # {marks.group().rstrip(' :;')}" if marks and marks.group() else ""
    return source.replace(lines[0], code + kept)


def _without_docstring(source: str) -> str:
    function = ast.parse(source).body[0]
    if not isinstance(function, ast.FunctionDef) or ast.get_docstring(function) is None:
        return source
    first: Any = function.body[0]
    lines = source.splitlines(keepends=True)
    return "".join(lines[: first.lineno - 1] + lines[first.end_lineno :])

"""The museum of bugs: an operation with one line of its backward changed, to be found by reading or by the check."""

from __future__ import annotations

import ast
import importlib
import inspect
import sys
import textwrap
from types import FunctionType
from typing import Any

from tinygpt.graph import Op
from tinygpt.study.bugs import Bug
from tinygpt.study.samples import every_op


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
    function = function_of(bug)
    names = dict(vars(sys.modules[op.backward.__module__]))
    names[bug.function] = _compiled(source_with(bug), bug.function, function, names)
    backward = names[bug.function]
    if op.backward is not function:  # the mistake is in a helper: the backward is to call that one
        backward = FunctionType(op.backward.__code__, names, op.backward.__name__, op.backward.__defaults__)
    return op._replace(backward=backward, kernel=None)


def function_of(bug: Bug) -> Any:
    """The right function, of the operation's own module or one that it imports from."""
    return vars(sys.modules[every_op()[bug.op].backward.__module__])[bug.function]


def source_with(bug: Bug) -> str:
    """The source of the function, without its docstring, with the mistake in it."""
    source = _without_docstring(textwrap.dedent(inspect.getsource(function_of(bug))))
    lines = [line for line in source.splitlines() if bug.right in line]
    if len(lines) != 1 or source.count(bug.right) != 1:
        raise ValueError(f"museum: {bug.right!r} must be in {bug.function} once, got {source.count(bug.right)} times")
    changed = lines[0].replace(bug.right, bug.wrong)
    return source.replace(lines[0], changed.split("  #")[0])  # a comment may give it away


def _without_docstring(source: str) -> str:
    body = ast.parse(source).body[0]
    if ast.get_docstring(body) is None:
        return source
    first = body.body[0]
    lines = source.splitlines(keepends=True)
    return "".join(lines[: first.lineno - 1] + lines[first.end_lineno :])


def _compiled(source: str, name: str, original: FunctionType, names: dict[str, Any]) -> FunctionType:
    names = {**vars(importlib.import_module(original.__module__)), **names}
    exec(compile(source, f"<museum: {name}>", "exec"), names)
    return names[name]

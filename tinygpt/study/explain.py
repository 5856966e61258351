"""
One operation on one page: its derivation, the reference beside the kernel, an example with every intermediate, and the
check of the example's gradients.

The numbers in comments, `# (3)`, join the parts: a line of the derivation, a statement of the reference and a statement
of the kernel that have the same number compute the same. An operation of a line or two has no numbers: its functions
are shown whole.
"""

from __future__ import annotations

import inspect
import itertools
import re
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from types import FunctionType
from typing import Any

from tinygpt.autograd.dispatch import kernel_of
from tinygpt.autograd.graph import Op
from tinygpt.runtime.plural import counted
from tinygpt.study.checks import BOUNDS, Finding, check_op
from tinygpt.study.examples import EXAMPLES
from tinygpt.study.layout import WIDTH, titled, wrapped
from tinygpt.study.measure import speed
from tinygpt.study.samples import Sample, docstring_of, every_op, page_of
from tinygpt.study.statements import NO_SOURCE, Statement, global_names, numbered, plain, source
from tinygpt.study.user_ops import find_op
from tinygpt.study.worked_example import worked_example

_COLUMNS = 120  # of a page with reference and kernel side by side: as wide as the derivations


def show(name: str | None, step: bool = False) -> None:
    """
    Print the page of an operation, or the list of all operations; with `step`, wait for Enter after each section.

    The end of the input, and Ctrl-C while it waits, end the page without an error.
    """
    if name is None:
        print(overview())
        return
    for section in explain(name):
        print(section + "\n")
        if step:
            try:
                input("Press Enter to go on ")
            except (EOFError, RuntimeError, KeyboardInterrupt):  # RuntimeError: there is no input at all
                print()
                return


def overview() -> str:
    """
    All operations, a line each.

    Examples
    --------
    >>> print(next(line for line in overview().splitlines() if "mul " in line))
      mul                   a * b, with broadcasting.
    """
    ops = every_op()
    steps = [name for name, op in ops.items() if numbered(op.forward)]
    others = [name for name in ops if name not in steps]
    width = max(map(len, ops))

    def lines(names: Sequence[str]) -> str:
        rows = (f"  {name:{width}}  {_summary(ops[name]).replace('`', '')}" for name in names)
        return "\n".join(row if len(row) <= WIDTH else f"{row[: WIDTH - 4].rpartition(' ')[0]} ..." for row in rows)

    return (f"Operations of GPT-2, derived step by step\n{lines(steps)}\n\n"
            f"Elementary operations\n{lines(others)}\n\n"
            "tinygpt explain OP shows one of them; MODULE:NAME is an Op of your own.")  # fmt: skip


def explain(name: str) -> Iterator[str]:
    """
    The page of an operation of the package, or of `module:name`, a section at a time.

    Raises
    ------
    ValueError
        If there is no such operation.

    Examples
    --------
    >>> next(explain("gelu")).splitlines()[0]
    'gelu'
    """
    op, samples = find_op(name, "explain")
    return page(op, samples, EXAMPLES.get(name, samples[0]))


def page(op: Op, samples: Sequence[Sample], example: Sample) -> Iterator[str]:
    """The page of `op`, one section at a time; the gradient check uses all samples."""
    yield heading(op)
    yield from code(op)
    yield from worked_example(op, example)
    yield checked(op, samples)
    if measured := speed(op):
        yield titled(*measured.split("\n", 1))


def heading(op: Op) -> str:
    """The operation in a sentence, and its derivation."""
    return "\n\n".join(part for part in (titled(op.name, _summary(op), "="), derivation(op)) if part)


def derivation(op: Op) -> str:
    """
    The docstring of an operation's file; of a file with many operations, without the rows of the others.

    Examples
    --------
    >>> derivation(every_op()["gelu"]).startswith("GELU")
    True
    """
    text = page_of(op)
    if not re.search(r"^Operation\b.*\bForward\b", text, re.MULTILINE):
        return text
    kept = []
    for paragraph in text.split("\n\n"):
        header, *rows = paragraph.split("\n")
        if header.startswith(("Operation ", "What surprises")):
            rows = _rows_of(op.name, rows)
            belongs = bool(rows)
        elif header.startswith("`"):  # "`minimum` is -maximum(-a, -b)."
            belongs = f"{op.name}(" in header
        else:  # "matmul. Entry by entry ...", "std, norm. A root ...", or what holds for all
            names = {*header.partition(". ")[0].split(", ")}
            belongs = op.name in names or not names <= every_op().keys()
        if belongs:
            kept.append("\n".join([header, *rows]))
    return "\n\n".join(kept)


def _rows_of(name: str, rows: Sequence[str]) -> list[str]:
    """A row begins with four spaces and its name; deeper lines continue it."""
    found, inside = [], False
    for row in rows:
        if row[:4].isspace() and not row[4:5].isspace():
            inside = row.split()[0] == name
        if inside:
            found.append(row)
    return found


def _summary(op: Op) -> str:
    """The first line of the docstring of the public function, which has the operation's name."""
    function = getattr(sys.modules.get(plain(op.forward).__module__), op.name, None)
    return (inspect.getdoc(function) or "").split("\n")[0] if isinstance(function, FunctionType) else ""


def code(op: Op) -> Iterator[str]:
    """Reference and kernel: side by side by step number, or whole where the reference has no numbers."""
    kernel = None if op.kernel is None else kernel_of(op)
    if numbered(op.forward) and numbered(op.backward):
        for direction in ("forward", "backward"):
            yield side_by_side(op, direction)
    else:
        yield titled(f"Reference: {_file_of(op.forward)}", _sources([op.forward, op.backward]))
        if kernel is not None:
            functions = _family(kernel, "forward") + _family(kernel, "backward")
            yield titled(f"Kernel: {_file_of(kernel.forward)}", _sources(functions))
    if helpers := _helpers(op):
        yield titled("Functions that the reference calls", _sources([*helpers.values()], [*helpers]))


def side_by_side(op: Op, direction: str) -> str:
    """The numbered statements of reference and kernel in two columns; steps that a statement joins stand together."""
    function, kernel = getattr(op, direction), None if op.kernel is None else kernel_of(op)
    left = numbered(function)
    right = [each for part in (_family(kernel, direction) if kernel else []) for each in numbered(part)]
    right += reasons(kernel, direction)
    half = (_COLUMNS - 2) // 2
    margin = max(len(statement.label) for statement in left + right) + 1
    titles = [f"reference: {_file_of(function)}", f"kernel: {_file_of(kernel.forward)}" if kernel and right else ""]
    rows = [f"{titles[0]:{half}}  {titles[1]}".rstrip()]
    groups = _groups(left, right)
    sides = [[[each for each in side if steps & {*each.steps}] for steps in groups] for side in (left, right)]
    for cells in zip(*(_cells(side, margin, half) for side in sides), strict=True):
        rows.append("")
        rows += [f"{a:{half}}  {b}".rstrip() for a, b in itertools.zip_longest(*cells, fillvalue="")]
    return titled(direction.capitalize(), "\n".join(rows))


def reasons(kernel: Any, direction: str) -> list[Statement]:
    """Why a kernel lacks steps of the reference, as its docstring says: `No step (3) forward: the reason.`"""
    text = "" if kernel is None else docstring_of(kernel)
    found = re.findall(r"^No step \(([\d, ]+)\) (forward|backward): (.+)$", text, re.MULTILINE)
    return [Statement(f"No such step: {reason}", tuple(map(int, steps.split(","))), 0, 0)
            for steps, where, reason in found if where == direction]  # fmt: skip


def _groups(reference: Sequence[Statement], kernel: Sequence[Statement]) -> list[set[int]]:
    """The steps, as sets that some statement carries out together, in the order in which the reference ends them."""
    groups: list[set[int]] = []
    for statement in (*reference, *kernel):
        joined = {*statement.steps}.union(*(group for group in groups if group & {*statement.steps}))
        groups = [group for group in groups if not group & joined] + [joined]

    def last(group: set[int]) -> int:
        return max((i for i, statement in enumerate(reference) if group & {*statement.steps}), default=len(reference))

    return sorted(groups, key=last)


def _cells(groups: Sequence[Sequence[Statement]], margin: int, width: int) -> list[list[str]]:
    """One column: for each group its statements with their numbers, wrapped; a new function is announced."""
    several = len({each.function for group in groups for each in group if each.function}) > 1
    cells, function = [], ""
    for group in groups:
        lines = []
        for statement in group:
            if several and statement.function not in ("", function):
                function = statement.function
                lines.append(f"{'':{margin}}in {function}:")
            for number, line in enumerate(statement.text.splitlines()):
                lines += wrapped(f"{'' if number else statement.label:{margin}}", line, width)
        cells.append(lines)
    return cells


def checked(op: Op, samples: Sequence[Sample]) -> str:
    """The gradient check on all samples, a line for each implementation."""
    against = {"reference": "reference, against differences", "float32": "kernel, against the reference",
               "bfloat16": "kernel, bfloat16 products"}  # fmt: skip
    worst: dict[str, Finding] = {}
    for finding in check_op(op, samples):
        if finding.implementation not in worst or finding.error > worst[finding.implementation].error:
            worst[finding.implementation] = finding
    lines = []
    for name, finding in worst.items():
        error = f"{finding.error:.1e} of the largest gradient, allowed {BOUNDS[name]:.0e}"
        verdict = "passed" if finding.passed else "FAILED"
        lines.append(f"    {against[name]:31}  {finding.problem or error}: {verdict}")
    inputs = counted(len(samples), "set of inputs", "sets of inputs")
    return titled(f"The same check on {inputs}, as tinygpt gradcheck makes it: largest errors", "\n".join(lines))


def _file_of(function: Callable) -> str:
    return plain(function).__module__.replace(".", "/") + ".py"


def _sources(functions: Sequence[Callable], names: Sequence[str] = ()) -> str:
    """Whole functions, each once; with `names`, the one by which each was imported, where it is another."""
    texts = []
    for function, name in itertools.zip_longest(functions, names):
        try:
            imported = f"# imported as {name}\n" if name and name != function.__name__ else ""
            texts.append(imported + source(function))
        except NO_SOURCE:
            texts.append(f"{function!r} has no source: it is not in a file, or is not a Python function")
    return textwrap.indent("\n\n".join(dict.fromkeys(texts)), "    ")


def _helpers(op: Op) -> dict[str, FunctionType]:
    """The functions of the operation's package that its reference calls, except other operations' references."""
    pairs = {plain(function) for other in every_op().values() for function in (other.forward, other.backward)}
    found = {}
    for function in (op.forward, op.backward):
        try:
            values = {name: plain(function).__globals__[name] for name in global_names(function)}
        except NO_SOURCE:
            continue
        package = plain(function).__module__.rpartition(".")[0] or plain(function).__module__
        for name, value in values.items():
            if isinstance(value, FunctionType) and value.__module__.startswith(package) and value not in pairs:
                found[name] = value
    return found


def _family(kernel: Any, direction: str) -> list[Callable]:
    """The kernel's function for one direction, and those of its module that it calls."""
    entry = getattr(kernel, direction, None)
    functions = [] if entry is None else [plain(entry)]
    for function in functions:  # grows while it is walked
        for name in global_names(function):
            other = plain(function.__globals__[name])
            if isinstance(other, FunctionType) and other.__module__ == function.__module__ and other not in functions:
                functions.append(other)
    return functions

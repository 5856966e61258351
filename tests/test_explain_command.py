"""`tinygpt explain`: a complete page for each operation, whose example shows what really is computed."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from every_operation import assert_lists

from tinygpt.ops.gelu import GELU
from tinygpt.study import explain
from tinygpt.study.examples import EXAMPLES, dout_for
from tinygpt.study.samples import SAMPLES, Sample, every_op
from tinygpt.study.statements import numbered, plain, source, statements
from tinygpt.study.user_ops import find_op
from tinygpt.study.worked_example import worked_example

PAGES = {name for name, op in every_op().items() if op.forward.__module__.split(".")[-1] == name}  # a file each
every_name = pytest.mark.parametrize("name", sorted(every_op()))


def run(*arguments: str, cwd=None, **options) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "tinygpt", "explain", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=300, **options)


def columns(text: str) -> list[list[str]]:
    """The statements of both columns of `side_by_side`, each joined again from the lines that it was wrapped into."""
    half = 59
    rows = text.splitlines()[3:]  # below the title, its line and the names of the columns
    sides = []
    for cells in ([row[:half] for row in rows], [row[half + 2 :] for row in rows]):
        found: list[str] = []
        for cell in cells:
            label = re.match(r"\(\d[\d,]*\) +", cell)
            if label:
                found.append(cell[label.end() :].rstrip())
            elif cell.strip() and not re.match(r" +in \w+:$", cell):
                found[-1] += " " + cell.strip()
        sides.append(found)
    return sides


@every_name
def test_each_page_is_complete_and_fits_a_terminal(name, monkeypatch):
    monkeypatch.setattr(explain, "speed", lambda op: "")  # has a test of its own
    text = "\n\n".join(explain.explain(name))
    for part in (f"{name}\n{'=' * len(name)}\n", "Example, forward\n", "Example, backward", "Gradients\n", "Check: ",
                 "right", "The same check on", "passed"):  # fmt: skip
        assert part in text
    assert "WRONG" not in text and "FAILED" not in text
    if name in PAGES:
        lacks = [part.strip() for part in ("\nForward  ", "\nStep", "Source:", "Cost:") if part not in text]
        assert not lacks, f"the docstring of ops/{name}.py lacks {', '.join(lacks)}"
    assert max(map(len, text.splitlines())) <= 120
    for line in text.splitlines():
        assert not line.strip() or re.search(r"\w|^(-+|=+)$", line), f"nothing but punctuation: {line!r}"


@every_name
def test_each_page_shows_statements_of_both_sides_whole(name):
    op = every_op()[name]
    if name not in PAGES:
        text = "\n".join(explain.code(op))
        for function in (op.forward, op.backward):
            assert textwrap.indent(source(function), "    ") in text
        return
    for direction in ("forward", "backward"):
        reference, kernel = columns(explain.side_by_side(op, direction))
        function = getattr(op, direction)
        assert sorted(map(squeezed, reference)) == sorted(squeezed(each.text) for each in numbered(function))
        assert bool(kernel) == (op.kernel is not None)
        for statement in (*reference, *kernel):
            if not re.match(r"(for|while|if|No such step:) ", statement):  # of a block, the lines are joined here
                ast.parse(statement)


def squeezed(text: str) -> str:
    return re.sub(r"\s+", "", text)


def test_numbered_statements_are_those_that_python_sees():
    """Against `ast`: the smallest statement that has a comment with a number on one of its lines."""
    for op in every_op().values():
        kernel = importlib.import_module(op.kernel) if op.kernel else None
        functions = [op.forward, op.backward]
        functions += [value for value in vars(kernel).values() if inspect.isfunction(plain(value))] if kernel else []
        for function in functions:
            text = textwrap.dedent(inspect.getsource(plain(function)))
            if not text.startswith(("def ", "@")):
                continue
            nodes = [node for node in ast.walk(ast.parse(text).body[0]) if isinstance(node, ast.stmt)][1:]
            simple = [node for node in nodes if not hasattr(node, "body")]
            expected = []
            for node in sorted(simple, key=lambda node: node.lineno):
                lines = text.splitlines()[node.lineno - 1 : node.end_lineno]
                steps = [int(n) for line in lines for m in re.findall(r"# \(([\d, ]+)\)", line) for n in m.split(",")]
                if steps:
                    expected.append((ast.unparse(node), tuple(steps)))
            found = [(ast.unparse(ast.parse(each.text)), each.steps) for each in numbered(function)
                     if not re.match(r"(for|while|if) .*:$", each.text.splitlines()[0])
                     and not each.text.endswith(":")]  # fmt: skip
            assert [each for each in expected if each not in found] == []


def test_a_statement_is_whole_however_it_is_written():
    (first, second, loop, inner, last) = numbered(awkward)
    assert (first.text, first.steps) == ("a = max(x, key=lambda pair: (pair[0], pair[1]))", (1, 2))
    assert (second.text, second.steps) == ("b = [a[0], *x]", (3,))
    assert loop.text == "for i in range(3):\n    if i:\n        a = max(b)\n    b = [i]" and loop.steps == (4,)
    assert (inner.text, inner.steps) == ("b = [i]", (5,))
    assert (last.text, last.steps) == ("return (a, b)", (6,))
    assert "docstring" not in source(awkward)
    assert len(statements(awkward)) == 7  # a block and each of its lines


# fmt: off
def awkward(x):
    """A docstring # (9)"""
    a = max(  # (1, 2)
        x,
        key=lambda pair: (pair[0], pair[1]),  # why
    )
    # (3) what stands above a statement belongs to it
    b = [a[0],
         *x]
    for i in range(3):  # (4)
        if i:
            a = max(b)
        b = [i]  # (5)
    return (a,
            b)  # (6)
# fmt: on


def test_reference_and_kernel_stand_side_by_side_by_step():
    text = explain.side_by_side(every_op()["layernorm"], "forward")
    row = next(line for line in text.splitlines() if line.startswith("(1)"))
    assert "mean = x.mean(axis=-1, keepdims=True)" in row and "mean_n = total(x_n)" in row


@every_name
def test_each_example_teaches(name):
    """Plain numbers, a gradient that is not all ones, results that are neither zero nor infinite, and no dropout."""
    assert name in EXAMPLES, f"add {name} to EXAMPLES in tinygpt/study/examples.py"
    op, sample = every_op()[name], EXAMPLES[name]
    out, saved = op.forward(*sample.arrays, **sample.attrs)
    dout = dout_for(out)
    gradients = op.backward(dout, saved)
    assert sum(array.size for array in sample.arrays) <= 40
    for array in (*sample.arrays, dout):
        assert np.array_equal(array, np.round(array, 1)) and np.any(array != 1)
    for array in (out, *gradients):
        assert np.all(np.isfinite(array)) and np.any(array)
    assert name == "dropout" or "p" not in sample.attrs
    text = "\n".join(worked_example(op, sample))
    for parameter, gradient in zip(inspect.signature(op.forward).parameters, gradients, strict=False):
        if name not in ("concatenate", "einsum"):  # their inputs have no names
            assert re.search(rf"^ +d{parameter} {re.escape(str(gradient.shape))}", text, re.MULTILINE)


def test_the_example_of_dropout_keeps_some_and_drops_some():
    sample = EXAMPLES["dropout"]
    out, _ = every_op()["dropout"].forward(*sample.arrays, **sample.attrs)
    assert 0 < np.count_nonzero(out == 0) < out.size


def test_the_example_shows_what_each_line_computes():
    x, tracer = np.array([0.5, -1.0]), sys.gettrace()
    said = "\n".join(worked_example(GELU, Sample([x])))
    forward, backward = said.split("Example, backward")
    out, (_, t) = GELU.forward(x)
    dout = dout_for(out)
    (dx,) = GELU.backward(dout, (x, t))
    slope = (GELU.forward(x + 1e-6)[0] - GELU.forward(x - 1e-6)[0]) / 2e-6
    assert f"out (2,) = {shown(out)}" in forward
    assert f"t (2,) = {shown(t)}" in forward
    assert f"dout (2,) = {shown(dout)}" in backward
    assert f"dx (2,) = {shown(dx)}" in backward
    largest = int(np.argmax(np.abs(dx)))
    numbers = re.search(rf"dx\[{largest}\] +(\S+) +(\S+)", backward).groups()
    np.testing.assert_allclose([*map(float, numbers)], [dx[largest], (dout * slope)[largest]], atol=1e-8)
    assert sys.gettrace() is tracer


def shown(array):
    return np.array2string(array, precision=3, suppress_small=True)


@pytest.mark.parametrize("name", ["gelu", "linear"])
def test_the_page_of_a_kernel_says_how_fast_it_is(name):
    *_, last = explain.explain(name)
    assert re.search(r"Measured now, on .*\n-+\n    kernel, forward and backward: [\d.]+ ms, \S+ G\S+, \d+% of", last)


def test_an_operation_without_sample_inputs_is_told_where_they_belong(monkeypatch):
    monkeypatch.delitem(SAMPLES, "gelu")
    for command in ("explain", "gradcheck"):
        with pytest.raises(ValueError, match=f"^{command}: gelu has no sample inputs; add .*samples.py"):
            find_op("gelu", command)


def test_at_least_nine_operations_have_a_page_of_their_own():
    assert len(PAGES) >= 9


def test_there_is_an_example_for_each_operation():
    assert_lists(SAMPLES, "SAMPLES in tinygpt/study/samples.py")
    assert_lists(EXAMPLES, "EXAMPLES in tinygpt/study/examples.py")


MINE = '''
"""What is mine."""
import functools
import numpy as np
from tinygpt import Op


def _twice(x):
    return 2 * x


def cube_forward(x):
    square = x * x  # (1)
    out = square * x  # (2)
    return out, (x, square)


def cube_backward(dout, saved):
    x, square = saved
    dx = (
        _twice(x) * x * dout  # (1)
        + square * dout  # (2)
    )
    return (dx,)


CUBE = Op("cube", cube_forward, cube_backward)
PRODUCT = Op("product", lambda a, b: (a * b, (a, b)), lambda dout, saved: (dout * saved[1], dout * saved[0]))
WRONG = Op("wrong", lambda a: (a * a, a), lambda dout, a: (a * dout,))
SHAPE = Op("shape", lambda a: (a * a, a), lambda dout, a: ((2 * a * dout).sum(),))
PARTIAL = Op("partial", functools.partial(cube_forward), cube_backward)
OBJECT = Op("object", type("F", (), {"__call__": lambda self, x: (2 * x, None)})(), lambda dout, saved: (2 * dout,))
RAISES = Op("raises", lambda a: (a * a, a), lambda dout, a: 1 // 0)
MANY = Op("many", lambda a: (a * a, a), lambda dout, a: (dout, dout))
'''


@pytest.fixture
def mine(tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "sampled.py").write_text(MINE + "\nsamples = [[[1.5, -2.0]], [[[0.5]]]]\n")
    return tmp_path


def test_a_kernel_s_reason_for_a_missing_step_stands_in_its_place(monkeypatch):
    gelu = every_op()["gelu"]
    kernel = importlib.import_module(gelu.kernel)
    monkeypatch.setattr(
        explain, "docstring_of", lambda module: "Gate.\n\nNo step (7) forward: the gate has it.\n\nEnd."
    )
    (reason,) = explain.reasons(kernel, "forward")
    assert reason.steps == (7,) and explain.reasons(kernel, "backward") == []
    assert re.search(r"\(7\) +No such step: the gate has it\.", explain.side_by_side(gelu, "forward"))
    assert "No such step" not in explain.side_by_side(gelu, "backward")


TABLE = """Elementary things.

Operation   Forward         Backward
    neg     out = -a        da = -dout
    add     out = a + b     da = dout
                            db = dout

add. Both are one.

`sub` is add(a, neg(b)).

`log2` is log(x) / log(2).

neg. The sign of every
    element changes.

What surprises people here
    add     Nothing
            at all.
    neg     Everything.

Source: none."""


def test_of_a_file_of_many_operations_each_page_shows_its_own_rows(monkeypatch):
    monkeypatch.setattr(explain, "page_of", lambda op: TABLE)
    assert explain.derivation(every_op()["add"]).split("\n\n") == [
        "Elementary things.",
        "Operation   Forward         Backward\n    add     out = a + b     da = dout\n"
        "                            db = dout",
        "add. Both are one.",
        "`sub` is add(a, neg(b)).",
        "What surprises people here\n    add     Nothing\n            at all.",
        "Source: none.",
    ]
    assert "neg     Everything." in explain.derivation(every_op()["neg"])
    assert "surprises" not in explain.derivation(every_op()["mul"])


def test_a_paragraph_for_two_operations_is_on_their_pages_alone():
    have = [name for name in every_op() if "\nstd, norm. A root" in explain.derivation(every_op()[name])]
    assert sorted(have) == ["norm", "std"]


def test_an_operation_of_ones_own_has_a_page(mine):
    told = run("sampled:CUBE", cwd=mine)
    assert told.returncode == 0, told.stderr
    for part in ("cube\n====\n", "What is mine.", "(1) square = x * x", "def _twice(x):", "x (2,) = [ 1.5 -2. ]",
                 "out (2,) = [ 3.375 -8.   ]", "right", "on 2 sets of inputs", "passed",
                 "(1,2) dx = (_twice(x) * x * dout + square * dout)"):  # fmt: skip
        assert part in told.stdout
    partial = run("sampled:PARTIAL", cwd=mine).stdout
    assert partial.replace("partial\n=======", "cube\n====") == told.stdout.replace(
        "gradcheck cube", "gradcheck partial"
    )
    told = run("sampled:OBJECT", cwd=mine)
    assert "has no source" in told.stdout and "dx (2,) = [ 0.4 -1. ]" in told.stdout and "right" in told.stdout
    told = run("mine:PRODUCT", cwd=mine)  # inputs are made from the signature
    assert "a (4, 4) =" in told.stdout and "db (4, 4) =" in told.stdout and "lambda a, b: (a * b" in told.stdout


@pytest.mark.parametrize(("name", "says"), [
    ("WRONG", "5.0e-01, WRONG"), ("SHAPE", "WRONG: shape (), required (4, 4)"),
    ("RAISES", "raises, backward: ZeroDivisionError: integer division or modulo by zero"),
    ("MANY", "many, backward: ValueError: must return one gradient for each input, 1 in all, got 2"),
])  # fmt: skip
def test_what_is_wrong_with_ones_own_is_on_its_page(mine, name, says):
    told = run(f"mine:{name}", cwd=mine)
    assert told.returncode == 0 and not told.stderr
    assert says in told.stdout and "FAILED" in told.stdout


@pytest.mark.parametrize(("name", "message"), [
    ("gellu", "explain: there is no operation 'gellu'; did you mean gelu?"),
    ("nosuch:X", "explain: there is no module nosuch in this folder"),
    ("json:X", "explain: module json has no tinygpt.Op"),
])  # fmt: skip
def test_what_there_is_not_is_one_line(name, message):
    told = run(name)
    assert told.returncode == 2 and message in told.stderr and told.stderr.count("\n") == 1


def test_without_a_name_it_lists_all_operations():
    told = run()
    assert told.returncode == 0
    listed = [line.split()[0] for line in told.stdout.splitlines() if line.startswith("  ")]
    assert sorted(listed) == sorted(every_op())
    assert max(map(len, told.stdout.splitlines())) <= 100


def test_the_command_stops_at_each_step():
    told = run("gelu", "--step", input="\n" * 40)
    assert told.returncode == 0, told.stderr
    assert told.stdout.count("Press Enter") >= 8 and "Measured now" in told.stdout


def test_the_end_of_the_input_ends_it_quietly():
    told = run("gelu", "--step", input="\n")
    assert (told.returncode, told.stderr) == (0, "")
    assert told.stdout.count("Press Enter") == 2 and "Check:" not in told.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="there a signal ends the process")
def test_ctrl_c_while_it_waits_ends_it_quietly():
    command = [sys.executable, "-u", "-m", "tinygpt", "explain", "gelu", "--step"]
    with subprocess.Popen(command, stdin=-1, stdout=-1, stderr=-1, text=True) as process:
        told = ""
        while "Press Enter" not in told:
            told += process.stdout.read(1)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "") and "Example" not in out

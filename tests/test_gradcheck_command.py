"""`tinygpt gradcheck` and `tinygpt museum`: right gradients pass, wrong ones are findings, never a crash."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from every_operation import assert_lists

from tinygpt import Op
from tinygpt.ops.gelu import GELU, gelu_backward
from tinygpt.study import checks
from tinygpt.study.model_check import check_model
from tinygpt.study.museum import EXHIBITS, UPDATES, broken
from tinygpt.study.samples import SAMPLES, Sample, every_op


def run(*arguments: str, cwd=None) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "tinygpt", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=300)


@pytest.mark.slow
def test_every_operation_passes_and_the_table_says_so():
    told = run("gradcheck", "--json")
    assert told.returncode == 0, told.stdout
    findings = json.loads(told.stdout)
    assert {finding["op"] for finding in findings} == set(every_op())
    assert all(finding["passed"] and finding["error"] < 1e-6 for finding in findings
               if finding["implementation"] == "reference")  # fmt: skip
    kernels = {finding["op"] for finding in findings if finding["implementation"] == "float32"}
    assert kernels == {name for name, op in every_op().items() if op.kernel is not None}


GRADIENTS = [bug for bug in EXHIBITS if bug.op not in UPDATES]


@pytest.mark.parametrize("bug", GRADIENTS, ids=[f"{i}-{bug.op}" for i, bug in enumerate(GRADIENTS, 1)])
def test_every_exhibit_of_the_museum_fails(bug):
    findings = list(checks.check_op(broken(bug), SAMPLES[bug.op]))
    failed = [finding for finding in findings if not finding.passed]
    assert failed and all(finding.error > 1e-4 for finding in failed)  # far from the bound of 1e-6


def test_errors_are_what_they_say():
    """A gradient that is off by a thousandth is off by a thousandth; the best step lies where theory has it."""
    sample = Sample([np.linspace(-1, 1, 6).reshape(2, 3)])
    op = Op("off", GELU.forward, lambda dout, saved: tuple(1.001 * gradient for gradient in gelu_backward(dout, saved)))
    (finding,) = checks.check_op(op, [sample])
    assert finding.error == pytest.approx(1e-3, rel=2e-3) and not finding.passed
    (right,) = list(checks.check_op(GELU._replace(kernel=None), [sample]))
    assert right.error < 1e-8 and 1e-7 < right.best_step < 1e-3 and right.passed


def test_the_model_passes_and_a_wrong_part_of_it_does_not(monkeypatch):
    findings = check_model()
    assert len(findings) == 28 and all(finding.passed for finding in findings)
    wrong = broken(next(bug for bug in EXHIBITS if bug.op == "gelu_linear"))
    monkeypatch.setattr("tinygpt.ops.gelu_linear.GELU_LINEAR", wrong)
    failed = {finding.input for finding in check_model() if not finding.passed}
    assert "h.1.mlp.c_proj.weight" in failed and "h.1.mlp.c_proj.bias" not in failed


USER_OPS = """
import numpy as np
from tinygpt import Op

SQUARE = Op("square", lambda a: (a * a, a), lambda dout, a: (2 * a * dout,))
WRONG = Op("wrong", lambda a: (a * a, a), lambda dout, a: (a * dout,))
SHAPE = Op("shape", lambda a: (a * a, a), lambda dout, a: ((2 * a * dout).sum(),))
NONE = Op("none", lambda a: (a * a, a), lambda dout, a: None)
NAN = Op("nan", lambda a: (a * a, a), lambda dout, a: (a * np.nan,))
RAISES = Op("raises", lambda a: (a * a, a), lambda dout, a: 1 // 0)
EXITS = Op("exits", lambda a: (a * a, a), lambda dout, a: exit(4))
ROOT = Op("root", lambda a: (a**0.5, a), lambda dout, a: (0.5 * dout * a**-0.5,))
INTEGER = Op("integer", lambda a: (a * a, a), lambda dout, a: (np.ones(a.shape, int),))
PRODUCT = Op("product", lambda a, b: (a * b, (a, b)), lambda dout, saved: (dout * saved[1], dout * saved[0]))
NOT_ONE = 3
ANY = Op("any", lambda *arrays: (sum(arrays), len(arrays)), lambda dout, count: (dout,) * count)
POWER = Op("power", lambda a, *, n: (a**n, (a, n)), lambda dout, saved: (dout * saved[1] * saved[0] ** (saved[1] - 1),))
LOST = Op("lost", lambda a: (a * a, a), lambda dout, a: (2 * a * dout,), kernel="no_such_kernel")
"""


@pytest.fixture
def mine(tmp_path):
    (tmp_path / "mine.py").write_text(USER_OPS)
    (tmp_path / "with_samples.py").write_text(USER_OPS + "\nsamples = [[[1.0, 2.0]], [[[0.5]]]]\n")
    (tmp_path / "with_keywords.py").write_text(
        USER_OPS + "\nsamples = [([[1.0, 2.0]], {'n': 3}), ([[0.5]], {'n': 2})]\n"
    )
    for name, samples in {
        "none": "[]",
        "number": "3",
        "words": "[['x']]",
        "two": "[[[1.0], [2.0]]]",
        "array": "np.ones((3, 3))",
        "flat": "[np.ones((3, 3))]",
    }.items():
        (tmp_path / f"samples_{name}.py").write_text(f"{USER_OPS}\nsamples = {samples}\n")
    (tmp_path / "leaves.py").write_text("raise SystemExit(4)")
    (tmp_path / "empty.py").write_text("")
    (tmp_path / "two-words.py").write_text("")
    (tmp_path / "one.py").write_text(
        "import tinygpt\nF = tinygpt.Op('square', lambda a: (a * a, a), lambda d, a: (2 * a * d,))"
    )
    return tmp_path


@pytest.mark.parametrize("name", ["one", "one:F", "one.py", "./one.py", "../{folder}/one.py:F"])
def test_an_operation_is_found_by_module_or_path_and_without_its_name_if_it_is_the_only_one(mine, name):
    for command in ("gradcheck", "explain"):
        told = run(command, name.format(folder=mine.name), cwd=mine)
        assert told.returncode == 0 and "square" in told.stdout, told.stderr


def test_an_operation_of_ones_own_is_checked(mine):
    for name in ("mine:SQUARE", "mine:PRODUCT", "with_samples:SQUARE", "with_keywords:POWER"):
        told = run("gradcheck", name, cwd=mine)
        assert told.returncode == 0 and "passed" in told.stdout, told.stderr
    assert told.stdout.endswith("\n1 check, passed\n")  # with one input
    assert "sample 0, index (0,)" in run("gradcheck", "with_samples:WRONG", cwd=mine).stdout


@pytest.mark.parametrize(("name", "says"), [
    ("WRONG", "FAILED"), ("SHAPE", "FAILED"), ("NONE", "FAILED"), ("NAN", "inf"), ("RAISES", "ZeroDivisionError"),
    ("INTEGER", "FAILED"), ("EXITS", "SystemExit: 4"),
    ("ROOT", "FAILED ValueError: forward: gives nan or infinity; give samples for which it is defined"),
])  # fmt: skip
def test_whatever_it_does_is_a_finding(mine, name, says):
    told = run("gradcheck", f"mine:{name}", "gelu", cwd=mine)
    assert told.returncode == 1 and "Traceback" not in told.stderr
    lines = [line for line in told.stdout.splitlines() if line.startswith(name.lower())]
    assert len(lines) == 1 and says in lines[0]
    assert any(line.startswith("gelu") and line.endswith("ok") for line in told.stdout.splitlines())  # the rest goes on


@pytest.mark.parametrize(("name", "message"), [
    ("layernrom", "there is no operation 'layernrom'; did you mean layernorm?"),
    ("mine:NOTHING", "module mine has no NOTHING; its operations: ANY, EXITS, "),
    ("mine:NOT_ONE", "mine:NOT_ONE must be a tinygpt.Op, got int; its operations: ANY, "),
    ("no_such_module:x", "there is no module no_such_module in this folder, and none is installed"),
    ("leaves:x", "leaves cannot be imported: SystemExit: 4"),
    ("mine", "module mine has several operations, ANY, EXITS, "), ("mine.py", "several"),
    ("./no.py", "there is no file no.py"),
    ("leaves", "leaves cannot be imported: SystemExit: 4"), ("empty.py", "module empty has no tinygpt.Op"),
    ("two-words.py:X", "two-words.py must have a name that can be imported"),
    (":", "':' must be module:name"), ("mine:", "'mine:' must be module:name"), ("..mine:X", "must be module:name"),
    ("mine:ANY", "mine:ANY: its forward names no inputs, so mine must have sample inputs for it"),
    ("mine:LOST", "mine:LOST: its kernel 'no_such_kernel' cannot be imported: ModuleNotFoundError"),
    ("samples_none:SQUARE", "samples must hold at least one list of arrays, got []"),
    ("samples_number:SQUARE", "samples must be a list of lists of arrays of numbers: 'int' object is not iterable"),
    ("samples_array:SQUARE", "samples must be a list of lists of arrays, got an array of shape (3, 3); write"),
    ("samples_flat:SQUARE", "samples[0] must be a list with an array for each input, got an array of shape (3, 3); "),
    ("samples_words:SQUARE", "samples must be a list of lists of arrays of numbers: could not convert string"),
    ("samples_two:SQUARE", "samples[0] must hold an array for each input of square's forward, 1 in all, got 2"),
])  # fmt: skip
def test_names_that_are_none_are_one_line(mine, name, message):
    for command in ("gradcheck", "explain"):
        told = run(command, name, cwd=mine)
        assert told.returncode == 2 and message in told.stderr and told.stderr.count("\n") == 1
        assert told.stderr.startswith(f"tinygpt: {command}: ") and not told.stdout


def test_the_sweep_is_drawn(tmp_path):
    told = run("gradcheck", "gelu", "layernorm", "--sweep", str(tmp_path / "sweep.png"))
    assert told.returncode == 0 and (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")


def test_the_museum_shows_hints_and_answers():
    assert len([line for line in run("museum").stdout.splitlines() if line[:4].strip().isdigit()]) == len(EXHIBITS)
    shown = run("museum", "7").stdout
    assert "def gelu_backward" in shown and "finite differences give" in " ".join(shown.split())
    assert EXHIBITS[6].answer[:30] not in shown
    assert EXHIBITS[6].hint in run("museum", "7", "--hint").stdout
    answer = run("museum", "7", "--answer").stdout
    assert EXHIBITS[6].right in answer and EXHIBITS[6].wrong in answer
    assert "there are exhibits 1 to" in run("museum", "0").stderr


def test_pytorch_agrees_on_every_operation_that_it_has():
    pytest.importorskip("torch")
    told = run("gradcheck", "--against", "torch", "--json")
    assert told.returncode == 0, told.stdout
    compared = {finding["op"] for finding in json.loads(told.stdout) if finding["implementation"] == "torch"}
    assert_lists(compared, "the table in tinygpt/study/torch_twins.py", set(every_op()) - {"astype", "dropout"})


FLOAT64_ONLY = {
    "forward": (lambda a: (a * np.float64(2), None), lambda dout, _: (2 * dout,)),
    "backward": (lambda a: (2 * a, None), lambda dout, _: (np.float64(2) * dout,)),
    "cast": (lambda a: (2 * a, None), lambda dout, _: ((2 * dout).astype(np.float64),)),
}


@pytest.mark.parametrize("where", FLOAT64_ONLY)
def test_a_reference_that_is_right_in_float64_only_is_a_finding(where):
    op = Op("double", *FLOAT64_ONLY[where])
    (finding,) = checks.check_op(op, [Sample([np.ones((2, 3))])])
    assert not finding.passed and "double." in finding.problem and "np.float64(2)" in finding.problem
    assert "float64" in finding.problem.split(";")[0]


@pytest.mark.parametrize("writes", ["dout", "saved"])
def test_a_kernel_that_writes_into_what_it_was_given_is_told_so(writes):
    def backward(dout, saved, into):
        into[0].write(2 * saved * dout)
        {"dout": dout, "saved": saved}[writes][...] = 0

    kernel = SimpleNamespace(forward=lambda a: (a * a, a.copy()), backward=backward)
    op = Op("square", lambda a: (a * a, a), lambda dout, a: (2 * a * dout,), kernel=kernel)
    (_, finding) = checks.check_op(op, [Sample([np.ones((2, 3))])])
    assert f"square.backward: writes into {writes}" in finding.problem


def test_a_wrong_gradient_is_shown_beside_the_right_one(mine):
    told = run("gradcheck", "with_samples:WRONG", cwd=mine).stdout.splitlines()
    got, expected = map(float, re.fullmatch(
        r"  wrong, gradient of a, sample 0, index \(0,\): backward gives (\S+), differences give (\S+)", told[-2]
    ).groups())  # fmt: skip
    assert got == pytest.approx(expected / 2, rel=1e-4)
    assert told[-1] == "  its steps, one by one: tinygpt explain with_samples:WRONG"
    assert "explain" not in run("gradcheck", "with_samples:SQUARE", cwd=mine).stdout

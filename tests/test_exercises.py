"""Exercises: what is given has no solution in it, a right answer passes, and whatever else comes is a finding."""

from __future__ import annotations

import ast
import inspect
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from every_operation import assert_lists

from tinygpt.cli.main import main
from tinygpt.study.exercises import OPERATIONS, ORDER, UPDATES, exercise, solution
from tinygpt.study.grade import Grader
from tinygpt.study.graded_samples import HIDDEN, LARGE, hidden_samples
from tinygpt.study.samples import every_op
from tinygpt.study.submission import Limits
from tinygpt.study.submissions import passed


def solved(name: str, folder: Path, change=lambda source: source) -> Path:
    """The learner's file with the package's own answer in it, changed."""
    given = exercise(name)
    start = given.text.index(f"def {given.asked}")
    answer = solution(name).replace("from __future__ import annotations\n", "")
    path = folder / f"{name}_exercise.py"
    path.write_text(given.text[:start] + "\n\n" + change(answer))
    return path


@pytest.fixture(scope="module")
def grader():
    with Grader(seed=5) as made:
        yield made


@pytest.mark.parametrize("name", ORDER)
def test_what_is_given_asks_for_one_function_and_does_not_hold_it(name):
    given = exercise(name)
    tree = ast.parse(given.text)
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    body = functions[given.asked].body
    assert len(body) == 1 and isinstance(body[0], ast.Raise)
    assert "Backward" not in given.text and "Step (" not in given.text  # the derivation
    if name in OPERATIONS:
        source = inspect.getsource(every_op()[name].backward).splitlines()[1:]
        forward = inspect.getsource(every_op()[name].forward)
        lines = [line.split("#")[0].strip() for line in source]
        assert not [line for line in lines if len(line) > 25 and line in given.text and line not in forward]


@pytest.mark.parametrize("name", ORDER)
def test_what_is_given_runs_where_only_its_own_imports_are_found(name):
    """And these are what the forward uses: not a public function that NumPy has one of the same name of."""
    given = exercise(name)
    for module, (source, names) in given.modules.items():
        assert f"from {module} import {', '.join(names)}\n" in given.text
        assert "_backward" not in source
        assert not any(callable(getattr(np, each, None)) for each in names)
    assert given.text.count("from tinygpt") == len(given.modules)


@pytest.mark.parametrize("name", ORDER)
def test_the_right_answer_passes(name, tmp_path, grader):
    result = grader.grade(solved(name, tmp_path), name)
    assert passed(result), result
    assert (result["exercise"], result["seed"]) == (name, 5)
    assert (result["fast"] is not None) == (name in {*LARGE, *UPDATES, "bpe_merge"})


def test_hidden_samples_are_there_for_each_operation_and_follow_the_seed():
    """Also for an operation without an entry: then they are the known ones with other numbers."""
    assert {*HIDDEN, *LARGE} <= set(OPERATIONS)
    for name in OPERATIONS:
        numbers = [[array.tobytes() for sample in hidden_samples(name, seed) for array in sample.arrays]
                   for seed in (3, 3, 4)]  # fmt: skip
        assert numbers[0] == numbers[1] != numbers[2]


def test_what_was_bent_to_the_known_samples_fails_on_hidden_ones(tmp_path, grader):
    """An answer for as many features as the known samples have."""
    bent = "def layernorm_backward(dout, saved):\n    if saved[0].shape[-1] not in (3, 4, 5, 20):\n"
    bent += "        return saved[:3]"
    path = solved("layernorm", tmp_path, lambda source: source.replace("def layernorm_backward(dout, saved):", bent))
    result = grader.grade(path, "layernorm")
    assert "at a hidden sample" in result["right"]["dx"]


def test_a_wrong_answer_says_for_which_input(tmp_path, grader):
    def wrong(name, right, instead):
        path = solved(name, tmp_path, lambda source: source.replace(right, instead))
        return grader.grade(path, name)

    result = wrong("layernorm", "dout.sum(axis=tokens)", "dout.mean(axis=tokens)")
    assert not passed(result)
    assert result["right"]["dx"] == "ok" and result["right"]["dbias"].startswith("off by ")
    result = wrong("linear", "return dx,", "dx = np.float64(dx)\n    return dx,")
    assert result["right"]["dx"] == "ok" and result["general"]["float32"].startswith("is float64, must be float32")
    result = wrong("adamw", "1 - lr * weight_decay", "1 - weight_decay")
    assert result["right"]["m"] == "ok" and result["right"]["parameter"].startswith("off by")
    result = wrong("adamw", "m *= beta1", "m = m * beta1")
    assert result["right"]["m"].startswith("off by") and result["right"]["v"] == "ok"
    result = wrong("adamw", "gradient = gradient * parameter.dtype.type(scale)", "gradient *= 1.5")
    assert result["inputs"] == "writes into gradient"
    result = wrong("bpe_merge", "min(found)", "max(found)")
    assert "must become" in result["right"]["merges"]


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        ("None", "must return a tuple, (dx, dweight, dbias), got None"),
        ("dx", "must return a tuple, (dx, dweight, dbias), got an array of shape"),
        ("(dx, dweight)", "must return (dx, dweight, dbias), got a tuple of 2"),
        ("(each for each in (dx, dweight, dbias))", "must return a tuple, (dx, dweight, dbias), got a generator"),
    ],
)
def test_what_is_no_tuple_of_gradients_is_named(returned, said, tmp_path, grader):
    path = solved("linear", tmp_path, lambda source: source.replace("return dx, dweight, dbias", f"return {returned}"))
    assert said in grader.grade(path, "linear")["problem"]


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        ("None", "must be an array of float64, got None"),
        ("dx + 0j", "must be an array of float64, got an array of complex128"),
        ("dx.reshape(-1)", "has shape (16,), must have (4, 4)"),
        ("np.full_like(dx, np.nan)", "is NaN at a sample with dout of shape (4, 4), index (0, 0)"),
        ("'dx'", "must be an array of float64, got a str"),
    ],
)
def test_what_is_no_gradient_is_named(returned, said, tmp_path, grader):
    path = solved("linear", tmp_path, lambda source: source.replace("return dx,", f"return {returned},"))
    result = grader.grade(path, "linear")
    assert said in result["right"]["dx"] and result["right"]["dweight"] == "ok"


def test_limits_hold_for_one_file_each(tmp_path):
    (tmp_path / "gelu_exercise.py").write_text("def gelu_backward(dout, saved):\n    while True:\n        pass\n")
    with Grader(limits=Limits(seconds=1)) as grader:
        result = grader.grade(tmp_path / "gelu_exercise.py", "gelu")
        assert result["problem"] == "not done after 1 seconds: is there an endless loop?"
        assert passed(grader.grade(solved("neg", tmp_path), "neg"))


def test_the_command_writes_grades_and_never_overwrites(tmp_path):
    def run(*arguments):
        command = [sys.executable, "-m", "tinygpt", "exercise", *arguments]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=300)

    assert run().stdout.replace(",", "").split()[-len(ORDER) :] == list(ORDER)
    assert "write gelu_backward" in run("gelu").stdout
    assert "is there already, and would be lost" in run("gelu").stderr
    graded = run("check", "gelu_exercise.py", "--json")
    (result,) = json.loads(graded.stdout)
    assert graded.returncode == 1 and result["exercise"] == "gelu" and result["points"] == 0
    assert result["problem"].startswith("NotImplementedError: yours to write (line ")  # no error of ours around it
    solved("gelu", tmp_path)
    graded = run("check")
    assert graded.returncode == 0 and graded.stderr == ""
    assert graded.stdout.splitlines()[1].startswith("gelu_exercise.py  gelu      yes    yes      yes     yes  ")
    assert "did you mean gelu?" in run("gellu").stderr
    assert "must be a .py file" in run("check", "missing.py").stderr


def test_what_is_not_timed_does_not_lose_points(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    solved("gelu", tmp_path)
    solved("reshape", tmp_path)
    assert main(["exercise", "check", "--points", "fast=0,right=10", "--json"]) == 0
    results = json.loads(capsys.readouterr().out)
    assert [(result["fast"], result["points"], result["of"]) for result in results] == [(None, 13, 13)] * 2
    assert main(["exercise", "check", "reshape_exercise.py", "--json"]) == 0
    assert [result["points"] for result in json.loads(capsys.readouterr().out)] == [10]


def test_there_is_one_for_each_operation():
    assert_lists(OPERATIONS, "OPERATIONS in tinygpt/study/exercises.py")
    assert len(set(ORDER)) == len(ORDER)

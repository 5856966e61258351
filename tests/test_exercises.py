"""Exercises: what is given has no solution in it, a right one passes, and whatever else comes is a finding."""

from __future__ import annotations

import ast
import inspect
import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tinygpt.optim.adamw import adamw_update
from tinygpt.study.exercises import OPERATIONS, ORDER, exercise
from tinygpt.study.grade import grade
from tinygpt.study.samples import every_op
from tinygpt.study.submissions import grade_all, passed, table
from tinygpt.tokenizer.reference import merge


def solved(name: str, folder: Path, change=lambda source: source) -> Path:
    """The learner's file with the package's own answer in it, changed."""
    given = exercise(name)
    answers = {"adamw": adamw_update, "bpe_merge": merge}
    right = answers.get(name) or every_op()[name].backward
    source = textwrap.dedent(inspect.getsource(right))
    helpers = f"from {right.__module__} import *\nfrom itertools import pairwise\n"
    names = sorted({n for n in right.__code__.co_names if n in right.__globals__ and n not in ("np", "math")})
    helpers += f"from {right.__module__} import {', '.join(names)}\n" if names else ""
    start = given.text.index(f"def {given.asked}")
    path = folder / f"{name}_exercise.py"
    path.write_text(given.text[:start] + helpers + "\n\n" + change(source))
    return path


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
def test_the_right_answer_passes(name, tmp_path):
    result = grade(solved(name, tmp_path))
    assert passed(result), result
    assert result["exercise"] == name
    has_kernel = name in OPERATIONS and every_op()[name].kernel is not None
    assert (result["fast"] is not None) == has_kernel


def test_a_wrong_answer_says_for_which_input(tmp_path):
    def wrong(name, right, instead):
        return grade(solved(name, tmp_path, lambda source: source.replace(right, instead)))

    result = wrong("layernorm", "dout.sum(axis=tokens)", "dout.mean(axis=tokens)")
    assert not passed(result)
    assert result["right"]["dx"] == "ok" and result["right"]["dbias"].startswith("off by ")
    result = wrong("linear", "return dx,", "dx = np.float64(dx)\n    return dx,")
    assert result["right"]["dx"] == "ok" and result["general"]["float32"] == "no"
    result = wrong("adamw", "1 - lr * weight_decay", "1 - weight_decay")
    assert result["right"]["m"] == "ok" and result["right"]["parameter"].startswith("off by")
    assert "must become" in wrong("bpe_merge", "min(found)", "max(found)")["right"]["merges"]


FILES = {
    "untouched.py": (None, "NotImplementedError: yours to write"),
    "syntax.py": ("def gelu_backward(dout, saved)\n", "SyntaxError"),
    "endless.py": ("while True:\n    pass\n", "not done after 5 seconds: is there an endless loop?"),
    "exits.py": ("import os\nos._exit(3)\n", "ended with status 3"),
    "nothing.py": (
        "x = 1\n",
        "the file must define the function of one exercise, such as linear_backward; it defines none",
    ),
    "none.py": ("def gelu_backward(dout, saved):\n    print('hello')\n", "Error"),
}


def test_whatever_a_folder_holds_is_graded(tmp_path):
    for name, (text, _) in FILES.items():
        (tmp_path / name).write_text(exercise("gelu").text if text is None else text)
    solved("gelu", tmp_path)
    (tmp_path / "later").mkdir()
    (tmp_path / "endless.py").rename(tmp_path / "later" / "endless.py")
    graded = [*grade_all([tmp_path]), *grade_all([tmp_path / "later"], seconds=5)]
    results = {Path(result["file"]).name: result for result in graded}
    assert passed(results.pop("gelu_exercise.py"))
    assert results["untouched.py"]["problem"] == "NotImplementedError: yours to write"  # and no error of ours around it
    for name, (_, problem) in FILES.items():
        assert not passed(results[name]) and problem in results[name]["problem"], results[name]
    assert table(list(results.values())).count("failed") == len(FILES)


def test_the_command_writes_grades_and_never_overwrites(tmp_path):
    def run(*arguments):
        command = [sys.executable, "-m", "tinygpt", "exercise", *arguments]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=300)

    assert run().stdout.replace(",", "").split()[-len(ORDER) :] == list(ORDER)
    assert "write gelu_backward" in run("gelu").stdout
    assert "is there already, and would be lost" in run("gelu").stderr
    graded = run("check", "gelu_exercise.py", "--json")
    assert graded.returncode == 1 and json.loads(graded.stdout)[0]["exercise"] == "gelu"
    solved("gelu", tmp_path)
    graded = run("check")
    assert graded.returncode == 0 and graded.stdout.startswith("passed  gelu_exercise.py  gelu  right 1/1, general 3/3")
    assert "did you mean gelu?" in run("gellu").stderr
    assert "must be a .py file" in run("check", "missing.py").stderr


def test_there_is_one_for_each_operation():
    assert set(OPERATIONS) == set(every_op()), "OPERATIONS in study/exercises.py"
    assert len(set(ORDER)) == len(ORDER)

"""
Grade one exercise file, in a process of its own: `python -m tinygpt.study.grade FILE` prints one JSON object.

    right      the gradient check, for each input; for AdamW and merges, the comparison with the reference's result
    general    float32 gives float32, each gradient has its input's shape, and no argument is changed
    fast       the backward's speed as a percentage of the kernel's, on the largest sample of the gradient check: some
               hundreds of numbers up to a few thousand. It is reported, and does not decide whether a file passes
"""

from __future__ import annotations

import json
import re
import runpy
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from tinygpt.autograd import Tensor, apply
from tinygpt.autograd.graph import Op
from tinygpt.optim.adamw import adamw_update
from tinygpt.runtime.settings import implementation
from tinygpt.study import checks
from tinygpt.study.exercises import OPERATIONS, ORDER, exercise
from tinygpt.study.samples import SAMPLES, Sample, every_op
from tinygpt.tokenizer.reference import merge


def grade(path: Path) -> dict[str, Any]:
    """The grade of a file: right, general and fast; `problem` is the reason if it could not be graded."""
    result: dict[str, Any] = {"file": str(path), "exercise": "", "right": {}, "general": {}, "fast": None,
                              "problem": ""}  # fmt: skip
    try:
        names = runpy.run_path(str(path))
    except BaseException as error:  # a learner's file may do anything
        return {**result, "problem": _said(error)}
    found = [name for name in ORDER if callable(names.get(exercise(name).asked))]
    own = [name for name in found if getattr(names[exercise(name).asked], "__globals__", None) is not None
           and names[exercise(name).asked].__code__.co_filename == str(path)]  # fmt: skip
    if len(own) != 1:
        got = f"{len(own)} of them" if own else "none"
        problem = f"the file must define the function of one exercise, such as linear_backward; it defines {got}"
        return {**result, "problem": problem}
    name = own[0]
    result["exercise"] = name
    grader = _grade_operation if name in OPERATIONS else {"adamw": _grade_adamw, "bpe_merge": _grade_merge}[name]
    try:
        grader(name, names[exercise(name).asked], result)
    except BaseException as error:
        result["problem"] = _said(error)
    return result


def _said(error: BaseException) -> str:
    return re.sub(r"\s+", " ", f"{type(error).__name__}: {error}")[:200]


def _grade_operation(name: str, backward: Any, result: dict[str, Any]) -> None:
    right = every_op()[name]
    op = Op(name, right.forward, backward)
    for finding in checks.check_op(op, SAMPLES[name]):
        if finding.problem:
            result["problem"] = finding.problem
            return
        result["right"][f"d{finding.input}"] = (
            "ok" if finding.passed else f"off by {finding.error:.1e} at {finding.where}"
        )
    sample = SAMPLES[name][-1]
    arrays = [np.float32(array) for array in sample.arrays]
    out, saved = op.forward(*arrays, **sample.attrs)
    dout = np.ones(np.shape(out), np.float32)
    before = [array.copy() for array in arrays]
    gradients = backward(dout, saved)
    result["general"] = {
        "float32": _yes(all(np.asarray(gradient).dtype == np.float32 for gradient in gradients)),
        "shapes": _yes(all(np.shape(g) == a.shape for g, a in zip(gradients, arrays, strict=True))),
        "inputs unchanged": _yes(all(np.array_equal(a, b) for a, b in zip(arrays, before, strict=True))
                                 and bool(np.all(dout == 1))),
    }  # fmt: skip
    if right.kernel is not None:
        largest = max(SAMPLES[name], key=lambda sample: sum(array.size for array in sample.arrays))
        result["fast"] = round(100 * _seconds(right, largest) / _seconds(op, largest), 1)


def _yes(true: bool) -> str:
    return "ok" if true else "no"


def _seconds(op: Op, sample: Sample) -> float:
    """The median time of fifteen backwards."""
    arrays = [np.float32(array) for array in sample.arrays]
    times = []
    for _ in range(15):
        tensors = [Tensor(array, requires_grad=True) for array in arrays]
        with implementation("kernels"):
            out = apply(op._replace(min_size=0), *tensors, **sample.attrs)
            dout = np.ones(out.shape, np.float32)
            start = time.perf_counter()
            out.backward(dout)
            times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2]


def _grade_adamw(name: str, function: Any, result: dict[str, Any]) -> None:
    rng = np.random.default_rng(1)
    ours = [rng.standard_normal((4, 3)), np.zeros((4, 3)), np.zeros((4, 3))]
    theirs = [array.copy() for array in ours]
    options: dict[str, Any] = {"lr": 0.1, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}
    untouched = True
    for step in range(1, 6):
        gradient = rng.standard_normal((4, 3))
        given = gradient.copy()
        adamw_update(ours[0], gradient, ours[1], ours[2], step, **options)
        function(theirs[0], given, *theirs[1:], step, **options)
        untouched &= bool(np.array_equal(given, gradient))
    for part, mine, other in zip(("parameter", "m", "v"), ours, theirs, strict=True):
        gap = float(np.max(np.abs(mine - other)))
        result["right"][part] = "ok" if gap < 1e-12 else f"off by {gap:.1e} after 5 steps"
    result["general"] = {"gradient unchanged": _yes(untouched)}


def _grade_merge(name: str, function: Any, result: dict[str, Any]) -> None:
    rng = np.random.default_rng(2)
    merges = {(0, 1): (1, 5), (1, 1): (0, 6), (5, 2): (2, 7), (6, 6): (3, 8), (7, 0): (4, 9)}
    wrong, untouched = "", True
    for _ in range(500):
        ids = rng.integers(0, 3, rng.integers(0, 12)).tolist()
        given = list(ids)
        told, expected = function(given, dict(merges)), merge(ids, merges)
        untouched &= given == ids
        if told != expected and not wrong:
            wrong = f"{ids} must become {expected}, got {told}"
    result["right"]["merges"] = wrong or "ok"
    result["general"] = {"list unchanged": _yes(untouched)}


if __name__ == "__main__":
    out, sys.stdout = sys.stdout, sys.stderr  # prints of a learner's file must not mix with the grade
    print(json.dumps(grade(Path(sys.argv[1]))), file=out)

"""`tinygpt explain`: a complete page for each operation of GPT-2, whose example shows what really is computed."""

from __future__ import annotations

import re
import subprocess
import sys

import numpy as np
import pytest

from tinygpt.ops.gelu import GELU
from tinygpt.study import explain
from tinygpt.study.samples import SAMPLES, Sample, every_op

PAGES = ("layernorm", "attention", "gelu", "cross_entropy", "linear", "embedding")


@pytest.mark.parametrize("name", PAGES)
def test_each_page_is_complete_and_fits_a_terminal(name):
    op = every_op()[name]
    text = "\n\n".join(explain.page(op))
    for part in ("Forward", "Backward", "Step", "Source:", "Cost:", f"reference, {name}_forward",
                 f"kernel, tinygpt.kernels.{name}", f"an example: {name} of", "the gradient check"):  # fmt: skip
        assert part in text
    assert re.search(r"measured now, on .*\n    kernel, forward and backward: [\d.]+ ms, \d+ G\S+, \d+% of", text)
    assert max(map(len, text.splitlines())) <= 120
    for direction in ("forward", "backward"):
        function = getattr(op, direction)
        steps = {step for line in explain.numbered_lines(function) for step in line.steps}
        shown = {int(step) for step in re.findall(r"^ *\((\d+)\) ", explain.side_by_side(op, direction), re.MULTILINE)}
        assert steps and steps <= shown


def test_reference_and_kernel_stand_side_by_side_by_step():
    text = explain.side_by_side(every_op()["layernorm"], "forward")
    row = next(line for line in text.splitlines() if line.lstrip().startswith("(1)"))
    assert "mean = x.mean(axis=-1, keepdims=True)" in row and "mean_n = total(x_n) / np.float32(C)" in row


def test_the_example_shows_what_each_line_computes():
    x, tracer = np.array([0.5, -1.0]), sys.gettrace()
    said = list(explain.worked_example(GELU, Sample([x])))
    out, (_, t) = GELU.forward(x)
    (dx,) = GELU.backward(np.ones(2), (x, t))
    forward, backward = "\n".join(said[: len(said) // 2]), "\n".join(said[len(said) // 2 :])
    shown = np.array2string(out, precision=3, suppress_small=True)
    assert f"out (2,) = {shown}" in forward
    assert f"t (2,) = {np.array2string(t, precision=3, suppress_small=True)}" in forward
    assert f"dx (2,) = {np.array2string(dx, precision=3, suppress_small=True)}" in backward
    assert sys.gettrace() is tracer


@pytest.mark.parametrize("name", sorted(every_op()))
def test_every_other_operation_has_a_page_too(name):
    assert len(list(explain.page(every_op()[name]))) >= 4 and SAMPLES[name]


def test_the_command_stops_at_each_step():
    command = [sys.executable, "-m", "tinygpt", "explain", "gelu", "--step"]
    told = subprocess.run(command, capture_output=True, text=True, input="\n" * 40, timeout=300)
    assert told.returncode == 0, told.stderr
    assert told.stdout.count("Enter goes on") >= 8
    told = subprocess.run([*command[:-2], "gellu"], capture_output=True, text=True, timeout=300)
    assert told.returncode == 2 and "did you mean gelu?" in told.stderr

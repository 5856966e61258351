"""
The comments `# (3)` of a reference and of its kernel: whoever follows a derivation finds each of its steps on both
sides, or the reason in the kernel's docstring, in one form:

    No step (1, 3) backward: forward has computed both.
"""

from __future__ import annotations

import importlib
import inspect
import io
import re
import textwrap
import tokenize
from collections.abc import Callable, Iterator
from types import ModuleType

import pytest

from tinygpt.optim import SGD, Adam, AdamW
from tinygpt.study.samples import every_op

STEPS = re.compile(r"# \((\d+(?:, \d+)*)\)")
REASON = re.compile(r"^No step \((\d+(?:, \d+)*)\) (forward|backward): \S.*\.$", re.MULTILINE)
MOST_REASONS = 3
WITH_KERNELS = {name: op for name, op in every_op().items() if op.kernel is not None}


def numbers(text: str) -> set[int]:
    return {int(number) for number in text.split(",")}


def steps_of(function: Callable) -> set[int]:
    """The steps that the comments of a function name."""
    source = textwrap.dedent(inspect.getsource(getattr(function, "py_func", function)))
    comments = [token.string for token in tokenize.generate_tokens(io.StringIO(source).readline)
                if token.type == tokenize.COMMENT]  # fmt: skip
    return {step for comment in comments for found in STEPS.findall(comment) for step in numbers(found)}


def reachable(module: ModuleType, name: str) -> Iterator[Callable]:
    """A function of a module, and all functions of the module that it calls, directly or not."""
    names, seen = [name], set()
    for name in names:  # grows while it is walked
        function = inspect.unwrap(getattr(vars(module).get(name), "py_func", vars(module).get(name)))
        if name in seen or not inspect.isfunction(function) or function.__module__ != module.__name__:
            continue
        seen.add(name)
        names += function.__code__.co_names
        yield function


def compare(reference: Callable, module: ModuleType, name: str, direction: str) -> None:
    """Assert that both sides name the same steps, or that the module's docstring says why one is missing."""
    expected = steps_of(reference)
    found = set().union(*map(steps_of, reachable(module, name)))
    reasons = [numbers(steps) for steps, where in REASON.findall(module.__doc__) if where == direction]
    excused = set().union(*reasons)
    assert found <= expected, f"{module.__name__}, {direction}: the reference has no step {sorted(found - expected)}"
    assert not excused & found, f"{module.__name__}, {direction}: step {sorted(excused & found)} is there after all"
    missing = expected - found - excused
    assert not missing, f"{module.__name__}, {direction}: lacks step {sorted(missing)}, and a reason"
    assert excused <= expected, f"{module.__name__}, {direction}: a reason for step {sorted(excused - expected)}"
    assert module.__doc__.count("No step (") == len(REASON.findall(module.__doc__)) <= MOST_REASONS


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("name", WITH_KERNELS)
def test_a_kernel_has_the_steps_of_its_reference_or_a_reason(name, direction):
    op, module = WITH_KERNELS[name], importlib.import_module(WITH_KERNELS[name].kernel)
    if hasattr(module, direction):
        compare(getattr(op, direction), module, direction, direction)


@pytest.mark.parametrize("optimizer", [SGD, Adam, AdamW])
def test_an_optimizer_s_kernel_has_the_steps_of_its_reference_or_a_reason(optimizer):
    compare(optimizer.update, importlib.import_module(optimizer.kernel), "update", "forward")


def test_the_operations_whose_references_name_steps_are_those_of_gpt2():
    named = {name for name, op in WITH_KERNELS.items() if steps_of(op.forward) and steps_of(op.backward)}
    assert named == WITH_KERNELS.keys() - {"add"}


def reference(x):
    y = x + 1  # (1)
    return y * 2  # (2, 3)


SAME = '''"""A kernel."""
def forward(x):
    return inner(x)  # (1)
def inner(x):
    return x  # (2, 3) again
def unused(x):
    return x  # (9)
'''


@pytest.mark.parametrize(
    ("source", "error"),
    [
        (SAME, None),
        (SAME.replace("# (1)", ""), r"lacks step \[1\]"),
        (SAME.replace("# (1)", "").replace("A kernel.", "A kernel.\n\nNo step (1) forward: it is not needed.\n"), None),
        (SAME.replace("# (1)", "").replace("A kernel.", "\nNo step (1) backward: elsewhere.\n"), r"lacks step \[1\]"),
        (SAME.replace("A kernel.", "\nNo step (1) forward: it is not needed.\n"), r"step \[1\] is there after all"),
        (SAME.replace("A kernel.", "\nNo step (4) forward: it is not needed.\n"), r"a reason for step \[4\]"),
        (SAME.replace("A kernel.", "\nNo step (1, whatever\n"), "assert"),
        (SAME.replace("(1)", "(1, 4)"), r"the reference has no step \[4\]"),
    ],
)
def test_a_missing_step_a_step_of_its_own_and_a_stale_reason_are_found(source, error, tmp_path, monkeypatch):
    (tmp_path / "planted_kernel.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(importlib.sys.modules, "planted_kernel", raising=False)
    importlib.invalidate_caches()
    module = importlib.import_module("planted_kernel")
    if error is None:
        compare(reference, module, "forward", "forward")
    else:
        with pytest.raises(AssertionError, match=error):
            compare(reference, module, "forward", "forward")

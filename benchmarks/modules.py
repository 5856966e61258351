"""
Benchmarks by name: those of this folder, and the modules of a user, which need not be listed anywhere.

A name is that of a file `bench_<name>.py` here, a module as in `import` (in the current folder, or installed), or the
path of a Python file; the last two may choose one of several operations, `module:NAME`.
"""

from __future__ import annotations

import difflib
import importlib
import re
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from benchmarks import sides
from benchmarks.machine import HAS_TORCH
from benchmarks.sides import Given, Run
from tinygpt import Op
from tinygpt.study.checks import input_names
from tinygpt.study.user_ops import importable, imported, input_count, op_in

OPS = ["linear", "attention", "layernorm", "gelu", "gelu_linear", "linear_cross_entropy", "cross_entropy",
       "embedding", "dropout", "add", "adamw", "sgd", "norm"]  # fmt: skip
# Which race in a way of their own, in the order of their tables.
STEPS = ("train_step", "python_share", "shared", "recipe", "generate", "lookup", "perplexity")
CASES = {f"{rows} x {width}": {"shape": (rows, width)} for rows, width in ((256, 768), (1024, 3072))}
TOLERANCE = 1e-5


class Benchmark(NamedTuple):
    """What `sides.py` describes, with the defaults filled in; `torch` is None where there is nothing to race."""

    name: str
    cases: dict[str, Any]
    given: Callable[[Any, np.random.Generator], Given]
    ours: Callable[[Given], Run]
    numpy: Callable[[Given], Run]
    torch: Callable[[Given], Run] | None
    cost: Callable[[Any, Given], dict[str, float]]
    tolerance: float
    precisions: tuple[str, ...]
    inputs: tuple[str, ...] = ()  # their names, where it has an operation
    has_kernel: bool = True

    def result(self, index: int) -> str:
        """What the result of this index is."""
        if not self.inputs or index > len(self.inputs):
            return f"result {index}"
        return f"the gradient of {self.inputs[index - 1]}" if index else "the output"


def resolve(name: str) -> str:
    """
    The name by which every process of the race finds a benchmark; the folder of a file is added to Python's path.

    Raises
    ------
    ValueError
        If there is no such benchmark.
    """
    if name in OPS or name in STEPS:
        return name
    name = ":".join(importable(name))
    load(name)
    return name


def load(name: str) -> Benchmark:
    """A benchmark of this folder, by its name; or a user's, `module:NAME`, where NAME may be empty."""
    if name in OPS:
        return _filled(name, importlib.import_module(f"benchmarks.bench_{name}"), "")
    module_name, _, op = name.partition(":")
    module = imported(module_name)
    if module is None:
        near = difflib.get_close_matches(module_name, [*OPS, *STEPS], 1)
        hint = f"did you mean {near[0]}? " if near else ""
        if module_name in (*OPS, *STEPS):  # resolved already, but for an operation after a colon
            raise ValueError(f"{module_name} is a benchmark with one operation: write {module_name}, without a colon")
        raise ValueError(
            f"there is no benchmark {module_name!r}, and no module of that name in this folder or installed; {hint}"
            f"benchmarks: {', '.join((*OPS, *STEPS))}"
        )
    return _filled(name.removesuffix(":"), module, op)


def summary(name: str) -> str:
    """What a benchmark of this folder races, from the first line of its docstring, which says against whom as well."""
    text = importlib.import_module(f"benchmarks.bench_{name}").__doc__ or ""
    line = next(line for line in text.splitlines() if line.strip())
    return re.split(r", (?:forward|against)", line)[0].rstrip(",.")


def _filled(name: str, module: ModuleType, op_name: str) -> Benchmark:
    complete = hasattr(module, "ours") and hasattr(module, "numpy") and hasattr(module, "given")
    op = None if complete and not op_name and not hasattr(module, "OP") else op_in(module, op_name)
    cases = getattr(module, "CASES", CASES)
    if not isinstance(cases, dict) or not cases:
        raise ValueError(f"{name}: CASES must be a dict, what a row is called -> its sizes, got {cases!r}")
    count = 0 if op is None else input_count(op)
    return Benchmark(
        name=name,
        cases={str(case): sizes for case, sizes in cases.items()},
        given=partial(_given, name, op, getattr(module, "given", None)),
        ours=_function(module, "ours") or partial(sides.ours, op),
        numpy=_function(module, "numpy") or partial(sides.numpy, op),
        torch=_rival(module),
        cost=partial(_cost, name, getattr(module, "cost", None)),
        tolerance=_tolerance(name, getattr(module, "TOLERANCE", TOLERANCE)),
        precisions=_precisions(name, getattr(module, "PRECISIONS", ("highest",))),
        inputs=tuple(input_names(op, count)) if count else (),
        has_kernel=op is None or op.kernel is not None or hasattr(module, "ours"),
    )


def _tolerance(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
        raise ValueError(f"{name}: TOLERANCE must be a number from 0 to below 1, got {value!r}")
    return float(value)


def _precisions(name: str, value: Any) -> tuple[str, ...]:
    known = ("highest", "medium")
    if not isinstance(value, (tuple, list)) or not value or not all(each in known for each in value):
        raise ValueError(f"{name}: PRECISIONS must be a tuple of 'highest' and 'medium', got {value!r}")
    return tuple(value)


def _function(module: ModuleType, name: str) -> Callable | None:
    """A function of a module; a library that it imports under this name is none."""
    value = getattr(module, name, None)
    return None if isinstance(value, ModuleType) else value


def _rival(module: ModuleType) -> Callable[[Given], Run] | None:
    plain, forward = _function(module, "torch"), _function(module, "torch_forward")
    if not HAS_TORCH or (plain is None and forward is None):
        return None
    return plain or (lambda given: sides.by_autograd(partial(forward, **given.attrs), given))


def _given(name: str, op: Op | None, function: Callable | None, case: Any, rng: np.random.Generator) -> Given:
    """The module's inputs, or normal numbers of the shapes of a case."""
    if function is not None:
        given = Given(*function(case, rng))
    else:
        if not isinstance(case, dict) or not {"shape", "shapes"} & case.keys():
            raise ValueError(f"{name}: a case must have a key 'shape' or 'shapes', or define given(case, rng)")
        shapes = case.get("shapes") or [case["shape"]] * max(1, input_count(op))
        if any(isinstance(shape, int) for shape in shapes):
            raise ValueError(f"{name}: 'shapes' of a case must be a list with one shape for each input: [{shapes}], "
                             f"got {shapes}")  # fmt: skip
        arrays, attrs = [rng.standard_normal(shape, np.float32) for shape in shapes], case.get("attrs", {})
        try:
            out = op.forward(*arrays, **op.checked(arrays, attrs))[0]
        except Exception as error:
            raise ValueError(f"{name}: its forward fails on arrays of shapes {shapes} ({type(error).__name__}: {error})"
                             "; define CASES with 'shapes' and 'attrs', or given(case, rng)") from None  # fmt: skip
        given = Given(arrays, np.asarray(rng.standard_normal(np.shape(out)), np.float32), attrs)
    return given if op is None else given._replace(attrs=op.checked(given.arrays, given.attrs))


def _cost(name: str, function: Callable | None, case: Any, given: Given) -> dict[str, float]:
    if function is None:  # forward reads inputs and writes out; backward reads dout and inputs, and writes gradients
        return {"bytes": 3 * sum(array.nbytes for array in given.arrays) + 2 * np.asarray(given.dout).nbytes}
    cost = function(case)
    if not isinstance(cost, dict) or len(cost) != 1 or not cost.keys() <= {"bytes", "flops"}:
        raise ValueError(f'{name}: cost(case) must return {{"bytes": n}} or {{"flops": n}}, got {cost!r}')
    return {kind: float(amount) for kind, amount in cost.items()}

"""
An operation of the user's own, named on the command line.

    module:NAME   the module as in import, in the current folder or installed, and an `Op` in it
    path:NAME     the path of a Python file in place of the module
    module        without a name, as `path` alone: `OP`, or the only `Op` there is

`tinygpt gradcheck`, `tinygpt explain` and `python -m benchmarks` find it with the same functions.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from tinygpt.autograd.dispatch import kernel_of
from tinygpt.autograd.graph import Op
from tinygpt.files.one_line import described
from tinygpt.nn import Module
from tinygpt.study.samples import SAMPLES, Sample, every_op

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def find_op(name: str, who: str = "gradcheck") -> tuple[Op, Sequence[Sample]]:
    """
    An operation and sample inputs for it: an operation of the package by name, or a user's.

    A list `samples` in the user's module gives the inputs: for each sample a list of arrays, or a tuple of that and a
    dict of keywords. Without it, each input of the forward is a random 4 x 4, then a 33 x 33 array.

    Parameters
    ----------
    name : str
    who : str
        The command, for error messages.

    Raises
    ------
    ValueError
        If there is no such operation (it suggests near names), if its module or its kernel cannot be imported, if its
        samples do not fit it, or if an operation of the package has none yet.

    Examples
    --------
    >>> op, samples = find_op("gelu")
    >>> op.name
    'gelu'
    """
    if name in (ops := every_op()):
        if name not in SAMPLES:
            raise ValueError(f"{who}: {name} has no sample inputs; add some to SAMPLES in tinygpt/study/samples.py")
        return ops[name], SAMPLES[name]
    try:
        module_name, attribute = importable(name)
        module = imported(module_name)
        if module is None and attribute:
            raise ValueError(f"there is no module {module_name} in this folder, and none is installed")
        op = None if module is None else op_in(module, attribute)
    except ValueError as error:
        raise ValueError(f"{who}: {error}") from None
    if module is None or op is None:
        near = difflib.get_close_matches(name, ops, cutoff=0.7) or difflib.get_close_matches(name, ops, 1, 0.4)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        known = ", ".join(sorted(ops))
        raise ValueError(f"{who}: there is no operation {name!r}; {hint}all: {known}; your own: module:name")
    _require_kernel(op, f"{who}: {name}")
    given = getattr(module, "samples", None)
    if given is not None:
        return op, _samples(given, op, f"{who}: {module_name}")
    inputs = input_count(op)
    if not inputs:
        raise ValueError(
            f"{who}: {name}: its forward names no inputs, so {module_name} must have sample inputs for it: "
            "samples = [[array, ...], ...]"
        )
    rng = np.random.default_rng(3)
    return op, [Sample([rng.standard_normal((size, size)) for _ in range(inputs)]) for size in (4, 33)]


def find_model(name: str, who: str = "gradcheck") -> Module:
    """
    A model of the user's own: `module:NAME` or `path:NAME`, of one or of a function that returns one.

    Raises
    ------
    ValueError
        If there is none, or it cannot be imported or made.
    """
    try:
        module_name, attribute = importable(name)
        module = imported(module_name)
    except ValueError as error:
        raise ValueError(f"{who}: {error}") from None
    attribute = attribute or "model"
    if module is None or not hasattr(module, attribute):
        raise ValueError(
            f"{who}: there is no {attribute} in {module_name}; name a model, or a function that returns one, as "
            "module:name or file.py:name"
        )
    found = getattr(module, attribute)
    if callable(found) and not isinstance(found, Module):
        try:
            found = found()
        except Exception as error:  # it is the user's, and may raise anything
            raise ValueError(f"{who}: {name} cannot be called without arguments: {described(error)}") from None
    if not isinstance(found, Module):
        raise ValueError(f"{who}: {name} must be a tinygpt.nn.Module, or return one, got {type(found).__name__}")
    return found


def importable(name: str) -> tuple[str, str]:
    """
    The module and the attribute that a user's name says, "" for none; the module's folder is added to Python's path.

    Raises
    ------
    ValueError
        If there is no such file, or if the name cannot be that of a module.

    Examples
    --------
    >>> importable("mymodule:MY_OP")
    ('mymodule', 'MY_OP')
    >>> importable("mymodule")
    ('mymodule', '')
    """
    path, _, attribute = name.partition(".py:") if ".py:" in name else (name.removesuffix(".py"), "", "")
    if name.endswith(".py") or attribute:
        file = Path(f"{path}.py")
        if not file.is_file():
            raise ValueError(f"there is no file {file}")
        if not file.stem.isidentifier():
            raise ValueError(f"{file} must have a name that can be imported: letters, digits and underscores")
        folder, module_name = str(file.resolve().parent), file.stem
    else:
        module_name, colon, attribute = name.partition(":")
        if not all(part.isidentifier() for part in module_name.split(".")) or (colon and not attribute):
            raise ValueError(
                f"{name!r} must be module:name, the module's name as in import, or the path of a .py file; "
                "e.g. mymodule:MY_OP"
            )
        folder = os.getcwd()
    if folder not in sys.path:
        sys.path.insert(0, folder)
    return module_name, attribute


def imported(name: str) -> ModuleType | None:
    """A module by its name, None if there is none; ValueError if its import fails."""
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:  # a module can raise anything while it is imported
        if isinstance(error, ModuleNotFoundError) and error.name == name:
            return None
        raise ValueError(f"{name} cannot be imported: {described(error)}") from None


def op_in(module: ModuleType, attribute: str = "") -> Op:
    """
    An operation of a module by its name there; without one OP, or the only one.

    Raises
    ------
    ValueError
        If it has no such operation, or without a name several: the message lists what it has.

    Examples
    --------
    >>> from tinygpt.ops import gelu
    >>> op_in(gelu).name
    'gelu'
    """
    name = module.__name__
    names = {id(value): key for key, value in reversed(vars(module).items()) if isinstance(value, Op)}
    known = ", ".join(sorted(names.values()))
    if not known:
        raise ValueError(f"module {name} has no tinygpt.Op; e.g. MY_OP = Op(name, forward, backward)")
    if not attribute and "OP" not in vars(module):
        if len(names) > 1:
            raise ValueError(f"module {name} has several operations, {known}: say which, {name}:NAME")
        attribute = known
    op = getattr(module, attribute or "OP", None)
    if op is None:
        raise ValueError(f"module {name} has no {attribute}; its operations: {known}")
    if not isinstance(op, Op):
        raise ValueError(f"{name}:{attribute or 'OP'} must be a tinygpt.Op, got {type(op).__name__}; "
                         f"its operations: {known}")  # fmt: skip
    return op


def input_count(op: Op) -> int:
    """
    How many arrays an operation's forward must be given; 0 if it names none.

    Examples
    --------
    >>> input_count(find_op("linear")[0])
    3
    """
    return _required(_parameters(op))


def _parameters(op: Op) -> list[inspect.Parameter]:
    """Those of an operation's forward; none if it does not tell them, as some compiled functions."""
    try:
        return list(inspect.signature(op.forward).parameters.values())
    except ValueError:
        return []


def _required(parameters: Sequence[inspect.Parameter]) -> int:
    """How many of them are given by position, and must be given."""
    return sum(parameter.kind in _POSITIONAL and parameter.default is parameter.empty for parameter in parameters)


def _require_kernel(op: Op, who: str) -> None:
    try:
        if op.kernel is not None:
            kernel_of(op)
    except TypeError as error:
        raise ValueError(f"{who}: {error}") from None
    except (Exception, SystemExit) as error:
        raise ValueError(f"{who}: its kernel {op.kernel!r} cannot be imported: {described(error)}") from None


def _samples(given: Any, op: Op, who: str) -> list[Sample]:
    """
    A module's `samples` as float64 arrays; ValueError unless each has an array for each input of the forward.

    A sample is a list of arrays, or a tuple of such a list and a dict of keywords.
    """
    listed = list(map(_with_attrs, given)) if isinstance(given, (list, tuple)) else []
    for what, value in [("samples", given), *((f"samples[{i}]", arrays) for i, (arrays, _) in enumerate(listed))]:
        if isinstance(value, np.ndarray):
            kind = "list of lists of arrays" if value is given else "list with an array for each input"
            raise ValueError(
                f"{who}: {what} must be a {kind}, got an array of shape {value.shape}; write samples = [[x]]"
            )
    try:
        pairs = map(_with_attrs, given)
        samples = [Sample([np.array(array, np.float64) for array in arrays], attrs) for arrays, attrs in pairs]
    except (TypeError, ValueError) as error:
        raise ValueError(f"{who}: samples must be a list of lists of arrays of numbers: {error}") from None
    if not samples:
        raise ValueError(f"{who}: samples must hold at least one list of arrays, got {given!r}")
    parameters = _parameters(op)
    required = _required(parameters)
    most = sum(parameter.kind in _POSITIONAL for parameter in parameters)
    any_number = not parameters or any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters)
    for number, sample in enumerate(samples):
        count = len(sample.arrays)
        if not count or count < required or (count > most and not any_number):
            raise ValueError(
                f"{who}: samples[{number}] must hold an array for each input of {op.name}'s forward, {required} in "
                f"all, got {count}"
            )
    return samples


def _with_attrs(sample: Any) -> tuple[Any, dict[str, Any]]:
    """A sample's arrays and its keywords."""
    has_attrs = isinstance(sample, tuple) and len(sample) == 2 and isinstance(sample[1], dict)
    return sample if has_attrs else (sample, {})

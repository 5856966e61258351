"""An operation of the user's own, named on the command line as `module:name`."""

from __future__ import annotations

import difflib
import importlib
import inspect
import os
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from tinygpt.autograd.dispatch import kernel_of
from tinygpt.autograd.graph import Op
from tinygpt.files.one_line import described
from tinygpt.study.samples import SAMPLES, Sample, every_op

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def find_op(name: str, who: str = "gradcheck") -> tuple[Op, Sequence[Sample]]:
    """
    An operation and sample inputs for it: an operation of the package by name, or `module:name`.

    The module is installed or in the current folder, and `name` is an `Op` in it. A list `samples` in the module gives
    the inputs: for each sample a list of arrays, or a tuple of that and a dict of keywords. Without it, each input of
    the forward is a random 4 x 4, then a 33 x 33 array.

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
    if ":" not in name:
        ops = every_op()
        if name not in ops:
            near = difflib.get_close_matches(name, ops, cutoff=0.7) or difflib.get_close_matches(name, ops, 1, 0.4)
            hint = f"did you mean {' or '.join(near)}? " if near else ""
            known = ", ".join(sorted(ops))
            raise ValueError(f"{who}: there is no operation {name!r}; {hint}all: {known}; your own: module:name")
        if name not in SAMPLES:
            raise ValueError(f"{who}: {name} has no sample inputs; add some to SAMPLES in tinygpt/study/samples.py")
        return ops[name], SAMPLES[name]
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute or module_name.startswith("."):
        raise ValueError(f"{who}: {name!r} must be module:name, the module's name as in import; e.g. mymodule:MY_OP")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # a module can raise anything while it is imported
        raise ValueError(f"{who}: {module_name} cannot be imported: {described(error)}") from None
    op = getattr(module, attribute, None)
    if op is None:
        own = {id(value): key for key, value in vars(module).items() if isinstance(value, Op)}
        raise ValueError(
            f"{who}: {module_name} has no {attribute}; it has {', '.join(own.values()) or 'no tinygpt.Op'}"
        )
    if not isinstance(op, Op):
        raise ValueError(f"{who}: {name} must be a tinygpt.Op, got {type(op).__name__}; Op(name, forward, backward)")
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
    try:
        pairs = [sample if isinstance(sample, tuple) and len(sample) == 2 and isinstance(sample[1], dict)
                 else (sample, {}) for sample in given]  # fmt: skip
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

"""An operation of the user's own, named on the command line as `module:name`."""

from __future__ import annotations

import difflib
import importlib
import inspect
import os
import sys
from collections.abc import Sequence

import numpy as np

from tinygpt.autograd.graph import Op
from tinygpt.study.samples import SAMPLES, Sample, every_op


def find_op(name: str, who: str = "gradcheck") -> tuple[Op, Sequence[Sample]]:
    """
    An operation and sample inputs for it: an operation of the package by name, or `module:name`.

    The module is installed or in the current folder, and `name` is an `Op` in it. A list `samples` in the module, of
    lists of arrays, gives the inputs; without it, each input of the forward is a random 4 x 4 array.

    Parameters
    ----------
    name : str
    who : str
        The command, for error messages.

    Raises
    ------
    ValueError
        If there is no such operation; it suggests near names. If it has no sample inputs yet.

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
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # a module can raise anything while it is imported
        raise ValueError(f"{who}: {module_name} cannot be imported: {type(error).__name__}: {error}") from None
    op = getattr(module, attribute, None)
    if not isinstance(op, Op):
        raise ValueError(f"{who}: {name} must be a tinygpt.Op, got {type(op).__name__}; Op(name, forward, backward)")
    given = getattr(module, "samples", None)
    if given is not None:
        return op, [Sample([np.array(array, np.float64) for array in arrays]) for arrays in given]
    parameters = [
        parameter
        for parameter in inspect.signature(op.forward).parameters.values()
        if parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    ]
    rng = np.random.default_rng(3)
    return op, [Sample([rng.standard_normal((4, 4)) for _ in parameters])]

"""
Exercises: a file with the forward of an operation and an empty backward, for a learner to fill in.

The file has the operation's first paragraph, its glossary and its forward, but not the derivation. `grade.py` grades
the answer.
"""

from __future__ import annotations

import difflib
import inspect
import sys
import textwrap
from collections.abc import Callable
from typing import NamedTuple

from tinygpt.study.samples import SAMPLES, every_op, page_of

OPERATIONS = (
    "neg", "add", "sub", "mul", "div", "pow", "exp", "log", "sqrt", "tanh", "relu", "maximum", "where",
    "sum", "mean", "var", "max", "reshape", "transpose", "broadcast_to", "concatenate", "getitem", "astype", "matmul",
    "linear", "gelu", "softmax", "log_softmax", "cross_entropy", "embedding", "dropout", "layernorm", "attention",
    "gelu_linear", "linear_cross_entropy",
)  # fmt: skip
ORDER = (*OPERATIONS, "adamw", "bpe_merge")  # in the order of a course; none depends on another


class Exercise(NamedTuple):
    """
    One exercise.

    Attributes
    ----------
    name : str
    asked : str
        The name of the function to write.
    text : str
        The file that a learner gets.
    """

    name: str
    asked: str
    text: str


def exercise(name: str) -> Exercise:
    """
    The exercise of this name.

    Raises
    ------
    ValueError
        If there is none; it suggests the nearest name.

    Examples
    --------
    >>> exercise("gelu").asked
    'gelu_backward'
    """
    if name not in ORDER:
        near = difflib.get_close_matches(name, ORDER, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ValueError(f"exercise: there is no exercise {name!r}; {hint}all: {', '.join(ORDER)}")
    if name == "adamw":
        return Exercise(name, "adamw_update", _ADAMW)
    if name == "bpe_merge":
        return Exercise(name, "merge", _BPE)
    op = every_op()[name]
    names = list(inspect.signature(op.forward).parameters)
    return Exercise(name, f"{name}_backward", _OPERATION.format(
        name=name, introduction=_introduction(page_of(op), name), imports=_imports(op.forward),
        forward=textwrap.dedent(inspect.getsource(op.forward)).rstrip(), gradients=_gradients(names, name),
    ))  # fmt: skip


def _introduction(docstring: str, name: str) -> str:
    """The first paragraph and the glossary of an operation's file, without the derivation that follows."""
    if "Throughout this file" not in docstring:
        return f"The operation {name}. Its forward is below."
    return docstring[: docstring.index("\n\nForward")]


def _imports(function: Callable) -> str:
    """The import lines that the source of a forward needs: NumPy, helpers and constants of the package."""
    lines = (
        ["import math", "", "import numpy as np"] if "math." in inspect.getsource(function) else ["import numpy as np"]
    )
    names = sorted(set(function.__code__.co_names) & vars(sys.modules[function.__module__]).keys() - {"np", "math"})
    if names:
        lines += ["", f"from {function.__module__} import {', '.join(names)}"]
    return "\n".join(lines)


def _gradients(names: list[str], name: str) -> str:
    return ", ".join(f"d{each}" for each in names[: len(SAMPLES[name][0].arrays)])


_OPERATION = '''"""
{introduction}

Your task: write the backward. `dout` is the gradient of the loss with respect to the first result of the forward;
`saved` is its second result. Return a tuple with the gradient of each input: ({gradients},). Use NumPy, and change
neither `dout` nor `saved`. Then run

    tinygpt exercise check THIS_FILE
"""

{imports}


{forward}


def {name}_backward(dout, saved):
    raise NotImplementedError("yours to write")
'''
_ADAMW = '''"""
AdamW, one step for one parameter, in place: Loshchilov & Hutter 2019, arXiv:1711.05101, algorithm 2.

    parameter, gradient, m, v    arrays of one shape; m and v are zero before the first step
    step                         1 at the first call
    lr, betas, eps, weight_decay numbers; betas is a pair

Your task: update `parameter`, `m` and `v` in place, and do not change `gradient`. The weight decay is multiplied by lr
and does not enter m and v. Then run

    tinygpt exercise check THIS_FILE
"""

import numpy as np


def adamw_update(parameter, gradient, m, v, step, lr, betas, eps, weight_decay):
    raise NotImplementedError("yours to write")
'''
_BPE = '''"""
Byte-pair encoding of one word: Sennrich, Haddow & Birch 2016, arXiv:1508.07909.

    ids       a list of token ids, at first one per byte
    merges    {{(left, right): (rank, joined)}}: the pair becomes the token `joined`; a lower rank was learned earlier

Your task: while a pair of adjacent ids is in `merges`, merge the pair of lowest rank, at its leftmost place if it
occurs more than once. Return a new list, and do not change `ids`. Then run

    tinygpt exercise check THIS_FILE
"""


def merge(ids, merges):
    raise NotImplementedError("yours to write")
'''.replace("{{", "{").replace("}}", "}")

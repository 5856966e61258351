"""
Exercises: a file with the forward of an operation and an empty backward, for a learner to fill in.

The file has the operation's first paragraph, its glossary and its forward, but not the derivation. `grade.py` grades
the answer, in a process that has no more of the package than the file imports.
"""

from __future__ import annotations

import difflib
import dis
import inspect
import textwrap
from collections.abc import Callable
from types import CodeType, FunctionType, ModuleType
from typing import Any, NamedTuple

from tinygpt.optim import SGD, Adam, AdamW
from tinygpt.study.samples import SAMPLES, every_op, page_of
from tinygpt.tokenizer.reference import merge

OPERATIONS = (
    "neg", "add", "sub", "mul", "div", "pow", "exp", "log", "sin", "cos", "power", "remainder", "sqrt", "expm1",
    "log1p", "tanh", "sigmoid", "abs", "relu", "maximum", "where", "clip", "logaddexp", "sum", "mean", "prod", "var",
    "std", "norm", "max", "cumsum", "reshape", "transpose", "broadcast_to", "concatenate", "pad", "getitem", "astype",
    "matmul", "einsum", "linear", "gelu", "softmax", "log_softmax", "logsumexp", "cross_entropy", "embedding",
    "dropout", "layernorm", "attention", "gelu_linear", "linear_cross_entropy",
)  # fmt: skip
UPDATES: dict[str, Callable[..., Any]] = {"sgd": SGD.update, "adam": Adam.update, "adamw": AdamW.update}
ORDER = (*OPERATIONS, *UPDATES, "bpe_merge")  # in the order of a course; none depends on another


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
    modules : dict of str to (str, list of str)
        The module of the package from which the file imports, if any: a source for it that has no solution, and the
        names that it gives.
    """

    name: str
    asked: str
    text: str
    modules: dict[str, tuple[str, list[str]]]


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
    if name in UPDATES:
        text = _UPDATE.format(name=name, asked=inspect.signature(UPDATES[name]), about=_ABOUT_UPDATES[name])
        return Exercise(name, f"{name}_update", text.replace(", scale=1.0", ""), {})
    if name == "bpe_merge":
        return Exercise(name, "merge", _BPE, {})
    op = every_op()[name]
    given = [each for each in globals_of(op.forward) if not isinstance(op.forward.__globals__[each], ModuleType)]
    text = _OPERATION.format(
        name=name, introduction=_introduction(page_of(op), name), imports=_imports(op.forward, given),
        forward=textwrap.dedent(inspect.getsource(op.forward)).rstrip(),
        gradients=_gradients(op.forward, name), tie=_TIES.get(name, ""),
    )  # fmt: skip
    variables = {each: op.forward.__globals__[each] for each in given}
    modules = {op.forward.__module__: (standalone(variables), given)} if given else {}
    return Exercise(name, f"{name}_backward", text, modules)


def solution(name: str) -> str:
    """
    The package's own answer, as a file that needs NumPy only.

    Examples
    --------
    >>> "def gelu_backward(dout, saved):" in solution("gelu")
    True
    """
    asked = exercise(name).asked
    functions = {**UPDATES, "bpe_merge": merge}
    return standalone({asked: functions[name] if name in functions else every_op()[name].backward})


def globals_of(function: Callable[..., Any]) -> list[str]:
    """The names that a function takes from its module when it runs, sorted; those in annotations are not among them."""
    pending, found = [function.__code__], set()
    while pending:
        code = pending.pop()
        pending += [constant for constant in code.co_consts if isinstance(constant, CodeType)]
        found |= {each.argval for each in dis.get_instructions(code) if each.opname == "LOAD_GLOBAL"}
    return sorted(found & function.__globals__.keys())


def standalone(variables: dict[str, Any]) -> str:
    """
    A source that defines these names: functions and constants of the package, with all that they use.

    Examples
    --------
    >>> from tinygpt.ops import gelu
    >>> print(standalone({"C": gelu.C}))
    from __future__ import annotations
    C = 0.7978845608028654
    """
    made: dict[str, Any] = {}
    parts = ["from __future__ import annotations"]

    def define(name: str, value: Any) -> None:
        if name in made:
            if made[name] is not value:
                raise AssertionError(f"two functions are called {name}")  # of different modules
            return
        made[name] = value
        module = getattr(value, "__module__", None) or ""
        if isinstance(value, ModuleType):
            parts.append(f"import {value.__name__} as {name}")
        elif isinstance(value, FunctionType) and module.startswith("tinygpt."):
            for each in globals_of(value):
                define(each, value.__globals__[each])
            parts.append(textwrap.dedent(inspect.getsource(value)).rstrip())
            if value.__name__ != name:
                parts.append(f"{name} = {value.__name__}")
        elif callable(value):
            parts.append(f"from {module} import {value.__name__} as {name}")
        else:
            parts.append(f"{name} = {value!r}")

    for name, value in variables.items():
        define(name, value)
    return "\n".join(parts)


def _introduction(docstring: str, name: str) -> str:
    """The first paragraph and the glossary of an operation's file, without the derivation that follows."""
    if "Throughout this file" not in docstring:
        return f"The operation {name}. Its forward is below."
    return docstring[: docstring.index("\n\nForward")]


def _imports(function: Callable[..., Any], given: list[str]) -> str:
    """The import lines that the source of a forward needs: NumPy, helpers and constants of the package."""
    lines = (["import math", ""] if "math" in globals_of(function) else []) + ["import numpy as np"]
    if given:
        lines += ["", f"from {function.__module__} import {', '.join(given)}"]
    return "\n".join(lines)


def _gradients(forward: Callable[..., Any], name: str) -> str:
    parameters = list(inspect.signature(forward).parameters.values())
    if parameters[0].kind is inspect.Parameter.VAR_POSITIONAL:
        return f"one per array in {parameters[0].name}, in their order"
    names = [f"d{each.name}" for each in parameters[: len(SAMPLES[name][0].arrays)]]
    return f"({', '.join(names)}{',' if len(names) == 1 else ''})"


_TIES = {
    "abs": "\nWhere the input is 0, the gradient is 0.",
    "clip": "\nAt a bound, the gradient passes.",
    "max": "\nWhere several elements are the largest, they share the gradient equally.",
    "maximum": "\nWhere both are equal, each gets half of the gradient.",
    "norm": "\nWhere all values of a group are 0, the gradient is 0.",
    "std": "\nWhere all values of a group are equal, the gradient is 0.",
}
_OPERATION = '''"""
{introduction}

Your task: write the backward. `dout` is the gradient of the loss with respect to the first result of the forward;
`saved` is its second result. Return a tuple with the gradient of each input: {gradients}.
Use NumPy, and change neither `dout` nor `saved`.{tie} Then run

    tinygpt exercise check THIS_FILE
"""

{imports}


{forward}


def {name}_backward(dout, saved):
    raise NotImplementedError("yours to write")
'''
_UPDATE = '''"""
{about}. Then run

    tinygpt exercise check THIS_FILE
"""

import numpy as np


def {name}_update{asked}:
    raise NotImplementedError("yours to write")
'''
_ABOUT_UPDATES = {
    "sgd": """\
SGD, one step for one parameter, in place: Sutskever et al. 2013, section 2.

    parameter, gradient, buffer                arrays of one shape; the buffer is zero before the first step
    lr, momentum, dampening, weight_decay      numbers; the dampening of the first step is 0
    nesterov                                   True or False

Your task: update `parameter` and `buffer` in place, and do not change `gradient`. The weight decay is part of the
gradient; the buffer is a sum of gradients, not of steps. Without momentum, leave the buffer alone""",
    "adam": """\
Adam, one step for one parameter, in place: Kingma & Ba 2014, arXiv:1412.6980, algorithm 1.

    parameter, gradient, m, v    arrays of one shape; m and v are zero before the first step
    step                         1 at the first call
    lr, betas, eps, weight_decay numbers; betas is a pair

Your task: update `parameter`, `m` and `v` in place, and do not change `gradient`. The weight decay is an L2 term of the
loss, weight_decay / 2 times the sum of the squares, and so part of the gradient""",
    "adamw": """\
AdamW, one step for one parameter, in place: Loshchilov & Hutter 2019, arXiv:1711.05101, algorithm 2.

    parameter, gradient, m, v    arrays of one shape; m and v are zero before the first step
    step                         1 at the first call
    lr, betas, eps, weight_decay numbers; betas is a pair

Your task: update `parameter`, `m` and `v` in place, and do not change `gradient`. The weight decay is multiplied by lr
and does not enter m and v""",
}
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

"""
Sample inputs for every operation of the package: its gradient is checked on them, and every planted error must show.

Most arrays are square, so that a transposed or wrongly summed axis shows in the values only, never in the shapes.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import sys
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np

import tinygpt.ops
from tinygpt.autograd import apply
from tinygpt.autograd.graph import Op
from tinygpt.study.statements import plain


@dataclass(frozen=True)
class Sample:
    """Differentiable inputs, and attributes."""

    arrays: list[np.ndarray]
    attrs: dict[str, Any] = field(default_factory=dict)

    def f(self, op: Op):
        """`op` as a function of its differentiable inputs, for `gradcheck`."""
        return lambda *tensors: apply(op, *tensors, **self.attrs)


def every_op() -> dict[str, Op]:
    """All op records in the modules of `tinygpt.ops`, by name."""
    ops: dict[str, Op] = {}
    for module_info in pkgutil.iter_modules(tinygpt.ops.__path__, "tinygpt.ops."):
        for value in vars(importlib.import_module(module_info.name)).values():
            if isinstance(value, Op) and ops.setdefault(value.name, value) is not value:
                raise AssertionError(f"two ops are called {value.name}")  # raised: `python -O` leaves asserts out
    return ops


def page_of(op: Op) -> str:
    """
    The docstring of an operation's file.

    Examples
    --------
    >>> page_of(every_op()["gelu"]).splitlines()[0].startswith("GELU")
    True
    """
    return docstring_of(sys.modules[plain(op.forward).__module__])


def docstring_of(module: Any) -> str:
    """The docstring of a module, read from its source: `python -OO` keeps none in memory; or of another object."""
    if not isinstance(module, ModuleType):
        return inspect.cleandoc(vars(module).get("__doc__") or "") if hasattr(module, "__dict__") else ""
    try:
        return ast.get_docstring(ast.parse(inspect.getsource(module))) or ""
    except (OSError, TypeError):  # typed in: there is no file
        return inspect.cleandoc(module.__doc__ or "")


rng = np.random.default_rng(20)


def draw(*shapes):
    """An array of normal numbers for each shape."""
    return [rng.standard_normal(shape) for shape in shapes]


def positive(*shapes):
    """An array of numbers between 0.5 and 2 for each shape."""
    return [rng.uniform(0.5, 2.0, shape) for shape in shapes]


def broadcasting(make):
    """Two operands of one shape, and broadcast along a missing, the last, a middle axis, and several at once."""
    one_axis = [((3, 3), (3, 3)), ((3, 3), (3,)), ((3, 1), (3, 3)), ((2, 3, 3), (2, 1, 3))]
    several = [((3, 1), (2, 3, 3)), ((), (2, 3)), ((1, 1), (1, 1, 4))]
    return [Sample(make(*pair)) for pair in one_axis + several]


def elementwise(make=draw):
    """One operand, of no, two and three axes."""
    return [Sample(make(shape)) for shape in ((), (4, 4), (2, 3, 3))]


def reducing(**attrs):
    """One axis of several, two axes, the last by its negative number, all axes."""
    axes = [((4, 4), 0), ((3, 3, 3), 1), ((3, 3, 3), (0, 2)), ((3, 3, 3), -1), ((2, 3), None)]
    return [
        Sample(draw(shape), {"axis": axis, "keepdims": keepdims, **attrs})
        for shape, axis in axes
        for keepdims in (False, True)
    ]


def along_an_axis():
    """The last axis, a middle one, and a large array."""
    return [Sample(draw((4, 4)), {"axis": -1}), Sample(draw((3, 3, 3)), {"axis": 1}), Sample(draw((30, 20)))]


# At a tie of two, the central difference is the mean of both slopes: the even split that backward promises.
TIED = np.array([[1.0, 4.0, 4.0], [7.0, 7.0, 2.0], [3.0, 5.0, 3.0]])
TARGETS = np.array([3, 0, -100, 1])  # one of four is ignored
REPEATS = np.array([2, 0, 2, 2])
ZEROS = np.array([[0.0, 2.0, -3.0], [0.5, 4.0, 2.0], [0.0, -1.5, 0.0]])  # one, none and two in a row
EQUAL = np.array([[2.0, 2.0, 2.0], [0.5, 4.0, -1.0]])  # a group whose standard deviation is 0

SAMPLES: dict[str, list[Sample]] = {
    "add": broadcasting(draw),
    "sub": broadcasting(draw),
    "mul": broadcasting(draw),
    "div": broadcasting(positive),
    "neg": elementwise(),
    "power": broadcasting(positive),
    "remainder": broadcasting(lambda a, b: [5 * draw(a)[0], -positive(b)[0]]),
    "pow": [Sample(positive((4, 4)), {"exponent": exponent}) for exponent in (3, -1, 0.5, 2, 1)],
    "matmul": [
        Sample(draw(a, b))
        for a, b in [
            ((4, 4), (4, 4)),
            ((3,), (3, 3)),
            ((3, 3), (3,)),
            ((3,), (3,)),
            ((3, 3, 3), (3, 3)),
            ((3,), (3, 3, 3)),
            ((2, 1, 3, 3), (2, 3, 3)),
            ((1, 3, 3), (2, 2, 3, 3)),
            ((1, 1, 2, 2), (1, 1, 3, 2, 2)),
            ((20, 30), (30, 15)),
        ]
    ],
    "exp": elementwise(),
    "log": elementwise(positive),
    "sqrt": elementwise(positive),
    "expm1": elementwise(),
    "log1p": elementwise(positive),
    "tanh": elementwise(),
    "sigmoid": elementwise(),
    "sin": elementwise(),
    "cos": elementwise(),
    "abs": elementwise(),
    "relu": elementwise(),
    "clip": [
        Sample(draw((4, 4)), {"low": -0.5, "high": 0.7}),
        Sample(draw((3, 1)), {"low": -0.3, "high": np.float32(positive((2, 3, 3))[0] - 0.5)}),
        Sample(draw((1, 1)), {"low": np.array([[[-3, -2, -1, 2]]], np.float32), "high": 3.0}),
        Sample(draw((2, 3, 3)), {"low": -np.inf, "high": 0.2}),
    ],
    "logaddexp": broadcasting(draw),
    "maximum": [*broadcasting(draw), Sample([TIED, TIED[:, ::-1].copy()])],
    "where": [
        Sample(sample.arrays, {"condition": rng.random(np.broadcast(*sample.arrays).shape) < 0.5})
        for sample in broadcasting(draw)
    ],
    "sum": reducing(),
    "mean": reducing(),
    "var": reducing() + reducing(ddof=1),
    "max": [*reducing(), Sample([TIED], {"axis": 1})],
    "softmax": along_an_axis(),
    "log_softmax": along_an_axis(),
    "astype": [Sample(draw((4, 4)), {"dtype": np.float64})],
    "reshape": [Sample(draw((4, 4)), {"shape": (2, 8)}), Sample(draw((2, 3, 3)), {"shape": (-1, 3)})],
    "transpose": [
        Sample(draw((4, 4)), {"axes": (1, 0)}),
        Sample(draw((3, 3, 3)), {"axes": (1, 2, 0)}),  # not its own inverse
    ],
    "broadcast_to": [
        *(Sample(draw(shape), {"shape": (3, 4, 4)}) for shape in ((4, 4), (3, 1, 4), (1, 4, 1), (4, 1), (1,), ())),
        Sample(draw((1, 1)), {"shape": (1, 1, 4)}),
    ],
    "getitem": [
        Sample(draw((4, 4)), {"index": index})
        for index in [
            (slice(1, 3), 2),
            (slice(None, None, -1),),
            (REPEATS,),
            (REPEATS, REPEATS),
            (np.eye(4, dtype=bool),),
            (None, ..., 1),
        ]
    ],
    "concatenate": [
        Sample(draw((2, 3), (3, 3), (1, 3)), {"axis": 0}),
        Sample(draw((3, 1), (3, 3), (3, 2)), {"axis": -1}),
        Sample(draw((3, 3)), {"axis": 1}),
    ],
    "embedding": [
        Sample(draw((4, 4)), {"ids": REPEATS}),
        Sample(draw((5, 3)), {"ids": np.array([[0, 4], [4, 4]])}),
        Sample(draw((40, 8)), {"ids": rng.integers(0, 40, (5, 30))}),
    ],
    "gelu_linear": [
        Sample(draw((4, 4), (4, 4), (4,))),
        Sample(draw((2, 3, 4), (4, 5), (5,))),
        Sample(draw((3,), (3, 2), (2,))),
        Sample(draw((4, 10, 20), (20, 15), (15,))),
    ],
    "linear": [
        Sample(draw((4, 4), (4, 4), (4,))),
        Sample(draw((2, 3, 4), (4, 5), (5,))),
        Sample(draw((3,), (3, 2), (2,))),
        Sample(draw((4, 10, 20), (20, 15), (15,))),
    ],
    "layernorm": [
        Sample(draw((4, 4), (4,), (4,))),
        Sample(draw((3, 3, 3), (3,), (3,)), {"eps": 0.1}),
        Sample(draw((5,), (5,), (5,))),
        Sample(draw((4, 10, 20), (20,), (20,))),
    ],
    "gelu": [*elementwise(), Sample(draw((20, 30)))],
    "attention": [
        Sample(draw((1, 6, 3 * 2)), {"n_head": 1}),
        Sample(draw((2, 3, 3 * 4)), {"n_head": 2}),
        Sample(draw((3, 3, 3 * 9)), {"n_head": 3}),
        Sample(draw((2, 4, 3 * 4)), {"n_head": 2, "p": 0.3, "seed": 8}),
        Sample(draw((1, 2, 3 * 2)), {"n_head": 2, "p": 1 - 2**-40, "seed": 8}),  # drops all
        Sample(draw((2, 9, 3 * 20)), {"n_head": 4, "p": 0.1, "seed": 9}),
    ],
    "dropout": [
        *(Sample(draw(shape), {"p": 0.4, "seed": 6}) for shape in ((4, 4), (2, 3, 3), (20, 30))),
        Sample(draw((2, 2)), {"p": 1 - 2**-40, "seed": 6}),  # drops all
    ],
    "cross_entropy": [
        Sample(draw((4, 4)), {"targets": TARGETS}),
        Sample(draw((4, 5)), {"targets": REPEATS, "ignore_index": 0}),
        Sample(draw((20, 30)), {"targets": rng.integers(0, 30, 20)}),
    ],
    "linear_cross_entropy": [
        Sample(draw((4, 4), (4, 4)), {"targets": TARGETS}),
        Sample(draw((4, 3), (5, 3)), {"targets": REPEATS, "ignore_index": 0}),
        Sample(draw((20, 4), (30, 4)), {"targets": rng.integers(0, 30, 20)}),
    ],
    "prod": [*reducing(), *(Sample([ZEROS], {"axis": axis}) for axis in (0, 1))],
    "std": [*reducing(), *reducing(ddof=1), Sample([EQUAL], {"axis": 1})],
    "norm": [*reducing(), Sample([EQUAL * [[0], [1]]], {"axis": 1})],
    "logsumexp": reducing(),
    "cumsum": [Sample(draw(shape), {"axis": axis}) for shape, axis in (((4, 4), -1), ((3, 3, 3), 1), ((5,), 0))],
    "pad": [
        Sample(draw((3, 3)), {"widths": ((1, 2), (0, 1)), "value": 0.5}),
        Sample(draw((2, 3, 2)), {"widths": ((0, 0), (2, 0), (1, 1)), "value": 0}),
    ],
    "einsum": [
        Sample(draw(*shapes), {"subscripts": subscripts})
        for subscripts, *shapes in [
            ("bij,bjk,k->bi", (3, 3, 3), (3, 3, 3), (3,)),
            ("ij,jk->ik", (3, 3), (3, 3)),
            ("ij,kj->ki", (3, 3), (3, 3)),
            ("i,j->ji", (3,), (3,)),
            ("ij,j->", (3, 3), (3,)),  # i is summed in one array alone
            ("ii->i", (3, 3)),
            ("iij,jk->ki", (3, 3, 3), (3, 3)),
            ("ij,ij->ij", (1, 3), (3, 3)),  # an axis of size 1 meets a longer one
            ("ijk->kij", (2, 3, 3)),
        ]
    ],
}  # fmt: skip

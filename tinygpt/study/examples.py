"""
One small example for each operation, with plain numbers, that shows its surprises: an axis that is broadcast, an index
that repeats, a tie, an ignored target, a mask that keeps some elements and drops others.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygpt.study.samples import Sample


def draw(*shapes: tuple[int, ...], seed: int = 1) -> list[np.ndarray]:
    """
    An array of random numbers for each shape, with one decimal and without zeros.

    Examples
    --------
    >>> draw((3,))
    [array([0.3, 0.8, 0.3])]
    """
    rng = np.random.default_rng(seed)
    drawn = [rng.standard_normal(shape).round(1) for shape in shapes]
    return [np.where(array == 0, 0.5, array) for array in drawn]


def positive(*shapes: tuple[int, ...]) -> list[np.ndarray]:
    """The same between 0.5 and 3."""
    rng = np.random.default_rng(1)
    return [rng.uniform(0.5, 3, shape).round(1) for shape in shapes]


def dout_for(out: Any) -> np.ndarray:
    """A gradient for an output: random, with one decimal, in the output's dtype."""
    (dout,) = draw(np.shape(out), seed=2)
    return np.asarray(dout, np.asarray(out).dtype)


def _array(*numbers: Any) -> np.ndarray:
    return np.array(numbers)


EXAMPLES: dict[str, Sample] = {
    "add": Sample(draw((2, 3), (3,))),
    "sub": Sample(draw((2, 3), (2, 1))),
    "mul": Sample(draw((2, 3), (3,))),
    "div": Sample(positive((2, 3), (2, 1))),
    "neg": Sample(draw((2, 3))),
    "pow": Sample(draw((2, 3)), {"exponent": 3}),
    "power": Sample(positive((2, 3), (3,))),
    "remainder": Sample([_array([5.0, -5.0, 7.5], [0.5, -0.5, 3.0]), _array(2.0, 3.0, -2.0)]),
    "matmul": Sample(draw((2, 3), (3, 2))),
    "exp": Sample(draw((2, 3))),
    "log": Sample(positive((2, 3))),
    "sqrt": Sample(positive((2, 3))),
    "expm1": Sample(draw((2, 3))),
    "log1p": Sample(positive((2, 3))),
    "tanh": Sample(draw((2, 3))),
    "sigmoid": Sample(draw((2, 3))),
    "sin": Sample(draw((2, 3))),
    "cos": Sample(draw((2, 3))),
    "abs": Sample(draw((2, 3))),
    "relu": Sample(draw((2, 3))),
    "maximum": Sample([_array([1.5, -0.5, 2.0], [0.5, 3.0, -1.0]), _array(0.5, 1.0, 2.0)]),  # a tie at [0, 2]
    "clip": Sample([_array([1.5, -0.5, 0.2], [-2.0, 3.0, 0.9])], {"low": -1.0, "high": 1.0}),
    "logaddexp": Sample(draw((2, 3), (3,))),
    "where": Sample(draw((2, 3), (3,)), {"condition": _array([True, False, True], [False, False, True])}),
    "sum": Sample(draw((2, 3)), {"axis": 1}),
    "mean": Sample(draw((2, 3)), {"axis": 1}),
    "prod": Sample([_array([1.5, -0.5, 2.0], [0.5, 0.0, -1.0])], {"axis": 1}),  # a zero in the second row
    "var": Sample(draw((2, 3)), {"axis": 1}),
    "std": Sample([_array([1.5, -0.5, 2.0], [0.5, 0.5, 0.5])], {"axis": 1}),  # all equal in the second row
    "norm": Sample([_array([3.0, -4.0], [0.0, 0.0])], {"axis": 1}),
    "logsumexp": Sample(draw((2, 3)), {"axis": 1}),
    "cumsum": Sample(draw((2, 3)), {"axis": 1}),
    "max": Sample([_array([1.5, -0.5, 1.5], [0.5, 3.0, -1.0])], {"axis": 1}),  # a tie in the first row
    "softmax": Sample(draw((2, 3)), {"axis": 1}),
    "log_softmax": Sample(draw((2, 3)), {"axis": 1}),
    "astype": Sample([array.astype(np.float32) for array in draw((2, 3))], {"dtype": np.dtype(np.float64)}),
    "reshape": Sample(draw((2, 3)), {"shape": (3, 2)}),
    "transpose": Sample(draw((2, 1, 3)), {"axes": (1, 2, 0)}),
    "broadcast_to": Sample(draw((2, 1)), {"shape": (2, 3)}),
    "getitem": Sample(draw((3, 2)), {"index": (_array(2, 0, 2),)}),  # row 2 twice, row 1 never
    "concatenate": Sample(draw((2, 2), (2, 1)), {"axis": 1}),
    "pad": Sample(draw((2, 2)), {"widths": ((0, 1), (1, 0)), "value": 0}),
    "einsum": Sample(draw((2, 3), (3, 2), (2,)), {"subscripts": "ij,jk,k->i"}),
    "embedding": Sample(draw((3, 2)), {"ids": _array(2, 0, 2)}),
    "linear": Sample(draw((2, 3), (3, 2), (2,))),
    "gelu": Sample([_array(-2.0, -0.7, -0.2, 0.3, 1.0, 2.5)]),
    "gelu_linear": Sample(draw((2, 3), (3, 2), (2,))),
    "layernorm": Sample(draw((2, 4), (4,), (4,))),
    "attention": Sample(draw((1, 3, 3 * 4)), {"n_head": 2}),
    "dropout": Sample(draw((2, 4)), {"p": 0.5, "seed": 6}),
    "cross_entropy": Sample(draw((3, 4)), {"targets": _array(2, -100, 0)}),  # -100 is ignored
    "linear_cross_entropy": Sample(draw((3, 2), (4, 2)), {"targets": _array(2, -100, 0)}),
}

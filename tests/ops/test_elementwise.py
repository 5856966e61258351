"""Functions of one number, element by element: the definitions, their gradients, and the edges."""

from __future__ import annotations

import math

import numpy as np
import pytest
from differentiation import BOTH_WAYS, assert_same, value_and_gradients

import tinygpt.functional as F
from tinygpt import Tensor, gradcheck

# name: the operation, Python's own function of one number, and its slope, as any calculus text has it
FUNCTIONS = {
    "exp": (F.exp, math.exp, math.exp),
    "log": (F.log, math.log, lambda x: 1 / x),
    "sqrt": (F.sqrt, math.sqrt, lambda x: 0.5 / math.sqrt(x)),
    "tanh": (F.tanh, math.tanh, lambda x: 1 / math.cosh(x) ** 2),
    "relu": (F.relu, lambda x: x if x > 0 else 0.0, lambda x: 1.0 if x > 0 else 0.0),
}
every_function = pytest.mark.parametrize("name", FUNCTIONS)

SHAPES = [(), (1,), (5,), (2, 3), (2, 1, 3)]


def draw(rng, name, shape):
    """Positive where the function needs it, and away from relu's corner at 0."""
    magnitudes = rng.uniform(0.1, 2.0, shape)
    return magnitudes if name in ("log", "sqrt") else magnitudes * rng.choice([-1.0, 1.0], shape)


# (1) forward is the definition, and so is backward


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@every_function
def test_functions_are_pythons_and_their_gradient_is_the_slope(name, shape, rng):
    f, scalar, slope = FUNCTIONS[name]
    x, dout = draw(rng, name, shape), rng.standard_normal(shape)
    expected, dx = np.empty(shape), np.empty(shape)
    for index in np.ndindex(shape):
        expected[index] = scalar(float(x[index]))
        dx[index] = dout[index] * slope(float(x[index]))
    assert_same(value_and_gradients(f, [x], dout), (expected, [dx]))


# (2) backward agrees with finite differences


@pytest.mark.parametrize("limit", BOTH_WAYS.values(), ids=BOTH_WAYS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@every_function
def test_functions_agree_with_finite_differences(name, shape, limit, rng):
    assert gradcheck(FUNCTIONS[name][0], [draw(rng, name, shape)], elementwise_limit=limit)


# (3) the same function composed of others


def test_functions_equal_their_compositions(rng):
    x, dout = rng.uniform(0.1, 2.0, (2, 3)), rng.standard_normal((2, 3))
    for f, composed in (
        (F.sqrt, lambda x: x**0.5),
        (F.tanh, lambda x: 1 - 2 / ((2 * x).exp() + 1)),
        (F.relu, lambda x: F.maximum(x, 0)),
        (F.relu, lambda x: F.where(x > 0, x, 0)),
        (lambda x: x * 1, lambda x: x.exp().log()),
    ):
        assert_same(value_and_gradients(f, [x], dout), value_and_gradients(composed, [x], dout))


# (5) edge cases


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_precision_is_kept_in_both_directions(dtype, rng):
    for shape in ((), (3,), (0,)):
        x, dout = rng.uniform(0.1, 2.0, shape).astype(dtype), np.ones(shape, dtype)
        for f, _, _ in FUNCTIONS.values():
            out, (gradient,) = value_and_gradients(f, [x], dout)
            assert (out.dtype, gradient.dtype) == (dtype, dtype)
            assert out.shape == gradient.shape == shape


@every_function
def test_strided_views_give_the_same_as_copies_and_are_not_written_into(name, rng):
    view = draw(rng, name, (3, 8)).T[::2]
    before, dout = view.copy(), rng.standard_normal((3, 4)).T
    f = FUNCTIONS[name][0]
    assert_same(value_and_gradients(f, [view], dout), value_and_gradients(f, [before], dout.copy()), tolerance=0)
    np.testing.assert_array_equal(view, before)


def test_nan_propagates(rng):
    x = np.array([np.nan, 1.0])
    for f, _, _ in FUNCTIONS.values():
        assert np.isnan(value_and_gradients(f, [x], np.ones(2))[0]).tolist() == [True, False]


def test_corners_and_poles_are_as_documented():
    with np.errstate(divide="ignore"):
        assert value_and_gradients(F.sqrt, [np.zeros(1)])[1][0] == np.inf  # the slope of a vertical line
        assert F.log(Tensor(0.0)).item() == -np.inf
    assert value_and_gradients(F.relu, [np.zeros(1)]) == (0, [0])
    saturated, (gradient,) = value_and_gradients(F.tanh, [np.array([-1e3, 1e3])], np.ones(2))
    assert saturated.tolist() == [-1, 1] and gradient.tolist() == [0, 0]


def test_functions_are_methods_too():
    x = Tensor(np.array([0.5, 2.0]))
    for name, (f, _, _) in FUNCTIONS.items():
        np.testing.assert_array_equal(getattr(x, name)().data, f(x).data)


# errors


def test_what_is_no_number_is_refused():
    with pytest.raises(TypeError, match=r"Tensor: dtype must be float32, float64"):
        F.exp("text")

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
    "expm1": (F.expm1, math.expm1, math.exp),
    "log1p": (F.log1p, math.log1p, lambda x: 1 / (1 + x)),
    "sigmoid": (F.sigmoid, lambda x: 1 / (1 + math.exp(-x)), lambda x: math.exp(-x) / (1 + math.exp(-x)) ** 2),
    "sin": (F.sin, math.sin, math.cos),
    "cos": (F.cos, math.cos, lambda x: -math.sin(x)),
    "abs": (F.abs, abs, lambda x: math.copysign(1, x)),
    "square": (F.square, lambda x: x**2, lambda x: 2 * x),
    "reciprocal": (F.reciprocal, lambda x: 1 / x, lambda x: -1 / x**2),
    "exp2": (F.exp2, lambda x: 2**x, lambda x: math.log(2) * 2**x),
    "log2": (F.log2, math.log2, lambda x: 1 / (math.log(2) * x)),
    "log10": (F.log10, math.log10, lambda x: 1 / (math.log(10) * x)),
    "sinh": (F.sinh, math.sinh, math.cosh),
    "cosh": (F.cosh, math.cosh, math.sinh),
    "silu": (F.silu, lambda x: x / (1 + math.exp(-x)),
             lambda x: (1 + math.exp(-x) + x * math.exp(-x)) / (1 + math.exp(-x)) ** 2),
    "softplus": (F.softplus, lambda x: math.log(1 + math.exp(x)), lambda x: 1 / (1 + math.exp(-x))),
}  # fmt: skip
every_function = pytest.mark.parametrize("name", FUNCTIONS)

SHAPES = [(), (1,), (5,), (2, 3), (2, 1, 3)]


def draw(rng, name, shape):
    """Positive where the function needs it, and away from the corner of relu and abs at 0."""
    magnitudes = rng.uniform(0.1, 2.0, shape)
    positive = name in ("log", "sqrt", "log1p", "log2", "log10")
    return magnitudes if positive else magnitudes * rng.choice([-1.0, 1.0], shape)


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
        if name not in ("silu", "softplus"):  # PyTorch's tensors have no such methods either
            np.testing.assert_array_equal(getattr(x, name)().data, f(x).data)
    np.testing.assert_array_equal(abs(x).data, x.data)
    np.testing.assert_array_equal(x.sign().data, [1, 1])


def test_the_sign_of_a_boolean_is_itself_as_in_torch():
    assert F.sign(Tensor([True, False])).data.tolist() == [True, False]
    assert F.sign(Tensor(np.array([-3, 0]))).data.tolist() == [-1, 0]


STEEP = {
    "sigmoid": (F.sigmoid, {-1000: (0, 0), -100: (math.exp(-100), math.exp(-100)), 0: (0.5, 0.25), 1000: (1, 0)}),
    "softplus": (F.softplus, {-1000: (0, 0), -100: (math.exp(-100), math.exp(-100)), 0: (math.log(2), 0.5),
                              100: (100, 1), 1000: (1000, 1)}),
    "log of sigmoid": (lambda x: -F.softplus(-x), {-1000: (-1000, 1), 0: (-math.log(2), 0.5), 1000: (0, 0)}),
    "silu": (F.silu, {-1000: (0, 0), 0: (0, 0.5), 1000: (1000, 1)}),
    "expm1": (F.expm1, {-1000: (-1, 0), 1e-12: (1e-12, 1)}),
    "log1p": (F.log1p, {1e-12: (1e-12, 1)}),
    "sinh": (F.sinh, {1e-12: (1e-12, 1)}),
    "tanh": (F.tanh, {-1000: (-1, 0), 1000: (1, 0)}),
}  # fmt: skip


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", STEEP)
def test_far_out_and_near_0_values_and_slopes_are_right_and_nothing_overflows(name, dtype):
    f, expected = STEEP[name]
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        out, (gradient,) = value_and_gradients(f, [np.array([*expected], dtype)], np.ones(len(expected), dtype))
    values, slopes = np.array([*expected.values()]).T
    np.testing.assert_allclose(out, values, rtol=4e-6, atol=1e-44)
    np.testing.assert_allclose(gradient, slopes, rtol=4e-6, atol=1e-44)


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, bool])
def test_functions_of_integers_are_float32_and_those_that_stay_whole_are_integers(dtype):
    x = Tensor(np.array([1, 1, 0]).astype(dtype))
    for name, (f, scalar, _) in FUNCTIONS.items():
        if name in ("log", "log2", "log10", "reciprocal"):
            continue  # of 0
        out = f(x)
        assert out.dtype.kind in "iub" if name in ("abs", "square", "relu") else out.dtype == np.float32
        np.testing.assert_allclose(out.data, [scalar(1.0), scalar(1.0), scalar(0.0)], rtol=1e-6)


def test_sign_has_no_gradient_and_abs_has_none_at_0():
    x = Tensor([-2.0, 0.0, 3.0], requires_grad=True)
    assert not F.sign(x).requires_grad and F.sign(x).data.tolist() == [-1, 0, 1]
    assert value_and_gradients(F.abs, [np.array([-2.0, 0.0, 3.0])], np.ones(3))[1][0].tolist() == [-1, 0, 1]


# errors


def test_what_is_no_number_is_refused():
    with pytest.raises(TypeError, match=r"Tensor: dtype must be float32, float64"):
        F.exp("text")

"""GELU: the definition, its gradient, the same from basic operations, and the edges."""

from __future__ import annotations

import math

import numpy as np
import pytest
from differentiation import BOTH_WAYS, assert_close, assert_same, value_and_gradients

import tinygpt.functional as F
from tinygpt import Tensor, gradcheck

# (1) forward is the definition


def test_forward_is_openais_formula():
    x = np.linspace(-6, 6, 25)
    expected = [0.5 * v * (1 + math.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3))) for v in x.tolist()]
    assert_close(F.gelu(Tensor(x)).data, expected)


def test_it_is_the_tanh_form_and_not_the_one_with_the_error_function():
    """The paper gives both. They differ by up to 5e-4, and GPT-2 was trained with this one."""
    x = np.linspace(-6, 6, 1201)
    exact = np.array([v * (1 + math.erf(v / math.sqrt(2))) / 2 for v in x.tolist()])
    gap = np.max(np.abs(F.gelu(Tensor(x)).data - exact))
    assert 4e-4 < gap < 5e-4


# (2) backward agrees with finite differences


@pytest.mark.parametrize("limit", BOTH_WAYS.values(), ids=BOTH_WAYS)
@pytest.mark.parametrize("shape", [(), (1,), (13,), (3, 4), (2, 3, 4)], ids=str)
def test_gradient_agrees_with_finite_differences(rng, shape, limit):
    assert gradcheck(F.gelu, [2 * rng.standard_normal(shape)], elementwise_limit=limit)


# (3) fused equals composed


def test_fused_equals_the_same_from_basic_operations(rng):
    def composed(x):
        return 0.5 * x * (1 + F.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))

    x, dout = 3 * rng.standard_normal((2, 3, 4)), rng.standard_normal((2, 3, 4))
    assert_same(value_and_gradients(F.gelu, [x], dout), value_and_gradients(composed, [x], dout))


# (5) edge cases


def test_at_zero_the_gate_is_half_open():
    """The slope at 0 is Phi(0) = 1/2, not relu's 0 or 1."""
    out, (dx,) = value_and_gradients(F.gelu, [np.array(0.0)])
    assert (out.item(), dx.item()) == (0.0, 0.5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [20.0, 1e5, 1e12])
def test_far_from_zero_the_gate_is_open_or_shut(dtype, size):
    """tanh saturates there: exactly x and 0, slopes exactly 1 and 0, and no NaN from 0 * a large derivative."""
    out, (dx,) = value_and_gradients(F.gelu, [np.array([size, -size], dtype)], np.ones(2, dtype))
    assert out.tolist() == [dtype(size), 0]
    assert dx.tolist() == [1, 0]


def test_the_two_sides_differ_by_x(rng):
    """gelu(x) - gelu(-x) = x, because tanh is odd: neither side is favoured by the way it is computed."""
    x = 3 * rng.standard_normal(50)
    assert_close(F.gelu(Tensor(x)).data - F.gelu(Tensor(-x)).data, x)


def test_nan_and_infinity_are_not_hidden():
    """A model that has diverged must be seen to have."""
    out = F.gelu(Tensor(np.array([np.nan, np.inf]))).data
    assert np.isnan(out[0])
    assert out[1] == np.inf


def test_an_empty_array_passes():
    out, (dx,) = value_and_gradients(F.gelu, [np.zeros((0, 3))], np.zeros((0, 3)))
    assert out.shape == dx.shape == (0, 3)


def test_float32_stays_float32_in_both_directions(rng):
    """The constants are Python numbers, which must not lift the arrays to float64."""
    x, dout = rng.standard_normal((2, 50))
    single = value_and_gradients(F.gelu, [x.astype(np.float32)], dout.astype(np.float32))
    assert single[0].dtype == single[1][0].dtype == np.float32
    assert_same(single, value_and_gradients(F.gelu, [x], dout), tolerance=1e-6)  # about ten roundings of 6e-8


def test_a_view_gives_the_same_as_a_copy_and_is_not_written_into(rng):
    view, dout = rng.standard_normal((4, 6)).T[::2], rng.standard_normal((3, 4))
    copy = view.copy()
    assert_same(value_and_gradients(F.gelu, [view], dout), value_and_gradients(F.gelu, [copy], dout))
    np.testing.assert_array_equal(view, copy)


def test_integers_have_no_gradient_to_give():
    with pytest.raises(TypeError, match="only float32 and float64 can require gradients, got int64"):
        F.gelu(Tensor(np.array([1, 2]), requires_grad=True))

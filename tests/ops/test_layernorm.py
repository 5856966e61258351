"""Layer normalization: the definition, its gradients, the same from basic operations, and the edges."""

from __future__ import annotations

import math

import numpy as np
import pytest
from differentiation import BOTH_WAYS, assert_close, assert_same, value_and_gradients

import tinygpt.functional as F
from tinygpt import Tensor, gradcheck, implementation


@pytest.fixture
def arrays(rng):
    """x (B, T, C), weight (C,) and bias (C,), with C a prime so that no axis is mistaken for another."""
    return rng.standard_normal((2, 3, 7)), rng.standard_normal(7), rng.standard_normal(7)


# (1) forward is the definition


@pytest.mark.parametrize("eps", [1e-5, 0.5])
def test_forward_is_the_formula_of_the_paper(arrays, eps):
    x, weight, bias = arrays
    expected = np.empty_like(x)
    for b, t in np.ndindex(2, 3):
        token = x[b, t].tolist()
        mean = sum(token) / len(token)
        variance = sum((value - mean) ** 2 for value in token) / len(token)
        for c, value in enumerate(token):
            expected[b, t, c] = (value - mean) / math.sqrt(variance + eps) * weight[c] + bias[c]
    assert_close(F.layernorm(Tensor(x), Tensor(weight), Tensor(bias), eps).data, expected)


def test_unit_weight_gives_tokens_of_mean_0_and_variance_1(rng):
    out = F.layernorm(Tensor(5 + 3 * rng.standard_normal((4, 64))), Tensor(np.ones(64)), Tensor(np.zeros(64))).data
    assert_close(out.mean(axis=-1) + 1, np.ones(4))
    assert_close(out.var(axis=-1), np.ones(4), tolerance=1e-5)  # eps / variance = 1e-5 / 9 short of 1


# (2) backward agrees with finite differences


@pytest.mark.parametrize("limit", BOTH_WAYS.values(), ids=BOTH_WAYS)
@pytest.mark.parametrize("shape", [(7,), (3, 7), (2, 3, 7), (4, 1)], ids=str)
def test_gradients_agree_with_finite_differences(rng, shape, limit):
    C = shape[-1]
    inputs = [rng.standard_normal(shape), rng.standard_normal(C), rng.standard_normal(C)]
    assert gradcheck(F.layernorm, inputs, elementwise_limit=limit)


def test_gradients_agree_where_eps_matters(arrays):
    x, weight, bias = arrays
    assert gradcheck(lambda *inputs: F.layernorm(*inputs, eps=0.5), [0.1 * x, weight, bias])


# (3) fused equals composed


def composed(x, weight, bias, eps=1e-5):
    xc = x - x.mean(axis=-1, keepdims=True)
    return xc / F.sqrt((xc * xc).mean(axis=-1, keepdims=True) + eps) * weight + bias


def test_fused_equals_the_same_from_basic_operations(arrays, rng):
    dout = rng.standard_normal((2, 3, 7))
    assert_same(value_and_gradients(F.layernorm, arrays, dout), value_and_gradients(composed, arrays, dout))


# (5) edge cases


def test_a_constant_token_gives_the_bias_and_finite_gradients():
    """Its variance is 0: without eps, 0 / 0."""
    x, weight, bias = np.full((1, 4), 3.0), np.array([1.0, 2.0, 3.0, 4.0]), np.array([0.1, 0.2, 0.3, 0.4])
    out, (dx, dweight, dbias) = value_and_gradients(F.layernorm, [x, weight, bias], np.ones((1, 4)))
    assert_close(out, bias[None])
    assert_close(dx, (weight - weight.mean())[None] / math.sqrt(1e-5))  # rstd = 1 / sqrt(eps), xhat = 0
    assert_close(dweight, np.zeros(4))
    assert_close(dbias, np.ones(4))


def test_a_single_feature_carries_no_information():
    """With C = 1 every token is its own mean: the bias comes out, and nothing flows back to x."""
    out, (dx, _, _) = value_and_gradients(
        F.layernorm, [np.array([[2.0], [-5.0]]), np.array([3.0]), np.array([0.5])], np.ones((2, 1))
    )
    assert_close(out, np.full((2, 1), 0.5))
    assert_close(dx, np.zeros((2, 1)))


@pytest.mark.parametrize("name", ["numpy", "kernels"])  # not "check": their last bits of 10,000 may differ by one
def test_a_large_offset_does_not_drown_the_variance(rng, name):
    """mean(x^2) - mean(x)^2 in float32 would lose all digits of a variance of 1 beside a mean of 10,000."""
    x = (1e4 + rng.standard_normal((5, 64))).astype(np.float32)
    unit, zero = np.ones(64, np.float32), np.zeros(64, np.float32)
    exact = x.astype(np.float64) - x.astype(np.float64).mean(axis=-1, keepdims=True)
    exact /= exact.std(axis=-1, keepdims=True)
    with implementation(name):
        out = F.layernorm(Tensor(x), Tensor(unit), Tensor(zero)).data
    # the mean is rounded to float32 once: half a unit in the last place of 1e4 is 5e-4, and as much for the sum
    assert_close(out, exact, tolerance=1e-3)


def test_no_tokens_give_no_output_and_zero_gradients():
    """An empty batch is a batch: the sums over no tokens are 0."""
    arrays = [np.zeros((0, 3)), np.ones(3), np.ones(3)]
    out, (dx, dweight, dbias) = value_and_gradients(F.layernorm, arrays, np.zeros((0, 3)))
    assert out.shape == dx.shape == (0, 3)
    assert dweight.tolist() == dbias.tolist() == [0, 0, 0]


def test_a_nan_stays_in_its_own_token(arrays):
    """Tokens are normalized separately: one that went wrong must not take its neighbours along."""
    x, weight, bias = arrays
    x[0, 1, 2] = np.nan
    spoilt = np.isnan(F.layernorm(Tensor(x), Tensor(weight), Tensor(bias)).data).any(axis=-1)
    assert spoilt.tolist() == [[False, True, False], [False, False, False]]


def test_float32_stays_float32_in_both_directions(arrays, rng):
    """A stray float64 constant would double the memory and halve the speed of a training step."""
    single = [array.astype(np.float32) for array in arrays]
    dout = rng.standard_normal((2, 3, 7))
    out, gradients = value_and_gradients(F.layernorm, single, dout.astype(np.float32))
    assert {out.dtype, *(gradient.dtype for gradient in gradients)} == {np.dtype(np.float32)}
    exact = value_and_gradients(F.layernorm, arrays, dout)
    assert_same((out, gradients), exact, tolerance=1e-5)  # 6e-8 a step, some ten steps, and cancellation in dx


def test_views_give_the_same_as_copies_and_are_not_written_into(arrays, rng):
    """Transposed and strided arrays come from the layers around."""
    x, weight, bias = arrays
    dout = rng.standard_normal((3, 2, 4))
    views = [x.swapaxes(0, 1)[..., ::2], weight[::2], bias[::2]]
    copies = [view.copy() for view in views]
    assert_same(value_and_gradients(F.layernorm, views, dout), value_and_gradients(F.layernorm, copies, dout))
    for view, copy in zip(views, copies, strict=True):
        np.testing.assert_array_equal(view, copy)


@pytest.mark.parametrize(
    ("x_shape", "weight_shape", "bias_shape", "eps", "message"),
    [
        ((4, 2, 3), (2,), (3,), 1e-5, r"layernorm: weight must have shape \(C,\) = \(3,\) to match x \(4, 2, 3\), got"),
        ((2, 3), (3,), (1, 3), 1e-5, r"layernorm: bias must have shape \(C,\) = \(3,\) .* got \(1, 3\)"),
        ((), (1,), (1,), 1e-5, r"layernorm: x must have shape \(\.\.\., C\) with C >= 1, got \(\)"),
        ((2, 0), (0,), (0,), 1e-5, r"layernorm: x must have shape .* got \(2, 0\)"),
        ((2, 3), (3,), (3,), 0.0, r"layernorm: eps must be positive, got 0\.0"),
        ((2, 3), (3,), (3,), math.nan, r"layernorm: eps must be positive, got nan"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_named(x_shape, weight_shape, bias_shape, eps, message):
    with pytest.raises(ValueError, match=message):
        F.layernorm(Tensor(np.ones(x_shape)), Tensor(np.ones(weight_shape)), Tensor(np.ones(bias_shape)), eps)


def test_an_eps_that_is_no_number_is_named():
    with pytest.raises(TypeError, match="layernorm: eps must be a number, got str"):
        F.layernorm(Tensor(np.ones((2, 3))), Tensor(np.ones(3)), Tensor(np.ones(3)), "1e-5")

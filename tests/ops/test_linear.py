"""Linear: the definition, its gradients, the same from basic operations, and the edges."""

from __future__ import annotations

import numpy as np
import pytest
from differentiation import BOTH_WAYS, assert_close, assert_same, value_and_gradients

import tinygpt.functional as F
from tinygpt import Tensor, gradcheck


@pytest.fixture
def arrays(rng):
    """x (B, T, I), weight (I, O) and bias (O,)."""
    return rng.standard_normal((2, 3, 5)), rng.standard_normal((5, 4)), rng.standard_normal(4)


# (1) forward is the definition


def test_forward_is_a_weighted_sum_of_the_features_plus_a_bias(arrays):
    x, weight, bias = arrays
    expected = np.empty((2, 3, 4))
    for b, t, o in np.ndindex(2, 3, 4):
        expected[b, t, o] = sum(x[b, t, i] * weight[i, o] for i in range(5)) + bias[o]
    assert_close(F.linear(*map(Tensor, arrays)).data, expected)


def test_weights_are_laid_out_as_gpt2_stores_them():
    """(in, out): row i holds what feature i contributes, so a checkpoint loads as a copy."""
    weight = np.array([[1.0, 2.0, 3.0], [10.0, 20.0, 30.0]])
    out = F.linear(Tensor(np.array([0.0, 1.0])), Tensor(weight), Tensor(np.zeros(3))).data
    assert out.tolist() == [10.0, 20.0, 30.0]


# (2) backward agrees with finite differences


@pytest.mark.parametrize("limit", BOTH_WAYS.values(), ids=BOTH_WAYS)
@pytest.mark.parametrize("shape", [(5,), (3, 5), (5, 5), (2, 3, 5), (2, 1, 3, 5)], ids=str)
def test_gradients_agree_with_finite_differences(arrays, rng, shape, limit):
    _, weight, bias = arrays
    assert gradcheck(F.linear, [rng.standard_normal(shape), weight, bias], elementwise_limit=limit)


def test_gradients_agree_for_a_square_weight(rng):
    """Where all sizes are equal, shapes cannot tell a matrix from its transpose: only the values can."""
    assert gradcheck(F.linear, [rng.standard_normal((4, 4)), rng.standard_normal((4, 4)), rng.standard_normal(4)])


# (3) fused equals composed


@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 3, 5), (2, 1, 3, 5)], ids=str)
def test_fused_equals_matmul_and_add(arrays, rng, shape):
    _, weight, bias = arrays
    inputs = [rng.standard_normal(shape), weight, bias]
    dout = rng.standard_normal((*shape[:-1], 4))
    composed = value_and_gradients(lambda x, weight, bias: F.matmul(x, weight) + bias, inputs, dout)
    assert_same(value_and_gradients(F.linear, inputs, dout), composed)


# (5) edge cases


def test_one_token_without_a_batch_is_a_vector():
    """x (I,) has no leading axis to sum over: dweight is an outer product and dbias is dout."""
    x, dout = np.array([2.0, 3.0]), np.array([1.0, 10.0, 100.0])
    _, (_, dweight, dbias) = value_and_gradients(F.linear, [x, np.ones((2, 3)), np.zeros(3)], dout)
    assert dweight.tolist() == [[2.0, 20.0, 200.0], [3.0, 30.0, 300.0]]
    assert dbias.tolist() == dout.tolist()


def test_sizes_of_one_are_not_broadcast():
    """I = O = 1 is a number times a number for every token, and its gradients are sums over the tokens."""
    out, (dx, dweight, dbias) = value_and_gradients(
        F.linear, [np.array([[2.0], [3.0]]), np.array([[5.0]]), np.array([7.0])], np.array([[1.0], [10.0]])
    )
    assert out.tolist() == [[17.0], [22.0]]
    assert dx.tolist() == [[5.0], [50.0]]
    assert (dweight.tolist(), dbias.tolist()) == ([[32.0]], [11.0])


def test_no_tokens_give_no_output_and_zero_gradients():
    """An empty batch is a batch: the sums over no tokens are 0."""
    out, (dx, dweight, dbias) = value_and_gradients(
        F.linear, [np.zeros((0, 2)), np.ones((2, 3)), np.ones(3)], np.zeros((0, 3))
    )
    assert (out.shape, dx.shape) == ((0, 3), (0, 2))
    assert not dweight.any()
    assert not dbias.any()


def test_float32_stays_float32_in_both_directions(arrays, rng):
    """A stray float64 would double the memory and halve the speed of a training step."""
    dout = rng.standard_normal((2, 3, 4))
    single = value_and_gradients(F.linear, [a.astype(np.float32) for a in arrays], dout.astype(np.float32))
    assert {single[0].dtype, *(gradient.dtype for gradient in single[1])} == {np.dtype(np.float32)}
    assert_same(single, value_and_gradients(F.linear, arrays, dout), tolerance=1e-6)  # sums of at most 7 products


def test_views_give_the_same_as_copies_and_are_not_written_into(rng):
    """A tied head multiplies by a transposed table, and heads come as strided views."""
    views = [rng.standard_normal((6, 2, 3)).T[:, :, ::2], rng.standard_normal((4, 3)).T, rng.standard_normal(8)[::2]]
    copies = [view.copy() for view in views]
    dout = rng.standard_normal((3, 2, 4))
    assert_same(value_and_gradients(F.linear, views, dout), value_and_gradients(F.linear, copies, dout))
    for view, copy in zip(views, copies, strict=True):
        np.testing.assert_array_equal(view, copy)


@pytest.mark.parametrize(
    ("x_shape", "weight_shape", "bias_shape", "message"),
    [
        (
            (2, 3),
            (4, 5),
            (5,),
            r"linear: x must have shape \(\.\.\., I\) = .*, got \(2, 3\); weight \(4, 5\) takes 4 features$",
        ),
        ((), (4, 5), (5,), r"linear: x must have shape \(\.\.\., I\) = \(\.\.\., 4\), got \(\)"),
        ((2, 3), (3, 5), (1,), r"linear: bias must have shape \(O,\) = \(5,\), got \(1,\)"),
        ((2, 3), (3, 5), (2, 5), r"linear: bias must have shape \(O,\) = \(5,\), got \(2, 5\)"),
        ((2, 3), (3,), (3,), r"linear: weight must have shape \(I, O\) with I, O >= 1, got \(3,\)"),
        ((2, 3), (2, 3, 5), (5,), r"linear: weight must have shape \(I, O\) .* got \(2, 3, 5\)"),
        ((2, 0), (0, 5), (5,), r"linear: weight must have shape \(I, O\) with I, O >= 1, got \(0, 5\)"),
    ],
)
def test_wrong_shapes_are_named(x_shape, weight_shape, bias_shape, message):
    with pytest.raises(ValueError, match=message):
        F.linear(Tensor(np.ones(x_shape)), Tensor(np.ones(weight_shape)), Tensor(np.ones(bias_shape)))


def test_mixed_precisions_meet_in_the_larger_and_each_gradient_in_its_own():
    x = Tensor(np.ones((2, 3), np.float32), requires_grad=True)
    weight, bias = (Tensor(np.ones(shape), requires_grad=True) for shape in ((3, 4), 4))
    out = F.linear(x, weight, bias)
    out.backward(np.ones((2, 4)))
    assert (out.dtype, x.grad.dtype, weight.grad.dtype) == (np.float64, np.float32, np.float64)
    np.testing.assert_array_equal(x.grad, np.full((2, 3), 4.0))

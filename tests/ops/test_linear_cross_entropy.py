"""The head with its loss: the definition, its gradients, the same from two ops, the edges."""

from __future__ import annotations

import math

import numpy as np
import pytest
from differentiation import BOTH_WAYS, assert_close, assert_same, value_and_gradients

import tinygpt.functional as F
from tinygpt import Tensor, gradcheck

# name: (N, C, V), targets, ignore_index
CASES = {
    "rows": ((4, 3, 5), np.array([0, 4, 2, 2]), -100),
    "square": ((4, 4, 4), np.array([3, 0, 1, 1]), -100),
    "some ignored": ((4, 3, 5), np.array([-100, 4, -100, 2]), -100),
    "a token of the vocabulary ignored": ((4, 2, 5), np.array([2, 4, 2, 0]), 2),
    "one row": ((1, 3, 5), np.array([0]), -100),
}
every_case = pytest.mark.parametrize(("sizes", "targets", "ignore_index"), CASES.values(), ids=CASES)


def inputs(rng, sizes):
    N, C, V = sizes
    return [rng.standard_normal((N, C)), rng.standard_normal((V, C))]


def loss_of(targets, ignore_index=-100):
    return lambda x, weight: F.linear_cross_entropy(x, weight, targets, ignore_index)


# (1) forward is the definition


@every_case
def test_forward_is_the_mean_surprise_of_the_scores(rng, sizes, targets, ignore_index):
    x, weight = inputs(rng, sizes)
    surprises = []
    for row, target in zip(x.tolist(), targets.tolist(), strict=True):
        if target != ignore_index:
            scores = [sum(a * b for a, b in zip(row, token, strict=True)) for token in weight.tolist()]
            surprises.append(math.log(sum(math.exp(score) for score in scores)) - scores[target])
    assert_close(loss_of(targets, ignore_index)(Tensor(x), Tensor(weight)).data, sum(surprises) / len(surprises))


# (2) backward agrees with finite differences


@pytest.mark.parametrize("limit", BOTH_WAYS.values(), ids=BOTH_WAYS)
@every_case
def test_gradients_agree_with_finite_differences(rng, sizes, targets, ignore_index, limit):
    assert gradcheck(loss_of(targets, ignore_index), inputs(rng, sizes), elementwise_limit=limit)


# (3) fused equals composed


@every_case
def test_fused_equals_a_product_and_cross_entropy(rng, sizes, targets, ignore_index):
    def composed(x, weight):
        return F.cross_entropy(F.matmul(x, weight.T), targets, ignore_index)

    arrays, dloss = inputs(rng, sizes), np.array(0.7)
    fused = value_and_gradients(loss_of(targets, ignore_index), arrays, dloss)
    assert_same(fused, value_and_gradients(composed, arrays, dloss))


# (5) edge cases, then errors


def test_leading_axes_are_one_long_batch(rng):
    x, weight = rng.standard_normal((2, 3, 4)), rng.standard_normal((5, 4))
    targets = np.array([[0, 1, 2], [3, 4, 0]])
    whole = F.linear_cross_entropy(Tensor(x), Tensor(weight), targets)
    assert_close(whole.data, F.linear_cross_entropy(Tensor(x.reshape(6, 4)), Tensor(weight), targets.reshape(6)).item())


@pytest.mark.parametrize(
    ("x", "weight", "targets", "message"),
    [
        ((2, 3), (5, 4), [0, 1], r"linear_cross_entropy: x must have shape \(..., C\) = \(..., 4\), got \(2, 3\)"),
        ((2, 3), (3,), [0, 1], r"linear_cross_entropy: weight must have shape \(V, C\)"),
        ((2, 3), (5, 3), [0], r"linear_cross_entropy: targets must have shape \(2,\)"),
        ((2, 3), (5, 3), [0, 5], "linear_cross_entropy: targets must be from 0 to 4, got 5"),
        ((2, 3), (5, 3), [-100, -100], "linear_cross_entropy: no target counts"),
    ],
)
def test_what_does_not_fit_is_refused(x, weight, targets, message):
    with pytest.raises(ValueError, match=message):
        F.linear_cross_entropy(Tensor(np.ones(x)), Tensor(np.ones(weight)), targets)


def test_targets_are_integers():
    with pytest.raises(TypeError, match="linear_cross_entropy: targets must be integers"):
        F.linear_cross_entropy(Tensor(np.ones((1, 2))), Tensor(np.ones((3, 2))), [0.5])

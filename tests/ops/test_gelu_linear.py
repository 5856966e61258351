"""GELU with the linear layer after it: the definition, its gradients, the same from two ops, the edges."""

from __future__ import annotations

import math

import numpy as np
import pytest
from differentiation import BOTH_WAYS, assert_close, assert_same, value_and_gradients

import tinygpt.functional as F
from tinygpt import Tensor, gradcheck

SHAPES = [((3,), 2), ((4, 3), 2), ((2, 3, 4), 4), ((1, 1), 1)]
every_shape = pytest.mark.parametrize(("shape", "outputs"), SHAPES, ids=str)


def inputs(rng, shape, outputs):
    return [rng.standard_normal(s) for s in (shape, (shape[-1], outputs), (outputs,))]


# (1) forward is the definition


def test_forward_is_the_sum_over_gated_features(rng):
    x, weight, bias = inputs(rng, (2, 3), 2)
    expected = [
        [
            bias[o] + sum(
                0.5 * v * (1 + math.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3))) * weight[i][o]
                for i, v in enumerate(row)
            )
            for o in range(2)
        ]
        for row in x.tolist()
    ]  # fmt: skip
    assert_close(F.gelu_linear(Tensor(x), Tensor(weight), Tensor(bias)).data, expected)


# (2) backward agrees with finite differences


@pytest.mark.parametrize("limit", BOTH_WAYS.values(), ids=BOTH_WAYS)
@every_shape
def test_gradients_agree_with_finite_differences(rng, shape, outputs, limit):
    assert gradcheck(F.gelu_linear, inputs(rng, shape, outputs), elementwise_limit=limit)


# (3) fused equals composed


@every_shape
def test_fused_equals_two_ops(rng, shape, outputs):
    arrays = inputs(rng, shape, outputs)
    dout = rng.standard_normal((*shape[:-1], outputs))
    fused = value_and_gradients(F.gelu_linear, arrays, dout)
    assert_same(fused, value_and_gradients(lambda x, weight, bias: F.linear(F.gelu(x), weight, bias), arrays, dout))


# (5) edge cases, then errors


def test_nothing_but_x_and_the_weight_is_kept(rng):
    tensors = [Tensor(array, requires_grad=True) for array in inputs(rng, (5, 4), 3)]
    saved = F.gelu_linear(*tensors).node.saved
    assert [array.shape for array in saved] == [(5, 4), (4, 3)]


@pytest.mark.parametrize(
    ("x", "weight", "bias", "message"),
    [
        ((2, 3), (4, 5), (5,), r"gelu_linear: x must have shape \(..., I\) = \(..., 4\), got \(2, 3\)"),
        ((2, 3), (3,), (3,), r"gelu_linear: weight must have shape \(I, O\)"),
        ((2, 3), (3, 5), (4,), r"gelu_linear: bias must have shape \(O,\) = \(5,\), got \(4,\)"),
    ],
)
def test_what_does_not_fit_is_refused(x, weight, bias, message):
    with pytest.raises(ValueError, match=message):
        F.gelu_linear(*(Tensor(np.ones(shape)) for shape in (x, weight, bias)))

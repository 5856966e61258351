"""The clip of the gradient norm and the learning rate's schedule: literal values, and PyTorch."""

from __future__ import annotations

import math

import numpy as np
import pytest
from differentiation import assert_close

from tinygpt import Tensor, clip_grad_norm, cosine_schedule


def parameters_with(*gradients) -> list[Tensor]:
    parameters = [Tensor(np.zeros_like(gradient), requires_grad=True) for gradient in gradients]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = np.array(gradient)
    return parameters


@pytest.mark.parametrize("max_norm", [1e-3, 1.0, 1e9, math.inf])
def test_the_clip_equals_pytorchs(max_norm, rng):
    torch = pytest.importorskip("torch")
    gradients = [100 * rng.standard_normal(shape) for shape in [(3, 4), (4,), (2, 3, 2), (), (1, 5)]]
    ours = [*parameters_with(*gradients), Tensor([5.0], requires_grad=True)]  # the last one has no gradient
    theirs = [torch.zeros(np.shape(gradient), dtype=torch.float64) for gradient in gradients]
    for their, gradient in zip(theirs, gradients, strict=True):
        their.grad = torch.tensor(gradient)
    arrays = [parameter.grad for parameter in ours]
    norm = clip_grad_norm(iter(ours), max_norm)
    assert norm == pytest.approx(torch.nn.utils.clip_grad_norm_(theirs, max_norm).item(), rel=1e-12)
    for our, array, their in zip(ours, arrays, theirs, strict=False):
        assert our.grad is array  # in place: the flat array has them all
        assert_close(our.grad, their.grad.numpy(), 1e-8)  # PyTorch adds 1e-6 to a norm of about 500


def test_the_clip_brings_the_common_norm_to_the_limit_and_keeps_the_direction():
    a, b = parameters_with(np.array([[3.0, 0.0]]), np.array([4.0]))
    assert clip_grad_norm([a, b], 2.0) == 5.0
    np.testing.assert_allclose([*a.grad.ravel(), *b.grad], [1.2, 0, 1.6], rtol=1e-14)
    assert clip_grad_norm([a, b], 2.5) == pytest.approx(2.0, rel=1e-14)  # below the limit nothing grows
    np.testing.assert_allclose([*a.grad.ravel(), *b.grad], [1.2, 0, 1.6], rtol=1e-14)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_gradient_that_is_not_finite_is_reported_and_nothing_is_scaled(bad):
    a, b = parameters_with(np.array([3.0, 4.0]), np.array([bad, 1.0]))
    assert not math.isfinite(clip_grad_norm([a, b], 1.0))
    np.testing.assert_array_equal([*a.grad, *b.grad], [3, 4, bad, 1])


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_the_norm_of_float32_gradients_neither_overflows_nor_vanishes(scale):
    (w,) = parameters_with(np.array([3.0, 4.0], np.float32) * np.float32(scale))
    assert clip_grad_norm([w], math.inf) == pytest.approx(5 * scale, rel=1e-6, abs=0)


def test_the_clip_without_gradients_and_with_an_impossible_limit():
    assert clip_grad_norm([Tensor([1.0], requires_grad=True)], 1.0) == clip_grad_norm([], 1.0) == 0.0
    for wrong in (0, -1.0, math.nan):
        with pytest.raises(ValueError, match=f"clip_grad_norm: max_norm must be positive, got {wrong}"):
            clip_grad_norm([], wrong)


# the schedule


@pytest.mark.parametrize(
    ("step", "rate"),
    [
        (0, 0.2),  # warm-up of 4: steps 0 to 3 rise by fifths, so that no step is lost on a rate of 0
        (1, 0.4),
        (3, 0.8),
        (4, 1.0),
        (6, 0.1 + 0.9 * 0.853553390593274),  # a quarter of the way: (1 + cos 45 degrees) / 2
        (8, 0.1 + 0.9 * 0.5),
        (10, 0.1 + 0.9 * 0.146446609406726),
        (12, 0.1),
        (13, 0.1),
        (10**6, 0.1),
    ],
)
def test_the_schedule_rises_in_a_line_and_falls_as_half_a_cosine(step, rate):
    assert cosine_schedule(step, lr=1.0, min_lr=0.1, warmup=4, steps=12) == pytest.approx(rate, rel=1e-14)
    assert cosine_schedule(step, lr=3e-4, min_lr=3e-5, warmup=4, steps=12) == pytest.approx(
        3e-4 * rate, rel=1e-14, abs=0
    )


@pytest.mark.parametrize(("warmup", "steps"), [(0, 1), (0, 5), (5, 5), (9, 5), (1, 2)])
def test_the_schedule_stays_between_nothing_and_lr_at_the_edges(warmup, steps):
    rates = [cosine_schedule(step, lr=0.5, min_lr=0.1, warmup=warmup, steps=steps) for step in range(12)]
    assert rates[warmup] == max(rates) == 0.5
    assert min(rates) > 0 and rates[-1] in (0.1, 0.5)
    assert rates[:warmup] == sorted(rates[:warmup]) and rates[warmup:] == sorted(rates[warmup:], reverse=True)

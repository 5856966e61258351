"""The kernel of AdamW: algorithm 2 of Loshchilov & Hutter, in float64, is what it is held to."""

from __future__ import annotations

import math

import numpy as np
import pytest
from kernel_checks import using_threads

from tinygpt.kernels import adamw

OPTIONS = {"lr": 1e-2, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}


def exact(theta, g, m, v, step, lr, betas, eps, weight_decay, scale):
    """Number by number."""
    results = []
    for t, g_, m_, v_ in zip(theta.tolist(), (g * scale).tolist(), m.tolist(), v.tolist(), strict=True):
        m_ = betas[0] * m_ + (1 - betas[0]) * g_
        v_ = betas[1] * v_ + (1 - betas[1]) * g_ * g_
        m_hat, v_hat = m_ / (1 - betas[0] ** step), v_ / (1 - betas[1] ** step)
        results.append((t - lr * weight_decay * t - lr * m_hat / (math.sqrt(v_hat) + eps), m_, v_))
    return np.array(results).T


@pytest.mark.parametrize("size", [1, 17, 40_001])
@pytest.mark.parametrize(("step", "scale"), [(1, 1.0), (1000, 0.25)])
def test_one_step_is_the_formula(rng, size, step, scale):
    theta, gradient, m = rng.standard_normal((3, size), np.float32)
    v = np.square(rng.standard_normal(size, np.float32))
    expected = exact(*(a.astype(np.float64) for a in (theta, gradient, m, v)), step, scale=scale, **OPTIONS)
    before = gradient.copy()
    results = []
    for count in (1, 2):
        arrays = [theta.copy(), gradient, m.copy(), v.copy()]
        with using_threads(count):
            adamw.update(*arrays, step, scale=scale, **OPTIONS)
        results.append([arrays[0], *arrays[2:]])
    np.testing.assert_array_equal(*results)
    np.testing.assert_allclose(results[0], expected, rtol=0, atol=3e-6)
    np.testing.assert_array_equal(gradient, before)


def test_the_first_step_has_the_size_of_the_learning_rate():
    """Whatever the gradient's scale: its moments are its own size after the correction."""
    arrays = [np.zeros(3, np.float32), np.array([1e-3, -7, 1e4], np.float32), *np.zeros((2, 3), np.float32)]
    adamw.update(*arrays, 1, **OPTIONS)
    np.testing.assert_allclose(arrays[0], [-0.01, 0.01, -0.01], rtol=1e-4)


def test_a_nan_gradient_is_seen_where_it_is():
    arrays = [np.ones(40, np.float32), np.ones(40, np.float32), *np.zeros((2, 40), np.float32)]
    arrays[1][7] = np.nan
    adamw.update(*arrays, 1, **OPTIONS)
    np.testing.assert_array_equal(np.flatnonzero(np.isnan(arrays[0])), [7])

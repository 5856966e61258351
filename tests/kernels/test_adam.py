"""The kernel of Adam: algorithm 1 of Kingma & Ba with an L2 term in the gradient, in float64, is what it is held to."""

from __future__ import annotations

import numpy as np
import pytest
from kernel_checks import using_threads

from tinygpt.kernels import adam

OPTIONS = {"lr": 1e-2, "betas": (0.9, 0.95), "eps": 1e-8}


def exact(theta, g, m, v, step, lr, betas, eps, weight_decay, scale):
    g = scale * g + weight_decay * theta
    m = betas[0] * m + (1 - betas[0]) * g
    v = betas[1] * v + (1 - betas[1]) * g**2
    m_hat, v_hat = m / (1 - betas[0] ** step), v / (1 - betas[1] ** step)
    return theta - lr * m_hat / (np.sqrt(v_hat) + eps), m, v


@pytest.mark.parametrize("size", [1, 17, 40_001])
@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
@pytest.mark.parametrize(("step", "scale"), [(1, 1.0), (1000, 0.25)])
def test_one_step_is_the_formula(rng, size, weight_decay, step, scale):
    theta, gradient, m = rng.standard_normal((3, size), np.float32)
    v = np.square(rng.standard_normal(size, np.float32))
    options = OPTIONS | {"weight_decay": weight_decay, "scale": scale}
    expected = exact(*(a.astype(np.float64) for a in (theta, gradient, m, v)), step, **options)
    before, results = gradient.copy(), []
    for count in (1, 2):
        arrays = [theta.copy(), gradient, m.copy(), v.copy()]
        with using_threads(count):
            adam.update(*arrays, step, **options)
        results.append([arrays[0], *arrays[2:]])
    np.testing.assert_array_equal(*results)
    np.testing.assert_allclose(results[0], expected, rtol=0, atol=3e-6)
    np.testing.assert_array_equal(gradient, before)

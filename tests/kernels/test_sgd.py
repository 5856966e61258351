"""The kernel of SGD, held to its formula in float64."""

from __future__ import annotations

import numpy as np
import pytest
from kernel_checks import using_threads

from tinygpt.kernels import sgd

OPTIONS = [
    {"momentum": 0.0, "dampening": 0.0, "weight_decay": 0.1, "nesterov": False},
    {"momentum": 0.9, "dampening": 0.3, "weight_decay": 0.0, "nesterov": False},
    {"momentum": 0.9, "dampening": 0.0, "weight_decay": 0.1, "nesterov": True},
]


def exact(parameter, gradient, buffer, lr, momentum, dampening, weight_decay, nesterov, scale):
    gradient = scale * gradient + weight_decay * parameter
    buffer = momentum * buffer + (1 - dampening) * gradient
    ahead = gradient + momentum * buffer
    direction = ahead if nesterov else buffer if momentum else gradient
    return parameter - lr * direction, buffer


@pytest.mark.parametrize("size", [1, 17, 40_001])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_one_step_is_the_formula(rng, size, options):
    parameter, gradient, buffer = rng.standard_normal((3, size), np.float32)
    expected = exact(*(a.astype(np.float64) for a in (parameter, gradient, buffer)), lr=0.1, scale=0.25, **options)
    before, results = gradient.copy(), []
    for count in (1, 2):
        arrays = [parameter.copy(), gradient, buffer.copy()]
        with using_threads(count):
            sgd.update(*arrays, lr=0.1, scale=0.25, **options)
        results.append(arrays[::2])
    np.testing.assert_array_equal(*results)
    np.testing.assert_allclose(results[0][0], expected[0], rtol=0, atol=2e-6)
    np.testing.assert_allclose(results[0][1], expected[1] if options["momentum"] else buffer, rtol=0, atol=2e-6)
    np.testing.assert_array_equal(gradient, before)


def test_without_momentum_the_buffer_is_not_looked_at():
    parameter, gradient = np.ones(3, np.float32), np.ones(3, np.float32)
    sgd.update(parameter, gradient, gradient, 0.5, 0.0, 0.0, 0.0, False)
    np.testing.assert_array_equal([parameter, gradient], [[0.5] * 3, [1] * 3])

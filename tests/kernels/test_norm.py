"""The norm of the gradients and their scaling."""

from __future__ import annotations

import numpy as np
import pytest
from kernel_checks import using_threads

from tinygpt.kernels.norm import squares, update


@pytest.mark.parametrize("size", [0, 1, 17, 2**14, 100_003])
def test_the_sum_of_squares_is_exact_to_float64(rng, size):
    array = rng.standard_normal(size, np.float32) * np.float32(1e-3)
    results = []
    for count in (1, 2):
        with using_threads(count):
            results.append(squares(array))
    assert results[0] == results[1]
    assert results[0] == pytest.approx(float(np.sum(array.astype(np.longdouble) ** 2)), rel=1e-14)


@pytest.mark.parametrize(("value", "expected"), [(np.nan, np.nan), (np.inf, np.inf), (1e30, 1e60)])
def test_what_float32_could_not_square_is_seen(value, expected):
    array = np.zeros(50_000, np.float32)
    array[40_000] = value
    np.testing.assert_allclose(squares(array), expected, rtol=1e-6)


def test_scaling_multiplies_every_number(rng):
    array = rng.standard_normal(50_001, np.float32)
    expected = array * np.float32(0.3)
    update(array, 0.3)
    np.testing.assert_array_equal(array, expected)

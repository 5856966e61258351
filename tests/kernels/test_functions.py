"""The exponential function of the kernels, in units in the last place of the exact result."""

from __future__ import annotations

import numba
import numpy as np
import pytest

from tinygpt.kernels.simd.math import dot, exp, exp_of_negative, maximum, squared_deviations, total


@numba.njit
def exp_of(x, out):
    for i in range(len(x)):
        out[i] = exp(x[i])


@numba.njit
def exp_of_negative_of(x, out):
    for i in range(len(x)):
        out[i] = exp_of_negative(x[i])


@numba.njit
def largest_of(x):
    largest = x[0]
    for i in range(1, len(x)):
        largest = maximum(largest, x[i])
    return largest


@numba.njit
def sums_of(x, y):
    return total(x), dot(x, y)


@numba.njit
def variation_of(x, mean):
    return squared_deviations(x, mean)


def run(values, function=exp_of) -> np.ndarray:
    x = np.asarray(values, np.float32)
    out = np.empty_like(x)
    function(x, out)
    return out


def test_each_result_is_within_one_unit_of_the_exact_one(rng):
    x = np.concatenate([rng.uniform(-87.3, 88.7, 300_000), rng.standard_normal(300_000)]).astype(np.float32)
    exact = np.exp(x.astype(np.float64))
    units = np.abs(run(x) - exact) / np.spacing(exact.astype(np.float32))
    assert units.max() < 1.0


def test_results_that_float32_holds_with_fewer_bits_are_within_one_of_the_last(rng):
    x = rng.uniform(-104, -87.3, 100_000).astype(np.float32)
    assert np.abs(run(x) - np.exp(x.astype(np.float64))).max() <= 2.0**-149


@pytest.mark.parametrize(
    ("x", "expected"),
    [(0.0, 1.0), (-0.0, 1.0), (np.inf, np.inf), (-np.inf, 0.0), (np.nan, np.nan), (88.73, np.inf), (1e30, np.inf),
     (-1e30, 0.0), (-110.0, 0.0)],
)  # fmt: skip
def test_the_ends_of_the_line(x, expected):
    for length in (1, 40):  # alone, and among others in the processor's lanes
        np.testing.assert_array_equal(run([x] * length), np.full(length, expected, np.float32))


def test_of_negative_numbers_each_result_is_that_of_exp_or_0_below_what_float32_holds_whole(rng):
    x = np.concatenate([rng.uniform(-87.3, 0, 300_000), rng.standard_normal(1000) * 1e-3]).astype(np.float32)
    np.testing.assert_array_equal(run(x, exp_of_negative_of), run(x))
    assert not run(rng.uniform(-1000, -87.34, 1000), exp_of_negative_of).any()
    for length in (1, 40):
        edges = run([-np.inf] * length + [np.nan] * length + [0.0] * length, exp_of_negative_of)
        np.testing.assert_array_equal(edges, [0] * length + [np.nan] * length + [1] * length)


def test_a_larger_x_never_gives_a_much_smaller_result():
    x = np.linspace(-20, 20, 400_001, dtype=np.float32)
    y = run(x)
    assert (np.diff(y) >= -np.spacing(y[1:])).all()


@pytest.mark.parametrize("length", [1, 2, 15, 16, 17, 100])
def test_the_largest_is_found_wherever_it_stands_and_nan_is_seen(length):
    for place in range(length):
        x = np.linspace(-5, -1, length, dtype=np.float32)
        x[place] = 3
        assert largest_of(x) == 3
        x[place] = np.nan
        assert np.isnan(largest_of(x))


@pytest.mark.parametrize("length", [0, 1, 15, 16, 63, 64, 65, 200, 10_001])
def test_sums_are_those_of_all_numbers(rng, length):
    x, y = rng.standard_normal((2, length), np.float32)
    whole, product = sums_of(x, y)
    np.testing.assert_allclose(whole, x.astype(np.float64).sum(), atol=1e-6 * max(length, 1))
    np.testing.assert_allclose(product, x.astype(np.float64) @ y, atol=1e-6 * max(length, 1))


@pytest.mark.parametrize("length", [0, 1, 15, 16, 63, 64, 65, 200, 10_001])
def test_deviations_are_those_from_the_mean_that_is_given(rng, length):
    x = rng.standard_normal(length, np.float32) + np.float32(100)
    found = variation_of(x, np.float32(99.5))
    np.testing.assert_allclose(found, np.square(x.astype(np.float64) - 99.5).sum(), rtol=1e-5)


def test_every_number_is_in_a_sum_once():
    for length in range(1, 150):
        x = np.zeros(length, np.float32)
        x[-1] = 1
        assert sums_of(x, x) == (1, 1)
        x[0] += 2
        assert sums_of(x, np.ones_like(x)) == (3, 3)
        assert variation_of(np.ones_like(x), np.float32(-1)) == 4 * length

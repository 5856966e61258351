"""The softmax of kernels that see a few rows at a time, against NumPy's of all of them."""

from __future__ import annotations

import numba
import numpy as np
import pytest

from tinygpt.kernels.simd.cpu import LANES
from tinygpt.kernels.simd.softmax import softmax_of_lanes

COLUMNS = 3 * LANES


@numba.njit
def softmax_of(block, rows, columns, scale, largest, sums, factors):
    for column in range(0, columns, LANES):
        softmax_of_lanes(block, column, rows, columns, scale, largest, sums, factors)


def online_softmax(scores: np.ndarray, parts: list[int], scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Softmax down the columns, so many rows at a time; and the sums that it was divided by."""
    largest, sums = np.full(COLUMNS, -np.inf, np.float32), np.zeros(COLUMNS, np.float32)
    factors, done = np.empty(COLUMNS, np.float32), np.empty((0, COLUMNS), np.float32)
    for start, rows in zip(np.cumsum([0, *parts[:-1]]), parts, strict=True):
        block = scores[start : start + rows].copy()
        softmax_of(block.reshape(-1), rows, COLUMNS, np.float32(scale), largest, sums, factors)
        done = np.concatenate([done * factors if start else done, block])
    return done / sums, largest * np.float32(scale) + np.log(sums)


@pytest.mark.parametrize("parts", [[1], [7], [64], [1, 1, 1], [5, 64, 3], [48, 48, 48, 2]])
def test_however_many_rows_come_at_a_time_it_is_softmax(rng, parts):
    scores = 5 * rng.standard_normal((sum(parts), COLUMNS), np.float32)
    exact = np.exp(scores.astype(np.float64) * 0.3)
    weights, logs = online_softmax(scores, parts, 0.3)
    np.testing.assert_allclose(weights, exact / exact.sum(axis=0), rtol=2e-6)
    np.testing.assert_allclose(logs, np.log(exact.sum(axis=0)), atol=2e-6)


def test_scores_that_would_overflow_choose_the_largest_wherever_it_comes(rng):
    scores = 1e6 * rng.standard_normal((20, COLUMNS), np.float32)
    weights, _ = online_softmax(scores, [6, 7, 7], 1.0)
    np.testing.assert_array_equal(weights, scores == scores.max(axis=0))


def test_what_is_hidden_has_no_weight_and_a_nan_is_seen_in_its_column_only(rng):
    scores = rng.standard_normal((10, COLUMNS), np.float32)
    scores[3:, 0], scores[8, 1] = -np.inf, np.nan
    weights, _ = online_softmax(scores, [5, 5], 1.0)
    assert not weights[3:, 0].any() and np.isclose(weights[:3, 0].sum(), 1)
    assert np.isnan(weights[:, 1]).all()
    assert np.isfinite(weights[:, 2:]).all()


def test_rows_that_are_hidden_before_all_others_have_no_weight(rng):
    scores = rng.standard_normal((20, COLUMNS), np.float32)
    scores[:11, 0], scores[:, 1] = -np.inf, -np.inf
    with np.errstate(invalid="ignore", divide="ignore"):
        weights, _ = online_softmax(scores, [5, 5, 10], 1.0)
    np.testing.assert_allclose(weights[:, 0], [0] * 11 + list(np.exp(scores[11:, 0]) / np.exp(scores[11:, 0]).sum()),
                               rtol=2e-6)  # fmt: skip
    assert np.isnan(weights[:, 1]).all()  # nothing to choose from
    assert np.isfinite(weights[:, 2:]).all()

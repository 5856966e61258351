"""The kernel of ops/cross_entropy.py."""

from __future__ import annotations

import numpy as np
import pytest
from kernel_checks import check_kernel, run_kernel

from tinygpt.ops.cross_entropy import CROSS_ENTROPY


def targets_for(rng, rows, vocabulary, ignored=0):
    targets = rng.integers(0, vocabulary, rows)
    targets[:ignored] = -100
    return {"targets": targets, "ignore_index": -100}


@pytest.mark.parametrize(("rows", "vocabulary", "ignored"), [(1, 1, 0), (3, 2, 1), (17, 33, 5), (130, 1025, 0)])
def test_the_kernel_is_the_reference(rng, rows, vocabulary, ignored):
    logits = 3 * rng.standard_normal((rows, vocabulary), np.float32)
    check_kernel(CROSS_ENTROPY, [logits], targets_for(rng, rows, vocabulary, ignored))


def test_memory_order_does_not_matter(rng):
    check_kernel(CROSS_ENTROPY, [rng.standard_normal((50, 60), np.float32).T], targets_for(rng, 60, 50))


def test_equal_logits_cost_the_logarithm_of_their_number():
    out, (dlogits,) = run_kernel(
        CROSS_ENTROPY, [np.full((4, 1000), 7, np.float32)], {"targets": np.arange(4)}, np.float32(1)
    )
    assert abs(out - np.log(1000)) < 1e-6
    expected = np.full((4, 1000), 1 / 4000)
    expected[np.arange(4), np.arange(4)] -= 1 / 4
    np.testing.assert_allclose(dlogits, expected, atol=1e-8)


def test_huge_logits_do_not_overflow():
    logits = np.array([[1e30, 0, -1e30], [5e4, 5e4, -5e4]], np.float32)
    out, (dlogits,) = run_kernel(CROSS_ENTROPY, [logits], {"targets": np.array([0, 1])}, np.float32(1))
    np.testing.assert_allclose(out, np.log(2) / 2, rtol=1e-6)
    np.testing.assert_allclose(dlogits, [[0, 0, 0], [0.25, -0.25, 0]], atol=1e-7)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_seen(rng, value):
    logits = rng.standard_normal((5, 40), np.float32)
    logits[2, 30] = value
    out, (dlogits,) = run_kernel(CROSS_ENTROPY, [logits], {"targets": np.zeros(5, int)}, np.float32(1))
    assert np.isnan(out) and np.isnan(dlogits[2]).any()
    assert np.isfinite(np.delete(dlogits, 2, axis=0)).all()

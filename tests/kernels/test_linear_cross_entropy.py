"""The kernel of ops/linear_cross_entropy.py: chunks of rows, and gradients that are there before backward asks."""

from __future__ import annotations

import numpy as np
import pytest
from kernel_checks import check_kernel, precision, run_kernel

from tinygpt import Tensor, implementation
from tinygpt.kernels.linear_cross_entropy import ROWS
from tinygpt.ops.linear_cross_entropy import LINEAR_CROSS_ENTROPY, linear_cross_entropy
from tinygpt.runtime import memory


def inputs(rng, sizes):
    N, C, V = sizes
    return [rng.standard_normal((N, C), np.float32), rng.standard_normal((V, C), np.float32)]


@pytest.mark.parametrize("sizes", [(1, 1, 1), (3, 2, 5), (17, 33, 65), (2 * ROWS + 3, 9, 21)])
def test_the_kernel_is_the_reference(rng, sizes):
    targets = rng.integers(0, sizes[2], sizes[0])
    targets[1::5] = -100
    check_kernel(LINEAR_CROSS_ENTROPY, inputs(rng, sizes), {"targets": targets, "ignore_index": -100}, tolerance=2e-6)


def test_rounded_to_bfloat16_each_result_is_within_its_precision(rng):
    """A score of about 8 is off by up to 2^-8 of the sum of its terms' sizes; the softmax passes that on."""
    with precision("medium"):
        check_kernel(LINEAR_CROSS_ENTROPY, inputs(rng, (70, 64, 300)), {"targets": np.arange(70)}, tolerance=5e-2)


def test_memory_order_does_not_matter(rng):
    x, weight = inputs(rng, (6, 10, 14))
    check_kernel(LINEAR_CROSS_ENTROPY, [np.asfortranarray(x), weight[::-1]], {"targets": np.arange(6)})


def test_a_nan_is_seen_in_what_depends_on_it(rng):
    x, weight = inputs(rng, (9, 20, 30))
    x[4, 3] = np.nan
    out, (dx, dweight) = run_kernel(LINEAR_CROSS_ENTROPY, [x, weight], {"targets": np.arange(9)}, np.float32(1))
    assert np.isnan(out) and np.isnan(dx[4]).all() and np.isnan(dweight).all()
    assert np.isfinite(np.delete(dx, 4, axis=0)).all()


def test_the_scores_never_exist_at_once(rng):
    """Sixteen chunks of rows need the workspace of one, and that of the products; all scores would be 20 MB."""
    x, weight = (Tensor(array, requires_grad=True) for array in inputs(rng, (16 * ROWS, 4, 600)))
    memory.pool.clear()
    before = memory.pool.in_use + memory.pool.kept
    with implementation("kernels"):
        linear_cross_entropy(x, weight, np.zeros(16 * ROWS, int)).backward()
    assert memory.pool.in_use + memory.pool.kept - before < 4 * ROWS * 600 * 4

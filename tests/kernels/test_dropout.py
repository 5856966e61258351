"""The kernel of ops/dropout.py: the reference's mask, to the last bit."""

from __future__ import annotations

import numpy as np
import pytest
from kernel_checks import check_kernel, run_kernel

from tinygpt.ops.dropout import DROPOUT, dropout_mask


@pytest.mark.parametrize("shape", [(1,), (), (17,), (3, 7, 11), (200, 257), (0, 4)])
@pytest.mark.parametrize("p", [0.1, 0.5, 0.999])
def test_the_kernel_is_the_reference(rng, shape, p):
    check_kernel(DROPOUT, [rng.standard_normal(shape).astype(np.float32)], {"p": p, "seed": 42}, tolerance=1e-7)


@pytest.mark.parametrize("seed", [0, 1, 2**32, 2**63 + 5, 2**64 - 1])
def test_every_seed_draws_the_reference_s_mask(seed):
    out, (dx,) = run_kernel(DROPOUT, [np.ones(50_000, np.float32)], {"p": 0.3, "seed": seed}, np.ones(50_000, "f4"))
    mask = dropout_mask((50_000,), 0.3, seed, np.float32)
    np.testing.assert_array_equal(out, mask)
    np.testing.assert_array_equal(dx, mask)


def test_memory_order_does_not_matter(rng):
    check_kernel(DROPOUT, [rng.standard_normal((50, 60), np.float32).T], {"p": 0.25, "seed": 3})


def test_a_kept_nan_is_seen():
    out, _ = run_kernel(DROPOUT, [np.full(100, np.nan, np.float32)], {"p": 0.5, "seed": 3})
    assert np.isnan(out).all()  # 0 * NaN is NaN, too

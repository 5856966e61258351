"""The kernel of ops/layernorm.py."""

from __future__ import annotations

import numpy as np
import pytest
from kernel_checks import check_kernel, run_kernel

from tinygpt.ops.layernorm import LAYERNORM


def inputs(rng, shape):
    return [rng.standard_normal(s, np.float32) for s in (shape, shape[-1:], shape[-1:])]


@pytest.mark.parametrize("shape", [(2, 5), (3,), (5, 17), (2, 3, 7), (4, 33, 97), (700, 65), (2500, 7), (0, 3)])
def test_the_kernel_is_the_reference(rng, shape):
    check_kernel(LAYERNORM, inputs(rng, shape), {"eps": 1e-5})


@pytest.mark.parametrize("shape", [(1,), (4, 1)])
def test_a_single_feature_is_its_own_mean(rng, shape):
    x, weight, bias = inputs(rng, shape)
    out, (dx, dweight, dbias) = run_kernel(LAYERNORM, [x, weight, bias], dout=np.ones(shape, np.float32))
    np.testing.assert_array_equal(out, np.broadcast_to(bias, shape))
    np.testing.assert_allclose(dx, 0, atol=1e-6)
    assert dweight == [0] and dbias == [x.size]


def test_memory_order_does_not_matter(rng):
    x, weight, bias = inputs(rng, (6, 10, 14))
    check_kernel(LAYERNORM, [x.transpose(1, 0, 2), np.repeat(weight, 2)[::2], bias[::-1]])


def test_a_large_mean_costs_only_the_digits_that_it_takes(rng):
    """x - mean is formed first, so the variance of 1000 +- 1 keeps the 14 bits that float32 leaves of it."""
    x, weight, bias = inputs(rng, (40, 100))
    check_kernel(LAYERNORM, [x + np.float32(1000), weight, bias], tolerance=2e-4)


def test_a_constant_row_gives_the_bias_and_no_gradient():
    arrays = [np.full((2, 8), 3, np.float32), np.ones(8, np.float32), np.arange(8, dtype=np.float32)]
    out, (dx, _, _) = run_kernel(LAYERNORM, arrays, dout=np.ones((2, 8), np.float32))
    np.testing.assert_array_equal(out, [np.arange(8)] * 2)
    np.testing.assert_allclose(dx, 0, atol=1e-6)


def test_a_nan_spoils_its_row_and_no_other(rng):
    x, weight, bias = inputs(rng, (9, 20))
    x[4, 3] = np.nan
    out, (dx, dweight, dbias) = run_kernel(LAYERNORM, [x, weight, bias], dout=np.ones((9, 20), np.float32))
    assert np.isnan(out[4]).all() and np.isnan(dx[4]).all() and np.isnan(dweight).all()
    assert np.isfinite(np.delete(out, 4, axis=0)).all() and np.isfinite(np.delete(dx, 4, axis=0)).all()
    assert np.isfinite(dbias).all()

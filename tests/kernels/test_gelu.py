"""The kernel of ops/gelu.py."""

from __future__ import annotations

import numpy as np
import pytest
from kernel_checks import check_kernel, run_kernel

from tinygpt.ops.gelu import GELU


@pytest.mark.parametrize("shape", [(1,), (), (17,), (3, 7, 11), (129, 257), (0, 4)])
def test_the_kernel_is_the_reference(rng, shape):
    """The slope loses a digit near |x| = 5, where its factor e^-2u has an exponent of 16: so does NumPy in float32."""
    check_kernel(GELU, [np.asarray(3 * rng.standard_normal(shape), np.float32)], tolerance=3e-6)


def test_memory_order_does_not_matter(rng):
    check_kernel(GELU, [rng.standard_normal((50, 60), np.float32).T])


def test_far_from_zero_it_is_x_or_nothing():
    x = np.array([-1e18, -100, -20, 20, 100, 1e12], np.float32)
    out, (dx,) = run_kernel(GELU, [x], dout=np.ones(6, np.float32))
    np.testing.assert_array_equal(out, np.where(x > 0, x, 0))
    np.testing.assert_array_equal(dx, np.where(x > 0, 1, 0))


def test_what_is_not_finite_is_seen():
    x = np.array([1, np.nan, 2, np.inf], np.float32)
    out, (dx,) = run_kernel(GELU, [x], dout=np.ones(4, np.float32))
    np.testing.assert_array_equal(np.isfinite(out), [True, False, True, False])
    assert np.isnan(out[1]) and np.isnan(dx[1]) and np.isfinite(dx[[0, 2]]).all()

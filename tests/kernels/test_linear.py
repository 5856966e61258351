"""The kernel of ops/linear.py: its reference's numbers, from any memory order, into any slot."""

from __future__ import annotations

import numpy as np
import pytest
from kernel_checks import check_kernel, precision, run_kernel

from tinygpt import Tensor, implementation
from tinygpt.ops.linear import LINEAR, linear


def inputs(rng, shape, outputs):
    return [rng.standard_normal(s, np.float32) for s in (shape, (shape[-1], outputs), (outputs,))]


@pytest.mark.parametrize(
    ("shape", "outputs"), [((1, 1), 1), ((5,), 3), ((2, 3, 7), 11), ((4, 17, 49), 97), ((130, 33), 65), ((0, 3), 2)]
)
def test_the_kernel_is_the_reference(rng, shape, outputs):
    check_kernel(LINEAR, inputs(rng, shape, outputs))


def test_memory_order_does_not_matter(rng):
    x, weight, bias = inputs(rng, (6, 10, 14), 22)
    check_kernel(LINEAR, [x.transpose(1, 0, 2), np.asfortranarray(weight), np.repeat(bias, 2)[::2]])


def test_rounded_to_bfloat16_each_result_is_within_its_precision(rng):
    """Each factor is off by at most 2^-9 of itself, a product by 2^-8; what is summed errs in both directions."""
    with precision("medium"):
        check_kernel(LINEAR, inputs(rng, (4, 33, 200), 150), tolerance=2**-8)


def test_a_nan_is_seen_in_what_depends_on_it(rng):
    x, weight, bias = inputs(rng, (9, 20), 30)
    x[4, 3] = np.nan
    out, (dx, dweight, dbias) = run_kernel(LINEAR, [x, weight, bias], dout=np.ones((9, 30), np.float32))
    assert np.isnan(out[4]).all() and np.isfinite(np.delete(out, 4, axis=0)).all()
    assert np.isnan(dweight[3]).all() and np.isfinite(dx).all() and np.isfinite(dbias).all()


def test_float64_is_left_to_the_reference(rng):
    arrays = [Tensor(array.astype(np.float64)) for array in inputs(rng, (3, 4), 5)]
    with implementation("kernels"):
        ours = linear(*arrays).data
    with implementation("numpy"):
        np.testing.assert_array_equal(ours, linear(*arrays).data)

"""The kernel of ops/gelu_linear.py."""

from __future__ import annotations

import numpy as np
import pytest
from kernel_checks import check_kernel, precision, run_kernel

from tinygpt.ops.gelu_linear import GELU_LINEAR


def inputs(rng, shape, outputs):
    return [rng.standard_normal(s, np.float32) for s in (shape, (shape[-1], outputs), (outputs,))]


@pytest.mark.parametrize(("shape", "outputs"), [((1, 1), 1), ((5,), 3), ((2, 3, 7), 11), ((130, 33), 65), ((0, 3), 2)])
def test_the_kernel_is_the_reference(rng, shape, outputs):
    check_kernel(GELU_LINEAR, inputs(rng, shape, outputs), tolerance=3e-6)  # gelu's slope: see test_gelu.py


def test_memory_order_does_not_matter(rng):
    x, weight, bias = inputs(rng, (6, 10, 14), 22)
    check_kernel(GELU_LINEAR, [x.transpose(1, 0, 2), np.asfortranarray(weight), bias[::-1]], tolerance=3e-6)


def test_rounded_to_bfloat16_each_result_is_within_its_precision(rng):
    with precision("medium"):
        check_kernel(GELU_LINEAR, inputs(rng, (4, 33, 200), 150), tolerance=2**-7)


def test_a_nan_is_seen_in_what_depends_on_it(rng):
    x, weight, bias = inputs(rng, (9, 20), 30)
    x[4, 3] = np.nan
    out, (dx, dweight, dbias) = run_kernel(GELU_LINEAR, [x, weight, bias], dout=np.ones((9, 30), np.float32))
    assert np.isnan(out[4]).all() and np.isfinite(np.delete(out, 4, axis=0)).all()
    assert np.isnan(dweight[3]).all() and np.isnan(dx[4, 3]) and np.isfinite(dbias).all()
    assert np.isnan(dx).sum() == 1

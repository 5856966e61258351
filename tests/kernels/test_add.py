"""The kernel of addition."""

from __future__ import annotations

import numpy as np
import pytest
from kernel_checks import check_kernel

from tinygpt import Tensor, implementation
from tinygpt.kernels.add import accepts
from tinygpt.ops.basic import ADD, add


@pytest.mark.parametrize(
    ("a", "b"), [((), ()), ((1,), (1,)), ((3, 5, 7), (3, 5, 7)), ((90, 130), (90, 130)), ((4, 33, 300), (33, 300)),
                 ((3, 2, 1), (1,)), ((0, 3), (3,)), ((5, 2), ())]
)  # fmt: skip
def test_the_kernel_is_the_reference(rng, a, b):
    check_kernel(ADD, [np.asarray(rng.standard_normal(shape), np.float32) for shape in (a, b)], tolerance=1e-7)


def test_memory_order_does_not_matter(rng):
    a, b = rng.standard_normal((2, 60, 50), np.float32)
    check_kernel(ADD, [a.T, np.ascontiguousarray(b.T)], tolerance=1e-7)


@pytest.mark.parametrize(("a", "b"), [((3, 1), (3, 4)), ((4,), (3, 4)), ((2, 3, 4), (2, 1, 4)), ((3, 0), (3, 0))])
def test_every_other_broadcast_is_left_to_the_reference(rng, a, b):
    arrays = [np.asarray(rng.standard_normal(shape), np.float32) for shape in (a, b)]
    assert not accepts(*arrays)
    with implementation("kernels"):
        np.testing.assert_array_equal(add(*map(Tensor, arrays)).data, arrays[0] + arrays[1])

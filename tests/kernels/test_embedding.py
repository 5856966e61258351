"""The kernel of ops/embedding.py."""

from __future__ import annotations

import numpy as np
import pytest
from kernel_checks import check_kernel, run_kernel

from tinygpt.ops.embedding import EMBEDDING


@pytest.mark.parametrize(
    ("table", "ids"), [((1, 1), (1,)), ((7, 3), (2, 5)), ((50, 129), (4, 37)), ((1000, 300), (8, 64)), ((5, 4), (0,))]
)
def test_the_kernel_is_the_reference(rng, table, ids):
    check_kernel(EMBEDDING, [rng.standard_normal(table, np.float32)], {"ids": rng.integers(0, table[0], ids)})


@pytest.mark.parametrize("dtype", [np.int8, np.uint16, np.int32, np.uint64])
def test_ids_of_every_integer_type(rng, dtype):
    check_kernel(EMBEDDING, [rng.standard_normal((9, 5), np.float32)], {"ids": np.array([[8, 0, 8]], dtype).T})


def test_an_id_that_comes_again_collects_every_gradient(rng):
    dout = rng.integers(-8, 8, (100, 150)).astype(np.float32)
    _, (dweight,) = run_kernel(EMBEDDING, [np.zeros((3, 150), np.float32)], {"ids": np.full(100, 1)}, dout)
    np.testing.assert_array_equal(dweight, [np.zeros(150), dout.sum(axis=0), np.zeros(150)])


def test_the_table_may_have_any_memory_order(rng):
    check_kernel(EMBEDDING, [rng.standard_normal((6, 9), np.float32).T], {"ids": np.array([8, 2])})

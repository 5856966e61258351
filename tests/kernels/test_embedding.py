"""The kernel of ops/embedding.py."""

from __future__ import annotations

import numpy as np
import pytest
from kernel_checks import check_kernel, run_kernel, using_threads

from tinygpt.kernels import embedding
from tinygpt.ops.embedding import EMBEDDING
from tinygpt.runtime.memory import Slot, SquareSum


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


def known_sum(value):
    """A gradient's `SquareSum` where the sum of what was there before is known, or None."""
    before = SquareSum()
    before.after = value
    return SquareSum(before)


@pytest.mark.parametrize(("rows", "columns", "count"), [(50, 1, 1), (1000, 129, 100), (5000, 300, 1100)])
def test_a_sum_of_squares_that_is_known_follows_the_rows_that_change(rng, rows, columns, count):
    ids = rng.integers(0, rows // 2, count)  # many of them twice
    dout, before = rng.standard_normal((count, columns), np.float32), rng.standard_normal((rows, columns), np.float32)
    found = []
    for threads in (1, 2):
        slot = Slot(before.copy(), True, known_sum(np.square(before, dtype=np.float64).sum()))
        with using_threads(threads):
            embedding.backward(dout, ids, (slot,))
        np.testing.assert_allclose(slot.squares.after, np.square(slot.array, dtype=np.float64).sum(), rtol=1e-12)
        found.append(slot.squares.after)
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("known", "count"),
    [(None, 10), (np.nan, 10), (np.inf, 10), (500.0 * 3, 200)],
    ids=["unknown", "NaN", "inf", "many ids"],
)
def test_a_sum_of_squares_that_cannot_be_followed_becomes_unknown(known, count):
    slot = Slot(np.ones((500, 3), np.float32), True, known_sum(known))
    embedding.backward(np.ones((count, 3), np.float32), np.arange(count), (slot,))
    assert slot.squares.after is None


def test_a_sum_of_squares_is_not_left_where_nearly_all_of_it_cancels():
    table = np.full((500, 3), 2.0**-20, np.float32)
    table[7] = 2.0**12
    slot = Slot(table, True, known_sum(np.square(table, dtype=np.float64).sum()))
    embedding.backward(np.full((1, 3), -(2.0**12), np.float32), np.array([7]), (slot,))
    assert slot.squares.after is None and (table[7] == 0).all()

"""Embedding: the definition, its gradient, the same from basic operations, and the edges."""

from __future__ import annotations

import numpy as np
import pytest
from differentiation import BOTH_WAYS, assert_close, assert_same, value_and_gradients

import tinygpt.functional as F
from tinygpt import Tensor, gradcheck

V, C = 6, 3
IDS = {
    "batch with repeats": np.array([[4, 0, 4], [4, 2, 0]]),
    "sequence": np.array([5, 1, 1]),
    "one id": np.array(3),
    "none": np.zeros((2, 0), int),
}
every_ids = pytest.mark.parametrize("ids", IDS.values(), ids=IDS)


@pytest.fixture
def weight(rng):
    return rng.standard_normal((V, C))


# (1) forward is the definition


@every_ids
def test_forward_looks_up_one_row_for_each_id(weight, ids):
    expected = np.empty((*ids.shape, C))
    for place in np.ndindex(ids.shape):
        for c in range(C):
            expected[(*place, c)] = weight[int(ids[place]), c]
    np.testing.assert_array_equal(F.embedding(ids, Tensor(weight)).data, expected)


# (2) backward agrees with finite differences


@pytest.mark.parametrize("limit", BOTH_WAYS.values(), ids=BOTH_WAYS)
@every_ids
def test_gradient_agrees_with_finite_differences(weight, ids, limit):
    assert gradcheck(lambda weight: F.embedding(ids, weight), [weight], elementwise_limit=limit)


# (3) fused equals composed


@every_ids
def test_fused_equals_a_product_with_one_hot_rows(weight, ids, rng):
    one_hot = np.eye(V)[ids.reshape(-1)]  # (N, V)
    dout = rng.standard_normal((*ids.shape, C))
    composed = value_and_gradients(lambda weight: F.matmul(one_hot, weight).reshape(dout.shape), [weight], dout)
    assert_same(value_and_gradients(lambda weight: F.embedding(ids, weight), [weight], dout), composed)


@every_ids
def test_fused_equals_plain_indexing(weight, ids, rng):
    dout = rng.standard_normal((*ids.shape, C))
    indexed = value_and_gradients(lambda weight: weight[ids], [weight], dout)
    assert_same(value_and_gradients(lambda weight: F.embedding(ids, weight), [weight], dout), indexed)


# (5) edge cases


def test_a_repeated_id_collects_the_gradients_of_all_its_places():
    """`dweight[ids] += dout` would keep only the last: the classic mistake."""
    dout = np.array([[1.0], [10.0], [100.0], [1000.0]])
    _, (dweight,) = value_and_gradients(lambda w: F.embedding([1, 0, 1, 1], w), [np.zeros((4, 1))], dout)
    assert dweight[:, 0].tolist() == [10.0, 1101.0, 0.0, 0.0]


def test_many_repeats_add_up_in_float32():
    """A common token stands thousands of times in a batch; each place adds exactly one here."""
    ids = np.zeros(5000, int)
    _, (dweight,) = value_and_gradients(
        lambda w: F.embedding(ids, w), [np.zeros((2, 1), np.float32)], np.ones((5000, 1), np.float32)
    )
    assert dweight.dtype == np.float32
    assert dweight[:, 0].tolist() == [5000.0, 0.0]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.int32, np.int64])
def test_every_integer_type_names_the_same_rows(weight, dtype):
    """Token files hold uint16 or uint32, batches int64."""
    ids = np.array([5, 0, 5], dtype)
    np.testing.assert_array_equal(F.embedding(ids, Tensor(weight)).data, weight[[5, 0, 5]])


@pytest.mark.parametrize("ids", [[2, 0], (2, 0), Tensor(np.array([2, 0]))], ids=["list", "tuple", "Tensor"])
def test_ids_may_be_a_list_or_a_tensor(weight, ids):
    np.testing.assert_array_equal(F.embedding(ids, Tensor(weight)).data, weight[[2, 0]])


def test_an_empty_list_of_ids_is_no_rows(weight):
    """NumPy calls an empty list float64: it must not be refused for that."""
    assert F.embedding([], Tensor(weight)).shape == (0, C)


def test_the_result_is_a_copy_and_the_table_is_not_written_into(weight):
    """A view of the table would change with the next optimizer step."""
    before = weight.copy()
    out = F.embedding(IDS["sequence"], Tensor(weight)).data
    out[...] = 0
    np.testing.assert_array_equal(weight, before)


def test_gradient_takes_the_tables_dtype_and_shape(weight):
    _, (dweight,) = value_and_gradients(
        lambda w: F.embedding([0], w), [weight.astype(np.float32)], np.ones((1, C), np.float32)
    )
    assert (dweight.shape, dweight.dtype) == (weight.shape, np.float32)
    assert_close(dweight, np.eye(V, 1) * np.ones(C))


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([0, 6], "embedding: ids must be from 0 to 5, got 6"),
        ([0, -1], "embedding: ids must be from 0 to 5, got -1"),  # NumPy would count it from the end
        ([[2, 2**40]], f"embedding: ids must be from 0 to 5, got {2**40}"),
    ],
)
def test_an_id_out_of_range_is_named(weight, ids, message):
    with pytest.raises(ValueError, match=f"{message}; an id is a row of weight, counted from 0"):
        F.embedding(ids, Tensor(weight))


@pytest.mark.parametrize("ids", [[0.0, 1.0], np.array([True, False])], ids=["float", "bool"])
def test_ids_that_are_not_integers_are_refused(weight, ids):
    message = r"embedding: ids must be integers, got (float64|bool); write np\.asarray\(ids, int\)"
    with pytest.raises(TypeError, match=message):
        F.embedding(ids, Tensor(weight))


@pytest.mark.parametrize("shape", [(6,), (6, 3, 1)], ids=str)
def test_a_table_that_is_no_matrix_is_refused(shape):
    with pytest.raises(ValueError, match=r"embedding: weight must have shape \(V, C\), got \(6,"):
        F.embedding([0], Tensor(np.zeros(shape)))

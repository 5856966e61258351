"""Gradients that are computed ahead, in the memory that they will live in: nobody's numbers may get lost."""

from __future__ import annotations

import numpy as np
import pytest

import tinygpt.functional as F
from tinygpt import Tensor, implementation, no_grad
from tinygpt.nn import Embedding

X = np.random.default_rng(3).standard_normal((6, 4)).astype(np.float32)
TARGETS = np.array([0, 1, 2, 3, 4, 0])


@pytest.fixture(autouse=True)
def with_kernels():
    with implementation("kernels"):
        yield


@pytest.fixture
def table() -> Embedding:
    """A table whose gradient has a place of its own, full of NaN."""
    table = Embedding(5, 4, np.random.default_rng(1), std=1.0)
    table.flatten_parameters()
    table.flat_gradients[:] = np.nan
    return table


def loss_of(table: Embedding) -> Tensor:
    return F.linear_cross_entropy(Tensor(X), table.weight, TARGETS)


def exact(table: Embedding) -> np.ndarray:
    """The gradient of `loss_of`, by its formula in float64."""
    logits = X.astype(np.float64) @ table.weight.data.T
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    p[np.arange(6), TARGETS] -= 1
    return p.T @ X / 6


def assert_gradient(table: Embedding, expected: np.ndarray) -> None:
    np.testing.assert_allclose(table.weight.grad, expected, atol=1e-6)
    assert np.shares_memory(table.weight.grad, table.flat_gradients)


def test_the_gradient_is_made_in_its_place_and_counts_only_after_backward(table):
    loss = loss_of(table)
    assert table.weight.grad is None
    np.testing.assert_allclose(table.flat_gradients.reshape(5, 4), exact(table), atol=1e-6)
    loss.backward()
    assert_gradient(table, exact(table))


@pytest.mark.parametrize("factor", [3.0, 0.0])
def test_a_scaled_loss_has_a_scaled_gradient(table, factor):
    (loss_of(table) * factor).backward()
    assert_gradient(table, factor * exact(table))


def test_two_losses_are_added_in_either_order(table):
    for order in (1, -1):
        losses = [loss_of(table), loss_of(table) * 10.0]
        for loss in losses[::order]:
            loss.backward()
        assert_gradient(table, 11 * exact(table))
        table.zero_grad()


def test_what_another_graph_writes_meanwhile_does_not_spoil_it(table):
    waiting = loss_of(table)
    F.embedding([2], table.weight).sum().backward()
    expected = np.zeros((5, 4))
    expected[2] = 1
    assert_gradient(table, expected)
    waiting.backward()
    assert_gradient(table, expected + exact(table))


def test_a_gradient_that_is_set_meanwhile_stays(table):
    waiting = loss_of(table)
    table.weight.grad = np.ones((5, 4), np.float32)
    waiting.backward()
    assert_gradient(table, 1 + exact(table))


def test_a_loss_that_nobody_differentiates_gives_the_place_back(table):
    for _ in range(2):
        loss_of(table)
    loss_of(table).backward()
    assert_gradient(table, exact(table))


def test_backward_may_run_again_over_a_kept_graph(table):
    loss = loss_of(table)
    loss.backward(retain_graph=True)
    loss.backward()
    assert_gradient(table, 2 * exact(table))


def test_gradients_accumulate_over_several_batches(table):
    for _ in range(3):
        loss_of(table).backward()
    assert_gradient(table, 3 * exact(table))


def test_without_recording_nothing_is_reserved(table):
    with no_grad():
        loss_of(table)
    assert np.isnan(table.flat_gradients).all()


def test_a_hook_sees_it_and_may_replace_it(table):
    table.weight.register_hook(lambda gradient: 2 * gradient)
    loss_of(table).backward()
    assert_gradient(table, 2 * exact(table))

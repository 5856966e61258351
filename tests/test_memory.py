"""Memory: what a training step leaves behind is the parameters, their gradients and the optimizer's moments."""

from __future__ import annotations

import gc
import tracemalloc
import weakref

import numpy as np
import pytest

from tinygpt import GPT, AdamW, GPTConfig

CONFIG = GPTConfig(vocab_size=200, n_positions=32, n_embd=32, n_layer=2, n_head=4)
TOKENS = np.arange(64).reshape(2, 32)


@pytest.fixture
def without_gc():
    """Only reference counts may free memory: what a cycle holds stays."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def bytes_in_arrays() -> int:
    """What NumPy's arrays hold of all that was allocated since tracing began; not the interpreter's free lists."""
    arrays = tracemalloc.DomainFilter(inclusive=True, domain=np.lib.tracemalloc_domain)
    return sum(trace.size for trace in tracemalloc.take_snapshot().filter_traces([arrays]).traces)


def take_step(model: GPT, optimizer: AdamW) -> None:
    loss = model.loss(TOKENS, TOKENS + 1)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def test_after_backward_only_the_parameters_and_their_gradients_remain(without_gc):
    model = GPT(CONFIG)
    model.loss(TOKENS, TOKENS + 1).backward()
    tracemalloc.start()
    try:
        loss = model.loss(TOKENS, TOKENS + 1)
        held = bytes_in_arrays()
        loss.backward()
        del loss
        left = bytes_in_arrays()
    finally:
        tracemalloc.stop()
    assert held > 200_000  # the activations, some hundred arrays
    # The sums of the gradients' squares, which clipping reads: a vector of float64 for each part of a product, 64 bytes
    # at most. One (B, T, C) array of activations has 8,192 bytes.
    assert left < 4_000


def test_the_graph_dies_with_its_last_tensor_without_a_backward(without_gc):
    model = GPT(CONFIG)
    loss = model.loss(TOKENS, TOKENS + 1)
    watched = weakref.ref(loss)
    inside = weakref.ref(loss.node.parents[0])
    assert inside() is not None
    del loss
    assert watched() is None and inside() is None


def test_no_step_after_the_second_leaves_anything_new(without_gc):
    model = GPT(CONFIG)
    optimizer = AdamW(model.parameters())
    take_step(model, optimizer)
    take_step(model, optimizer)
    gradients = model.flat_gradients.ctypes.data
    tracemalloc.start()
    try:
        for _ in range(3):
            take_step(model, optimizer)
        grown = bytes_in_arrays()
    finally:
        tracemalloc.stop()
    assert grown < 2_000
    assert model.flat_gradients.ctypes.data == gradients


def test_gradients_live_in_one_array_from_step_to_step():
    model = GPT(CONFIG)
    optimizer = AdamW(model.parameters())
    for _ in range(2):
        model.loss(TOKENS, TOKENS + 1).backward()
        for parameter in model.parameters():
            assert np.shares_memory(parameter.grad, model.flat_gradients)
            assert np.shares_memory(parameter.data, model.flat_parameters)
        optimizer.step()
        optimizer.zero_grad()
        assert all(parameter.grad is None for parameter in model.parameters())


def test_a_step_leaves_no_reference_cycle(without_gc):
    model = GPT(CONFIG)
    optimizer = AdamW(model.parameters())
    take_step(model, optimizer)
    list(model.generate([1], max_tokens=2))  # the first use of a kernel imports it, and imports leave cycles
    gc.collect()
    take_step(model, optimizer)
    list(model.generate([1], max_tokens=2))
    assert gc.collect() == 0  # what only the collector could free


def test_stale_gradients_in_the_flat_array_move_nothing_and_are_overwritten():
    model, other = GPT(CONFIG), GPT(CONFIG)
    optimizer = AdamW(model.parameters(), weight_decay=0.5)
    model.train(False).loss(TOKENS, TOKENS + 1).backward()
    optimizer.zero_grad()
    model.flat_gradients[:] = np.nan  # 0 * NaN is NaN: neither skipping nor overwriting may multiply
    optimizer.step()
    np.testing.assert_array_equal(model.flat_parameters, other.flat_parameters)
    model.loss(TOKENS, TOKENS + 1).backward()
    other.train(False).loss(TOKENS, TOKENS + 1).backward()
    np.testing.assert_array_equal(model.flat_gradients, other.flat_gradients)


def test_a_text_that_grows_holds_nothing_but_its_tokens(without_gc):
    model = GPT(CONFIG)
    tokens = model.generate([1, 2, 3], max_tokens=100, seed=0)
    next(tokens)
    tracemalloc.start()
    try:
        assert sum(1 for _ in tokens) == 99
        held = bytes_in_arrays()
    finally:
        tracemalloc.stop()
    assert held < 2_000  # the last hidden state alone would be 4,096 bytes

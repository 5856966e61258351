"""
What is saved while nobody looks at the memory of a gradient cannot be seen: that its norm is known from the kernel that
wrote it.
"""

from __future__ import annotations

import copy

import numpy as np
import pytest

import tinygpt.functional as F
from tinygpt import Tensor, implementation
from tinygpt.autograd.watch import Watch, watching
from tinygpt.nn import Embedding, Linear, Module
from tinygpt.optim import AdamW, Optimizer, clip_grad_norm, grad_norm

V, C, HIDDEN = 130, 24, 40


@pytest.fixture(autouse=True)
def with_kernels():
    with implementation("kernels"):
        yield


class Net(Module):
    """A tied table, two layers, and a leaf that is in no flat array."""

    def __init__(self, seed: int = 0, flat: bool = True) -> None:
        rng = np.random.default_rng(seed)
        self.table = Embedding(V, C, rng, std=0.5)
        self.first, self.second = Linear(C, HIDDEN, rng), Linear(HIDDEN, C, rng)
        if flat:
            self.flatten_parameters()
        self.shift = Tensor(rng.standard_normal(C).astype(np.float32), requires_grad=True)

    def loss(self, ids: np.ndarray) -> Tensor:
        x = self.table(ids) + self.shift
        return F.linear_cross_entropy(self.second(F.gelu(self.first(x))), self.table.weight, (ids + 1) % V)


def batch(number: int = 0, size: int = 20) -> np.ndarray:
    return np.random.default_rng(number).integers(0, V, size)


def gradients(net: Module) -> list[np.ndarray]:
    return [parameter.grad.copy() for parameter in net.parameters()]


def exact_norm(net: Module) -> float:
    return float(np.sqrt(sum(np.square(gradient, dtype=np.float64).sum() for gradient in gradients(net))))


class Measured(Watch):
    """How many numbers are read for a norm."""

    count = 0

    def function(self, function, code):
        if function.__name__ not in ("squares", "_sum_of_squares"):
            return function
        return lambda array: self.add(array.size) or function(array)

    def add(self, size: int) -> None:
        self.count += size


def measured_norm(net: Module) -> tuple[float, int]:
    with watching(watch := Measured()):
        return grad_norm(net.parameters()), watch.count


MATRICES = 2 * C * HIDDEN
OTHERS = C + HIDDEN + C  # two biases and the shift


# the norm


@pytest.mark.parametrize("flat", [True, False])
def test_the_norm_of_matrices_is_known_when_backward_ends(flat):
    net, twin = Net(flat=flat), Net()
    for number in range(3):
        net.zero_grad()
        twin.zero_grad()
        net.loss(batch(number)).backward()
        twin.loss(batch(number)).backward()
        norm, count = measured_norm(net)
        assert count == OTHERS + (0 if flat else V * C)  # the head's has no place yet where it is computed ahead
        np.testing.assert_allclose(exact_norm(twin), norm, rtol=1e-12)


@pytest.mark.parametrize("size", [20, 512, 513, 1100])
def test_the_norm_is_that_of_the_whole_gradient_for_any_number_of_rows(size):
    net = Net()
    net.loss(batch(size=size)).backward()
    norm, count = measured_norm(net)
    assert count == OTHERS + (V * C if 4 * size >= V else 0)  # as many rows change as the table has: it is read
    np.testing.assert_allclose(exact_norm(net), norm, rtol=1e-12)


@pytest.mark.parametrize("rows", [1, 700, 1000])  # more than one block of k, too
@pytest.mark.parametrize("inputs", [1, 7, 300])
def test_the_norm_follows_micro_batches_that_are_added(rows, inputs, rng):
    layer = Linear(inputs, 70, rng)
    for _ in range(3):
        layer(Tensor(rng.standard_normal((rows, inputs), np.float32))).sum().backward()
        norm, count = measured_norm(layer)
        assert count == 70
    np.testing.assert_allclose(exact_norm(layer), norm, rtol=1e-12)


def test_the_norm_of_a_scaled_loss_is_that_of_its_gradient():
    for factor in (1e-3, 3.0, 0.0, 1e-30):
        net = Net()
        (net.loss(batch()) * factor).backward()
        norm = grad_norm(net.parameters())
        np.testing.assert_allclose(exact_norm(net), norm, rtol=1e-12)


def test_the_norm_of_what_cancels_is_measured():
    """The rows of the table are the gradient's greatest part until the embedding takes them away."""
    table = Embedding(1000, 8, np.random.default_rng(0))
    ids = np.arange(8)
    big = np.eye(8, 8, dtype=np.float32) * 2**12
    h = table(ids)  # older than what follows, so its share comes last
    loss = F.linear_cross_entropy(Tensor(big), table.weight, ids)
    loss.backward()
    h.backward(-table.weight.node.grad[ids])
    norm = grad_norm(table.parameters())
    np.testing.assert_allclose(exact_norm(table), norm, rtol=1e-12)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_the_norm_of_gradients_that_are_not_finite_is_not_finite(value):
    net = Net()
    net.second.weight.data[3, 4] = value
    net.loss(batch()).backward()
    assert not np.isfinite(grad_norm(net.parameters()))
    before = gradients(net)
    assert not np.isfinite(clip_grad_norm(net.parameters(), 1.0))
    for gradient, old in zip(gradients(net), before, strict=True):
        np.testing.assert_array_equal(gradient, old)


def test_the_norm_of_large_and_small_numbers_is_exact():
    for scale in (1e-25, 1e18):  # whose squares float32 cannot hold
        layer = Linear(5, 3, np.random.default_rng(0))
        layer(Tensor(np.full((2, 5), scale, np.float32))).sum().backward()
        norm = grad_norm(layer.weight)
        np.testing.assert_allclose(norm, 2 * scale * np.sqrt(15), rtol=1e-6)


# the ways to look: each gets the memory at some time, and may write into it at any later time


def by_grad(net: Net) -> np.ndarray:
    return net.first.weight.grad


def by_a_view(net: Net) -> np.ndarray:
    return net.first.weight.grad[1:].T[:5]


def by_the_flat_array(net: Net) -> np.ndarray:
    return net.flat_gradients


def by_a_copied_handle(net: Net) -> np.ndarray:
    return copy.copy(net.first.weight).grad


def by_an_update_of_ones_own(net: Net) -> np.ndarray:
    kept = []

    class Own(Optimizer):
        @staticmethod
        def update(parameter, gradient, scale=1.0):
            kept.append(gradient)

    Own(net.parameters(), {}).step()
    return kept[0]


def by_an_inherited_update(net: Net) -> np.ndarray:
    kept = []

    class Own(AdamW):
        kernel = None

        @staticmethod
        def update(parameter, gradient, *others):
            kept.append(gradient)

    Own(net.parameters()).step()
    return kept[0]


def by_ones_own_memory(net: Net) -> np.ndarray:
    memory = np.empty((C, HIDDEN), np.float32)
    net.first.weight.keep_grad_in(memory)
    return memory


LOOKS = [by_grad, by_a_view, by_the_flat_array, by_a_copied_handle, by_an_update_of_ones_own, by_an_inherited_update,
         by_ones_own_memory]  # fmt: skip
every_look = pytest.mark.parametrize("look", LOOKS)


@every_look
def test_a_write_into_memory_that_was_handed_out_counts_in_this_step(look):
    net = Net()
    net.loss(batch()).backward()
    grad_norm(net.parameters())
    look(net)[...] = 5.0
    np.testing.assert_allclose(grad_norm(net.parameters()), exact_norm(net), rtol=1e-12)
    clip_grad_norm(net.parameters(), 0.1)
    np.testing.assert_allclose(exact_norm(net), 0.1, rtol=1e-6)


@every_look
def test_a_write_into_memory_that_was_handed_out_counts_in_a_later_step(look):
    net = Net()
    net.loss(batch()).backward()
    memory = look(net)
    for number in range(1, 3):
        net.zero_grad()
        net.loss(batch(number)).backward()
        memory[...] = number
        norm = grad_norm(net.parameters())
        assert norm > number  # hundreds of ones among the numbers
        clip_grad_norm(net.parameters(), 0.1)
        seen = memory.copy()  # carried out at once: this memory is not asked for again
        np.testing.assert_allclose(seen, np.full_like(seen, number * np.float32(0.1 / norm)), rtol=1e-6)


def test_memory_that_is_handed_out_between_forward_and_backward_counts():
    net = Net()
    loss = net.loss(batch())
    flat = net.flat_gradients
    loss.backward()
    flat[...] = 2.0
    np.testing.assert_allclose(grad_norm([net.table.weight]), 2 * np.sqrt(V * C), rtol=1e-12)


def test_a_gradient_that_is_set_is_measured():
    net = Net()
    net.loss(batch()).backward()
    net.first.weight.grad = np.ones((C, HIDDEN), np.float32)
    np.testing.assert_allclose(grad_norm(net.first.weight), np.sqrt(C * HIDDEN), rtol=1e-12)
    net.first.weight.grad = None
    assert grad_norm(net.first.weight) == 0.0


def test_a_hook_decides_about_the_norm():
    net = Net()
    with net.first.weight.register_hook(lambda gradient: 10 * gradient):
        net.loss(batch()).backward()
        norm = grad_norm(net.parameters())
    np.testing.assert_allclose(norm, exact_norm(net), rtol=1e-12)


def test_two_handles_of_one_gradient_count_once():
    net = Net()
    net.loss(batch()).backward()
    handles = [net.first.weight, copy.copy(net.first.weight)]
    norm = grad_norm(handles)
    assert norm == grad_norm(handles[0]) == clip_grad_norm(handles, norm / 4)
    np.testing.assert_allclose(np.linalg.norm(handles[0].grad), norm / 4, rtol=1e-6)

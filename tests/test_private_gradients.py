"""
What is saved while nobody looks at the memory of a gradient cannot be seen: neither that its norm is known from the
kernel that wrote it, nor that a clip has not been carried out yet.

Each way of looking runs twice on equal models: once with gradients that nobody has seen, and once with gradients that
were handed out before, for which everything is measured and carried out at once.
"""

from __future__ import annotations

import copy
import os
import signal
import sys
import threading
from collections.abc import Callable

import numpy as np
import pytest

import tinygpt.functional as F
from tinygpt import Tensor, implementation
from tinygpt.autograd.watch import Watch, watching
from tinygpt.nn import Embedding, Linear, Module
from tinygpt.optim import SGD, Adam, AdamW, Optimizer, clip_grad_norm, grad_norm

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


# the clip


def clipped(net: Net, look: bool) -> float:
    net.loss(batch()).backward()
    if look:
        gradients(net)  # from now on everything happens at once
        assert not any(parameter.node.private for parameter in net.parameters())
    norm = clip_grad_norm(net.parameters(), 0.25)
    assert any(parameter.node.pending_scale != 1 for parameter in net.parameters()) != look
    return norm


def read(net: Net) -> list[np.ndarray]:
    return gradients(net)


def read_flat(net: Net) -> list[np.ndarray]:
    return [net.flat_gradients.copy()]


def read_twice(net: Net) -> list[np.ndarray]:
    return gradients(net) + gradients(net)


def read_after_a_step(net: Net) -> list[np.ndarray]:
    AdamW(net.parameters()).step()
    return gradients(net)


def add_another_backward(net: Net) -> list[np.ndarray]:
    net.loss(batch(1)).backward()
    return gradients(net)


def add_a_share_that_is_not_written_by_a_kernel(net: Net) -> list[np.ndarray]:
    with implementation("numpy"):
        net.loss(batch(1)).backward()
    return gradients(net)


def forget_it(net: Net) -> list[np.ndarray]:
    net.zero_grad()
    net.loss(batch(1)).backward()
    return gradients(net)


def forget_it_by_the_optimizer(net: Net) -> list[np.ndarray]:
    SGD(net.parameters()).zero_grad()
    net.loss(batch(1)).backward()
    return gradients(net)


def fill_with_zeros(net: Net) -> list[np.ndarray]:
    net.zero_grad(set_to_none=False)
    net.loss(batch(1)).backward()
    return gradients(net)


def set_one(net: Net) -> list[np.ndarray]:
    net.first.weight.grad = np.ones((C, HIDDEN), np.float32)
    net.second.weight.grad = net.second.weight.grad
    return gradients(net)


def clip_again(net: Net) -> list[np.ndarray]:
    norm = grad_norm(net.parameters())
    again = clip_grad_norm(net.parameters(), 0.125)
    np.testing.assert_allclose([norm, again], 0.25, rtol=1e-6)
    return [gradient * 1.0 for gradient in gradients(net)]


def clip_some_more(net: Net) -> list[np.ndarray]:
    clip_grad_norm(net.second.parameters(), 1e-3)
    net.loss(batch(1)).backward()
    return gradients(net)


def copy_deeply(net: Net) -> list[np.ndarray]:
    return gradients(copy.deepcopy(net)) + gradients(net)


def copy_a_handle(net: Net) -> list[np.ndarray]:
    return [copy.copy(net.first.weight).grad.copy(), net.first.weight.grad.copy()]


def lay_out_again(net: Net) -> list[np.ndarray]:
    net.flatten_parameters()
    return [net.flat_gradients.copy()]


def move_to_ones_own_memory(net: Net) -> list[np.ndarray]:
    memory = np.full((C, HIDDEN), np.nan, np.float32)
    net.first.weight.keep_grad_in(memory)
    return [memory.copy()]


def hook_the_next(net: Net) -> list[np.ndarray]:
    seen: list[np.ndarray] = []
    with net.first.weight.register_hook(lambda gradient: seen.append(gradient.copy())):
        net.loss(batch(1)).backward()
    return seen + gradients(net)


def freeze(net: Net) -> list[np.ndarray]:
    net.first.weight.requires_grad = False
    assert net.first.weight.grad is None
    net.first.weight.requires_grad = True
    net.loss(batch(1)).backward()
    return gradients(net)


def step_by_ones_own_loop(net: Net) -> list[np.ndarray]:
    for parameter in net.parameters():
        parameter.data -= 0.1 * parameter.grad
    return [parameter.data for parameter in net.parameters()]


def step_of_ones_own(net: Net) -> list[np.ndarray]:
    class Own(SGD):
        def step(self, closure=None):
            for group in self.param_groups:
                for parameter in group["params"]:
                    parameter.data -= group["lr"] * parameter.grad

    Own(net.parameters(), lr=0.1).step()
    return [parameter.data for parameter in net.parameters()]


def update_of_ones_own(net: Net) -> list[np.ndarray]:
    class Own(Optimizer):
        @staticmethod
        def update(parameter, gradient, scale=1.0):
            parameter -= gradient  # forgets the scale, which is 1

    Own(net.parameters(), {}).step()
    return [parameter.data for parameter in net.parameters()]


def update_that_writes(net: Net) -> list[np.ndarray]:
    class Own(AdamW):
        kernel = None

        @staticmethod
        def update(parameter, gradient, *others):
            np.clip(gradient, -0.001, 0.001, out=gradient)

    Own(net.parameters()).step()
    return [*gradients(net), np.float32(grad_norm(net.parameters()))]


def read_by_many_threads(net: Net) -> list[np.ndarray]:
    start, seen = threading.Barrier(8), []

    def look() -> None:
        start.wait()
        seen.append(gradients(net))

    threads = [threading.Thread(target=look) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [np.stack([each[i] for each in seen]) for i in range(len(seen[0]))]


SEEN = [
    read,
    read_flat,
    read_twice,
    read_after_a_step,
    add_another_backward,
    add_a_share_that_is_not_written_by_a_kernel,
    forget_it,
    forget_it_by_the_optimizer,
    fill_with_zeros,
    set_one,
    copy_deeply,
    copy_a_handle,
    lay_out_again,
    move_to_ones_own_memory,
    hook_the_next,
    freeze,
    step_by_ones_own_loop,
    step_of_ones_own,
    update_of_ones_own,
    update_that_writes,
    read_by_many_threads,
]


@pytest.mark.parametrize("see", SEEN)
def test_whoever_looks_sees_a_clip_that_was_carried_out(see: Callable[[Net], list[np.ndarray]]):
    both = [Net(), Net()]
    norms = [clipped(net, look) for net, look in zip(both, (False, True), strict=True)]
    np.testing.assert_allclose(norms[0], norms[1], rtol=1e-12)
    ours, eager = map(see, both)
    assert len(ours) == len(eager) > 0
    for one, other in zip(ours, eager, strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-7, atol=1e-12)


@pytest.mark.parametrize("see", [clip_again, clip_some_more])
def test_factors_of_several_clips_are_rounded_once(see):
    ours, eager = Net(), Net()
    clipped(ours, False), clipped(eager, True)
    for one, other in zip(see(ours), see(eager), strict=True):
        np.testing.assert_allclose(one, other, rtol=3e-7, atol=1e-12)


OPTIMIZERS = {
    "AdamW": lambda net: AdamW(net.parameters(), lr=0.01),
    "Adam": lambda net: Adam(net.parameters(), lr=0.01, weight_decay=0.1),
    "SGD": lambda net: SGD(net.parameters(), lr=0.1),
    "SGD with momentum": lambda net: SGD(net.parameters(), lr=0.1, momentum=0.9, nesterov=True),
    "groups": lambda net: AdamW([{"params": net.first.parameters(), "lr": 0.1},
                                 {"params": [*net.second.parameters(), net.shift, net.table.weight]}]),
}  # fmt: skip


@pytest.mark.parametrize("mode", ["kernels", "numpy", "check"])
@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_optimizers_take_the_steps_of_a_clip_that_was_carried_out(make, mode):
    both = [Net(), Net()]
    with implementation(mode):
        for look, net in enumerate(both):
            optimizer = make(net)
            for number in range(4):
                net.loss(batch(number)).backward()
                if look:
                    gradients(net)
                clip_grad_norm(net.parameters(), 0.25)
                optimizer.step(scale=0.5 if number == 2 else 1.0)
                optimizer.zero_grad()
    for ours, eager in zip(*(net.parameters() for net in both), strict=True):
        np.testing.assert_allclose(ours.data, eager.data, rtol=0, atol=3e-6)


def test_parameters_of_which_some_were_looked_at_take_the_same_steps():
    both = [Net(), Net()]
    for look, net in enumerate(both):
        optimizer = AdamW(net.parameters(), lr=0.01)
        for number in range(3):
            net.loss(batch(number)).backward()
            if look:
                assert net.second.weight.grad is not None
            clip_grad_norm(net.parameters(), 0.25)
            optimizer.step()
            optimizer.zero_grad()
    for one, other in zip(*(net.parameters() for net in both), strict=True):
        np.testing.assert_allclose(one.data, other.data, rtol=0, atol=3e-6)


def test_a_second_step_takes_the_clipped_gradient_again():
    both = [Net(), Net()]
    for look, net in enumerate(both):
        clipped(net, bool(look))
        optimizer = SGD(net.parameters(), lr=0.1)
        optimizer.step()
        optimizer.step()
    for one, other in zip(*(net.parameters() for net in both), strict=True):
        np.testing.assert_allclose(one.data, other.data, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("mode", ["numpy", "check"])
def test_a_clip_at_once_makes_the_known_norm_void(mode):
    net = Net()
    net.loss(batch()).backward()
    with implementation(mode):
        clip_grad_norm(net.parameters(), 0.25)
    np.testing.assert_allclose(grad_norm(net.parameters()), 0.25, rtol=1e-6)
    np.testing.assert_allclose(exact_norm(net), 0.25, rtol=1e-6)


@pytest.mark.parametrize("mode", ["numpy", "check"])
def test_without_kernels_alone_a_clip_is_carried_out_at_once(mode):
    net = Net()
    with implementation(mode):
        net.loss(batch()).backward()
        clip_grad_norm(net.parameters(), 0.25)
    assert all(parameter.node.pending_scale == 1 for parameter in net.parameters())
    np.testing.assert_allclose(exact_norm(net), 0.25, rtol=1e-6)


def test_two_handles_of_one_gradient_count_once():
    net = Net()
    net.loss(batch()).backward()
    handles = [net.first.weight, copy.copy(net.first.weight)]
    norm = grad_norm(handles)
    assert norm == grad_norm(handles[0]) == clip_grad_norm(handles, norm / 4)
    np.testing.assert_allclose(np.linalg.norm(handles[0].grad), norm / 4, rtol=1e-6)


def one_layer(size: int) -> Tensor:
    """A weight of zeros that nobody has seen the gradient of, ones, which is clipped to a norm of half its own."""
    layer = Linear(1, size, np.random.default_rng(0), bias=False)
    layer.weight.data[...] = 0
    layer(Tensor(np.ones((1, 1), np.float32))).sum().backward()
    clip_grad_norm(layer.parameters(), float(np.sqrt(size)) / 2)
    return layer.weight


def test_a_watch_that_reads_a_gradient_during_a_step_changes_nothing():
    weight = one_layer(4)

    class Reads(Watch):
        def function(self, function, code):
            assert (weight.grad == 0.5).all()
            return function

    with watching(Reads()):
        SGD([weight], lr=1.0).step()
    np.testing.assert_array_equal(weight.data, np.full((1, 4), -0.5))


def test_a_thread_that_reads_gradients_during_a_step_changes_nothing():
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for _ in range(50):
            weights = [one_layer(64) for _ in range(20)]
            reader = threading.Thread(target=lambda weights=weights: [weight.grad for weight in weights])
            reader.start()
            SGD(weights, lr=1.0).step()
            reader.join()
            assert all((weight.data == -0.5).all() for weight in weights)
            assert all((weight.grad == 0.5).all() for weight in weights)
    finally:
        sys.setswitchinterval(interval)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="the system has no timers")
@pytest.mark.parametrize("look", [lambda weight: weight.grad, lambda weight: setattr(weight, "grad", weight.data + 3)])
def test_an_interrupt_while_a_clip_is_carried_out_does_not_do_it_twice(look):
    handler = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        for delay in (0.0005, 0.001, 0.002, 0.004, 0.008):
            weight = one_layer(2**22)
            signal.setitimer(signal.ITIMER_REAL, delay)
            try:
                look(weight)
                threading.Event().wait(0.1)
            except KeyboardInterrupt:
                pass
            assert set(np.unique(weight.grad)) <= {0.5, 3.0}
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)


def test_what_underflows_in_a_clip_is_no_error():
    weight = Tensor(np.ones(3, np.float32), requires_grad=True)
    table = Tensor(np.ones((2, 3), np.float32), requires_grad=True)
    F.linear(Tensor(np.array([[1e-36, 1]], np.float32)), table, weight).sum().backward()
    clip_grad_norm([table, weight], 0.01)
    with np.errstate(all="raise"):
        first = table.grad.copy()
    np.testing.assert_array_equal(table.grad, first)
    assert grad_norm([table, weight]) == pytest.approx(0.01)


def test_an_update_in_place_of_ours_is_handed_a_clipped_gradient():
    weight, got = one_layer(16), []
    optimizer = AdamW([weight])
    optimizer.kernel, optimizer.update = None, lambda parameter, gradient, *others: got.append(gradient.copy())
    optimizer.step()
    np.testing.assert_array_equal(got[0], np.full(16, 0.5))


def test_flat_gradients_may_be_scaled_in_place_and_set():
    net = Net()
    net.loss(batch()).backward()
    before = net.first.weight.grad.copy()
    net.flat_gradients *= 0.5
    np.testing.assert_array_equal(net.first.weight.grad, before / 2)
    net.flat_gradients = np.ones_like(net.flat_gradients)
    assert (net.first.weight.grad == 1).all()


def test_a_largest_norm_of_float32_clips_a_gradient_beyond_float32s_squares():
    layer = Linear(4, 3, np.random.default_rng(0))
    layer(Tensor(np.full((2, 4), 1e20, np.float32))).sum().backward()
    clip_grad_norm(layer.parameters(), np.float32(1))
    assert grad_norm(layer.parameters()) == pytest.approx(1, rel=1e-5)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system does not fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_child_reads_a_gradient_while_another_thread_of_its_parent_did():
    large, small = one_layer(2**24), one_layer(4)
    reader = threading.Thread(target=lambda: large.grad)
    reader.start()
    child = os.fork()
    if child == 0:
        os._exit(0 if (small.grad == 0.5).all() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    reader.join()

"""The graph: hooks, the contract between an op and the engine, and how the graph lives and dies."""

from __future__ import annotations

import gc
import subprocess
import sys
import tracemalloc
import weakref
from pathlib import Path

import numpy as np
import pytest

import tinygpt
from tinygpt import Op, Tensor, apply
from tinygpt.runtime.memory import pool


def leaf(*values: float) -> Tensor:
    return Tensor(np.array(values), requires_grad=True)


# hooks


def test_a_hook_sees_the_complete_gradient_once_per_backward():
    x = leaf(2.0)
    y = x * x
    seen_x, seen_y = [], []
    x.register_hook(lambda gradient: seen_x.append(float(gradient[0])))
    y.register_hook(lambda gradient: seen_y.append(float(gradient[0])))
    for _ in range(2):
        (y + 10 * y + 100 * x).backward(retain_graph=True)
    assert seen_y == [11, 11]
    assert seen_x == [11 * 4 + 100] * 2
    np.testing.assert_array_equal(x.grad, [288])


def test_hooks_replace_the_gradient_one_after_the_other():
    x = leaf(2.0, 3.0)
    y = x * x
    y.register_hook(lambda gradient: gradient + 1)
    y.register_hook(lambda gradient: 10 * gradient)
    x.register_hook(lambda gradient: -gradient)
    y.retain_grad()
    y.sum().backward()
    np.testing.assert_array_equal(y.grad, [20, 20])
    np.testing.assert_array_equal(x.grad, [-80, -120])


@pytest.mark.parametrize("replace", [lambda g: 10 * g, lambda g: Tensor(10 * g)], ids=["NumPy scalar", "Tensor"])
def test_a_hook_on_a_single_value_may_return_a_scalar_or_a_tensor(replace):
    x = leaf(2.0)
    y = (x * x).sum()  # 0-d: NumPy's arithmetic turns its gradient into a scalar
    y.register_hook(replace)
    y.backward()
    np.testing.assert_array_equal(x.grad, [40])


def test_a_hook_that_is_no_function_is_refused_at_once():
    x = Tensor([1.0], requires_grad=True)
    with pytest.raises(TypeError, match=r"^a hook must be a function, got 5$"):
        x.register_hook(5)


def test_a_hook_can_be_removed_alone():
    x, seen = leaf(2.0), []
    remove_first = x.register_hook(lambda gradient: seen.append("first"))
    x.register_hook(lambda gradient: seen.append("second"))
    remove_first()
    (x * x).backward()
    assert seen == ["second"]
    np.testing.assert_array_equal(x.grad, [4])


def test_an_array_that_a_hook_kept_or_returned_is_not_overwritten_later():
    x, kept, constant = leaf(1.0, 1.0), [], np.array([5.0, 5.0])
    x.register_hook(kept.append)
    h = x * 1.0
    y = h + h * 2.0  # the residual pattern: y's own array goes on to h, and collects h's second gradient in place
    z = y + y * 2.0
    y.register_hook(kept.append)
    z.register_hook(lambda gradient: constant)
    for _ in range(2):
        z.backward(np.ones(2), retain_graph=True)
    np.testing.assert_array_equal(constant, [5, 5])
    np.testing.assert_array_equal(kept, [[15, 15], [45, 45]] * 2)
    np.testing.assert_array_equal(x.grad, [90, 90])


def test_a_hook_that_returns_another_shape_or_dtype_is_named():
    for wrong in (np.ones(3), np.ones(2, np.float32)):
        x = leaf(1.0, 2.0)
        x.register_hook(lambda gradient, wrong=wrong: wrong)
        with pytest.raises(ValueError, match=r"hook: the gradient must be float64 \(2,\), like its tensor, got float"):
            x.sum().backward()
    with pytest.raises(ValueError, match=r"Tensor.register_hook: this tensor does not require gradients"):
        Tensor([1.0]).register_hook(print)


def test_retain_grad_keeps_an_inner_gradient_that_adds_up_and_is_nobody_elses():
    x = leaf(2.0, 3.0)
    y = x * 1.0
    z = y + y * 2.0
    unasked = z * 1.0
    y.retain_grad()
    z.retain_grad()
    for calls in (1, 2):
        unasked.backward(np.ones(2), retain_graph=True)
        np.testing.assert_array_equal(z.grad, np.full(2, calls))
        np.testing.assert_array_equal(y.grad, np.full(2, 3 * calls))
    with pytest.warns(UserWarning, match=r"call retain_grad\(\)"):
        assert unasked.grad is None
    z.grad[:] = y.grad[:] = 100
    np.testing.assert_array_equal(x.grad, [6, 6])


# the contract of an op


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ((np.ones(2),), r"odd.backward: input 0: the gradient must be float64 \(3,\), .* got float64 \(2,\)"),
        ((np.ones((1, 3)),), r"odd.backward: input 0: .* got float64 \(1, 3\)"),
        ((np.ones(3, np.float32),), r"odd.backward: input 0: .* got float32 \(3,\)"),
        ((1.0,), r"odd.backward: input 0: .* got float64 \(\)"),
        ((None,), r"odd.backward: input 0: .* got object \(\)"),
        ((np.ones(3), np.ones(3)), "odd.backward: must return a tuple of length 1, got 2"),
        ((), "odd.backward: must return a tuple of length 1, got 0"),
        (np.ones(3), "odd.backward: must return a tuple of length 1, got ndarray"),
        (np.ones((1, 3)), "odd.backward: must return a tuple of length 1, got ndarray"),
        (np.float64(1), "odd.backward: must return a tuple of length 1, got float64"),
        (None, "odd.backward: must return a tuple of length 1, got NoneType"),
    ],
)
def test_a_backward_that_breaks_the_contract_is_named(result, message):
    x = leaf(1.0, 2.0, 3.0)
    odd = Op("odd", lambda x: (x.copy(), None), lambda dout, saved: result)
    with pytest.raises(ValueError, match=message):
        apply(odd, x).sum().backward()
    assert x.grad is None


def test_a_constant_needs_no_gradient_of_its_own():
    scale = Op("scale", lambda x, k: (x * k, k), lambda dout, k: (dout * k, None))
    x = leaf(1.0, 2.0)
    apply(scale, x, np.array([3.0, 4.0])).sum().backward()
    np.testing.assert_array_equal(x.grad, [3, 4])


# life and death of the graph


def test_a_chain_of_100000_ops_differentiates_and_dies_without_recursion():
    program = """
import sys, threading, numpy as np
from tinygpt import Tensor
def chain():
    x = Tensor(np.array(1.0), requires_grad=True)
    h = x
    for i in range(50_000):
        h = h + 1e-5  # two ops a turn
        h = -h
    return x, h
def work():
    sys.setrecursionlimit(100)
    x, h = chain()
    h.backward()
    print(x.grad)
    x, h = chain()
    del h  # never differentiated: the whole graph dies at once
    print("deallocated")
threading.stack_size(1024 * 1024)  # a recursion of 100,000 would need many times as much
thread = threading.Thread(target=work)
thread.start()
thread.join()
"""
    # In a process of its own: a crash of the interpreter fails this test only.
    home = Path(tinygpt.__file__).parents[1]
    result = subprocess.run([sys.executable, "-c", program], cwd=home, capture_output=True, text=True, timeout=120)
    assert result.stdout.split() == ["1.0", "deallocated"], result.stderr
    assert result.returncode == 0


def test_memory_after_backward_is_what_the_leaves_hold():
    """With the garbage collector off: whatever a reference cycle kept would stay."""
    size = 100_000
    x, weight = (Tensor(np.ones(size), requires_grad=True) for _ in range(2))

    def step():
        h = x
        for _ in range(3):
            h = (h + (h * weight).tanh()).reshape(100, -1).reshape(-1)
        h.register_hook(lambda gradient: None)
        (h.mean() + h[10:].sum()).backward()

    step()  # what is allocated once, such as NumPy's caches
    x.grad = weight.grad = None
    gc.disable()
    tracemalloc.start()
    try:
        for _ in range(2):
            before = tracemalloc.get_traced_memory()[0] + pool.in_use
            step()
            left = tracemalloc.get_traced_memory()[0] + pool.in_use - before
            assert abs(left - (x.grad.nbytes + weight.grad.nbytes)) < 120_000  # an array of the graph is 800,000
            x.grad = weight.grad = None
    finally:
        tracemalloc.stop()
        gc.enable()


def test_a_graph_without_backward_dies_with_its_last_tensor():
    gc.disable()
    try:
        x = leaf(1.0, 2.0)
        y = x * x
        inner = weakref.ref(y.data)
        z = y.exp() * y
        z.register_hook(print)
        del y
        assert inner() is not None  # z's backward needs it
        del z
        assert inner() is None
    finally:
        gc.enable()


def test_saved_arrays_are_freed_as_backward_passes():
    alive, counts = weakref.WeakSet(), []

    class Saved(np.ndarray):
        __hash__ = object.__hash__

    def forward(x):
        saved = np.zeros(4).view(Saved)
        alive.add(saved)
        return x.copy(), saved

    def backward(dout, saved):
        counts.append(len(alive))
        return (dout,)

    x = leaf(1.0, 2.0)
    loss = x
    for _ in range(5):
        loss = apply(Op("counted", forward, backward), loss)
    loss.backward(np.ones(2), retain_graph=True)
    assert counts == [5] * 5
    counts.clear()
    loss.backward(np.ones(2))
    assert counts == [5, 4, 3, 2, 1]
    assert len(alive) == 0  # although `loss` lives
    gradient = weakref.ref(x.grad)
    del x
    assert gradient() is None  # a loss that is kept for a report keeps nothing else


# a parameter's place in the flat gradient array


def test_a_parameters_gradient_lives_in_its_memory_and_the_first_write_overwrites_garbage():
    x, h = leaf(1.0, 2.0), leaf(5.0, 5.0)
    x.node.storage = memory = np.full(2, np.nan)  # 0 * NaN is NaN: only overwriting gets rid of it
    assert x.grad is None
    (x * 3.0 + x + h).sum().backward()
    assert x.grad is memory
    np.testing.assert_array_equal(memory, [4, 4])
    x.sum().backward()
    np.testing.assert_array_equal(memory, [5, 5])
    x.grad = None
    memory[:] = np.nan
    (x * 2.0).sum().backward()
    assert x.grad is memory
    np.testing.assert_array_equal(memory, [2, 2])
    x.grad = np.array([7.0, 8.0])
    assert x.grad is memory
    np.testing.assert_array_equal(memory, [7, 8])
    np.testing.assert_array_equal(h.grad, [1, 1])

"""Who owns a gradient: nothing is copied without need, and nobody writes into what somebody else holds."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

import tinygpt.functional as F
from tinygpt import Op, Tensor, apply
from tinygpt.autograd.gradients import RefCount, SharedGradient
from tinygpt.runtime.memory import Slot


def address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


# what a backward may return


def rolling(array: np.ndarray) -> np.ndarray:
    """A view that NumPy makes without naming the array itself as its base."""
    return np.lib.stride_tricks.as_strided(array, array.shape, array.strides)


RETURNS = {
    "dout for both": lambda dout, saved: (dout, dout),
    "views of dout": lambda dout, saved: (dout[::-1], dout.reshape(-1)),
    "strided views of dout": lambda dout, saved: (rolling(dout), rolling(dout)),
    "overlapping halves": lambda dout, saved: tuple(np.split(np.concatenate([dout, dout]), 2)),
    "saved arrays": lambda dout, saved: saved[0],
    "one saved array twice": lambda dout, saved: (saved[0][0], saved[0][0]),
    "views of saved arrays": lambda dout, saved: (saved[0][0][::-1], saved[0][1][:]),
    "dout and a saved array": lambda dout, saved: (dout, saved[0][1]),
    "broadcast views": lambda dout, saved: tuple(np.broadcast_to(dout[:1], (2, *dout.shape))),
    "writeable broadcast views": lambda dout, saved: tuple(np.broadcast_arrays(dout[:1], dout[:1], dout)[:2]),
    "read-only": lambda dout, saved: (np.frombuffer(dout.tobytes()), np.frombuffer(dout.tobytes())),
}
DOUT = np.array([7.0, 8.0, 9.0, 10.0])
FACTORS = np.array([3.0, 2.0, -1.0, 4.0]), np.array([5.0, 6.0, 1.0, -2.0])
every_return = pytest.mark.parametrize("returns", RETURNS.values(), ids=RETURNS)


def odd_op(returns) -> Op:
    """Its gradient is whatever `returns` gives; what it saves is nested, as "check" nests both sides."""
    return Op("odd", lambda a, b: (a + b, ((a, b), None)), returns)


def expected_shares(returns, a, b):
    """The same function on copies that nobody shares."""
    return [np.array(share) for share in returns(DOUT.copy(), ((a.copy(), b.copy()), None))]


@every_return
@pytest.mark.filterwarnings("ignore:future versions will not create a writeable array")
def test_whatever_a_backward_returns_inner_gradients_are_right_and_nothing_is_corrupted(returns, rng):
    a, b = (Tensor(rng.standard_normal(4), requires_grad=True) for _ in range(2))
    h, k = a + 0.0, b + 0.0
    h_again, k_again = h * FACTORS[0], k * FACTORS[1]  # older than odd: their gradients are added to those it returns
    out = apply(odd_op(returns), h, k)
    out.retain_grad()
    before = h.data.copy(), k.data.copy()
    loss = (out * DOUT + h_again + k_again).sum()
    for calls in (1, 2):
        loss.backward(retain_graph=True)
        for tensor, share, factor in zip((a, b), expected_shares(returns, *before), FACTORS, strict=True):
            # two additions in another order: some units in the last place
            np.testing.assert_allclose(tensor.grad, calls * (share + factor), rtol=1e-14)
        np.testing.assert_array_equal(out.grad, calls * DOUT)
    np.testing.assert_array_equal((h.data, k.data), before)


@every_return
@pytest.mark.filterwarnings("ignore:future versions will not create a writeable array")
def test_whatever_a_backward_returns_leaves_own_writeable_gradients(returns, rng):
    a, b = (Tensor(rng.standard_normal(4), requires_grad=True) for _ in range(2))
    before = a.data.copy(), b.data.copy()
    loss = (apply(odd_op(returns), a, b) * DOUT).sum()
    first, second = expected_shares(returns, *before)
    loss.backward(retain_graph=True)
    assert a.grad.flags.writeable and b.grad.flags.writeable
    for other in (b.grad, a.data, b.data):
        assert not np.shares_memory(a.grad, other)
    assert not np.shares_memory(b.grad, b.data) and not np.shares_memory(b.grad, a.data)
    loss.backward()
    np.testing.assert_array_equal((a.grad, b.grad), (2 * first, 2 * second))
    a.grad[:] = -1  # as an optimizer or a user may
    np.testing.assert_array_equal(b.grad, 2 * second)
    np.testing.assert_array_equal((a.data, b.data), before)


@pytest.mark.parametrize(
    "f",
    [F.add, F.sub, lambda a, b: F.stack([a, b]), lambda a, b: (a + b).reshape(2, 2).T, lambda a, b: (a + b) + (b + a)],
)
def test_leaves_of_the_basic_operations_never_share_a_gradient(f):
    a, b = (Tensor(np.ones(4), requires_grad=True) for _ in range(2))
    out = f(a, b)
    out.backward(np.ones(out.shape))
    kept = b.grad.copy()
    a.grad *= 0
    np.testing.assert_array_equal(b.grad, kept)


def test_a_tensor_added_to_itself_is_not_corrupted():
    x = Tensor(np.ones(3), requires_grad=True)
    h = x * 1.0
    for _ in range(3):
        h = h + h
    (h + x).backward(np.ones(3))
    np.testing.assert_array_equal(x.grad, [9, 9, 9])


# what it costs


def watch(addresses: list[int]) -> Op:
    """Changes nothing, and notes where in memory the gradient passes."""
    return Op("watch", lambda x: (x, None), lambda dout, saved: addresses.append(address(dout)) or (dout,))


BRANCH = Op("branch", lambda x: (x * 0.5, None), lambda dout, saved: (dout * 0.5,))
LAYERS = {  # one layer of a residual network, and how many leaves of the same size it has
    "branch second": (lambda h, leaf: h + apply(BRANCH, h), 0),
    "branch first": (lambda h, leaf: apply(BRANCH, h) + h, 0),
    "with a leaf": (lambda h, leaf: h + (apply(BRANCH, h) + leaf), 1),
}


@pytest.mark.parametrize(("layer", "leaves"), LAYERS.values(), ids=LAYERS)
def test_one_array_carries_the_gradient_through_all_residual_connections(layer, leaves):
    size, depth, addresses = 300_000, 8, []
    x = Tensor(np.ones(size), requires_grad=True)
    h = x
    for _ in range(depth):
        h = layer(apply(watch(addresses), h), Tensor(np.ones(size), requires_grad=True))
    dout = np.ones(size)
    tracemalloc.start()
    try:
        h.backward(dout)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    np.testing.assert_array_equal(x.grad, np.full(size, 1.5**depth))
    assert len(addresses) == depth
    assert {*addresses, address(x.grad)} == {address(x.grad)}  # from the loss to the leaf without a copy
    # At once: that array, what a branch has just made, and what the leaves keep. One more would be a copy.
    assert peak < (2.1 + leaves * depth) * dout.nbytes


def test_an_array_that_was_added_elsewhere_belongs_to_its_other_holder():
    x, y, addresses = Tensor(np.ones(3), requires_grad=True), Tensor(np.ones(3), requires_grad=True), []
    a, b = x * 1.0, apply(watch(addresses), y)
    both = apply(watch(addresses), a + b)
    (a * 3.0 + both).backward(np.ones(3))  # a holds a gradient already when that of `a + b` comes
    np.testing.assert_array_equal((x.grad, y.grad), [[4, 4, 4], [1, 1, 1]])
    assert addresses == [address(y.grad)] * 2


def test_a_leaf_takes_the_last_gradient_over_without_a_copy():
    x, made = Tensor(np.ones(10), requires_grad=True), []
    fresh = Op("fresh", lambda x: (x, None), lambda dout, saved: (made.append(address(g := dout * 2)) or g,))
    apply(fresh, x).backward(np.ones(10))
    assert made == [address(x.grad)]


def test_a_small_leaf_does_not_keep_a_large_gradient_alive():
    large, small = Tensor(np.ones(100_000), requires_grad=True), Tensor(np.ones(1), requires_grad=True)
    joined, dout = F.concatenate([large, small]), np.ones(100_001)
    tracemalloc.start()
    try:
        joined.backward(dout)
        large.grad = None
        assert tracemalloc.get_traced_memory()[0] < 20_000  # small.grad has 8 bytes, the whole had 800,008
    finally:
        tracemalloc.stop()
    np.testing.assert_array_equal(small.grad, [1])


# the parts


def test_a_gradient_is_added_in_place_only_while_it_has_one_owner():
    array = np.array([1.0, 2.0])
    first = SharedGradient(array, RefCount()).incref()
    second = SharedGradient(array[:], first.owners).incref()
    assert not first.exclusive and not second.exclusive
    first.add(np.array([10.0, 10.0]))
    np.testing.assert_array_equal(array, [1, 2])
    np.testing.assert_array_equal(first.array, [11, 12])
    assert first.exclusive and second.exclusive  # first has moved out
    second.add(np.array([10.0, 10.0]))
    np.testing.assert_array_equal(array, [11, 12])
    assert second.take() is second.array
    second.incref()
    taken = second.take()
    assert not np.shares_memory(taken, array)
    np.testing.assert_array_equal(taken, [11, 12])


def test_a_share_in_another_memory_order_is_added_as_numpy_adds_it():
    rows, columns = np.ones((2, 3)), np.ones((3, 2)).T
    for first, second in ((rows, columns), (columns, rows), (columns, columns), (rows, rows), (rows[:, ::-1], rows)):
        owner = RefCount()
        gradient = SharedGradient(first.copy("K"), owner).incref()
        gradient.add(second)
        assert gradient.exclusive and gradient.array.strides == (first + second).strides
        np.testing.assert_array_equal(gradient.array, 2)


@pytest.mark.parametrize("add", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_slot_overwrites_garbage_or_adds(add, dtype):
    memory = np.full((2, 3), 1.0 if add else np.nan, dtype)
    Slot(memory[:, ::2], add).write(np.array([2, 4], dtype))
    np.testing.assert_array_equal(memory[:, ::2], [[3, 5]] * 2 if add else [[2, 4]] * 2)
    np.testing.assert_array_equal(memory[:, 1], [1, 1] if add else [np.nan, np.nan])
    assert memory.dtype == dtype

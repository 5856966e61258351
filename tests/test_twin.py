"""The engine's bargain with kernels: gradients are written where they belong, once, added or overwritten as it says."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from tinygpt import Op, Tensor, apply, implementation, no_grad
from tinygpt.nn import Linear


def product_op(seen, **kernel_parts) -> Op:
    """a * b, with a kernel that notes which slots it was given."""

    def backward(dout, saved, into):
        a, b = saved
        seen.append([None if slot is None else slot.add for slot in into])
        for slot, gradient in zip(into, (dout * b, dout * a), strict=True):
            if slot is not None:
                slot.write(gradient)

    def reference(dout, saved):
        return dout * saved[1], dout * saved[0]

    kernel = SimpleNamespace(forward=lambda a, b: (a * b, (a, b)), backward=backward, **kernel_parts)
    return Op("product", lambda a, b: (a * b, (a, b)), reference, kernel)


@pytest.fixture(autouse=True)
def with_kernels():
    with implementation("kernels"):
        yield


def leaves(*values):
    return [Tensor(np.array(value, np.float32), requires_grad=True) for value in values]


def test_the_first_gradient_overwrites_and_the_second_is_added():
    seen, (a, b) = [], leaves([2.0, 3.0], [5.0, 7.0])
    op = product_op(seen)
    for calls in (1, 2):
        apply(op, a, b).sum().backward()
        np.testing.assert_array_equal(a.grad, calls * b.data)
        np.testing.assert_array_equal(b.grad, calls * a.data)
    assert seen == [[False, False], [True, True]]


def test_after_zero_grad_the_next_writer_overwrites_what_is_in_the_parameters_memory():
    seen, layer = [], Linear(1, 2, np.random.default_rng(0))
    layer.flatten_parameters()
    layer.flat_gradients[:] = np.nan
    for _ in range(2):
        apply(product_op(seen), layer.bias, np.array([1.0, 2.0], np.float32)).sum().backward()
        np.testing.assert_array_equal(layer.bias.grad, [1, 2])
        assert np.shares_memory(layer.bias.grad, layer.flat_gradients)
        layer.zero_grad()
    assert seen == [[False, None], [False, None]]


def test_a_tensor_that_is_both_inputs_receives_both_gradients():
    seen, (x,) = [], leaves([2.0, 3.0])
    apply(product_op(seen), x, x).sum().backward()
    np.testing.assert_array_equal(x.grad, [4, 6])
    h = x * 1.0
    apply(product_op(seen), h, h).sum().backward()
    np.testing.assert_array_equal(x.grad, [8, 12])


def test_a_kernel_never_adds_into_memory_that_is_shared():
    """h's gradient is the array that `add` hands to both of its inputs: the kernel must not spoil the other's share."""
    seen, (x, other) = [], leaves([2.0, 3.0], [1.0, 1.0])
    h = x * 1.0
    times = apply(product_op(seen), h, np.array([10.0, 10.0], np.float32))
    (h + other + times).backward(np.ones(2, np.float32))
    np.testing.assert_array_equal(x.grad, [11, 11])
    np.testing.assert_array_equal(other.grad, [1, 1])


def test_hooks_see_the_complete_gradient_that_kernels_wrote():
    seen, hooked, (a, b) = [], [], leaves([2.0, 3.0], [5.0, 7.0])
    a.register_hook(lambda gradient: hooked.append(gradient.copy()))
    op = product_op(seen)
    (apply(op, a, b) + apply(op, a, b)).backward(np.ones(2, np.float32))
    np.testing.assert_array_equal(hooked, [[10, 14]])


def test_what_a_kernel_does_not_accept_the_reference_computes():
    seen, (a, b) = [], leaves([2.0, 3.0], [5.0, 7.0])
    apply(product_op(seen, accepts=lambda a, b: False), a, b).sum().backward()
    np.testing.assert_array_equal(a.grad, [5, 7])
    assert seen == []


def test_a_kernel_without_a_backward_has_the_references():
    (a,) = leaves([2.0, 3.0])
    kernel = SimpleNamespace(forward=lambda x: (x + x, "saved by the kernel"))
    op = Op("doubling", lambda x: (2 * x, None), lambda dout, saved: (dout * len(saved),), kernel)
    apply(op, a).sum().backward()
    np.testing.assert_array_equal(a.grad, [19, 19])


def test_a_kernel_that_computes_gradients_in_forward_has_memory_for_those_that_will_be_needed():
    told = []

    def forward(a, b, reserved):
        told.append(tuple(memory is not None and memory.array.shape == (1,) for memory in reserved))
        return a * b, (a, b)

    op = product_op([], GRADIENTS_IN_FORWARD=True)
    op.kernel.forward = forward
    a, b = leaves([2.0], [5.0])
    apply(op, a, b.data).sum().backward()
    with no_grad():
        apply(op, a, b)
    assert told == [(True, False), (False, False)]
    np.testing.assert_array_equal(a.grad, [5])


def test_a_kernel_may_be_named_by_its_module():
    op = Op("absolute", lambda x: 1 / 0, lambda dout, saved: 1 / 0, kernel="tests_have_no_such_module")
    with pytest.raises(ModuleNotFoundError, match="tests_have_no_such_module"):
        apply(op, Tensor([1.0]))
    with implementation("numpy"), pytest.raises(ZeroDivisionError):
        apply(op, Tensor([1.0]))

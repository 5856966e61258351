"""What a user of tensors relies on: gradients add up, hooks see them, and every mistake is named."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from tinygpt import Op, Tensor, apply, no_grad


def leaf(*values: float) -> Tensor:
    return Tensor(np.array(values), requires_grad=True)


# accumulation


@pytest.mark.parametrize("uses", [1, 2, 7])
def test_gradients_of_several_uses_add_up(uses):
    x = leaf(2.0, -3.0)
    total = x
    for _ in range(uses):
        total = total + x * x
    total.sum().backward()
    np.testing.assert_array_equal(x.grad, 1 + uses * 2 * x.data)  # d/dx (x + n x^2); small integers: exact


def test_gradients_of_several_calls_add_up_until_grad_is_none():
    x = leaf(2.0, -3.0)
    (x * x).sum().backward()
    (5 * x).sum().backward()
    np.testing.assert_array_equal(x.grad, [2 * 2 + 5, 2 * -3 + 5])
    x.grad = None
    (5 * x).sum().backward()
    np.testing.assert_array_equal(x.grad, [5, 5])


def test_a_diamond_sums_over_its_paths():
    x = leaf(1.5)
    a = 2 * x
    out = (3 * a) * (a * a)  # 3 a^3 = 24 x^3
    out.backward()
    np.testing.assert_allclose(x.grad, [72 * 1.5**2], rtol=1e-15)


def test_stacked_diamonds_cost_one_visit_each():
    x = leaf(1.0)
    calls = []
    double = Op("double", lambda a, b: (a + b, None), lambda dout, saved: calls.append(1) or (dout, dout))
    h = x
    for _ in range(50):
        h = apply(double, h, h)
    h.backward()
    assert x.grad == 2.0**50  # the number of paths
    assert len(calls) == 50


def test_branches_of_unequal_length_are_complete_before_they_go_on():
    x = leaf(3.0)
    short = x * x  # older than the long branch, and consumed last
    long = x
    for _ in range(5):
        long = long * 2.0
    (short * long).backward()  # 32 x^3
    np.testing.assert_allclose(x.grad, [96 * 9.0], rtol=1e-15)


# backward(dout, retain_graph)


@pytest.mark.parametrize("kind", [list, np.float32, np.float64, Tensor])
def test_backward_takes_the_gradient_of_a_later_loss(kind):
    x = leaf(1.0, 2.0)
    values = [10.0, -1.0]
    dout = kind(values) if kind in (list, Tensor) else np.array(values, kind)
    (x * x).backward(dout)
    np.testing.assert_array_equal(x.grad, [20.0, -4.0])
    assert x.grad.dtype == np.float64


def test_backward_neither_keeps_nor_changes_the_dout_it_was_given():
    x, y, z, dout = leaf(1.0, 2.0), leaf(3.0, 4.0), leaf(5.0, 6.0), np.array([10.0, -1.0])
    h = x * 1.0
    (h + y + h * 2.0).backward(dout)
    z.backward(dout)
    np.testing.assert_array_equal(dout, [10.0, -1.0])
    for tensor in (x, y, z):
        assert not np.shares_memory(tensor.grad, dout)


def test_a_leaf_can_be_the_loss():
    x = leaf(4.0)
    x.backward()
    x.backward()
    np.testing.assert_array_equal(x.grad, [2.0])


def test_retain_graph_allows_a_second_backward_and_its_absence_names_the_op():
    x = leaf(3.0)
    y = (x * x).exp()
    loss = y * 1e-3
    loss.backward(retain_graph=True)
    once = x.grad.copy()
    loss.backward()
    np.testing.assert_array_equal(x.grad, 2 * once)
    with pytest.raises(ValueError, match=r"graph through 'mul' \(shape \(1,\)\) was freed.*retain_graph=True"):
        loss.backward()
    with pytest.raises(ValueError, match="graph through 'exp'"):  # a new loss over the freed part
        (y + 1.0).backward()
    np.testing.assert_array_equal(x.grad, 2 * once)


@pytest.mark.parametrize("shape", [(2,), (2, 3), (0,)])
def test_only_a_scalar_needs_no_dout(shape):
    x = Tensor(np.ones(shape), requires_grad=True)
    with pytest.raises(ValueError, match=r"Tensor.backward: needs a scalar, got shape .*; reduce it first, e.g. loss"):
        (x * 2).backward()
    with pytest.raises(ValueError, match=r"Tensor.backward: dout: the gradient must be float64"):
        (x * 2).backward(np.ones((*shape, 1)))


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_any_single_value_counts_as_a_scalar(shape):
    x = Tensor(np.full(shape, 3.0), requires_grad=True)
    (x * x).backward()
    np.testing.assert_array_equal(x.grad, np.full(shape, 6.0))


# what requires gradients


@pytest.mark.parametrize("data", [[1, 2], True, np.arange(3, dtype=np.uint16)])
def test_integers_and_booleans_cannot_require_gradients(data):
    with pytest.raises(TypeError, match=r"only float32 and float64 can require gradients, got (int64|bool|uint16)"):
        Tensor(data, requires_grad=True)


def test_integers_made_from_floats_carry_no_gradient():
    assert not leaf(1.5).astype(np.int64).requires_grad


def test_backward_without_anything_to_differentiate_says_so():
    for tensor in (Tensor([1.0]), leaf(1.0).detach()):
        with pytest.raises(ValueError, match=r"Tensor.backward: this tensor does not require gradients"):
            tensor.backward()


def test_requires_grad_can_be_switched_on_leaves_only():
    x, constant = leaf(2.0), Tensor([3.0])
    constant.requires_grad = True
    (x * constant).backward()
    np.testing.assert_array_equal(constant.grad, x.data)
    constant.requires_grad = False
    assert constant.grad is None and not (constant * 2).requires_grad
    product = x * 2
    with pytest.raises(ValueError, match="only a leaf can be switched off; use detach"):
        product.requires_grad = False


def test_detach_shares_the_values_and_stops_the_gradient():
    x = leaf(2.0, 3.0)
    y = x * x
    detached = y.detach()
    assert detached.data is y.data and detached.is_leaf and not detached.requires_grad
    (x * detached).sum().backward()
    np.testing.assert_array_equal(x.grad, y.data)  # as if x^2 were a constant


def test_grad_can_be_replaced_by_an_array_of_the_same_kind():
    for x in (leaf(1.0, 2.0), Tensor(np.float64(3.0), requires_grad=True)):
        (x * 1).sum().backward()
        x.grad = x.grad * 0.5  # NumPy makes a scalar of a 0-d array here
        (x * 1).sum().backward()
        np.testing.assert_array_equal(x.grad, np.full(x.shape, 1.5))
        with pytest.raises(ValueError, match=r"Tensor.grad: the gradient must be float64 .*, got float32"):
            x.grad = np.ones(x.shape, np.float32)
    with pytest.raises(ValueError, match=r"must be float64 \(2,\), like its tensor, got float64 \(3,\)"):
        leaf(1.0, 2.0).grad = np.ones(3)
    with pytest.raises(ValueError, match="set requires_grad = True first"):
        Tensor([1.0]).grad = np.ones(1, np.float32)


# no_grad


def test_no_grad_records_nothing_and_nests():
    x = leaf(2.0)
    with no_grad():
        assert not (x * x).requires_grad
        with no_grad():
            pass
        assert not (x * x).requires_grad
        assert leaf(1.0).requires_grad  # asked for explicitly
    assert (x * x).requires_grad
    with pytest.raises(KeyError), no_grad():
        raise KeyError
    assert (x * x).requires_grad


def test_no_grad_decorates_functions_also_recursive_ones():
    x = leaf(2.0)

    @no_grad()
    def power(n):
        return x if n == 1 else power(n - 1) * x

    assert not power(3).requires_grad and power(3).item() == 8
    assert (x * x).requires_grad


def test_no_grad_holds_for_its_own_thread_only():
    x, inside, seen = leaf(2.0), threading.Barrier(2), []

    def other():
        inside.wait()
        seen.append((x * x).requires_grad)
        inside.wait()

    thread = threading.Thread(target=other)
    thread.start()
    with no_grad():
        inside.wait()
        inside.wait()
    thread.join()
    assert seen == [True]


# values


def test_python_numbers_become_float32_and_arrays_keep_their_precision_and_memory():
    assert Tensor([1.0, 2.0]).dtype == Tensor(3.0).dtype == np.float32
    assert Tensor(np.float64(3.0)).dtype == np.float64
    for dtype in (np.float32, np.float64, np.int64, np.uint16, bool):
        array = np.ones(3, dtype)
        tensor = Tensor(array)
        assert tensor.data is array and tensor.numpy() is array and np.asarray(tensor) is array
    assert np.asarray(Tensor([1.5]), np.float64).dtype == np.float64
    assert Tensor([1, 2], dtype=np.float64).dtype == np.float64


@pytest.mark.parametrize("data", ["text", None, 1j, np.ones(2, np.float16), [object()]])
def test_other_kinds_of_data_are_refused(data):
    with pytest.raises(TypeError, match="Tensor: dtype must be float32, float64, an integer type or bool, got"):
        Tensor(data)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (None, "an integer type or bool, got NoneType$"),
        ("text", "an integer type or bool, got str$"),
        ({1.0: 2.0}, "an integer type or bool, got dict$"),
        ([1.0, None], "an integer type or bool, got object$"),
        (np.float16(1), r"an integer type or bool, got float16; pass dtype=np\.float32$"),
        ([[1.0, 2.0], [3.0]], r"^Tensor: the rows of a list must have one length, got rows of several; pad them$"),
    ],
)
def test_what_is_refused_is_named_and_where_there_is_a_remedy_it_is_said(data, says):
    with pytest.raises((TypeError, ValueError), match=says):
        Tensor(data)


def test_a_gradient_that_is_not_kept_is_none_with_a_warning():
    x = Tensor([1.0, 2.0], requires_grad=True)
    y = x * 2.0
    y.sum().backward()
    with pytest.warns(UserWarning, match=r"'mul' made this tensor.* call retain_grad\(\) before backward"):
        assert y.grad is None
    kept = x * 2.0
    kept.retain_grad()
    assert kept.grad is None  # without a warning: it is going to be kept
    kept.sum().backward()
    np.testing.assert_array_equal(kept.grad, [1, 1])


def test_a_tensor_of_a_tensor_is_refused():
    with pytest.raises(TypeError, match=r"Tensor: got a Tensor; use detach\(\)"):
        Tensor(Tensor([1.0]))


def test_item_len_and_bool():
    assert Tensor([[2.5]]).item() == 2.5 and isinstance(Tensor(2.5).item(), float)
    assert isinstance(Tensor(3).item(), int) and isinstance(Tensor(True).item(), bool)
    assert len(Tensor(np.zeros((3, 2)))) == 3
    assert bool(Tensor(1.0)) and not bool(Tensor([0.0]))
    for several in (Tensor([1.0, 2.0]), Tensor(np.ones(0))):
        with pytest.raises(ValueError, match=r"Tensor.item: needs exactly one value, got shape \(\d,\)"):
            several.item()
        with pytest.raises(ValueError, match="needs exactly one value"):
            bool(several)
    with pytest.raises(TypeError):
        len(Tensor(1.0))


def test_repr_shows_values_precision_and_origin():
    x = Tensor([1.0, 2.5], requires_grad=True)
    assert repr(x) == "Tensor([1. , 2.5], dtype=float32, requires_grad=True)"
    assert repr(x.detach()) == "Tensor([1. , 2.5], dtype=float32)"
    assert repr(x * 2) == "Tensor([2., 5.], dtype=float32, op=mul)"
    assert repr(Tensor(3)) == "Tensor(3, dtype=int64)"

"""Values arranged otherwise: where each one goes, how its gradient comes back, and the edges."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
from differentiation import BOTH_WAYS, assert_same, value_and_gradients
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import basic_indices, integer_array_indices, mutually_broadcastable_shapes

import tinygpt.functional as F
from tinygpt import Tensor, gradcheck
from tinygpt.ops.shapes import unbroadcast

# name: the operation, the shape it is used on, and NumPy's own
ARRANGEMENTS = {
    "reshape": (lambda x: F.reshape(x, 3, 8), (2, 3, 4), lambda x: x.reshape(3, 8)),
    "reshape to a tuple with -1": (lambda x: F.reshape(x, (4, -1)), (2, 3, 4), lambda x: x.reshape(4, 6)),
    "reshape to a scalar": (lambda x: F.reshape(x, ()), (1, 1), lambda x: x.reshape(())),
    "transpose": (F.transpose, (2, 3, 4), lambda x: x.T),
    "transpose to axes": (lambda x: F.transpose(x, 1, 2, 0), (2, 3, 4), lambda x: x.transpose(1, 2, 0)),
    "transpose to negative axes": (lambda x: F.transpose(x, (-1, 0, -2)), (2, 3, 4), lambda x: x.transpose(2, 0, 1)),
    "transpose of a scalar": (F.transpose, (), lambda x: x),
    "T": (lambda x: x.T, (2, 3), lambda x: x.T),
    "swapaxes": (lambda x: F.swapaxes(x, 0, -1), (2, 3, 4), lambda x: x.swapaxes(0, 2)),
    "swapaxes of one": (lambda x: F.swapaxes(x, 1, 1), (2, 3), lambda x: x),
    "broadcast_to": (lambda x: F.broadcast_to(x, (2, 3, 4)), (3, 1), lambda x: np.broadcast_to(x, (2, 3, 4))),
    "broadcast a scalar": (lambda x: F.broadcast_to(x, (2, 3)), (), lambda x: np.full((2, 3), x)),
    "broadcast to nothing": (lambda x: F.broadcast_to(x, (0, 3)), (1, 3), lambda x: np.empty((0, 3))),
    "squeeze": (F.squeeze, (1, 3, 1), lambda x: x.reshape(3)),
    "squeeze one axis": (lambda x: F.squeeze(x, axis=-1), (1, 3, 1), lambda x: x.reshape(1, 3)),
    "squeeze two axes": (lambda x: F.squeeze(x, (0, 2)), (1, 1, 1), lambda x: x.reshape(1)),
    "expand_dims": (lambda x: F.expand_dims(x, 1), (2, 3), lambda x: x.reshape(2, 1, 3)),
    "expand two": (lambda x: F.expand_dims(x, (0, -1)), (2, 3), lambda x: x.reshape(1, 2, 3, 1)),
    "nothing, reshaped": (lambda x: F.reshape(x, 3, 0), (0, 2), lambda x: x.reshape(3, 0)),
}
every_arrangement = pytest.mark.parametrize("name", ARRANGEMENTS)

INDICES = {
    "integer": 1,
    "negative": -1,
    "integers": (1, 2),
    "NumPy integer": np.int64(2),
    "slice": slice(1, 3),
    "step": slice(None, None, 2),
    "reversed": slice(None, None, -1),
    "empty slice": slice(2, 2),
    "integer and slice": (slice(1, None), 2),
    "all": (),
    "ellipsis": (..., 0),
    "new axis": (None, 1),
    "new axis after": (slice(None), None, 2),
    "array": np.array([2, 0]),
    "repeats": np.array([2, 0, 2, 2]),
    "negative repeats": np.array([-1, 2, 0]),
    "two-dimensional repeats": np.array([[1, 1], [0, 1]]),
    "list": [0, 0, 1],
    "no rows": np.array([], int),
    "pairs": (np.array([0, 2, 0]), np.array([1, 3, 1])),
    "grid": (np.array([[0], [2]]), np.array([3, 3])),
    "array and slice": (np.array([1, 1]), slice(1, 3)),
    "slice and array": (slice(None), np.array([3, 0, 3])),
    "mask": np.array([[True, False, True, False]] * 3),
    "mask of rows": np.array([True, False, True]),
    "mask of nothing": np.zeros((3, 4), bool),
    "mask and integer": (np.array([True, False, True]), 1),
    "tensor": Tensor(np.array([1, 0, 1])),
    "tensors": (Tensor(np.array([1, 1])), Tensor(np.array([2, 2]))),
    "tensor mask": Tensor(np.arange(12).reshape(3, 4) > 5),
}
every_index = pytest.mark.parametrize("index", INDICES.values(), ids=INDICES)


def scattered(places, dout, shape):
    """The gradient, literally: each value is followed to wherever it went."""
    dx = np.zeros(shape)
    for place, share in zip(places.ravel(), dout.ravel(), strict=True):
        dx.flat[place] += share
    return dx


def check_where_values_go(f, numpy_f, shape, rng):
    """NumPy moves the numbers of the places, and so says where each value of the result came from."""
    places = np.asarray(numpy_f(np.arange(np.prod(shape, dtype=int)).reshape(shape)))
    x, dout = rng.standard_normal(shape), rng.standard_normal(places.shape)
    expected = np.array([x.flat[int(place)] for place in places.ravel()]).reshape(places.shape)
    ours = value_and_gradients(f, [x], dout)
    assert_same(ours, (expected, [scattered(places.astype(int), dout, shape)]), tolerance=1e-14)  # sums of repeats


# (1) forward is the definition, and so is backward


@every_arrangement
def test_values_move_as_in_numpy_and_gradients_move_back(name, rng):
    f, shape, numpy_f = ARRANGEMENTS[name]
    check_where_values_go(f, numpy_f, shape, rng)


@every_index
def test_indexing_selects_as_numpy_and_repeated_values_add_their_gradients(index, rng):
    parts = index if isinstance(index, tuple) else (index,)
    plain = tuple(part.data if isinstance(part, Tensor) else part for part in parts)
    check_where_values_go(lambda x: x[index], lambda x: x[plain], (3, 4), rng)


@given(data=st.data())
def test_any_index_of_numpys_is_followed(data):
    shape = (3, 4, 2)
    index = data.draw(st.one_of(basic_indices(shape, allow_newaxis=True), integer_array_indices(shape)))
    check_where_values_go(lambda x: x[index], lambda x: x[index], shape, np.random.default_rng(0))


@given(shapes=mutually_broadcastable_shapes(num_shapes=1, base_shape=(2, 3, 1, 4), min_side=0, max_dims=4))
def test_unbroadcast_sums_over_every_use(shapes):
    (shape,) = shapes.input_shapes
    gradient = np.random.default_rng(0).standard_normal(shapes.result_shape)
    expected = np.zeros(shape)
    for index in np.ndindex(gradient.shape):
        used = index[len(index) - len(shape) :]
        expected[tuple(0 if n == 1 else i for i, n in zip(used, shape, strict=True))] += gradient[index]
    np.testing.assert_allclose(unbroadcast(gradient, shape), expected, rtol=0, atol=1e-13)  # sums of up to 24


@pytest.mark.parametrize(
    ("shapes", "axis"),
    [
        ([(2, 3), (1, 3), (4, 3)], 0),
        ([(2, 3), (2, 1)], 1),
        ([(2, 3), (2, 1)], -1),
        ([(2, 3)], 0),
        ([(0, 3), (2, 3)], 0),
        ([(0,), (0,)], 0),
        ([(2, 1, 2), (2, 3, 2)], -2),
    ],
)
def test_concatenate_puts_one_after_the_other_and_each_gets_its_slice_back(shapes, axis, rng):
    arrays = [rng.standard_normal(shape) for shape in shapes]
    rows = [row for array in arrays for row in np.moveaxis(array, axis, 0)]
    expected = np.stack(rows, axis) if rows else arrays[0]
    dout = rng.standard_normal(expected.shape)
    back, start = [], 0
    for array in arrays:
        back.append(dout.take(range(start, start + array.shape[axis]), axis))
        start += array.shape[axis]
    assert_same(value_and_gradients(lambda *xs: F.concatenate(xs, axis), arrays, dout), (expected, back), tolerance=0)


@pytest.mark.parametrize(("shape", "axis"), [((), 0), ((3,), 0), ((3,), 1), ((3,), -1), ((2, 3), 1), ((0,), 0)])
def test_stack_puts_them_side_by_side_and_each_gets_its_own_back(shape, axis, rng):
    arrays = [rng.standard_normal(shape) for _ in range(3)]
    out_shape = list(shape)
    out_shape.insert(axis % (len(shape) + 1), 3)
    dout = rng.standard_normal(out_shape)
    out, gradients = value_and_gradients(lambda *xs: F.stack(xs, axis), arrays, dout)
    assert out.shape == tuple(out_shape)
    for i, (array, gradient) in enumerate(zip(arrays, gradients, strict=True)):
        np.testing.assert_array_equal(out.take(i, axis), array)
        np.testing.assert_array_equal(gradient, dout.take(i, axis))


# (2) backward agrees with finite differences


@pytest.mark.parametrize("limit", BOTH_WAYS.values(), ids=BOTH_WAYS)
@every_arrangement
def test_arrangements_agree_with_finite_differences(name, limit, rng):
    f, shape, _ = ARRANGEMENTS[name]
    assert gradcheck(lambda x: f(x) * f(x), [rng.standard_normal(shape)], elementwise_limit=limit)


@pytest.mark.parametrize("limit", BOTH_WAYS.values(), ids=BOTH_WAYS)
@every_index
def test_indexing_agrees_with_finite_differences(index, limit, rng):
    assert gradcheck(lambda x: x[index] * x[index], [rng.standard_normal((3, 4))], elementwise_limit=limit)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_joining_agrees_with_finite_differences(axis, rng):
    arrays = [rng.standard_normal((2, 2)) for _ in range(3)]
    assert gradcheck(lambda *xs: F.concatenate([*xs, xs[0]], axis), arrays)  # one of them twice
    assert gradcheck(lambda *xs: F.stack([xs[1], *xs], axis), arrays)


# (5) edge cases


def test_arrangements_make_no_copy():
    x = Tensor(np.arange(6.0).reshape(2, 3))
    for view in (x.reshape(3, 2), x.T, x.swapaxes(0, 1), x.expand_dims(1), x[1:], x.broadcast_to((4, 2, 3))):
        assert np.shares_memory(view.data, x.data)


def test_a_transposed_tensor_is_reshaped_in_the_order_that_is_seen(rng):
    """No view can do this: both directions copy."""
    check_where_values_go(lambda x: x.T.reshape(2, 6), lambda x: x.T.reshape(2, 6), (3, 4), rng)
    check_where_values_go(lambda x: x[::2, ::-1].T.reshape(-1), lambda x: x[::2, ::-1].T.ravel(), (3, 4), rng)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_precision_is_kept_in_both_directions(dtype):
    fs = [f for f, shape, _ in ARRANGEMENTS.values() if shape == (2, 3, 4)]
    fs += [lambda x, i=index: x[i] for index in ((0, 1, 2), slice(1), np.array([0, 0]))]
    fs += [lambda x: F.concatenate([x, np.ones((2, 3, 4), int)]), lambda x: F.stack([x, x])]
    for f in fs:
        x = np.ones((2, 3, 4), dtype)
        out, (dx,) = value_and_gradients(f, [x], np.ones(f(Tensor(x)).shape))
        assert (out.dtype, dx.dtype, dx.shape) == (dtype, dtype, x.shape)


def test_astype_converts_the_values_and_converts_the_gradient_back():
    third = 1 / 3
    out, (dx,) = value_and_gradients(lambda x: x.astype(np.float32), [np.array([third])], np.array([third]))
    assert (out.dtype, dx.dtype) == (np.float32, np.float64)
    assert out[0] == dx[0] == np.float32(third)
    out, (dx,) = value_and_gradients(lambda x: x.astype("float64"), [np.array([third], np.float32)], np.array([third]))
    assert (out.dtype, dx.dtype) == (np.float64, np.float32)
    assert Tensor([1, 2]).astype(np.float64).dtype == np.float64


def test_joining_mixed_precision_gives_float64_and_each_gradient_its_own():
    for f in (F.concatenate, F.stack):
        arrays = [np.ones(2, np.float32), np.ones(2)]
        dout = np.ones(4) if f is F.concatenate else np.ones((2, 2))
        out, gradients = value_and_gradients(lambda *xs, f=f: f(xs), arrays, dout)
        assert [out.dtype, *(g.dtype for g in gradients)] == [np.float64, np.float32, np.float64]


def test_the_rows_of_a_tensor_can_be_iterated():
    x = Tensor(np.array([[1.0, 2.0], [3.0, 4.0]]), requires_grad=True)
    first, second = x
    (first * second).sum().backward()
    assert x.grad.tolist() == [[3, 4], [1, 2]]


# errors


def test_errors_say_what_does_not_fit():
    x = Tensor(np.ones((2, 3)))
    for axes in ((0,), (0, 0), (0, 2), (-3, 0), (0, 3), (0, 1, 2), (0.5, 1), ("a",)):
        with pytest.raises(ValueError, match=r"transpose: axes must be a permutation of the 2 axes of \(2, 3\), got"):
            x.transpose(axes)
    for sizes in ((4,), (-1, 4), (-1, -1), (-2, -3), (6, 0), (-1, 0)):
        with pytest.raises(
            ValueError, match=r"^reshape: sizes must multiply to 6 for shape \(2, 3\), and one may be -1"
        ):
            x.reshape(sizes)
    with pytest.raises(TypeError, match=r"^reshape: sizes must be integers, got"):
        x.view(np.float32)
    with pytest.raises(ValueError, match=r"^squeeze: axis 0 must have size 1, got shape \(2, 3\)"):
        x.squeeze(0)
    for shape in ((2, 2), (3,), (6,), (3, 2)):
        with pytest.raises(ValueError, match=r"^broadcast_to: sizes must be equal or 1 .* got shape \(2, 3\) for"):
            x.broadcast_to(shape)
    with pytest.raises(ValueError, match=r"^expand: -1 keeps the size of an axis, .* got \(-1, -1, -1\) for \(2, 3\)"):
        x.expand(-1, -1, -1)
    assert Tensor([1.0]).broadcast_to(3).shape == (3,)
    for index in (np.array([0.0]), Tensor([1.0, 0.0]), (slice(None), np.array([1.0]))):
        with pytest.raises(
            IndexError, match=r"^getitem: an index must be of integers, slices or a mask, got float..; write index\.ast"
        ):
            x[index]
    for index in (2, (0, 3), (0, 0, 0), np.array([0, 5])):
        with pytest.raises(IndexError, match=r"^getitem: the index does not fit shape \(2, 3\): "):
            x[index]
    for f, name in ((F.squeeze, "squeeze"), (F.expand_dims, "expand_dims"), (F.flatten, "flatten")):
        with pytest.raises(ValueError, match=rf"^{name}: axis must be from -\d to \d for a tensor of \d axes, got 5"):
            f(x, 5)
    with pytest.raises(ValueError, match=r"^swapaxes: axis must be from -2 to 1"):
        x.swapaxes(0, 2)
    with pytest.raises(ValueError, match=r"^flatten: start_dim must not come after end_dim, got 1 and 0"):
        x.flatten(1, 0)


@pytest.mark.parametrize("join", [F.concatenate, F.stack])
def test_what_cannot_be_joined_is_named_with_its_shapes(join):
    x, name = np.ones((2, 3)), join.__name__
    with pytest.raises(ValueError, match=f"^{name}: needs at least one tensor, got none"):
        join([])
    with pytest.raises(ValueError, match=rf"^{name}: the shapes must be equal.*, got \(2, 3\) and \(4, 4\)"):
        join([x, x, np.ones((4, 4))])
    with pytest.raises(ValueError, match=rf"^{name}: the shapes must be equal.*, got \(2, 3\) and \(2, 3, 1\)"):
        join([x, np.ones((2, 3, 1))])
    with pytest.raises(ValueError, match=f"^{name}: axis must be from"):
        join([x, x], 3)
    with pytest.raises(TypeError, match=f"^{name}: axis must be an integer, got None"):
        join([x, x], None)
    if join is F.concatenate:
        with pytest.raises(
            ValueError, match=r"^concatenate: needs tensors of at least one axis, got \(\); write stack"
        ):
            join([Tensor(1.0), Tensor(2.0)])


def test_two_axes_in_their_places_are_refused_as_pytorchs_exchange():
    """NumPy's x.transpose(0, 1) of a matrix changes nothing, and PyTorch's exchanges: neither is done silently."""
    x = Tensor(np.arange(6.0).reshape(2, 3))
    for axes in ((0, 1), (-2, -1), (0, -1)):
        with pytest.raises(TypeError, match=r"^transpose: .* leaves the axes in place in NumPy .* write swapaxes"):
            x.transpose(*axes)
        np.testing.assert_array_equal(x.transpose(axes).data, x.data)  # a tuple is NumPy's order
        np.testing.assert_array_equal(x.permute(*axes).data, x.data)
        np.testing.assert_array_equal(x.swapaxes(*axes).data, x.data.T)
    np.testing.assert_array_equal(x.transpose(1, 0).data, x.data.T)  # the same in both


def test_two_axes_of_three_or_more_are_exchanged_as_in_pytorch():
    data = np.arange(24.0).reshape(2, 3, 4)
    for axes in ((1, 2), (-2, -1), (0, 2), (1, 1)):
        x = Tensor(data, requires_grad=True)
        out = x.transpose(*axes)
        expected = data.swapaxes(*axes)
        np.testing.assert_array_equal(out.data, expected)
        out.backward(expected)
        np.testing.assert_array_equal(x.grad, data)
    with pytest.raises(ValueError, match=r"^swapaxes: "):
        Tensor(data).transpose(0, 3)
    with pytest.raises(ValueError, match=r"^transpose: axes must be a permutation of the 3 axes"):
        Tensor(data).transpose((1, 2))  # NumPy's order, of which one is missing


def test_items_are_neither_assigned_nor_deleted():
    x = Tensor([1.0, 2.0], requires_grad=True)
    with pytest.raises(TypeError, match=r"^Tensor: items cannot be assigned.*where\(mask, new, x\) or concatenate"):
        x[0] = 1.0
    with pytest.raises(TypeError, match=r"^Tensor: items cannot be assigned"):
        x[:1] += 1.0
    with pytest.raises(TypeError, match=r"^Tensor: items cannot be deleted"):
        del x[0]
    assert x.data.tolist() == [1, 2]


# padding


@pytest.mark.parametrize(
    ("shape", "width", "numpys"),
    [
        ((3,), (1, 2), ((1, 2),)),
        ((3,), ((0, 0),), ((0, 0),)),
        ((2, 3), 1, ((1, 1), (1, 1))),
        ((2, 3), ((1, 0), (0, 2)), ((1, 0), (0, 2))),
        ((2, 3), [(1, 2)], ((1, 2), (1, 2))),
        ((0, 2), ((1, 1), (1, 0)), ((1, 1), (1, 0))),
        ((), 2, ()),
    ],
)
def test_padding_is_numpys_and_its_gradient_is_cut_off(shape, width, numpys, rng):
    x = rng.standard_normal(shape)
    expected = np.pad(x, numpys, constant_values=0.5) if shape else x
    dout = rng.standard_normal(expected.shape)
    inside = tuple(slice(before, before + size) for size, (before, _) in zip(shape, numpys, strict=True))
    ours = value_and_gradients(lambda x: F.pad(x, width, value=0.5), [x], dout)
    assert_same(ours, (expected, [dout[inside]]), tolerance=0)


def test_pytorchs_widths_are_refused_with_those_to_write():
    torch = pytest.importorskip("torch")
    x = np.arange(24.0).reshape(2, 3, 4)
    for theirs in ((1, 2), (1, 2, 0, 3), (1, 1, 2, 0, 0, 1)):
        with pytest.raises(TypeError, match=r"^pad: needs a pair .* for each of 3 axes, got") as raised:
            F.pad(Tensor(x), theirs)
        ours = F.pad(Tensor(x), eval(str(raised.value).partition("write ")[2]))
        np.testing.assert_array_equal(ours.data, torch.nn.functional.pad(torch.tensor(x), theirs).numpy())
    for wrong in ((1, 2, 3), (1,), ()):
        with pytest.raises(TypeError, match=r"^pad: needs a pair"):
            F.pad(Tensor(x), wrong)
    for wrong in (-1, 1.5, ((1, -1),)):
        with pytest.raises(ValueError, match=r"^pad: widths must be integers from 0 on"):
            F.pad(Tensor(x), wrong)
    with pytest.raises(ValueError, match=r"^pad: needs a pair .* for each of 3 axes"):
        F.pad(Tensor(x), ((1, 1), (2, 2)))
    with pytest.raises(ValueError, match=r"^pad: mode must be 'constant', got 'reflect'"):
        F.pad(Tensor(x), 1, "reflect")


# methods by PyTorch's names


def test_the_size_is_a_number_and_can_be_called():
    x = Tensor(np.ones((2, 3), np.float32))
    assert x.size == 6 == x.numel() and isinstance(x.size, int) and f"{x.size}" == "6"
    assert (x.size(), x.size(0), x.size(-1), x.size(dim=1), x.dim()) == ((2, 3), 2, 3, 3, 2)
    assert json.dumps([x.size]) == "[6]" and np.zeros(x.size).shape == (6,) and type(x.size * 2) is int
    assert type(pickle.loads(pickle.dumps(x.size))) is int and Tensor(1.0).size() == ()
    with pytest.raises(IndexError, match=r"^size: there is no axis 2 in shape \(2, 3\)"):
        x.size(2)


def test_methods_by_pytorchs_names_are_numpys(rng):
    array = rng.standard_normal((2, 3, 4))
    x = Tensor(array)
    for ours, theirs in (
        (x.view(6, -1), array.reshape(6, 4)),
        (x.flatten(), array.reshape(-1)),
        (x.flatten(1), array.reshape(2, 12)),
        (x.flatten(0, 1), array.reshape(6, 4)),
        (x.flatten(start_dim=-2, end_dim=-1), array.reshape(2, 12)),
        (Tensor(2.0).flatten(), np.array([2.0])),
        (x.ravel(), array.ravel()),
        (x.permute(2, 0, 1), array.transpose(2, 0, 1)),
        (x.permute((1, 0, 2)), array.transpose(1, 0, 2)),
        (x.unsqueeze(-1), array[..., None]),
        (x.unsqueeze(dim=1), array[:, None]),
        (x.unsqueeze(1).squeeze(dim=1), array),
        (x.mT, array.swapaxes(-1, -2)),
        (x[:1].expand(5, -1, -1), np.broadcast_to(array[:1], (5, 3, 4))),
        (x.expand(7, 2, 3, 4), np.broadcast_to(array, (7, 2, 3, 4))),
        (x.contiguous(), array),
    ):
        np.testing.assert_array_equal(ours.data, theirs)


def test_a_view_of_what_lies_in_order_shares_its_memory_and_else_is_a_copy():
    x = Tensor(np.arange(6.0).reshape(2, 3))
    assert np.shares_memory(x.view(3, 2).data, x.data) and np.shares_memory(x.flatten().data, x.data)
    assert x.T.view(6).data.tolist() == [0, 3, 1, 4, 2, 5]


def test_integers_times_a_python_float_are_float32():
    assert (Tensor([1, 2]) * 0.5).dtype == np.float32


@pytest.mark.parametrize("floats", [[0.5, 1.5], (0.5, 1.5), np.float32(0.5), np.float64(0.5), 0.5])
def test_python_floats_beside_integers_are_float32_in_lists_too(floats):
    for whole in (2, [1, 2], np.array([1, 2]), Tensor([1, 2])):
        for out in (F.mul(floats, whole), F.mul(whole, floats), F.where([True, False], floats, whole)):
            assert out.dtype == np.float32
    double = np.array([1.0, 2.0]) * 0.1
    np.testing.assert_array_equal((Tensor(double) + [0.1, 0.2]).data, double + [0.1, 0.2])


def test_iterating_gives_rows_and_a_scalar_has_none():
    assert [row.data.tolist() for row in Tensor([[1.0, 2.0], [3.0, 4.0]])] == [[1.0, 2.0], [3.0, 4.0]]
    with pytest.raises(TypeError, match=r"shape \(\) has no length"):
        list(Tensor(3.0))


def test_a_precision_that_tensors_do_not_have_is_refused_with_and_without_gradients():
    for requires_grad in (False, True):
        with pytest.raises(TypeError, match="float16"):
            Tensor([1.0], requires_grad=requires_grad).astype(np.float16)


def test_transpose_of_none_is_numpys_default():
    x = Tensor(np.ones((2, 3, 4)))
    assert x.transpose(None).shape == x.transpose().shape == (4, 3, 2)


def test_a_scalar_has_the_axes_0_and_minus_1_and_no_others():
    x = Tensor(3.0)
    assert x.swapaxes(0, -1).shape == () and F.gather(x, -1, 0).item() == 3 and F.expand(x, 2).shape == (2,)
    for name, call in {
        "swapaxes": lambda: x.swapaxes(5, 0),
        "gather": lambda: F.gather(x, 7, 0),
        "repeat_interleave": lambda: F.repeat_interleave(x, 2, 1),
    }.items():
        with pytest.raises(ValueError, match=f"^{name}: axis must be from -1 to 0 for a tensor of 0 axes, got"):
            call()
    with pytest.raises(ValueError, match=r"^expand: -1 keeps the size of an axis, .* got \(-1,\) for \(\)"):
        F.expand(x, -1)


def test_what_is_of_another_kind_is_refused_in_our_words():
    x = Tensor(np.ones((2, 3)))
    for error, call in {
        "broadcast_to: sizes must be integers, got 2.0, 3": lambda: F.broadcast_to(x, (2.0, 3)),
        "pad: needs a pair (before, after) for each of 2 axes, got [[1, 2], [3]]": lambda: F.pad(x, [[1, 2], [3]]),
        "linear: weight must have shape (I, O) with I, O >= 1, got ()": lambda: F.linear(x, 2.0),
    }.items():
        with pytest.raises((TypeError, ValueError)) as raised:
            call()
        assert str(raised.value).startswith(error)


@pytest.mark.parametrize("operate", [
    lambda a, n: a * n, lambda a, n: n * a, lambda a, n: a / n, lambda a, n: a**n, np.add, np.maximum,
])  # fmt: skip
def test_the_size_keeps_the_precision_of_an_array_as_a_number_of_pythons_does(operate):
    """NumPy takes an int of another kind for int64, which makes float64 of float32."""
    x = Tensor(np.full((2, 3), 1.5, np.float32))
    for a in (x.data, x, np.float32(1.5)):
        ours, right = operate(a, x.size), operate(a, 6)
        assert ours.dtype == np.float32
        np.testing.assert_array_equal(ours, right)


@pytest.mark.parametrize("axis", [2, -3, 1.0, "a", [1], np.ones(2), Tensor([1.0, 2.0])])
def test_the_size_of_no_axis_is_named(axis):
    with pytest.raises(IndexError, match=r"^size: there is no axis .* in shape \(2, 3\)"):
        Tensor(np.ones((2, 3))).size(axis)


@pytest.mark.parametrize(("index", "said"), [
    ("a", "an index must be of integers, slices or a mask, got 'a'"),
    (1.5, "an index must be of integers, slices or a mask, got 1.5"),
    ((0, {}), "an index must be of integers, slices or a mask, got {}"),
    (["a"], r"an index must be of integers, slices or a mask, got \['a'\]"),
    ([[1], [0, 1]], "the rows of an index must have one length"),
    (slice(0.5, None), "a slice must have integers, and a step other than 0"),
    ((0, slice(None, None, 0)), "a slice must have integers, and a step other than 0"),
])  # fmt: skip
def test_what_is_no_index_is_named(index, said):
    for x in (Tensor(np.ones((2, 3))), Tensor(np.ones((2, 3)), requires_grad=True)):
        with pytest.raises(IndexError, match=rf"^getitem: {said}"):
            x[index]


@pytest.mark.parametrize(("wrong", "said"), [
    (lambda x: x.broadcast_to(None), "broadcast_to: sizes must be integers, got None"),
    (lambda x: x.expand("a", 3), "expand: sizes must be integers, got 'a', 3"),
    (lambda x: x.tile(2.0), "tile: sizes must be integers, got 2.0"),
    (lambda x: x.astype("floaty"), "astype: needs a dtype of NumPy, such as np.float32, got 'floaty'"),
    (lambda x: Tensor([1.0], dtype=4), "Tensor: needs a dtype of NumPy, such as np.float32, got 4"),
    (lambda x: F.pad(x, 1, constant_values=[1, 2]), r"pad: constant_values must be one number, got \[1, 2\]"),
    (lambda x: F.pad(x, 1, constant_values="0"), "pad: constant_values must be one number, got '0'"),
    (lambda x: x.tril(None), "tril: k must be an integer, got None"),
    (lambda x: x.triu(0.5), "triu: k must be an integer, got 0.5"),
    (lambda x: x.diagonal("0"), "diagonal: offset must be an integer, got '0'"),
    (lambda x: x.split([1.0, 1.0]), "split: the size of a part must be an integer, got 1.0"),
    (lambda x: x.std(ddof=[1]), r"std: ddof must be a number, got \[1\]"),
    (lambda x: x.var(ddof="1"), "var: ddof must be a number, got '1'"),
])  # fmt: skip
def test_what_is_no_size_dtype_or_number_is_named(wrong, said):
    with pytest.raises(TypeError, match=f"^{said}"):
        wrong(Tensor(np.ones((2, 3))))


LISTS = [
    F.squeeze, F.flatten, F.transpose, F.amax, F.amin, F.max, F.min, F.cumsum, F.argmax, F.argmin, F.argsort, F.any,
    F.all, F.flip, F.tril, F.triu, F.trace, F.diagonal, F.unbind, F.softmax, F.sum, F.prod, F.norm, F.sign, F.abs,
    lambda x: F.expand_dims(x, 0), lambda x: F.swapaxes(x, 0, 1), lambda x: F.expand(x, 2, 2, 3), F.sort,
    lambda x: F.pad(x, 1), lambda x: F.getitem(x, 0), lambda x: F.gather(x, 0, [[0, 1, 0]]),
    lambda x: F.index_select(x, 1, [0]), lambda x: F.topk(x, 2), lambda x: F.masked_fill(x, True, 0.0),
    lambda x: F.split(x, 1), lambda x: F.chunk(x, 2), lambda x: F.tile(x, 2), lambda x: F.repeat_interleave(x, 2),
    lambda x: F.linear(x, [[1.0], [2.0], [3.0]]), lambda x: F.nll_loss(x, [0, 1]),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(LISTS)))
def test_functions_take_lists_and_arrays_as_they_take_tensors(number):
    values = [[3.0, 1.0, 2.0], [6.0, 5.0, 4.0]]
    right = LISTS[number](Tensor(values))
    for other in (values, np.array(values, np.float32), np.array(values, np.float32, order="F")):
        assert repr(LISTS[number](other)) == repr(right)

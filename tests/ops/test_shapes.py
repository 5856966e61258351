"""Values arranged otherwise: where each one goes, how its gradient comes back, and the edges."""

from __future__ import annotations

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
    for axes in ((0,), (0, 0), (0, 2), (-3, 0), (0, 3), (0, 1, 2)):
        with pytest.raises(ValueError, match=r"transpose: axes must be a permutation of the 2 axes of \(2, 3\), got"):
            x.transpose(axes)
    with pytest.raises(ValueError, match=r"cannot reshape array of size 6 into shape \(4,\)"):
        x.reshape(4)
    with pytest.raises(ValueError, match="cannot select an axis to squeeze out which has size not equal to one"):
        x.squeeze(0)
    with pytest.raises(ValueError, match=r"\(2,3\).*\(2,2\)"):
        x.broadcast_to((2, 2))
    for index in (2, (0, 3), (0, 0, 0), np.array([0, 5])):
        with pytest.raises(IndexError, match=r"out of bounds|too many indices"):
            x[index]
    for join in (F.concatenate, F.stack):
        with pytest.raises(ValueError, match="concatenate: needs at least one tensor, got none"):
            join([])
        with pytest.raises(ValueError, match="must match exactly"):
            join([x, np.ones((4, 4))])


def test_integers_times_a_python_float_are_float32():
    assert (Tensor([1, 2]) * 0.5).dtype == np.float32


def test_iterating_gives_rows_and_a_scalar_has_none():
    assert [row.data.tolist() for row in Tensor([[1.0, 2.0], [3.0, 4.0]])] == [[1.0, 2.0], [3.0, 4.0]]
    with pytest.raises(TypeError, match=r"shape \(\) has no length"):
        list(Tensor(3.0))


def test_a_precision_that_tensors_do_not_have_is_refused_with_and_without_gradients():
    for requires_grad in (False, True):
        with pytest.raises(TypeError, match="float16"):
            Tensor([1.0], requires_grad=requires_grad).astype(np.float16)

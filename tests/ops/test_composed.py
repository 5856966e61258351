"""Operations made of others: NumPy's and PyTorch's values, gradients by finite differences, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from differentiation import value_and_gradients

import tinygpt.functional as F
from tinygpt import Tensor, gradcheck

X = np.array([[[3.0, -1.0, 2.0], [0.5, 4.0, -2.0]], [[1.0, 7.0, -3.0], [6.0, 0.25, 5.0]]])  # no two are equal
WHERE = np.array([[[2, 0, 0], [1, 1, 2]], [[0, 0, 1], [2, 2, 2]]])
MASK = X > 0

# name: the operation on X, NumPy's, and PyTorch's
SAME = {
    "sort": (lambda x: x.sort().values, np.sort, lambda x: x.sort().values),
    "sort along an axis": (lambda x: x.sort(dim=0).values, lambda x: np.sort(x, 0), lambda x: x.sort(dim=0).values),
    "sort down": (
        lambda x: F.sort(x, 1, descending=True)[0],
        lambda x: -np.sort(-x, 1),
        lambda x: x.sort(1, descending=True)[0],
    ),
    "topk": (lambda x: x.topk(2).values, lambda x: -np.sort(-x)[..., :2], lambda x: x.topk(2).values),
    "topk, smallest": (
        lambda x: F.topk(x, 1, dim=1, largest=False).values,
        lambda x: np.sort(x, 1)[:, :1],
        lambda x: x.topk(1, dim=1, largest=False).values,
    ),
    "gather": (
        lambda x: x.gather(2, WHERE),
        lambda x: np.take_along_axis(x, WHERE, 2),
        lambda x: x.gather(2, as_torch(WHERE)),
    ),
    "gather of fewer": (
        lambda x: F.gather(x, -1, WHERE[:1, :, :2]),
        lambda x: np.take_along_axis(x[:1], WHERE[:1, :, :2], 2),
        lambda x: x.gather(-1, as_torch(WHERE[:1, :, :2])),
    ),
    "index_select": (
        lambda x: x.index_select(dim=2, index=[2, 2, 0]),
        lambda x: np.take(x, [2, 2, 0], 2),
        lambda x: x.index_select(2, as_torch([2, 2, 0])),
    ),
    "masked_fill": (
        lambda x: x.masked_fill(MASK, -9.0),
        lambda x: np.where(MASK, -9.0, x),
        lambda x: x.masked_fill(as_torch(MASK), -9.0),
    ),
    "masked_fill, broadcast": (
        lambda x: F.masked_fill(x, Tensor(MASK[0, :1]), 2),
        lambda x: np.where(MASK[0, :1], 2, x),
        lambda x: x.masked_fill(as_torch(MASK[0, :1]), 2),
    ),
    "flip": (lambda x: x.flip(dims=(0, 2)), lambda x: np.flip(x, (0, 2)), lambda x: x.flip(0, 2)),
    "flip of all": (lambda x: x.flip(), np.flip, lambda x: x.flip(0, 1, 2)),
    "split": (lambda x: x.split(2, dim=2)[1], lambda x: x[..., 2:], lambda x: x.split(2, dim=2)[1]),
    "split by sizes": (lambda x: F.split(x, [1, 2], -1)[1], lambda x: x[..., 1:], lambda x: x.split([1, 2], -1)[1]),
    "chunk": (lambda x: x.chunk(2, dim=-1)[0], lambda x: x[..., :2], lambda x: x.chunk(2, dim=-1)[0]),
    "unbind": (lambda x: x.unbind(1)[1], lambda x: x[:, 1], lambda x: x.unbind(1)[1]),
    "tile": (lambda x: x.tile(2, 1, 3), lambda x: np.tile(x, (2, 1, 3)), lambda x: x.repeat(2, 1, 3)),
    "tile of fewer axes": (lambda x: x.tile(2), lambda x: np.tile(x, 2), lambda x: x.tile(2)),
    "tile of more axes": (
        lambda x: x.tile((2, 1, 1, 2)),
        lambda x: np.tile(x, (2, 1, 1, 2)),
        lambda x: x.repeat(2, 1, 1, 2),
    ),
    "repeat_interleave": (
        lambda x: x.repeat_interleave(2, dim=1),
        lambda x: np.repeat(x, 2, 1),
        lambda x: x.repeat_interleave(2, dim=1),
    ),
    "repeat_interleave, each so often": (
        lambda x: x.repeat_interleave([0, 3, 1], 2),
        lambda x: np.repeat(x, [0, 3, 1], 2),
        lambda x: x.repeat_interleave(as_torch([0, 3, 1]), 2),
    ),
    "repeat_interleave of all": (
        lambda x: x.repeat_interleave(2),
        lambda x: np.repeat(x, 2),
        lambda x: x.repeat_interleave(2),
    ),
    "diagonal": (lambda x: x.diagonal(), np.diagonal, lambda x: x.diagonal()),
    "diagonal of other axes": (
        lambda x: x.diagonal(offset=-1, dim1=-1, dim2=0),
        lambda x: np.diagonal(x, -1, -1, 0),
        lambda x: x.diagonal(-1, -1, 0),
    ),
    "trace": (lambda x: x[0].trace(), lambda x: np.trace(x[0]), lambda x: x[0, :, :2].trace()),
    "tril": (lambda x: x.tril(diagonal=1), lambda x: np.tril(x, 1), lambda x: x.tril(diagonal=1)),
    "triu": (lambda x: x.triu(1), lambda x: np.triu(x, 1), lambda x: x.triu(1)),
}
every_name = pytest.mark.parametrize("name", SAME)


def as_torch(value):
    return pytest.importorskip("torch").as_tensor(value)


@every_name
def test_values_are_numpys_and_gradients_agree_with_finite_differences(name):
    ours, numpys, _ = SAME[name]
    np.testing.assert_array_equal(ours(Tensor(X)).data, numpys(X))
    assert gradcheck(ours, [X])


@every_name
def test_torch_agrees(name, rng):
    ours, _, torchs = SAME[name]
    torch = pytest.importorskip("torch")
    theirs = torch.tensor(X, requires_grad=True)
    out = torchs(theirs)
    dout = rng.standard_normal(out.shape)
    out.backward(torch.tensor(dout))
    value, (gradient,) = value_and_gradients(ours, [X], dout)
    np.testing.assert_array_equal(value, out.detach().numpy())
    np.testing.assert_allclose(gradient, theirs.grad.numpy(), rtol=0, atol=1e-14)  # sums of repeats


# indices and truth values


@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.uint8])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_indices_are_numpys_and_equal_values_keep_their_order(dtype, axis):
    x = np.array([[3, 1, 3, 0], [1, 1, 0, 2], [3, 0, 3, 0]]).astype(dtype)
    order = np.argsort(x, axis, kind="stable")
    down = np.argsort(-x.astype(int), axis, kind="stable")
    np.testing.assert_array_equal(F.argsort(Tensor(x), axis).data, order)
    np.testing.assert_array_equal(F.argsort(Tensor(x), axis, descending=True).data, down)
    values, indices = F.topk(Tensor(x), 2, axis)
    np.testing.assert_array_equal(indices.data, down.take([0, 1], axis))
    np.testing.assert_array_equal(values.data, np.take_along_axis(x, indices.data, axis))
    assert values.dtype == dtype
    for name in ("argmax", "argmin"):
        for keepdims in (False, True):
            ours = getattr(Tensor(x), name)(axis, keepdims)
            np.testing.assert_array_equal(ours.data, getattr(np, name)(x, axis, keepdims=keepdims))
        assert getattr(Tensor(x), name)().item() == getattr(np, name)(x)


def test_truth_along_axes_is_numpys():
    x = np.array([[0.0, 2.0], [0.0, 0.0]])
    for name in ("any", "all"):
        for axis in (None, 0, 1, (0, 1)):
            ours = getattr(Tensor(x), name)(dim=axis, keepdim=True)
            np.testing.assert_array_equal(ours.data, getattr(np, name)(x, axis, keepdims=True))
    assert (Tensor(x) > 1).any() and not (Tensor(x) > 1).all()


def test_what_finds_indices_has_no_gradient_and_selects():
    x = Tensor(X[0], requires_grad=True)
    for found in (x.argmax(1), x.argmin(), x.argsort(), x.sort().indices, x.topk(1).indices, x.any()):
        assert isinstance(found, Tensor) and not found.requires_grad
    assert x[[0, 1], x.argmax(1)].requires_grad and (x.argmax(1) == Tensor([0, 1])).all()


def test_nan_comes_last_and_first_downwards():
    x = Tensor([1.0, np.nan, 2.0])
    assert x.argsort().data.tolist() == [0, 2, 1] and x.argsort(descending=True).data.tolist() == [1, 2, 0]


def test_a_tensor_without_axes_is_sorted():
    x = Tensor(3.0, requires_grad=True)
    for values, indices in (x.sort(), x.sort(0, True), x.topk(1)):
        assert (values.item(), indices.item(), values.shape, indices.shape) == (3, 0, (), ())
    assert x.argmax(0).item() == 0 == x.argsort(-1).item() and x.any(0).shape == () == x.flip(0).shape


# sizes


@pytest.mark.parametrize("n", [0, 1, 5, 6, 7])
@pytest.mark.parametrize("size", [1, 2, 3, 9])
def test_parts_are_of_torchs_sizes(n, size):
    torch = pytest.importorskip("torch")
    x, theirs = np.arange(2.0 * n).reshape(2, n), torch.arange(2.0 * n, dtype=torch.float64).reshape(2, n)
    for name in ("split", "chunk"):
        parts = getattr(Tensor(x), name)(size, 1)
        assert [part.shape for part in parts] == [tuple(part.shape) for part in getattr(theirs, name)(size, 1)]
        np.testing.assert_array_equal(F.concatenate(parts, 1).data, x)


def test_numpys_split_takes_the_number_of_parts():
    x = Tensor(np.arange(6.0), requires_grad=True)
    assert [part.shape for part in np.split(x, 2)] == [(3,), (3,)]
    assert [part.shape for part in x.split(2)] == [(2,), (2,), (2,)]


def test_integers_stay_integers():
    x = Tensor(np.arange(4).reshape(2, 2))
    for out in (x.tril(), x.triu(), x.tile(2), x.sort().values, x.diagonal(), x.masked_fill(x > 1, 0)):
        assert out.dtype == np.int64


# errors


def test_a_repeat_that_is_numpys_or_pytorchs_is_refused():
    with pytest.raises(
        TypeError, match=r"^Tensor\.repeat: repeats each value in NumPy, and the whole .* PyTorch; write"
    ):
        Tensor(X).repeat(2, 1)


def test_errors_name_the_operation():
    x = Tensor(X[0])
    for error, call in {
        r"topk: k must be from 0 to 3, the size of axis -1 of shape \(2, 3\), got 4": lambda: x.topk(4),
        r"argmax: needs at least one value along axis 1, got shape \(2, 0\)": lambda: x[:, :0].argmax(1),
        r"argsort: axis must be from -2 to 1 for a tensor of 2 axes, got 2": lambda: x.argsort(2),
        r"any: axis must be from -2 to 1": lambda: x.any(2),
        r"gather: needs an index of 2 axes for shape \(2, 3\), got shape \(1,\)": lambda: x.gather(1, [0]),
        r"masked_fill: the mask must broadcast to \(2, 3\), got shape \(2,\)": lambda: x.masked_fill([True, False], 0),
        r"flip: axis must be from": lambda: x.flip(2),
        r"split: the sizes must add up to 3, the size of axis 1, got \[1, 1\]": lambda: x.split([1, 1], 1),
        r"split: the size of a part must be at least 1, got 0": lambda: x.split(0),
        r"chunk: needs at least one part, got 0": lambda: x.chunk(0),
        r"unbind: needs a tensor of at least one axis": lambda: Tensor(1.0).unbind(),
        r"diagonal: needs two different axes, got 0 and 0 of shape \(2, 3\)": lambda: x.diagonal(0, 0, 0),
        r"tril: needs at least two axes, got shape \(3,\)": lambda: x[0].tril(),
        r"repeat_interleave: needs one integer from 0 on, or 3 for axis 1, got \[1, 2\]": lambda: x.repeat_interleave(
            [1, 2], 1
        ),
    }.items():
        with pytest.raises(ValueError, match=f"^{error}"):
            call()
    for name in ("topk", "chunk", "split"):
        with pytest.raises(TypeError, match=rf"^{name}: .* must be an integer, got 1\.5"):
            getattr(x, name)(1.5)
    with pytest.raises(TypeError, match=r"^argmax: axis must be an integer, got \(0, 1\)"):
        x.argmax((0, 1))
    with pytest.raises(IndexError, match=r"^getitem: the index does not fit shape \(2, 3\)"):
        x.index_select(1, [3])

"""Choices, element by element: the definitions, their gradients, and the edges."""

from __future__ import annotations

import math

import numpy as np
import pytest
from differentiation import BOTH_WAYS, assert_close, assert_same, value_and_gradients

import tinygpt.functional as F
from tinygpt import Tensor, gradcheck

# name: the operation, Python's own choice, and the shares of the gradient that a and b receive
CHOICES = {
    "maximum": (F.maximum, max, lambda a, b: (0.5, 0.5) if a == b else (a > b, b > a)),
    "minimum": (F.minimum, min, lambda a, b: (0.5, 0.5) if a == b else (a < b, b < a)),
}
every_choice = pytest.mark.parametrize("name", CHOICES)

PAIRS = [
    ((3,), (3,)),
    ((2, 3), (3,)),
    ((2, 1), (2, 3)),
    ((4, 1), (2, 1, 3)),
    ((), (2, 3)),
    ((1, 1), (3,)),
    ((), ()),
]
every_pair = pytest.mark.parametrize("shapes", PAIRS, ids=str)


def used_at(index, shape):
    """Broadcasting in words: which element of an operand is used at a place of the result."""
    return tuple(0 if n == 1 else i for i, n in zip(index[len(index) - len(shape) :], shape, strict=True))


# (1) forward is the definition, and so is backward


@every_choice
@every_pair
def test_choices_are_pythons_and_ties_share_the_gradient_evenly(name, shapes, rng):
    f, choose, shares = CHOICES[name]
    a, b = (rng.integers(0, 3, shape).astype(float) for shape in shapes)  # of three values: many ties
    dout = rng.standard_normal(np.broadcast_shapes(*shapes))
    expected, da, db = np.empty_like(dout), np.zeros_like(a), np.zeros_like(b)
    for index in np.ndindex(dout.shape):
        at_a, at_b = used_at(index, a.shape), used_at(index, b.shape)
        expected[index] = choose(a[at_a], b[at_b])
        share_a, share_b = shares(a[at_a], b[at_b])
        da[at_a] += share_a * dout[index]
        db[at_b] += share_b * dout[index]
    assert_same(value_and_gradients(f, [a, b], dout), (expected, [da, db]))


@every_pair
@pytest.mark.parametrize("condition_shape", [(), (3,), (2, 1, 3)], ids=str)
def test_where_takes_one_or_the_other_and_gives_its_gradient_to_the_one_taken(shapes, condition_shape, rng):
    a, b = (rng.standard_normal(shape) for shape in shapes)
    condition = rng.random(condition_shape) < 0.5
    dout = rng.standard_normal(np.broadcast_shapes(*shapes, condition_shape))
    expected, da, db = np.empty_like(dout), np.zeros_like(a), np.zeros_like(b)
    for index in np.ndindex(dout.shape):
        at_a, at_b = used_at(index, a.shape), used_at(index, b.shape)
        if condition[used_at(index, condition_shape)]:
            expected[index] = a[at_a]
            da[at_a] += dout[index]
        else:
            expected[index] = b[at_b]
            db[at_b] += dout[index]
    for given in (condition, Tensor(condition), condition.tolist()):
        assert_same(value_and_gradients(lambda a, b, c=given: F.where(c, a, b), [a, b], dout), (expected, [da, db]))


CLIPPED = [  # shape, low, high
    ((), -0.5, 0.5),
    ((5,), None, 0.2),
    ((2, 3), -0.3, None),
    ((2, 3), np.array([-1.0, 0.0, 0.5]), 0.7),
    ((3, 1), -0.2, np.array([0.1, 0.4])),
    ((2, 3), 0.5, -0.5),  # the upper bound wins, as in NumPy and PyTorch
]


@pytest.mark.parametrize(("shape", "low", "high"), CLIPPED, ids=str)
def test_clip_stays_within_its_bounds_and_gives_a_gradient_inside_of_them_only(shape, low, high, rng):
    a = rng.standard_normal(shape)
    lows, highs = (side if bound is None else bound for bound, side in ((low, -math.inf), (high, math.inf)))
    dout = rng.standard_normal(np.broadcast_shapes(shape, np.shape(lows), np.shape(highs)))
    each_a, each_low, each_high = np.broadcast_arrays(a, lows, highs)
    expected, da = np.empty_like(dout), np.zeros_like(a)
    for index in np.ndindex(dout.shape):
        expected[index] = min(max(each_a[index], each_low[index]), each_high[index])
        if each_low[index] <= each_a[index] <= each_high[index]:
            da[used_at(index, shape)] += dout[index]
    for f in (lambda a: F.clip(a, low, high), lambda a: a.clip(low, high), lambda a: a.clamp(min=low, max=high)):
        assert_same(value_and_gradients(f, [a], dout), (expected, [da]))
    assert gradcheck(lambda a: F.clamp(a, min=low, max=high), [a])


def test_at_a_bound_the_gradient_passes_and_nan_stays_nan():
    a = np.array([-1.0, 1.0, -1.1, 1.1, np.nan])
    out, (gradient,) = value_and_gradients(lambda a: a.clip(-1, 1), [a], np.ones(5))
    np.testing.assert_array_equal(out, [-1, 1, -1, 1, np.nan])
    assert gradient.tolist() == [1, 1, 0, 0, 0]


def test_clip_does_as_torch_does_at_bounds_beyond_them_and_of_nan():
    torch = pytest.importorskip("torch")
    a = np.array([-2.0, -1.0, 0.0, 1.0, 2.0, np.nan], np.float32)
    low = np.array([-1.0, -1.0, 0.5, 1.0, -1.0, -1.0], np.float32)
    for bounds in ((-1, 1), (None, 1.0), (0, None), (1, -1), (low, 1.5)):
        theirs = torch.tensor(a, requires_grad=True)
        out = theirs.clamp(*(None if b is None else torch.as_tensor(b, dtype=torch.float32) for b in bounds))
        out.sum().backward()
        ours, (gradient,) = value_and_gradients(lambda a, b=bounds: a.clip(*b), [a], np.ones(6, np.float32))
        np.testing.assert_array_equal(ours, out.detach().numpy())
        np.testing.assert_array_equal(gradient, theirs.grad.numpy())


def test_integers_are_clipped_to_integers_and_by_floats_to_floats():
    x = Tensor(np.array([-5, 0, 300]))
    for out, values in ((x.clip(0, 255), [0, 0, 255]), (x.clip(min=0), [0, 0, 300]), (x.clip(max=1), [-5, 0, 1])):
        assert out.dtype == np.int64 and out.data.tolist() == values
    assert x.clip(0.5, 2).dtype == np.float32 and x.clip(0.5, 2).data.tolist() == [0.5, 0.5, 2]
    float32 = Tensor([0.3], requires_grad=True)
    assert float32.clip(np.float64(0.5)).dtype == np.float32 and float32.clip(np.array([0.5])).dtype == np.float64


def test_clip_says_what_is_missing():
    x = Tensor([1.0, 2.0])
    with pytest.raises(TypeError, match=r"clip: needs a low bound, a high bound or both, got neither"):
        x.clip()
    with pytest.raises(TypeError, match=r"clip: min is another name of low; give one of them"):
        F.clamp(x, low=0, min=0)
    with pytest.raises(ValueError, match=r"clip: needs shapes that broadcast"):
        x.clip(np.zeros(3), 1)


def test_bounds_of_clip_that_require_a_gradient_receive_that_of_what_they_replaced():
    a = np.array([-2.0, 0.0, 2.0, 0.5])
    low, high, dout = np.array(-1.0), np.array([1.0, 1.0, 1.5, 0.5]), np.array([1.0, 10.0, 100.0, 1000.0])
    for f in (F.clip, lambda a, low, high: a.clamp(min=low, max=high)):
        out, (da, dlow, dhigh) = value_and_gradients(f, [a, low, high], dout)
        assert out.tolist() == [-1, 0, 1.5, 0.5]
        assert (da.tolist(), dlow, dhigh.tolist()) == ([0, 10, 0, 500], 1, [0, 0, 100, 500])  # the last is a tie
    bound = Tensor([1.0], requires_grad=True)
    F.clip(Tensor([0.0, 2.0]), high=bound).sum().backward()  # a bound alone may require one
    assert bound.grad.tolist() == [1]
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(value_and_gradients(F.clip, [a, low, high], dout)[0], np.clip(a, low, high))


@every_pair
def test_logaddexp_is_the_logarithm_of_the_sum_and_its_slopes_are_the_shares_of_the_terms(shapes, rng):
    a, b = (rng.standard_normal(shape) for shape in shapes)
    dout = rng.standard_normal(np.broadcast_shapes(*shapes))
    expected, da, db = np.empty_like(dout), np.zeros_like(a), np.zeros_like(b)
    for index in np.ndindex(dout.shape):
        at_a, at_b = used_at(index, a.shape), used_at(index, b.shape)
        p, q = math.exp(a[at_a]), math.exp(b[at_b])
        expected[index] = math.log(p + q)
        da[at_a] += dout[index] * p / (p + q)
        db[at_b] += dout[index] * q / (p + q)
    assert_same(value_and_gradients(F.logaddexp, [a, b], dout), (expected, [da, db]))
    assert gradcheck(F.logaddexp, [a, b])


def test_logaddexp_does_not_overflow_and_takes_minus_infinity_for_nothing():
    a, b = np.array([1000.0, -1000.0, -np.inf, 2.0]), np.array([1000.0, 0.0, 3.0, -np.inf])
    with np.errstate(over="raise", invalid="raise"):
        out, (da, db) = value_and_gradients(F.logaddexp, [a, b], np.ones(4))
    assert out.tolist() == [1000 + math.log(2), 0, 3, 2]
    assert_close(da, [0.5, 0, 0, 1])
    assert_close(db, [0.5, 1, 1, 0])
    assert F.logaddexp(Tensor(np.array([0])), 0).dtype == np.float32


SPECIAL = [math.nan, math.inf, -math.inf, 0.0, 1.0, 6.0, -2.0]


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "relu6", "softplus", "maximum", "minimum", "logaddexp"])
def test_nan_and_infinity_have_the_gradients_that_torch_gives_them(name):
    torch = pytest.importorskip("torch")
    theirs = getattr(torch.nn.functional, name, None) or getattr(torch, name)
    a, b = (side.ravel() for side in np.meshgrid(SPECIAL, SPECIAL))
    arrays = [a, b] if name in ("maximum", "minimum", "logaddexp") else [np.array(SPECIAL)]
    tensors = [torch.tensor(array, requires_grad=True) for array in arrays]
    expected = theirs(*tensors)
    expected.sum().backward()
    with np.errstate(invalid="ignore"):
        out, gradients = value_and_gradients(getattr(F, name), arrays, np.ones(arrays[0].shape))
    np.testing.assert_allclose(out, expected.detach().numpy(), rtol=1e-12)
    for ours, tensor in zip(gradients, tensors, strict=True):
        np.testing.assert_allclose(ours, tensor.grad.numpy(), rtol=1e-12)


def test_leaky_relu_takes_another_slope_and_relu6_keeps_integers():
    out, (gradient,) = value_and_gradients(lambda x: F.leaky_relu(x, 0.2), [np.array([-5.0, 5.0])], np.ones(2))
    assert out.tolist() == [-1, 5] and gradient.tolist() == [0.2, 1]
    assert F.relu6(Tensor(np.array([-1, 3, 9]))).data.tolist() == [0, 3, 6]
    for f in (F.leaky_relu, F.relu6):
        assert gradcheck(f, [np.array([[-3.0, 0.5], [5.0, 7.0]])])


# (2) backward agrees with finite differences


@pytest.mark.parametrize("limit", BOTH_WAYS.values(), ids=BOTH_WAYS)
@every_pair
def test_choices_agree_with_finite_differences(shapes, limit, rng):
    arrays = [rng.standard_normal(shape) for shape in shapes]  # ties have probability 0
    condition = rng.random(np.broadcast_shapes(*shapes)) < 0.5
    for f in (F.maximum, F.minimum, lambda a, b: F.where(condition, a, b)):
        assert gradcheck(f, arrays, elementwise_limit=limit)


# (5) edge cases


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_precision_is_kept_in_both_directions(dtype, rng):
    for shape in ((), (3,), (0,)):
        x, dout = rng.uniform(0.1, 2.0, shape).astype(dtype), np.ones(shape, dtype)
        for other in (2, 2.0, np.float64(0.5), np.int64(1), np.ones(shape, int), np.ones(shape, dtype)):
            fs = [lambda x, o=other: F.maximum(x, o), lambda x, o=other: F.minimum(o, x)]
            fs += [lambda x, o=other: F.where(x > o, o, x)]
            for f in fs:
                out, (gradient,) = value_and_gradients(f, [x], dout)
                assert (out.dtype, gradient.dtype) == (dtype, dtype)
                assert out.shape == gradient.shape == shape


def test_mixed_precision_computes_in_float64_and_each_gradient_has_its_own():
    a, b = np.array([1.0, 4.0], np.float32), np.array([2.0, 3.0])
    for f in (F.maximum, F.minimum, lambda a, b: F.where([True, False], a, b)):
        out, (da, db) = value_and_gradients(f, [a, b], np.ones(2))
        assert (out.dtype, da.dtype, db.dtype) == (np.float64, np.float32, np.float64)


def test_choices_between_integers_are_exact():
    """Unsigned integers have no negative, int64 has one value without a negative: token ids are of such types."""
    for dtype in (np.uint8, np.uint16, np.int64, bool):
        a, b = np.array([0, 5, 7]).astype(dtype), np.array([1, 1, 7]).astype(dtype)
        for f, choose in ((F.maximum, max), (F.minimum, min)):
            result = f(Tensor(a), Tensor(b))
            assert result.dtype == dtype
            assert result.data.tolist() == [choose(p, q) for p, q in zip(a.tolist(), b.tolist(), strict=True)]
    lowest = np.iinfo(np.int64).min
    assert F.minimum(Tensor(np.array([lowest])), 0).item() == lowest


def test_nan_propagates():
    x = np.array([np.nan, 1.0])
    for f in (F.maximum, F.minimum):
        for a, b in ((x, np.zeros(2)), (np.zeros(2), x)):
            assert np.isnan(f(Tensor(a), Tensor(b)).data).tolist() == [True, False]
    kept, (da, db) = value_and_gradients(lambda a, b: F.where([False, True], a, b), [x, np.array([5.0, 6.0])], x)
    assert kept.tolist() == [5, 1]  # what is not taken has no influence, be it NaN
    assert da.tolist() == [0, 1] and np.isnan(db[0]) and db[1] == 0


def test_where_keeps_an_infinite_slope_out_of_what_it_did_not_take():
    """The usual guard: log where it is defined. A product with the mask would give 0 * infinity."""
    safe = np.array([0.0, 2.0])
    with np.errstate(divide="ignore", invalid="ignore"):
        log, exact = value_and_gradients(lambda x: F.where(x > 0, F.log(F.where(x > 0, x, 1)), 0), [safe], np.ones(2))
    assert_close(log, [0, math.log(2)])
    assert_close(exact[0], [0, 0.5])


# errors


def test_where_without_values_says_what_gives_the_places():
    with pytest.raises(TypeError, match=r"where: needs a condition, a and b; .* write np\.nonzero\(condition\)"):
        F.where(Tensor([True, False]))


def test_shapes_that_do_not_broadcast_are_shown():
    for f in (F.maximum, F.minimum, lambda a, b: F.where(True, a, b)):
        with pytest.raises(ValueError, match=r"\(3,\) .*\(4,\)"):
            f(Tensor(np.ones(3)), Tensor(np.ones(4)))


GUARDS = {
    "relu": (F.relu, lambda torch: torch.relu),
    "clip": (lambda x: F.clip(x, 0, 9), lambda torch: lambda x: torch.clamp(x, 0, 9)),
    "maximum": (lambda x: F.maximum(x, 0.0), lambda torch: lambda x: torch.maximum(x, torch.zeros(()))),
    "minimum": (lambda x: -F.minimum(-x, 0.0), lambda torch: lambda x: -torch.minimum(-x, torch.zeros(()))),
}


@pytest.mark.parametrize("name", GUARDS)
def test_an_infinite_slope_does_not_reach_what_was_not_taken(name):
    """sqrt(relu(x)) where x is negative: a product of the mask and the slope at 0 would be 0 * infinity."""
    x = Tensor([-4.0, 4.0], requires_grad=True)
    with np.errstate(divide="ignore"):
        F.sqrt(GUARDS[name][0](x)).sum().backward()
    np.testing.assert_array_equal(x.grad, [0, 0.25])


@pytest.mark.parametrize("name", GUARDS)
@pytest.mark.parametrize("dout", [np.inf, np.nan, 2.0])
def test_infinite_gradients_and_nan_go_where_torch_lets_them(name, dout):
    torch = pytest.importorskip("torch")
    ours, theirs = GUARDS[name]
    values = np.array([-1.0, 0.0, 1.0], np.float32)
    x, y = Tensor(values, requires_grad=True), torch.tensor(values, requires_grad=True)
    ours(x).backward(np.full(3, dout, np.float32))
    theirs(torch)(y).backward(torch.full((3,), dout))
    np.testing.assert_array_equal(x.grad, y.grad.numpy())

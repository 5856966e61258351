"""Arithmetic, comparisons and the matrix product: the definitions, their gradients, the operators, and the edges."""

from __future__ import annotations

import math
import operator

import numpy as np
import pytest
from differentiation import BOTH_WAYS, assert_close, assert_same, value_and_gradients

import tinygpt.functional as F
from tinygpt import Tensor, gradcheck

# Two operands of one shape, stretched along the last, a middle and a missing axis, along several, and both at once.
PAIRS = [
    ((3,), (3,)),
    ((2, 3), (2, 3)),
    ((2, 3), (3,)),
    ((2, 1), (2, 3)),
    ((2, 3, 4), (2, 1, 4)),
    ((4, 1), (2, 1, 3)),
    ((), (2, 3)),
    ((1, 1), (3,)),
    ((), ()),
    ((1,), (1,)),
]
every_pair = pytest.mark.parametrize("shapes", PAIRS, ids=str)

# name: the operation on tensors, on two Python numbers, and its slopes in a and in b, as any calculus text has them
ARITHMETIC = {
    "add": (F.add, lambda a, b: a + b, lambda a, b: 1.0, lambda a, b: 1.0),
    "sub": (F.sub, lambda a, b: a - b, lambda a, b: 1.0, lambda a, b: -1.0),
    "mul": (F.mul, lambda a, b: a * b, lambda a, b: b, lambda a, b: a),
    "div": (F.div, lambda a, b: a / b, lambda a, b: 1 / b, lambda a, b: -a / b**2),
}
every_operation = pytest.mark.parametrize("name", ARITHMETIC)

MATRICES = [
    ((2, 3), (3, 4)),
    ((3,), (3, 4)),
    ((2, 3), (3,)),
    ((3,), (3,)),
    ((5, 2, 3), (5, 3, 4)),
    ((5, 2, 3), (3, 4)),
    ((2, 3), (5, 3, 4)),
    ((5, 1, 2, 3), (2, 3, 4)),
    ((3,), (5, 3, 4)),
    ((5, 2, 3), (3,)),
    ((1, 1), (1, 1)),
    ((3, 3), (3, 3)),
]
every_matrix = pytest.mark.parametrize("shapes", MATRICES, ids=str)
EXPONENTS = [2, 3, 1, 0, -1, 0.5, -1.5, 2.0]


def draw(rng, *shapes):
    """Away from 0, where division and negative powers have no slope."""
    return [rng.uniform(0.5, 2.0, shape) * rng.choice([-1.0, 1.0], shape) for shape in shapes]


def used_at(index, shape):
    """Broadcasting in words: which element of an operand is used at a place of the result."""
    return tuple(0 if n == 1 else i for i, n in zip(index[len(index) - len(shape) :], shape, strict=True))


# (1) forward is the definition, and so is backward


@every_operation
@every_pair
def test_arithmetic_is_pythons_on_every_pair_and_each_use_adds_its_gradient(name, shapes, rng):
    f, scalar, slope_a, slope_b = ARITHMETIC[name]
    a, b = draw(rng, *shapes)
    dout = rng.standard_normal(np.broadcast_shapes(*shapes))
    expected, da, db = np.empty_like(dout), np.zeros_like(a), np.zeros_like(b)
    for index in np.ndindex(dout.shape):
        at_a, at_b = used_at(index, a.shape), used_at(index, b.shape)
        x, y = float(a[at_a]), float(b[at_b])
        expected[index] = scalar(x, y)
        da[at_a] += dout[index] * slope_a(x, y)
        db[at_b] += dout[index] * slope_b(x, y)
    assert_same(value_and_gradients(f, [a, b], dout), (expected, [da, db]))


@pytest.mark.parametrize("exponent", EXPONENTS)
def test_pow_is_pythons(exponent, rng):
    a = rng.uniform(0.5, 2.0, (2, 3))
    expected, da = np.empty_like(a), np.empty_like(a)
    for index in np.ndindex(a.shape):
        expected[index] = math.pow(a[index], exponent)
        da[index] = exponent * math.pow(a[index], exponent - 1)
    assert_same(value_and_gradients(lambda a: a**exponent, [a], np.ones_like(a)), (expected, [da]))


@every_matrix
def test_matmul_sums_products_over_the_inner_axis(shapes, rng):
    a, b = draw(rng, *shapes)
    rows = a.reshape(1, -1) if a.ndim == 1 else a
    columns = b.reshape(-1, 1) if b.ndim == 1 else b
    batch = np.broadcast_shapes(rows.shape[:-2], columns.shape[:-2])
    expected = np.zeros((*batch, rows.shape[-2], columns.shape[-1]))
    for *index, n, m in np.ndindex(expected.shape):
        of_a, of_b = used_at(index, rows.shape[:-2]), used_at(index, columns.shape[:-2])
        for k in range(a.shape[-1]):
            expected[(*index, n, m)] += rows[(*of_a, n, k)] * columns[(*of_b, k, m)]
    shape = batch + (() if a.ndim == 1 else a.shape[-2:-1]) + (() if b.ndim == 1 else b.shape[-1:])
    assert_close(F.matmul(Tensor(a), Tensor(b)).data, expected.reshape(shape))


@pytest.mark.parametrize("compare", [operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge])
def test_comparisons_are_boolean_tensors_without_gradient(compare):
    a, b = [1.0, 2.0, 3.0, math.nan], [3.0, 2.0, 1.0, math.nan]
    x = Tensor(a, requires_grad=True)
    expected = [compare(p, q) for p, q in zip(a, b, strict=True)]
    for other in (Tensor(b), np.array(b), b):
        result = compare(x, other)
        assert isinstance(result, Tensor) and result.dtype == bool and not result.requires_grad
        assert result.data.tolist() == expected
    assert compare(x, 2).data.tolist() == [compare(p, 2) for p in a]
    assert compare(np.array(a), Tensor(b)).data.tolist() == expected  # NumPy leaves it to the tensor


# (2) backward agrees with finite differences


@pytest.mark.parametrize("limit", BOTH_WAYS.values(), ids=BOTH_WAYS)
@every_operation
@every_pair
def test_arithmetic_agrees_with_finite_differences(name, shapes, limit, rng):
    assert gradcheck(ARITHMETIC[name][0], draw(rng, *shapes), elementwise_limit=limit)


@pytest.mark.parametrize("limit", BOTH_WAYS.values(), ids=BOTH_WAYS)
@every_matrix
def test_matmul_agrees_with_finite_differences(shapes, limit, rng):
    assert gradcheck(F.matmul, draw(rng, *shapes), elementwise_limit=limit)


@pytest.mark.parametrize("exponent", EXPONENTS)
def test_pow_and_neg_agree_with_finite_differences(exponent, rng):
    for shape in ((), (3,), (2, 3)):
        assert gradcheck(lambda a: -(a**exponent), [rng.uniform(0.5, 2.0, shape)])


def test_an_operand_used_twice_collects_both_gradients(rng):
    for f in (lambda x: x * x, lambda x: x / (x * x), lambda x: x @ x, lambda x: x - x.T):
        assert gradcheck(f, [rng.uniform(0.5, 2.0, (3, 3))])


# the operators


@pytest.mark.parametrize(
    ("operate", "expected"),
    [
        (lambda x, y: x + y, [[4, 7], [7, 10]]),
        (lambda x, y: x - y, [[2, 3], [-1, 0]]),
        (lambda x, y: x * y, [[3, 10], [12, 25]]),
        (lambda x, y: x / y, [[3, 2.5], [0.75, 1]]),
        (lambda x, y: x @ y, [23, 31]),
    ],
    ids=["+", "-", "*", "/", "@"],
)
@pytest.mark.parametrize("left", [Tensor, np.array, list])
@pytest.mark.parametrize("right", [Tensor, np.array, list])
def test_operators_take_arrays_and_lists_on_either_side(operate, expected, left, right):
    if left is not Tensor and right is not Tensor:
        left = Tensor  # one of the two makes it ours
    result = operate(left([3.0, 5.0]), right([[1.0, 2.0], [4.0, 5.0]]))
    assert isinstance(result, Tensor)
    np.testing.assert_array_equal(result.data, expected)


@pytest.mark.parametrize("two", [2, 2.0, np.float32(2), np.float64(2), np.int64(2), np.array(2)], ids=repr)
def test_numbers_on_either_side(two):
    x = Tensor([1.0, 4.0], requires_grad=True)
    results = [x + two, two + x, x - two, two - x, x * two, two * x, x / two, two / x, x**two, -x]
    expected = [[3, 6], [3, 6], [-1, 2], [1, -2], [2, 8], [2, 8], [0.5, 2], [2, 0.5], [1, 16], [-1, -4]]
    for result, values in zip(results, expected, strict=True):
        assert isinstance(result, Tensor)
        np.testing.assert_array_equal(result.data, values)
        result.sum().backward()
    # 1 + 1 + 1 - 1 + 2 + 2 + 1/2 - 2/x^2 + 2 x - 1
    np.testing.assert_array_equal(x.grad, [5.5 - 2 + 2, 5.5 - 0.125 + 8])
    assert {result.dtype for result in results} == {x.grad.dtype} == {np.dtype(np.float32)}


def test_in_place_operators_make_a_new_tensor():
    x = Tensor([1.0, 2.0], requires_grad=True)
    h = x
    h += x
    h *= 3
    assert h is not x and x.data.tolist() == [1, 2]
    h.sum().backward()
    assert x.grad.tolist() == [6, 6]


def test_tensors_are_keys_by_identity():
    x, y = Tensor([1.0, 2.0]), Tensor([1.0, 2.0])
    names = {x: "x", y: "y"}
    assert (names[x], names[y], len({x, y, x})) == ("x", "y", 2)


# (5) edge cases

EVERY_BINARY = [F.add, F.sub, F.mul, F.div, F.matmul]


@pytest.mark.parametrize("f", EVERY_BINARY)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_precision_is_kept_in_both_directions(f, dtype, rng):
    arrays = draw(rng, (3, 3), (3, 3))
    out, gradients = value_and_gradients(f, [a.astype(dtype) for a in arrays], np.ones((3, 3), dtype))
    assert {out.dtype, *(g.dtype for g in gradients)} == {np.dtype(dtype)}
    for other in (np.arange(1, 10).reshape(3, 3), np.ones((3, 3), bool), np.ones((3, 3), np.uint8)):
        x = Tensor(arrays[0].astype(dtype), requires_grad=True)
        for result in (f(x, other), f(other, x), f(x, Tensor(other)), f(Tensor(other), x)):
            assert result.dtype == dtype


@pytest.mark.parametrize("f", EVERY_BINARY)
def test_mixed_precision_computes_in_float64_and_each_gradient_has_its_own(f, rng):
    a, b = draw(rng, (3, 3), (3, 3))
    a = a.astype(np.float32)
    out, (da, db) = value_and_gradients(f, [a, b], np.ones((3, 3)))
    assert (out.dtype, da.dtype, db.dtype) == (np.float64, np.float32, np.float64)
    exact = value_and_gradients(f, [a.astype(np.float64), b], np.ones((3, 3)))
    assert_same((out, [db]), (exact[0], exact[1][1:]))
    assert_close(da, exact[1][0], tolerance=1e-7)  # one rounding to float32, at the end


@pytest.mark.parametrize(
    ("a_shape", "b_shape", "out_shape"), [((0,), (0,), (0,)), ((2, 0), (2, 1), (2, 0)), ((0, 3), (3,), (0, 3))]
)
@every_operation
def test_empty_operands_give_empty_results_and_zero_gradients(name, a_shape, b_shape, out_shape):
    out, gradients = value_and_gradients(ARITHMETIC[name][0], [np.ones(a_shape), np.ones(b_shape)], np.ones(out_shape))
    assert out.shape == out_shape
    for gradient, shape in zip(gradients, (a_shape, b_shape), strict=True):
        np.testing.assert_array_equal(gradient, np.zeros(shape))


@pytest.mark.parametrize(("n", "k", "m"), [(0, 3, 4), (2, 0, 4), (2, 3, 0), (0, 0, 0)])
def test_matmul_over_nothing_is_zero(n, k, m):
    out, (da, db) = value_and_gradients(F.matmul, [np.ones((n, k)), np.ones((k, m))], np.ones((n, m)))
    np.testing.assert_array_equal(out, np.zeros((n, m)))
    np.testing.assert_array_equal(da, np.full((n, k), m))
    np.testing.assert_array_equal(db, np.full((k, m), n))


@pytest.mark.parametrize("f", EVERY_BINARY)
def test_views_give_the_same_as_copies_and_are_not_written_into(f, rng):
    views = [rng.standard_normal((4, 6)).T[::2], rng.standard_normal((3, 8))[::-1, ::2]]
    views[1] = views[1].T if f is F.matmul else views[1]
    copies = [view.copy() for view in views]
    dout = np.asfortranarray(rng.standard_normal((3, 3) if f is F.matmul else (3, 4)))
    assert_same(value_and_gradients(f, views, dout), value_and_gradients(f, copies, dout), tolerance=1e-14)
    np.testing.assert_array_equal(views[0], copies[0])
    np.testing.assert_array_equal(views[1], copies[1])


@pytest.mark.parametrize("f", EVERY_BINARY)
def test_nan_is_seen(f):
    bad = np.array([[1.0, np.nan], [1.0, 1.0]])
    for arrays in ([bad, np.ones((2, 2))], [np.ones((2, 2)), bad]):
        assert np.isnan(value_and_gradients(f, arrays, np.ones((2, 2)))[0]).any()


def test_powers_at_zero_are_as_defined():
    """x^0 is 1 everywhere and x^1 has slope 1 everywhere: no 0 * infinity on the way."""
    zero = np.zeros(1)
    for exponent, value, slope in ((0, 1, 0), (1, 0, 1), (2, 0, 0), (3, 0, 0)):
        out, (gradient,) = value_and_gradients(lambda a, p=exponent: a**p, [zero])
        assert (out.item(), gradient.item()) == (value, slope)


# errors


def test_errors_name_the_operation_or_the_shapes():
    x = Tensor(np.ones((2, 3)))
    for a, b in ((x, x), (x, Tensor(1.0)), (Tensor(1.0), x), (np.ones(3), x), (x, np.ones(2))):
        with pytest.raises(ValueError, match=r"matmul: needs a \(..., n, k\) and b \(..., k, m\), got \("):
            F.matmul(a, b)
    with pytest.raises(ValueError, match=r"add: needs shapes that broadcast.*\(2, 3\) and \(2,\)"):
        x + np.ones(2)
    for exponent in (Tensor(2.0), np.ones(3), [1.0, 2.0]):
        with pytest.raises(TypeError, match=r"pow: the exponent must be a number.*exp\(b \* log\(a\)\)"):
            x**exponent
    for operation in (operator.add, operator.mul, operator.matmul):
        for other in ("1.5", None, 1j):  # NumPy alone would read 1.5 and NaN
            with pytest.raises(TypeError, match=r"Tensor: dtype must be float32, float64"):
                operation(x, other)

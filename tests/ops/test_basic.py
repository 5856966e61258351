"""Arithmetic, comparisons and the matrix product: the definitions, their gradients, the operators, and the edges."""

from __future__ import annotations

import math
import operator

import numpy as np
import pytest
from differentiation import BOTH_WAYS, assert_close, assert_same, value_and_gradients

import tinygpt.functional as F
from tinygpt import Tensor, gradcheck, no_grad

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
    "remainder": (F.remainder, lambda a, b: a % b, lambda a, b: 1.0, lambda a, b: -(a // b)),
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


@every_pair
def test_powers_of_two_operands_are_pythons_and_both_have_a_gradient(shapes, rng):
    a, b = rng.uniform(0.5, 2.0, shapes[0]), rng.uniform(-2.0, 2.0, shapes[1])
    dout = rng.standard_normal(np.broadcast_shapes(*shapes))
    expected, da, db = np.empty_like(dout), np.zeros_like(a), np.zeros_like(b)
    for index in np.ndindex(dout.shape):
        at_a, at_b = used_at(index, a.shape), used_at(index, b.shape)
        x, y = float(a[at_a]), float(b[at_b])
        expected[index] = math.pow(x, y)
        da[at_a] += dout[index] * y * math.pow(x, y - 1)
        db[at_b] += dout[index] * math.pow(x, y) * math.log(x)
    for f in (F.power, F.pow, operator.pow):
        assert_same(value_and_gradients(f, [a, b], dout), (expected, [da, db]))
    assert gradcheck(F.pow, [a, b])


def test_a_number_to_the_power_of_a_tensor_has_the_slope_of_an_exponential_function():
    out, (gradient,) = value_and_gradients(lambda x: 2**x, [np.array([0.0, 3.0, -1.0])], np.ones(3))
    assert out.tolist() == [1, 8, 0.5]
    assert_close(gradient, np.array([1, 8, 0.5]) * math.log(2))


def test_powers_at_0_of_negative_numbers_and_of_nan_have_torchs_gradients():
    torch = pytest.importorskip("torch")
    values = [-2.0, -0.5, 0.0, 0.5, math.inf, math.nan]
    a, b = np.array([(x, y) for x in values for y in (-1.0, 0.0, 0.5, 1.0, 2.0, 3.0, math.nan)]).T
    theirs = [torch.tensor(each, requires_grad=True) for each in (a, b)]
    out = theirs[0] ** theirs[1]
    out.sum().backward()
    with np.errstate(divide="ignore", invalid="ignore"):
        ours, gradients = value_and_gradients(operator.pow, [a, b], np.ones_like(a))
    np.testing.assert_allclose(ours, out.detach().numpy(), rtol=1e-14)
    for gradient, their in zip(gradients, theirs, strict=True):
        np.testing.assert_allclose(gradient, their.grad.numpy(), rtol=1e-14)


def test_a_constant_operand_of_a_power_costs_no_warning():
    with np.errstate(all="raise"):
        _, (gradient,) = value_and_gradients(lambda x: x ** np.array([2.0, 3.0]), [np.array([-1.0, 0.0])], np.ones(2))
        assert gradient.tolist() == [-2, 0]
        _, (gradient,) = value_and_gradients(lambda x: np.array([0.0, 4.0]) ** x, [np.array([0.0, 0.5])], np.ones(2))
    assert_close(gradient, [0, 2 * math.log(4)])


SIGNS = ([5.0, -5.0, 5.0, -5.0, 6.0, 7.5], [3.0, 3.0, -3.0, -3.0, 3.0, 2.0])


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.int8])
def test_remainder_and_floor_division_have_pythons_signs(dtype):
    a, b = (np.array(side).astype(dtype) for side in SIGNS)
    pairs = list(zip(a.tolist(), b.tolist(), strict=True))
    for x, y in ((Tensor(a), Tensor(b)), (Tensor(a), b), (a, Tensor(b)), (a.tolist(), Tensor(b))):
        for result, expected in ((x % y, [p % q for p, q in pairs]), (x // y, [p // q for p, q in pairs])):
            assert isinstance(result, Tensor) and result.data.tolist() == expected
            assert result.dtype == dtype or isinstance(x, list)
    quotient, rest = divmod(Tensor(a), 3)
    assert (quotient * 3 + rest).data.tolist() == a.tolist()
    assert [each.data.tolist() for each in divmod(7, Tensor(b))] == [[7 // q for q in b], [7 % q for q in b]]


def test_floor_division_has_no_gradient_and_remainder_does_as_torch():
    torch = pytest.importorskip("torch")
    assert not (Tensor([5.0], requires_grad=True) // 2).requires_grad
    a, b = np.array([*SIGNS[0], 5.0, math.inf]), np.array([*SIGNS[1], 0.0, 3.0])
    theirs = [torch.tensor(each, requires_grad=True) for each in (a, b)]
    out = theirs[0] % theirs[1]
    out.sum().backward()
    with np.errstate(divide="ignore", invalid="ignore"):
        ours, gradients = value_and_gradients(operator.mod, [a, b], np.ones(8))
    np.testing.assert_array_equal(ours, out.detach().numpy())
    for gradient, their in zip(gradients, theirs, strict=True):
        np.testing.assert_array_equal(gradient, their.grad.numpy())


def test_integers_that_cannot_be_divided_or_raised_are_an_error():
    x = Tensor(np.array([1, 2]))
    for operate, zero in ((operator.mod, 0), (operator.floordiv, 0), (operator.mod, [1, 0])):
        with pytest.raises(ZeroDivisionError, match=r"(remainder|floor_divide): integers cannot be divided by 0"):
            operate(x, zero)
    for exponent in (-1, np.array([1, -1]), Tensor(-2)):
        with pytest.raises(ValueError, match=r"pow: integers have no negative integer powers.*astype\(np.float32\)"):
            x**exponent
    assert (x**-1.0).data.tolist() == [1, 0.5]
    with pytest.raises(TypeError, match=r"neg: a boolean tensor has no negative; write ~x"):
        F.neg(x > 0)
    with pytest.raises(TypeError, match=r"sub: boolean tensors have no difference; write a \^ b"):
        (x > 0) - (x > 1)


def test_quotients_and_roots_of_integers_are_float32():
    for x in (Tensor(np.array([1, 4])), Tensor(np.array([1, 4], np.uint8))):
        for out, values in ((x / 2, [0.5, 2]), (2 / x, [2, 0.5]), (x / x, [1, 1]), (x**0.5, [1, 2]), (2.0**x, [2, 16])):
            assert out.dtype == np.float32 and out.data.tolist() == values
        assert (x**2).data.tolist() == [1, 16] and (x**2).dtype == x.dtype
    assert (Tensor(np.array([1, 4])) / np.array([2.0])).dtype == np.float64


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


def test_masks_are_combined_and_integers_bit_by_bit():
    x = Tensor([1.0, 2.0, 3.0], requires_grad=True)
    low, high = x > 1, x < 3
    for mask, expected in (
        (low & high, [0, 1, 0]), (low | high, [1, 1, 1]), (low ^ high, [1, 0, 1]), (~low, [1, 0, 0]),
        (low & [True, True, False], [0, 1, 0]), (np.array([True, False, False]) | low, [1, 1, 1]),
        (True ^ low, [1, 0, 0]),
    ):  # fmt: skip
        assert isinstance(mask, Tensor) and mask.dtype == bool and mask.data.tolist() == expected
    assert x[(x > 1) & (x < 3)].data.tolist() == [2] and x[~(x > 1)].requires_grad
    bits = Tensor(np.array([5, 6]))
    assert [(bits & 3).data.tolist(), (1 | bits).data.tolist(), (~bits).data.tolist()] == [[1, 2], [5, 7], [-6, -7]]


def test_what_is_no_number_is_equal_to_none_and_has_no_order():
    x = Tensor([1.0, 2.0])
    for other in ("mean", None, b"x"):
        assert (x == other).tolist() == [False, False] and (x != other).tolist() == [True, True]
        with pytest.raises(TypeError, match=r"^less: needs a tensor, an array or a number, got (str|NoneType|bytes)$"):
            _ = x < other
    assert "mean" not in [x.sum()]


def test_a_comparison_without_parentheses_is_explained():
    """Python reads x > 0 & x < 1 as x > (0 & x) < 1."""
    x = Tensor([0.5, 2.0])
    with pytest.raises(TypeError, match=r"&: needs boolean or integer operands, got float32; .*\(x > 0\) & \(x < 1\)"):
        x > 0 & x < 1  # noqa: B015
    with pytest.raises(ValueError, match=r"\|: needs shapes that broadcast"):
        (x > 0) | np.ones(3, bool)


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
    h = y = x + 0.0
    h += y
    h *= 3
    assert h is not y and y.data.tolist() == [1, 2]
    h.sum().backward()
    assert x.grad.tolist() == [6, 6]


@pytest.mark.parametrize("update", [operator.iadd, operator.isub, operator.imul, operator.itruediv,
                                    operator.ifloordiv, operator.imod, operator.ipow])  # fmt: skip
def test_under_no_grad_a_parameter_is_updated_in_place(update):
    """The hand-written step of every tutorial: weight -= lr * weight.grad."""
    weight = Tensor([1.0, 2.0], requires_grad=True)
    (weight * weight).sum().backward()
    expected, memory = update(weight.data.copy(), np.float32(0.5) * weight.grad), weight.data
    with no_grad():
        same = update(weight, 0.5 * weight.grad)
    assert same is weight and weight.data is memory and weight.is_leaf and weight.requires_grad
    np.testing.assert_array_equal(weight.data, expected)
    with (
        no_grad(),
        pytest.raises(ValueError, match=r"cannot update shape \(2,\) in place with .* shape \(3, 2\)"),
    ):
        update(weight, np.ones((3, 2)))


def test_recorded_an_in_place_operator_names_the_result_but_refuses_a_leaf_that_learns():
    leaf = Tensor([1.0, 2.0], requires_grad=True)
    result = product = leaf * 1.0
    result -= 0.5
    assert result is not product and not result.is_leaf and product.data.tolist() == [1, 2]
    with pytest.raises(RuntimeError, match=r"cannot update a leaf .*; write `with no_grad\(\): w -= \.\.\.`, or w = w"):
        leaf -= 0.5  # otherwise the next step finds no gradient: weight names the result
    for update in (operator.ipow, operator.imod, operator.ifloordiv):
        with pytest.raises(RuntimeError, match="cannot update a leaf"):
            update(leaf, 2)
    with pytest.raises(RuntimeError, match="cannot update a leaf"):
        leaf @= np.eye(2)
    assert leaf.is_leaf and leaf.data.tolist() == [1, 2]
    with no_grad():
        constant = other = Tensor([1.0])
        other += 1.0
    assert other is not constant and constant.data.tolist() == [1]  # it may be saved for some backward


def test_methods_have_pytorchs_names_too():
    x, y = Tensor([1.0, -2.0]), Tensor([3.0, 4.0])
    for ours, operators in (
        (x.add(y), x + y), (x.sub(y), x - y), (x.mul(y), x * y), (x.div(y), x / y), (x.pow(2), x**2), (x.neg(), -x),
        (x.abs(), abs(x)), (x.matmul(y), x @ y), (x.square(), x * x), (y.pow(x), y**x), (+x, x),
    ):  # fmt: skip
        np.testing.assert_array_equal(ours.data, operators.data)
    assert Tensor(np.ones((2, 3))).mm(Tensor(np.ones((3, 4)))).shape == (2, 4)


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
    with pytest.raises(ValueError, match=r"power: needs shapes that broadcast"):
        x ** np.ones(2)
    for operation in (operator.add, operator.mul, operator.matmul):
        for other in ("1.5", None, 1j):  # NumPy alone would read 1.5 and NaN
            with pytest.raises(TypeError, match=r"Tensor: dtype must be float32, float64"):
                operation(x, other)

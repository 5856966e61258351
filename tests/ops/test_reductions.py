"""Sums, means, extremes and softmax along axes: the definitions, their gradients, and the edges."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from differentiation import BOTH_WAYS, assert_close, assert_same, value_and_gradients

import tinygpt.functional as F
from tinygpt import Tensor, gradcheck


def std_slopes(group):
    root = statistics.pstdev(group)
    return [(x - statistics.fmean(group)) / len(group) / root if root else 0.0 for x in group]


# name: the operation, what it makes of a list of Python numbers, and the slope in each of them
REDUCTIONS = {
    "prod": (F.prod, math.prod, lambda group: [math.prod(group[:i] + group[i + 1 :]) for i in range(len(group))]),
    "std": (F.std, statistics.pstdev, lambda group: std_slopes(group)),
    "norm": (F.norm, lambda group: math.hypot(*group), lambda group: [x / (math.hypot(*group) or 1) for x in group]),
    "norm of absolute values": (
        lambda x, **how: F.norm(x, 1, **how),
        lambda group: math.fsum(map(abs, group)),
        lambda group: [math.copysign(x != 0, x) for x in group],
    ),
    "logsumexp": (
        F.logsumexp,
        lambda group: math.log(math.fsum(map(math.exp, group))),
        lambda group: [math.exp(x) / math.fsum(map(math.exp, group)) for x in group],
    ),
    "sum": (F.sum, math.fsum, lambda group: [1.0] * len(group)),
    "mean": (F.mean, statistics.fmean, lambda group: [1 / len(group)] * len(group)),
    "max": (F.max, max, lambda group: [(x == max(group)) / group.count(max(group)) for x in group]),
    "min": (F.min, min, lambda group: [(x == min(group)) / group.count(min(group)) for x in group]),
    "var": (
        F.var,
        statistics.pvariance,
        lambda group: [2 * (x - statistics.fmean(group)) / len(group) for x in group],
    ),
}
METHODS = ["amax", "amin", "logsumexp", "max", "mean", "min", "norm", "prod", "std", "sum", "var"]
every_reduction = pytest.mark.parametrize("name", REDUCTIONS)

AXES = [
    ((4,), None),
    ((4,), 0),
    ((2, 3), None),
    ((2, 3), 0),
    ((2, 3), -1),
    ((2, 3, 4), 1),
    ((2, 3, 4), (0, 2)),
    ((2, 3, 4), (-1, 0)),
    ((2, 3, 4), (0, 1, 2)),
    ((2, 3), ()),
    ((3, 1), 1),
    ((1,), 0),
    ((), None),
]
every_axis = pytest.mark.parametrize(("shape", "axis"), AXES, ids=str)

SOFTMAX_AXES = [((4,), -1), ((2, 3), 0), ((2, 3), -1), ((2, 3, 4), 1), ((3, 1), 1)]
every_softmax_axis = pytest.mark.parametrize(("shape", "axis"), SOFTMAX_AXES, ids=str)


def reduced_axes(shape, axis):
    axes = range(len(shape)) if axis is None else [axis] if isinstance(axis, int) else axis
    return {i % len(shape) for i in axes}


def groups(x, axis):
    """The inputs that share an output: {output index with sizes kept: [(input index, value), ...]}."""
    reduced, found = reduced_axes(x.shape, axis), {}
    for index in np.ndindex(x.shape):
        key = tuple(0 if i in reduced else n for i, n in enumerate(index))
        found.setdefault(key, []).append((index, float(x[index])))
    return found


# (1) forward is the definition, and so is backward


@every_reduction
@every_axis
@pytest.mark.parametrize("keepdims", [False, True])
def test_a_reduction_is_pythons_on_each_group(name, shape, axis, keepdims, rng):
    f, whole, slopes = REDUCTIONS[name]
    x = rng.integers(-2, 3, shape).astype(float)  # of five values: many ties
    reduced = reduced_axes(shape, axis)
    kept = tuple(1 if i in reduced else n for i, n in enumerate(shape))
    out_shape = kept if keepdims else tuple(n for i, n in enumerate(shape) if i not in reduced)
    dout, expected, dx = rng.standard_normal(kept), np.empty(kept), np.empty(shape)
    for key, members in groups(x, axis).items():
        values = [value for _, value in members]
        expected[key] = whole(values)
        for (index, _), slope in zip(members, slopes(values), strict=True):
            dx[index] = slope * dout[key]
    ours = value_and_gradients(lambda x: f(x, axis=axis, keepdims=keepdims), [x], dout.reshape(out_shape))
    assert_same(ours, (expected.reshape(out_shape), [dx]))


@pytest.mark.parametrize("ddof", [0, 1, 2])
def test_var_divides_by_n_minus_ddof(ddof, rng):
    x = rng.standard_normal(5)
    mean = math.fsum(x) / 5
    expected = math.fsum((value - mean) ** 2 for value in x) / (5 - ddof)
    dx = [2 * (value - mean) / (5 - ddof) for value in x]
    assert_same(value_and_gradients(lambda x: F.var(x, ddof=ddof), [x]), (np.array(expected), [dx]))


@every_softmax_axis
def test_softmax_and_its_logarithm_are_the_formula(shape, axis, rng):
    x, dout = rng.standard_normal(shape), rng.standard_normal(shape)
    p, dx_softmax, dx_log = np.empty(shape), np.zeros(shape), np.zeros(shape)
    for members in groups(x, axis).values():
        total = math.fsum(math.exp(value) for _, value in members)
        for index, value in members:
            p[index] = math.exp(value) / total
        for i, _ in members:
            for j, _ in members:
                jacobian = p[i] * ((i == j) - p[j])  # d p_i / d x_j
                dx_softmax[j] += dout[i] * jacobian
                dx_log[j] += dout[i] * jacobian / p[i]
    assert_same(value_and_gradients(lambda x: F.softmax(x, axis), [x], dout), (p, [dx_softmax]))
    assert_same(value_and_gradients(lambda x: F.log_softmax(x, axis), [x], dout), (np.log(p), [dx_log]))


# (2) backward agrees with finite differences


@pytest.mark.parametrize("limit", BOTH_WAYS.values(), ids=BOTH_WAYS)
@every_reduction
@every_axis
def test_reductions_agree_with_finite_differences(name, shape, axis, limit, rng):
    f = REDUCTIONS[name][0]
    for keepdims in (False, True):
        x = rng.standard_normal(shape)  # ties have probability 0
        assert gradcheck(lambda x, keepdims=keepdims: f(x, axis=axis, keepdims=keepdims), [x], elementwise_limit=limit)


@pytest.mark.parametrize("limit", BOTH_WAYS.values(), ids=BOTH_WAYS)
@every_softmax_axis
def test_softmax_agrees_with_finite_differences(shape, axis, limit, rng):
    for f in (F.softmax, F.log_softmax):
        assert gradcheck(lambda x, f=f: f(x, axis=axis), [rng.standard_normal(shape)], elementwise_limit=limit)


# (3) the same, composed of others


@every_softmax_axis
def test_reductions_equal_their_compositions(shape, axis, rng):
    x, n = rng.standard_normal(shape), shape[axis]
    for f, composed in (
        (F.softmax, lambda x, axis: x.exp() / x.exp().sum(axis=axis, keepdims=True)),
        (F.log_softmax, lambda x, axis: F.softmax(x, axis).log()),
        (F.mean, lambda x, axis: x.sum(axis=axis) / n),
        (F.var, lambda x, axis: ((x - x.mean(axis=axis, keepdims=True)) ** 2).mean(axis=axis)),
        (F.min, lambda x, axis: -((-x).max(axis=axis))),
    ):
        dout = rng.standard_normal(f(Tensor(x), axis=axis).shape)
        ours = value_and_gradients(lambda x, f=f: f(x, axis=axis), [x], dout)
        assert_same(ours, value_and_gradients(lambda x, g=composed: g(x, axis), [x], dout))


# (5) edge cases


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_precision_is_kept_in_both_directions(dtype, rng):
    for f in (*(f for f, _, _ in REDUCTIONS.values()), F.softmax, F.log_softmax):
        for shape in ((3,), (2, 3)):
            for axis in (-1, 0):
                x = rng.standard_normal(shape).astype(dtype)
                dout = np.ones(f(Tensor(x), axis=axis).shape, dtype)
                out, (dx,) = value_and_gradients(lambda x, f=f, axis=axis: f(x, axis=axis), [x], dout)
                assert (out.dtype, dx.dtype) == (dtype, dtype)


def test_sums_of_nothing_are_zero_and_reach_no_input():
    for shape, axis, out_shape in (((0,), None, ()), ((2, 0), 1, (2,)), ((0, 3), 0, (3,)), ((0, 3), 1, (0,))):
        out, (dx,) = value_and_gradients(lambda x, axis=axis: F.sum(x, axis=axis), [np.ones(shape)], np.ones(out_shape))
        np.testing.assert_array_equal(out, np.zeros(out_shape))
        assert dx.shape == shape


@pytest.mark.filterwarnings("ignore:Mean of empty slice", "ignore:invalid value encountered")
def test_the_mean_of_nothing_is_nan_as_in_numpy():
    out, (dx,) = value_and_gradients(F.mean, [np.ones((0, 3))])
    assert np.isnan(out) and dx.shape == (0, 3)


def test_no_groups_are_no_error():
    """A batch may be empty, as long as a group is not."""
    for f in (*(f for f, _, _ in REDUCTIONS.values()), F.softmax, F.log_softmax):
        x = np.ones((0, 3))
        dout = np.ones(f(Tensor(x), axis=1).shape)
        assert value_and_gradients(lambda x, f=f: f(x, axis=1), [x], dout)[1][0].shape == (0, 3)


@every_reduction
def test_strided_views_give_the_same_as_copies_and_are_not_written_into(name, rng):
    view = rng.standard_normal((4, 3, 6)).transpose(2, 0, 1)[::2]
    before, dout, f = view.copy(), rng.standard_normal((3, 3)).T, REDUCTIONS[name][0]
    ours = value_and_gradients(lambda x: f(x, axis=1), [view], dout)
    assert_same(ours, value_and_gradients(lambda x: f(x, axis=1), [before], dout.copy()), tolerance=1e-14)
    np.testing.assert_array_equal(view, before)


def test_ties_share_the_gradient_evenly_and_its_sum_is_kept():
    x = np.array([[3.0, 1.0, 3.0, 3.0], [2.0, 2.0, 2.0, 2.0], [0.0, -0.0, -1.0, -1.0]])
    _, (dx,) = value_and_gradients(lambda x: F.max(x, axis=1), [x], np.array([3.0, 4.0, 2.0]))
    assert dx.tolist() == [[1, 0, 1, 1], [1, 1, 1, 1], [1, 1, 0, 0]]
    _, (dx,) = value_and_gradients(lambda x: F.min(x, axis=1), [x], np.array([3.0, 4.0, 2.0]))
    assert dx.tolist() == [[0, 3, 0, 0], [1, 1, 1, 1], [0, 0, 1, 1]]


FLOATS = {  # what has no meaning, or no gradient, in integers
    "mean": F.mean,
    "var": F.var,
    "std": F.std,
    "norm": F.norm,
    "logsumexp": F.logsumexp,
    "softmax": F.softmax,
    "log_softmax": F.log_softmax,
    "gelu": F.gelu,
    "silu": F.silu,
    "softplus": F.softplus,
    "sqrt": F.sqrt,
    "dropout": lambda x: F.dropout(x, 0.4, seed=1),
    "layernorm": lambda x: F.layernorm(x, x[0], x[0]),
    "gelu_linear": lambda x: F.gelu_linear(x, x),
    "attention": lambda x: F.attention(x[None], 1),
    "scaled_dot_product_attention": lambda x: F.scaled_dot_product_attention(x, x, x),
    "cross_entropy": lambda x: F.cross_entropy(x, [0, 2, 1]),
    "linear_cross_entropy": lambda x: F.linear_cross_entropy(x, x, [0, 2, 1]),
    "mse_loss": lambda x: F.mse_loss(x, x[0] * x),
    "l1_loss": lambda x: F.l1_loss(x, x[0] * x),
    "binary_cross_entropy_with_logits": lambda x: F.binary_cross_entropy_with_logits(x, x),
}


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, bool])
@pytest.mark.parametrize("name", FLOATS)
def test_integers_and_booleans_become_float32_where_the_result_is_not_one(name, dtype):
    """NumPy makes float64 of them, which would make the whole graph float64: loss * mask.mean()."""
    x = np.array([[0, 1, 1], [1, 0, 1], [0, 0, 1]]).astype(dtype)
    out = FLOATS[name](Tensor(x))
    assert out.dtype == np.float32
    np.testing.assert_array_equal(out.data, FLOATS[name](Tensor(x.astype(np.float32))).data)


def test_a_mean_of_a_mask_leaves_the_graph_in_float32():
    x, mask = Tensor([1.0, 2.0], requires_grad=True), Tensor([True, False])
    loss = (x * mask / mask.mean()).sum()
    loss.backward()
    assert (loss.dtype, x.grad.dtype, x.grad.tolist()) == (np.float32, np.float32, [2, 0])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int64, bool])
def test_reductions_of_integers_are_exact(dtype):
    """Unsigned integers have no negative: token ids are of such types."""
    x = np.array([[0, 5], [7, 1]]).astype(dtype)
    assert F.min(Tensor(x)).item() == 0 and F.min(Tensor(x), axis=1).data.tolist() == x.min(axis=1).tolist()
    assert F.max(Tensor(x)).item() == x.max() and F.sum(Tensor(x)).item() == (3 if dtype is bool else 13)
    assert F.min(Tensor(x), axis=0, keepdims=True).shape == (1, 2)


def test_nan_propagates_to_its_own_group_only():
    x = np.array([[1.0, np.nan, 2.0], [1.0, 3.0, 2.0]])
    for f in (*(f for f, _, _ in REDUCTIONS.values()), F.softmax, F.log_softmax):
        dout = np.ones(f(Tensor(x), axis=1).shape)
        with np.errstate(invalid="ignore"):
            out, (dx,) = value_and_gradients(lambda x, f=f: f(x, axis=1), [x], dout)
        assert np.isnan(out[0]).all() and np.isfinite(out[1]).all() and np.isfinite(dx[1]).all()


def test_softmax_neither_overflows_nor_underflows():
    for scale in (1e3, 1e300):
        x = scale * np.array([1.0, 0.0, -1.0])
        p, (dx,) = value_and_gradients(F.softmax, [x], np.array([1.0, 2.0, 3.0]))
        assert p.tolist() == [1, 0, 0] and np.isfinite(dx).all()
        log_p, (dx,) = value_and_gradients(F.log_softmax, [x], np.array([1.0, 2.0, 3.0]))
        assert_close(log_p, [0, -scale, -2 * scale])  # where log(softmax) would be -infinity
        assert_close(dx, [1 - 6, 2, 3])


def test_softmax_of_minus_infinity_is_zero_and_its_gradient_too():
    """How attention masks the future."""
    p, (dx,) = value_and_gradients(F.softmax, [np.array([0.0, -np.inf, 0.0])], np.array([1.0, 100.0, 3.0]))
    assert p.tolist() == [0.5, 0, 0.5]
    assert dx.tolist() == [-0.5, 0, 0.5]


def test_the_variance_of_equal_values_is_zero_without_cancellation():
    out, (dx,) = value_and_gradients(F.var, [np.full(3, 1e8)])
    assert out == 0 and dx.tolist() == [0, 0, 0]


def test_reductions_are_methods_too():
    x = Tensor(np.array([[1.0, 2.0], [3.0, 5.0]]))
    for name in METHODS:
        ours = getattr(x, name)(axis=0, keepdims=True)
        np.testing.assert_array_equal(ours.data, getattr(F, name)(x, axis=0, keepdims=True).data)
    np.testing.assert_array_equal(x.softmax(axis=0).data, F.softmax(x, axis=0).data)
    np.testing.assert_array_equal(x.log_softmax().data, F.log_softmax(x, axis=1).data)


def test_a_zero_in_a_product_keeps_its_gradient_and_two_leave_none():
    x = np.array([[2.0, 0.0, 3.0], [0.0, 4.0, 0.0], [0.0, 0.0, 0.0], [2.0, 3.0, 4.0]])
    out, (dx,) = value_and_gradients(lambda x: F.prod(x, axis=1), [x], np.ones(4))
    assert out.tolist() == [0, 0, 0, 24]
    assert dx.tolist() == [[0, 6, 0], [0, 0, 0], [0, 0, 0], [12, 8, 6]]
    out, (dx,) = value_and_gradients(F.prod, [np.ones((0, 3))])
    assert out == 1 and dx.shape == (0, 3)  # of nothing


def test_at_a_corner_a_norm_and_a_standard_deviation_have_gradient_zero():
    """Where a group is all zeros, or all equal; the root of a sum of squares would give NaN."""
    with np.errstate(all="raise"):
        for f in (F.norm, lambda x: F.norm(x, 1), lambda x: F.norm(x, math.inf), F.std):
            assert value_and_gradients(f, [np.zeros(3)])[1][0].tolist() == [0, 0, 0]
        assert value_and_gradients(F.std, [np.full((2, 2), 7.0)])[1][0].tolist() == [[0, 0], [0, 0]]


def test_the_largest_of_equal_absolute_values_share_the_gradient():
    out, (dx,) = value_and_gradients(lambda x: F.norm(x, math.inf), [np.array([3.0, -3.0, 1.0])])
    assert out == 3 and dx.tolist() == [0.5, -0.5, 0]


def test_logsumexp_neither_overflows_nor_fails_where_everything_is_masked():
    out, (dx,) = value_and_gradients(F.logsumexp, [np.array([1e4, 1e4, -np.inf])])
    assert_close(out, 1e4 + math.log(2))
    assert_close(dx, [0.5, 0.5, 0])
    assert F.logsumexp(Tensor([-np.inf, -np.inf])).item() == -np.inf
    assert F.logsumexp(Tensor([np.inf, 0.0])).item() == np.inf


@pytest.mark.parametrize(("shape", "axis"), [((4,), 0), ((2, 3), -1), ((2, 3, 4), 1), ((2, 3), None), ((2, 1), 0)])
def test_cumulative_sums_are_sums_and_each_value_counts_in_those_after_it(shape, axis, rng):
    x = rng.standard_normal(shape)
    rows = x.reshape(-1) if axis is None else np.moveaxis(x, axis, -1)
    expected = np.array(
        [[math.fsum(row[: i + 1]) for i in range(len(row))] for row in rows.reshape(-1, rows.shape[-1])]
    )
    expected = expected.reshape(rows.shape) if axis is None else np.moveaxis(expected.reshape(rows.shape), -1, axis)
    dout = rng.standard_normal(expected.shape)
    back = dout if axis is None else np.moveaxis(dout, axis, -1)
    dx = np.array([[math.fsum(row[i:]) for i in range(len(row))] for row in back.reshape(-1, rows.shape[-1])])
    dx = dx.reshape(shape) if axis is None else np.moveaxis(dx.reshape(back.shape), -1, axis)
    assert_same(value_and_gradients(lambda x: F.cumsum(x, axis), [x], dout), (expected, [dx]))


@pytest.mark.parametrize("axis", [0, -1])
@pytest.mark.parametrize("name", [*METHODS, "softmax", "log_softmax", "cumsum"])
def test_a_tensor_without_axes_may_be_given_0_or_1_from_the_end(name, axis):
    """As in PyTorch: it is its own group."""
    value, slope = {"var": (0, 0), "std": (0, 0), "softmax": (1, 0), "log_softmax": (0, 0)}.get(name, (3, 1))
    out, (dx,) = value_and_gradients(lambda x: getattr(x, name)(axis=axis), [np.array(3.0)])
    assert (out.item(), dx.item(), out.shape, dx.shape) == (value, slope, (), ())
    for wrong in (1, -2):
        with pytest.raises(
            ValueError, match=rf"^{name}: axis must be from -1 to 0 for a tensor of 0 axes, got {wrong}"
        ):
            getattr(Tensor(3.0), name)(axis=wrong)


def test_the_cumulative_sum_of_all_values_of_no_axes_has_one_axis():
    assert F.cumsum(Tensor(3.0)).shape == (1,) and F.cumsum(Tensor(np.ones((0, 3))), 0).shape == (0, 3)


# names of PyTorch's


def test_dim_and_keepdim_are_axis_and_keepdims_where_they_mean_the_same(rng):
    x = Tensor(rng.standard_normal((2, 3)))
    for name in ("amax", "amin", "logsumexp", "mean", "norm", "prod", "sum"):
        ours = getattr(x, name)(axis=1, keepdims=True)
        for f in (getattr(x, name), lambda name=name, **how: getattr(F, name)(x, **how)):
            np.testing.assert_array_equal(f(dim=1, keepdim=True).data, ours.data)
    for name in ("softmax", "log_softmax", "cumsum"):
        np.testing.assert_array_equal(getattr(x, name)(dim=0).data, getattr(x, name)(axis=0).data)
    with pytest.raises(TypeError, match="sum: dim is another name of axis; give one of them"):
        x.sum(dim=0, axis=0)


def test_a_divisor_that_dim_leaves_open_must_be_said(rng):
    """PyTorch divides by n - 1, NumPy by n."""
    array = rng.standard_normal((2, 3))
    x = Tensor(array)
    for name in ("var", "std"):
        with pytest.raises(TypeError, match=rf"^{name}: with dim PyTorch divides by n - 1, .* say which by correction"):
            getattr(x, name)(dim=1)
        with pytest.raises(TypeError, match=rf"^{name}: with keepdim PyTorch divides by n - 1, .* say which by"):
            getattr(x, name)(0, keepdim=True)
        for ddof, how in ((1, {"correction": 1}), (1, {"unbiased": True}), (0, {"unbiased": False}), (1, {"ddof": 1})):
            ours = getattr(x, name)(dim=1, keepdim=True, **how).data
            np.testing.assert_allclose(ours, getattr(np, name)(array, axis=1, keepdims=True, ddof=ddof))
        np.testing.assert_allclose(getattr(x, name)(unbiased=True).data, getattr(np, name)(array, ddof=1))
        with pytest.raises(TypeError, match=f"^{name}: dim is another name of axis"):
            getattr(x, name)(0, dim=0, correction=1)


def test_max_over_dim_says_how_to_get_values_and_indices():
    x = Tensor([[1.0, 2.0]])
    for name in ("max", "min"):
        for f in (getattr(x, name), lambda name=name, **how: getattr(F, name)(x, **how)):
            with pytest.raises(TypeError, match=rf"^{name}: with dim, .*write a{name}\(dim=1\) and arg{name}\(dim=1\)"):
                f(dim=1)
            how = r"\(dim=1, keepdim=True\)"
            with pytest.raises(TypeError, match=rf"^{name}: with keepdim, .*write a{name}{how} and arg{name}{how}"):
                f(axis=1, keepdim=True)
        with pytest.raises(TypeError, match=rf"^{name}: .* got a Tensor; of two tensors take {name}imum\(a, b\)"):
            getattr(x, name)(x)


def test_torch_agrees(rng):
    """Values and gradients, at random and at the corners."""
    torch = pytest.importorskip("torch")
    zeros = np.array([[0.0, 0.0, 0.0], [0.0, 2.0, 3.0]])
    cases = [
        ("prod", {"dim": 1}), ("norm", {"dim": 1}), ("norm", {"p": 1, "dim": 1}), ("norm", {"p": math.inf, "dim": 1}),
        ("std", {"dim": 1, "correction": 1}), ("var", {"dim": 0, "unbiased": True}), ("logsumexp", {"dim": 1}),
        ("cumsum", {"dim": 0}), ("norm", {}), ("prod", {}), ("amax", {"dim": 1, "keepdim": True}),
    ]  # fmt: skip
    for name, how in cases:
        for array in (rng.standard_normal((2, 3)), zeros):
            theirs = torch.tensor(array, requires_grad=True)
            out = getattr(theirs, name)(**how)
            dout = rng.standard_normal(out.shape)
            out.backward(torch.tensor(dout))
            ours = value_and_gradients(lambda x, name=name, how=how: getattr(x, name)(**how), [array], dout)
            assert_same(ours, (out.detach().numpy(), [theirs.grad.numpy()]))


# errors


def test_an_axis_that_is_none_is_named():
    x = Tensor(np.ones((2, 3)))
    with pytest.raises(TypeError, match=r"^sum: axis must be an integer or a tuple of integers, got 1\.0"):
        x.sum(1.0)
    with pytest.raises(TypeError, match=r"^softmax: axis must be an integer .*, got one of shape \(2, 3\)$"):
        x.softmax(x)
    with pytest.raises(TypeError, match=r"^var: axis must be an integer or a tuple of integers, got True"):
        x.var(True)  # PyTorch's unbiased
    with pytest.raises(ValueError, match=r"^mean: each axis may be named once, got \(0, -2\) for a tensor of 2 axes"):
        x.mean((0, -2))
    with pytest.raises(ValueError, match=r"^norm: ord must be 2, 1 or inf, got 3"):
        x.norm(3)


def test_nothing_to_choose_from_is_an_error_that_names_the_operation():
    empty = Tensor(np.ones((0, 3)))
    for f, name in ((F.max, "max"), (F.min, "min"), (F.softmax, "^softmax"), (F.log_softmax, "^log_softmax")):
        with pytest.raises(ValueError, match=rf"{name}.*: needs? at least one value along axis 0, got shape \(0, 3\)"):
            f(empty, axis=0)
    for ddof in (3, 4):
        with pytest.raises(ValueError, match=rf"var: needs more than ddof = {ddof} values along axis 1, got shape"):
            F.var(Tensor(np.ones((2, 3))), axis=1, ddof=ddof)


@pytest.mark.parametrize("f", [*(f for f, _, _ in REDUCTIONS.values()), F.softmax, F.log_softmax])
@pytest.mark.parametrize("axis", [2, -3])
def test_an_axis_that_is_not_there_is_named(f, axis):
    with pytest.raises(ValueError, match=f"axis must be from -2 to 1 for a tensor of 2 axes, got {axis}"):
        f(Tensor(np.ones((2, 3))), axis=axis)


@pytest.mark.parametrize("dtype", [np.int64, np.int8, np.uint8, bool])
@pytest.mark.parametrize("f", [F.norm, lambda x: F.norm(x, 1), F.logsumexp, F.softmax, F.log_softmax])
def test_norms_and_softmaxes_of_integers_are_those_of_float32(f, dtype):
    """In uint8 itself, 100 * 100 is 16 and 1 - 2 is 255."""
    values = np.array([100, 1, 0]).astype(dtype)
    out = f(Tensor(values))
    assert out.dtype == np.float32
    np.testing.assert_array_equal(out.data, f(Tensor(values.astype(np.float32))).data)


@pytest.mark.parametrize("f", [F.std, F.norm])
def test_at_a_corner_an_infinite_gradient_is_0_too_as_in_torch(f):
    x = Tensor(np.zeros((2, 3)), requires_grad=True)
    f(x, axis=1).backward(np.array([np.inf, 2.0]))
    np.testing.assert_array_equal(x.grad, np.zeros((2, 3)))

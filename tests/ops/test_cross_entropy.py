"""Cross-entropy: the definition, its gradient, the same from basic operations, and the edges."""

from __future__ import annotations

import math

import numpy as np
import pytest
from differentiation import BOTH_WAYS, assert_close, assert_same, value_and_gradients

import tinygpt.functional as F
from tinygpt import Tensor, gradcheck

# name: (shape of logits, targets, ignore_index)
CASES = {
    "rows": ((4, 5), np.array([0, 4, 2, 2]), -100),
    "square": ((4, 4), np.array([3, 0, 1, 1]), -100),
    "batch": ((2, 3, 5), np.array([[1, 0, 4], [4, 3, 2]]), -100),
    "some ignored": ((4, 5), np.array([-100, 4, -100, 2]), -100),
    "all but one ignored": ((3, 5), np.array([-100, 4, -100]), -100),
    "a token of the vocabulary ignored": ((4, 5), np.array([2, 4, 2, 0]), 2),
    "one token": ((5,), np.array(3), -100),
    "one row": ((1, 5), np.array([0]), -100),
}
every_case = pytest.mark.parametrize(("shape", "targets", "ignore_index"), CASES.values(), ids=CASES)


def loss_of(targets, ignore_index=-100):
    return lambda logits: F.cross_entropy(logits, targets, ignore_index)


# (1) forward is the definition


@every_case
def test_forward_is_the_mean_surprise_at_the_targets_that_count(rng, shape, targets, ignore_index):
    logits = rng.standard_normal(shape)
    surprises = []
    for place in np.ndindex(targets.shape):
        if targets[place] != ignore_index:
            weights = [math.exp(score) for score in logits[place].tolist()]
            surprises.append(-math.log(weights[int(targets[place])] / sum(weights)))
    out = loss_of(targets, ignore_index)(Tensor(logits)).data
    assert_close(out, sum(surprises) / len(surprises))


@pytest.mark.parametrize("V", [2, 256, 50257])
def test_equal_logits_cost_the_logarithm_of_the_vocabulary(V):
    """Where training starts: ln 50257 = 10.82 nats for GPT-2."""
    assert_close(F.cross_entropy(Tensor(np.zeros((2, V))), [0, V - 1]).data, math.log(V))


# (2) backward agrees with finite differences


@pytest.mark.parametrize("limit", BOTH_WAYS.values(), ids=BOTH_WAYS)
@every_case
def test_gradient_agrees_with_finite_differences(rng, shape, targets, ignore_index, limit):
    assert gradcheck(loss_of(targets, ignore_index), [rng.standard_normal(shape)], elementwise_limit=limit)


# (3) fused equals composed


@every_case
def test_fused_equals_the_same_from_basic_operations(rng, shape, targets, ignore_index):
    logits = rng.standard_normal(shape)
    counted = (targets != ignore_index).reshape(-1)
    rows, ids = np.flatnonzero(counted), targets.reshape(-1)[counted]

    def composed(logits):
        return -F.log_softmax(logits.reshape(-1, shape[-1]))[rows, ids].mean()

    dloss = np.array(0.7)  # not 1: the gradient from above must be passed on
    fused = value_and_gradients(loss_of(targets, ignore_index), [logits], dloss)
    assert_same(fused, value_and_gradients(composed, [logits], dloss))


# (5) edge cases


def test_gradient_is_what_was_predicted_minus_what_happened():
    """Of two equal logits each has p = 1/2; the mean over two tokens halves it once more."""
    _, (dlogits,) = value_and_gradients(loss_of([0, 1]), [np.zeros((2, 2))])
    assert dlogits.tolist() == [[-0.25, 0.25], [0.25, -0.25]]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_enormous_logits_do_not_overflow(dtype):
    """e^1000 is infinite in both precisions: only differences of logits may be exponentiated."""
    loss, (dlogits,) = value_and_gradients(loss_of([0, 1]), [np.array([[1000, -1000], [1000, -1000]], dtype)])
    assert loss == (0 + 2000) / 2
    assert dlogits.tolist() == [[0, 0], [0.5, -0.5]]


def test_shifting_all_logits_of_a_token_changes_nothing(rng):
    """Only differences between logits mean anything, so the gradient of each token sums to zero."""
    logits, shift = rng.standard_normal((4, 5)), np.array([[3.0], [-70.0], [500.0], [0.0]])
    targets = np.array([0, 4, 2, 2])
    result = value_and_gradients(loss_of(targets), [logits])
    assert_same(result, value_and_gradients(loss_of(targets), [logits + shift]))  # 500: 1e-13 of rounding
    np.testing.assert_allclose(result[1][0].sum(axis=-1), 0, atol=1e-15)


def test_ignored_targets_count_neither_in_the_sum_nor_in_the_mean(rng):
    """Padding must not make the loss look smaller, and sends no gradient back."""
    logits = rng.standard_normal((4, 5))
    some, (dsome,) = value_and_gradients(loss_of([1, -100, 3, -100]), [logits])
    only, (donly,) = value_and_gradients(loss_of([1, 3]), [logits[[0, 2]]])
    assert_close(some, only)
    assert_close(dsome[[0, 2]], donly)
    assert not dsome[[1, 3]].any()


def test_a_forbidden_token_costs_nothing_unless_it_comes():
    """Samplers mask with -inf: probability 0, gradient 0, and infinite surprise if it was the target."""
    logits = np.array([[0.0, 0.0, -np.inf]])
    loss, (dlogits,) = value_and_gradients(loss_of([0]), [logits])
    assert_close(loss, math.log(2))
    assert dlogits.tolist() == [[-0.5, 0.5, 0.0]]
    assert F.cross_entropy(Tensor(logits), [2]).item() == math.inf


def test_a_vocabulary_of_one_is_never_a_surprise():
    """p = 1 whatever the logit: loss and gradient are 0. And no second id can stand in for an ignored target."""
    loss, (dlogits,) = value_and_gradients(loss_of([0, 0, -100]), [np.array([[3.0], [-8.0], [1.0]])])
    assert (loss.item(), dlogits.tolist()) == (0, [[0], [0], [0]])


def test_a_nan_logit_is_seen():
    """A model that has diverged must not report a finite loss."""
    assert math.isnan(F.cross_entropy(Tensor(np.array([[0.0, np.nan], [0.0, 0.0]])), [0, 0]).item())


@pytest.mark.parametrize("kind", [list, Tensor, np.uint16, np.int32], ids=["list", "Tensor", "uint16", "int32"])
def test_targets_of_every_integer_kind_mean_the_same(rng, kind):
    """Token files hold uint16, in which -100 does not exist: nothing may be taken for ignored there."""
    logits, targets = Tensor(rng.standard_normal((3, 5))), np.array([4, 0, 1])
    given = targets.tolist() if kind is list else Tensor(targets) if kind is Tensor else targets.astype(kind)
    assert F.cross_entropy(logits, given).item() == F.cross_entropy(logits, targets).item()


def test_float32_stays_float32_in_both_directions(rng):
    """The count of targets is an integer, and NumPy would make a division by it float64."""
    logits = rng.standard_normal((2, 3, 50))
    targets = np.array([[1, -100, 4], [49, 3, 2]])
    single = value_and_gradients(loss_of(targets), [logits.astype(np.float32)])
    assert single[0].dtype == single[1][0].dtype == np.float32
    assert_same(single, value_and_gradients(loss_of(targets), [logits]), tolerance=2e-6)  # some 30 roundings of 6e-8


def test_a_view_gives_the_same_as_a_copy_and_nothing_is_written_into(rng):
    view, targets = rng.standard_normal((5, 8)).T[::2], np.array([0, -100, 2, 2])
    copies = view.copy(), targets.copy()
    assert_same(value_and_gradients(loss_of(targets), [view]), value_and_gradients(loss_of(targets), [copies[0]]))
    np.testing.assert_array_equal(view, copies[0])
    np.testing.assert_array_equal(targets, copies[1])


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ([0, 5], "cross_entropy: targets must be from 0 to 4, got 5"),
        ([0, -1], "cross_entropy: targets must be from 0 to 4, got -1"),  # NumPy would count it from the end
        ([0, 1, 2], r"cross_entropy: targets must have shape \(2,\), one per row of logits, got \(3,\)"),
        ([[0, 1]], r"cross_entropy: targets must have shape \(2,\), one per row of logits, got \(1, 2\)"),
        ([0, -1], r"; a target is a column of logits, counted from 0, or ignore_index, which is -100$"),
        (
            [-100, -100],
            "cross_entropy: no target counts: all 2 are ignore_index = -100; leave such a batch out",
        ),  # 0 / 0
    ],
)
def test_wrong_targets_are_named(targets, message):
    with pytest.raises(ValueError, match=message):
        F.cross_entropy(Tensor(np.zeros((2, 5))), targets)


@pytest.mark.parametrize("shape", [(0, 5), (2, 0, 5)], ids=str)
def test_the_mean_of_nothing_is_an_error(shape):
    """NaN would poison the run without a word."""
    with pytest.raises(ValueError, match="cross_entropy: no target counts: there are none; leave such a batch out"):
        F.cross_entropy(Tensor(np.zeros(shape)), np.zeros(shape[:-1], int))


@pytest.mark.parametrize(
    ("logits", "targets", "remedy"),
    [
        ((8, 4), (8, 4), r"of one-hot targets pass targets\.argmax\(axis=-1\)"),
        ((4, 5), (4, 1), r"write targets\.reshape\(\(4,\)\)"),
        ((8, 5), (2, 4), r"write targets\.reshape\(\(8,\)\)"),
        ((2, 4, 5), (8,), r"write targets\.reshape\(\(2, 4\)\)"),
        ((2, 5, 4), (2, 4), r"the classes .* axis .: write logits\.transpose\(\[0, 2, 1\]\)"),
        ((5, 8), (8,), r"the classes .* axis .: write logits\.transpose\(\[1, 0\]\)"),
        ((2, 5, 4, 3), (2, 4, 3), r"the classes .* axis .: write logits\.transpose\(\[0, 2, 3, 1\]\)"),
    ],
    ids=str,
)
def test_targets_of_another_shape_are_told_what_was_likely_meant(logits, targets, remedy):
    with pytest.raises(ValueError, match=rf"one per row of logits, got .*; {remedy}$"):
        F.cross_entropy(Tensor(np.zeros(logits)), np.zeros(targets, int))


@pytest.mark.parametrize(
    "targets", [(4, 2), (3,), ()], ids=str
)  # (4, 2) are perhaps transposed: to reshape would hide it
def test_no_reason_is_guessed_where_none_is_likely(targets):
    with pytest.raises(ValueError, match=r"one per row of logits, got \([\d, ]*\)$"):
        F.cross_entropy(Tensor(np.zeros((2, 4, 5))), np.zeros(targets, int))


def test_targets_that_are_not_integers_are_refused():
    message = r"cross_entropy: targets must be integers, got float64; write np\.asarray\(targets, int\)"
    with pytest.raises(TypeError, match=message):
        F.cross_entropy(Tensor(np.zeros((2, 5))), [0.0, 1.0])


def test_exchanged_arguments_are_told_as_that(rng):
    logits = rng.standard_normal((4, 5))
    message = (
        r"must be floats and targets integers, got int64 and float64; the order is cross_entropy\(logits, targets\)"
    )
    for targets in (Tensor(np.array([1, 2, 3, 4])), np.array([1, 2, 3, 4]), [1, 2, 3, 4]):
        with pytest.raises(TypeError, match=message):
            F.cross_entropy(targets, logits)


def test_logits_may_be_a_list():
    assert F.cross_entropy([[0.0, 0.0, 0.0]], [2]).item() == pytest.approx(np.log(3))
    assert F.linear_cross_entropy([[1.0]], [[2.0], [2.0]], [0]).item() == pytest.approx(np.log(2))


def test_a_scalar_has_no_vocabulary():
    with pytest.raises(ValueError, match="cross_entropy: logits must have shape"):
        F.cross_entropy(Tensor(np.array(1.0)), 0)

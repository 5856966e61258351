"""Losses that are composed of operations: formulas, PyTorch's numbers and gradients, extremes, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

import tinygpt.functional as F
from tinygpt import Tensor, gradcheck, nn

RNG = np.random.default_rng(3)
X, Y = RNG.standard_normal((2, 4, 3))
YES = RNG.random((4, 3))
LOG_PROBS, TARGETS = np.log(RNG.dirichlet(np.ones(5), (2, 4))), np.array([[0, 4, -100, 2], [1, -100, 3, 3]])
REDUCTIONS = pytest.mark.parametrize("reduction", ["mean", "sum", "none"])


def reduced(losses, reduction):
    return {"mean": losses.mean, "sum": losses.sum, "none": lambda: losses}[reduction]()


@REDUCTIONS
def test_losses_are_their_formulas(reduction):
    p = 1 / (1 + np.exp(-X))
    for function, target, losses in (
        (F.mse_loss, Y, (X - Y) ** 2),
        (F.l1_loss, Y, abs(X - Y)),
        (F.binary_cross_entropy_with_logits, YES, -YES * np.log(p) - (1 - YES) * np.log(1 - p)),
    ):
        found = function(Tensor(X), target, reduction=reduction)
        np.testing.assert_allclose(found.data, reduced(losses, reduction), rtol=1e-12)


@REDUCTIONS
def test_targets_that_are_ignored_count_nowhere(reduction):
    counted = TARGETS != -100
    nll = np.where(counted, -np.take_along_axis(LOG_PROBS, (TARGETS * counted)[..., None], -1)[..., 0], 0)
    expected = nll.sum() / 6 if reduction == "mean" else reduced(nll, reduction)
    for function in (F.nll_loss, F.cross_entropy):  # the logits of a softmax may be its log-probabilities
        found = function(Tensor(LOG_PROBS), TARGETS, reduction=reduction)
        np.testing.assert_allclose(found.data, expected, rtol=1e-12)


CASES = {
    "mse_loss": ("mse_loss", X, YES, {}),
    "l1_loss": ("l1_loss", X, YES, {}),
    "binary": ("binary_cross_entropy_with_logits", X, YES, {}),
    "binary, pos_weight": ("binary_cross_entropy_with_logits", X, YES, {"pos_weight": np.array([0.5, 1.0, 7.0])}),
    "nll_loss": ("nll_loss", LOG_PROBS, TARGETS, {}),
    "cross_entropy": ("cross_entropy", LOG_PROBS, TARGETS, {}),
}


@REDUCTIONS
@pytest.mark.parametrize("case", CASES)
def test_numbers_and_gradients_are_pytorchs(case, reduction):
    torch = pytest.importorskip("torch")
    name, inputs, target, options = CASES[case]
    x = Tensor(inputs, requires_grad=True)
    out = getattr(F, name)(x, target, reduction=reduction, **options)
    theirs_x = torch.tensor(inputs, requires_grad=True)
    classes = theirs_x.movedim(-1, 1) if theirs_x.ndim == 3 else theirs_x
    options = {key: torch.tensor(value) for key, value in options.items()}
    theirs = getattr(torch.nn.functional, name)(classes, torch.tensor(target), reduction=reduction, **options)
    np.testing.assert_allclose(out.data, theirs.detach().numpy(), rtol=1e-12)
    dout = np.random.default_rng(0).standard_normal(out.shape)
    out.backward(dout)
    theirs.backward(torch.tensor(dout))
    np.testing.assert_allclose(x.grad, theirs_x.grad.numpy(), rtol=1e-10, atol=1e-15)


def test_gradients_reach_the_target_too():
    assert gradcheck(F.mse_loss, [X, Y]) and gradcheck(F.l1_loss, [X, Y])
    assert gradcheck(F.binary_cross_entropy_with_logits, [X, YES])
    assert gradcheck(
        lambda x, w: F.binary_cross_entropy_with_logits(x, YES, pos_weight=w), [X, np.array([0.5, 1.0, 7.0])]
    )
    assert gradcheck(lambda x: F.nll_loss(x, TARGETS, reduction="none"), [LOG_PROBS])


def test_binary_cross_entropy_has_a_right_loss_and_gradient_at_zero_and_far_from_it():
    x = Tensor(np.array([0.0, 0.0, 1000.0, -1000.0, 1000.0, -40.0, 40.0]), requires_grad=True)
    target = [0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    losses = F.binary_cross_entropy_with_logits(x, target, reduction="none")
    tiny = np.exp(-40.0)
    np.testing.assert_allclose(losses.data, [np.log(2), np.log(2), 0, 0, 1000, tiny, tiny], rtol=1e-12)
    losses.sum().backward()
    np.testing.assert_allclose(x.grad, [0.5, -0.5, 0, 0, 1, tiny, -tiny], rtol=1e-12)


def test_an_impossible_token_that_is_ignored_does_no_harm():
    x = Tensor(np.array([[-np.inf, 0.0], [-1.0, -0.5]]), requires_grad=True)
    loss = F.nll_loss(x, [-100, 0])
    loss.backward()
    assert loss.item() == 1 and x.grad.tolist() == [[0, 0], [-1, 0]]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: F.mse_loss(Tensor(np.ones((4, 1))), np.ones(4)), ValueError,
         r"mse_loss: input and target must have the same shape, got \(4, 1\) and \(4,\); reshape one of them"),
        (lambda: nn.L1Loss()(Tensor([1.0]), 2.0), ValueError, r"l1_loss: .* got \(1,\) and \(\)"),
        (lambda: F.mse_loss(Tensor([1.0]), [1.0], "avg"), ValueError, r"mse_loss: reduction must be .*, got 'avg'"),
        (lambda: nn.MSELoss(reduction=None), ValueError, r"MSELoss: reduction must be .*, got None"),
        (lambda: F.cross_entropy(Tensor([[1.0]]), [0], reduction="x"), ValueError, r"cross_entropy: reduction must be"),
        (lambda: F.nll_loss(Tensor([[1.0, 2.0]]), [2]), ValueError, r"nll_loss: targets must be from 0 to 1, got 2"),
        (lambda: F.nll_loss(Tensor([[1.0, 2.0]]), [0.0]), TypeError, r"nll_loss: targets must be integers, got float"),
        (lambda: F.nll_loss(Tensor(1.0), 0), ValueError, r"nll_loss: log_probs must have shape .*, got a scalar"),
        (lambda: nn.CrossEntropyLoss()(Tensor(np.zeros((2, 5, 3))), np.zeros((2, 3), int)), ValueError,
         r"cross_entropy: targets must have shape \(2, 5\), .* got \(2, 3\); the classes are on the last axis"),
        (lambda: F.nll_loss(Tensor([[1.0]]), [-100]), ValueError, r"nll_loss: no target counts"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_modules_are_the_functions_with_their_options():
    x, t = Tensor(X), np.array([0, 2, 7, 1])
    for module, function in (
        (nn.MSELoss(reduction="sum"), lambda: F.mse_loss(x, Y, "sum")),
        (nn.L1Loss(), lambda: F.l1_loss(x, Y)),
        (nn.BCEWithLogitsLoss(pos_weight=[2.0, 1.0, 0.5]), lambda: F.binary_cross_entropy_with_logits(
            x, Y, pos_weight=np.array([2.0, 1.0, 0.5], np.float32))),
    ):  # fmt: skip
        np.testing.assert_array_equal(module(x, Y).data, function().data)
    for kind, function in ((nn.CrossEntropyLoss, F.cross_entropy), (nn.NLLLoss, F.nll_loss)):
        found = kind(ignore_index=7, reduction="none")(x, t).data
        np.testing.assert_array_equal(found, function(x, t, ignore_index=7, reduction="none").data)
        np.testing.assert_array_equal(kind(ignore_index=7)(x, t).data, function(x, t, ignore_index=7).data)
    assert repr(nn.MSELoss()) == "MSELoss()" and repr(nn.L1Loss(reduction="sum")) == "L1Loss(reduction='sum')"

"""Schedulers: PyTorch's rates at every step, for several groups, and resumed in the middle; and what is refused."""

from __future__ import annotations

import json
import math
import warnings

import numpy as np
import pytest

import tinygpt
from tinygpt import Tensor
from tinygpt.optim import SGD, AdamW, cosine_schedule, lr_scheduler
from tinygpt.optim.lr_scheduler import LRScheduler, SequentialLR

RATES = [0.1, 3.0, 2e-5]

MAKERS = {
    "LambdaLR": lambda S, o: S.LambdaLR(o, lambda t: 0.95**t),
    "LambdaLR per group": lambda S, o: S.LambdaLR(o, [lambda t: 1 / (t + 1), lambda t: t % 7, lambda t: 0.5]),
    "StepLR": lambda S, o: S.StepLR(o, step_size=7, gamma=0.5),
    "StepLR by default": lambda S, o: S.StepLR(o, 30),
    "MultiStepLR": lambda S, o: S.MultiStepLR(o, milestones=[5, 20, 21, 70]),
    "ExponentialLR": lambda S, o: S.ExponentialLR(o, gamma=0.93),
    "LinearLR by default": lambda S, o: S.LinearLR(o),
    "LinearLR": lambda S, o: S.LinearLR(o, start_factor=0.01, end_factor=0.7, total_iters=40),
    "LinearLR to 0": lambda S, o: S.LinearLR(o, start_factor=1.0, end_factor=0.0, total_iters=80),
    "CosineAnnealingLR": lambda S, o: S.CosineAnnealingLR(o, T_max=100),
    "CosineAnnealingLR and again": lambda S, o: S.CosineAnnealingLR(o, T_max=17, eta_min=1e-3),
    "SequentialLR": lambda S, o: S.SequentialLR(
        o, [S.LinearLR(o, 0.01, total_iters=10), S.CosineAnnealingLR(o, 90, 1e-4)], milestones=[10]
    ),
    "SequentialLR of three": lambda S, o: S.SequentialLR(
        o, [S.ExponentialLR(o, 0.9), S.StepLR(o, 4), S.LambdaLR(o, lambda t: 1 / (1 + t))], milestones=[13, 50]
    ),
}
every_maker = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


def optimizer_of(rates=RATES, kind=SGD):
    return kind([{"params": [Tensor([1.0], requires_grad=True)], "lr": lr} for lr in rates])


def followed(scheduler, steps: int) -> list[list[float]]:
    """The rates of the optimizer and of `get_last_lr`, which agree, before each of these steps and after the last."""
    rates = []
    for step in range(steps + 1):
        rates.append(scheduler.get_last_lr())
        assert rates[-1] == [group["lr"] for group in scheduler.optimizer.param_groups]
        if step < steps:
            scheduler.optimizer.step()
            scheduler.step()
    return rates


def their_rates(make, steps=100) -> list[list[float]]:
    torch = pytest.importorskip("torch")
    groups = [{"params": [torch.zeros(1, requires_grad=True)], "lr": lr} for lr in RATES]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return followed(make(torch.optim.lr_scheduler, torch.optim.SGD(groups)), steps)


@every_maker
def test_the_rates_are_those_of_pytorch_at_every_step(make):
    scheduler = make(lr_scheduler, optimizer_of())
    np.testing.assert_allclose(followed(scheduler, 100), their_rates(make), rtol=1e-9, atol=1e-15)


@every_maker
@pytest.mark.parametrize("done", [0, 1, 13, 44])
@pytest.mark.parametrize("order", ["scheduler, optimizer", "optimizer, scheduler", "optimizer before it is made", ""])
def test_a_schedule_that_is_resumed_goes_on_as_it_would_have(make, done, order):
    """By way of JSON: a state has numbers and lists only."""
    whole = followed(make(lr_scheduler, optimizer_of()), 60)
    scheduler = make(lr_scheduler, optimizer_of())
    followed(scheduler, done)
    saved = json.loads(json.dumps([scheduler.state_dict(), scheduler.optimizer.state_dict()]))
    optimizer = optimizer_of([7.0, 8.0, 9.0])
    if order == "optimizer before it is made":
        optimizer.load_state_dict(saved[1])
    resumed = make(lr_scheduler, optimizer)
    if order == "optimizer, scheduler":
        optimizer.load_state_dict(saved[1])
    resumed.load_state_dict(saved[0])
    if order == "scheduler, optimizer":
        optimizer.load_state_dict(saved[1])
    assert [group["lr"] for group in optimizer.param_groups] == whole[done]
    assert followed(resumed, 60 - done) == whole[done:]


def test_a_state_of_pytorchs_scheduler_goes_on_here():
    torch = pytest.importorskip("torch")
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.5), 40)
    followed(theirs, 10)
    ours = lr_scheduler.CosineAnnealingLR(optimizer_of([0.1]), T_max=3)
    ours.load_state_dict(theirs.state_dict())
    np.testing.assert_allclose(followed(ours, 20), followed(theirs, 20), rtol=1e-9)


def test_a_rate_of_an_optimizer_that_was_loaded_stays():
    scheduler = lr_scheduler.StepLR(optimizer_of([0.5]), 3)
    scheduler.optimizer.param_groups[0]["lr"] = 0.7
    saved = scheduler.state_dict(), scheduler.optimizer.state_dict()
    resumed = lr_scheduler.StepLR(optimizer_of([0.1]), 3)
    resumed.optimizer.load_state_dict(saved[1])
    resumed.load_state_dict(saved[0])
    assert resumed.optimizer.param_groups[0]["lr"] == 0.7


def test_the_schedule_of_training_is_the_function_of_this_name():
    scheduler = lr_scheduler.WarmupCosineLR(optimizer_of(kind=AdamW), warmup=10, steps=60, min_lr=1e-6)
    expected = [[cosine_schedule(t, lr=lr, min_lr=1e-6, warmup=10, steps=60) for lr in RATES] for t in range(81)]
    assert followed(scheduler, 80) == expected


def test_a_schedule_may_begin_at_a_step_for_an_optimizer_that_was_restored():
    scheduler = lr_scheduler.ExponentialLR(optimizer_of([1.0]), 0.5)
    followed(scheduler, 3)
    resumed = lr_scheduler.ExponentialLR(scheduler.optimizer, 0.5, last_epoch=3)
    assert (resumed.last_epoch, resumed.get_last_lr()) == (4, [0.0625])
    with pytest.raises(ValueError, match="ExponentialLR: last_epoch=3 needs an 'initial_lr' in each group"):
        lr_scheduler.ExponentialLR(optimizer_of([1.0]), 0.5, last_epoch=3)


def test_a_group_that_joins_later_follows_from_its_own_rate():
    scheduler = lr_scheduler.StepLR(optimizer_of([1.0]), step_size=2)
    scheduler.step()
    scheduler.optimizer.add_param_group({"params": [Tensor([1.0], requires_grad=True)], "lr": 0.5})
    scheduler.step()
    np.testing.assert_allclose(scheduler.get_last_lr(), [0.1, 0.05])


def test_a_rate_that_something_else_has_set_is_replaced_with_a_warning():
    optimizer = optimizer_of([1.0])
    scheduler = lr_scheduler.ExponentialLR(optimizer, 0.5)
    optimizer.param_groups[0]["lr"] = 0.9
    with pytest.warns(UserWarning, match=r"ExponentialLR.step: replaces the learning rate \[0.9\].*SequentialLR"):
        scheduler.step()
    assert optimizer.param_groups[0]["lr"] == 0.5


def test_a_scheduler_of_ones_own_says_what_the_rates_are():
    class Inverse(LRScheduler):
        def get_lr(self):
            return [base_lr / (1 + self.last_epoch) for base_lr in self.base_lrs]

    optimizer = optimizer_of([1.0])
    scheduler = SequentialLR(optimizer, [Inverse(optimizer), lr_scheduler.StepLR(optimizer, 2)], [3])
    np.testing.assert_allclose(followed(scheduler, 5), [[1], [1 / 2], [1 / 3], [1], [1], [0.1]])
    with pytest.raises(NotImplementedError, match=r"LRScheduler: define get_lr\(\)"):
        LRScheduler(optimizer)


def test_the_repr_names_the_options_the_step_and_the_rates():
    scheduler = lr_scheduler.LinearLR(optimizer_of([1.0, 2.0]), 0.5, total_iters=4)
    assert repr(scheduler) == "LinearLR(start_factor=0.5, end_factor=1.0, total_iters=4, last_epoch=0, lr=[0.5, 1.0])"


def test_they_are_where_pytorch_has_them():
    assert tinygpt.optim.lr_scheduler.CosineAnnealingLR is lr_scheduler.CosineAnnealingLR


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda o: lr_scheduler.StepLR([1], 3), TypeError, "StepLR: optimizer must be an optimizer .*, got list"),
        (lambda o: lr_scheduler.LambdaLR(3, abs), TypeError, "LambdaLR: optimizer must be an optimizer .*, got int"),
        (lambda o: lr_scheduler.StepLR(o, 0), ValueError, "StepLR: step_size must be positive, got 0"),
        (lambda o: lr_scheduler.CosineAnnealingLR(o, -1), ValueError, "T_max must be positive, got -1"),
        (lambda o: lr_scheduler.LinearLR(o, 0.0), ValueError, "start_factor must be above 0 and at most 1, got 0.0"),
        (lambda o: lr_scheduler.LinearLR(o, 1, 2), ValueError, "end_factor must be between 0 and 1, got 2"),
        (lambda o: lr_scheduler.WarmupCosineLR(o, 9, 5), ValueError, "warmup must be between 0 and steps = 5, got 9"),
        (lambda o: lr_scheduler.LambdaLR(o, [abs]), ValueError, "lr_lambda must be 3 functions, .*, got 1"),
        (lambda o: SequentialLR(o, [lr_scheduler.StepLR(optimizer_of(), 3)], []), ValueError, "of its own optimizer"),
        (lambda o: SequentialLR(o, [lr_scheduler.StepLR(o, 3)], [4]), ValueError, "one less than the 1 sched.*, got 1"),
        (lambda o: lr_scheduler.StepLR(o, 3).load_state_dict({"last_epoch": 3}), ValueError,
         r"StepLR.load_state_dict: step_size and gamma and _last_lr and base_lrs must be in the state"),
        (lambda o: lr_scheduler.StepLR(o, 3).load_state_dict(lr_scheduler.StepLR(optimizer_of([1.0]), 3).state_dict()),
         ValueError, "the state must have 3 groups, as the optimizer has, got 1"),
        (lambda o: lr_scheduler.StepLR(o, "3"), ValueError, "StepLR: step_size must be positive, got '3'"),
        (lambda o: lr_scheduler.ExponentialLR(o, math.nan), ValueError, "gamma must be a finite number, got nan"),
        (lambda o: lr_scheduler.CosineAnnealingLR(o, 3, None), ValueError, "eta_min must be a finite number, got None"),
        (lambda o: lr_scheduler.MultiStepLR(o, 3), TypeError, "MultiStepLR: milestones must be a list of .*, got 3"),
        (lambda o: lr_scheduler.LambdaLR(o, 0.9), TypeError, "lr_lambda must be a function of the step, got 0.9"),
        (lambda o: lr_scheduler.LambdaLR(o, lambda t: None), TypeError, "must return a number, got None at step 0"),
        (lambda o: SequentialLR(o, [], []), ValueError, r"must be a list of at least one scheduler, got \[\]"),
        (lambda o: SequentialLR(o, [lr_scheduler.StepLR(o, 3)] * 3, [5, 2]), ValueError, r"in order, got \[5, 2\]"),
        (lambda o: lr_scheduler.StepLR(o, 3).step(Tensor(0.5)), TypeError, r"epoch must be an .*; write step\(\)"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(make, error, message):
    with pytest.raises(error, match=message):
        make(optimizer_of())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"last_epoch": "x"}, "last_epoch must be an integer, got 'x'"),
        ({"base_lrs": ["x"]}, r"base_lrs must be a list of numbers, got \['x'\]"),
        ({"_milestones": None}, "_milestones must be a list of numbers, got None"),
        ({"_schedulers": []}, "the state must have 2 schedulers, got 0"),
        ({"_schedulers": [{}, {}]}, "must be in the state; it is of another scheduler"),
    ],
)
def test_a_wrong_state_is_named_and_nothing_is_taken_from_it(wrong, message):
    optimizer = optimizer_of()
    parts = [lr_scheduler.LinearLR(optimizer), lr_scheduler.StepLR(optimizer, 3)]
    scheduler = SequentialLR(optimizer, parts, [5])
    first = scheduler.state_dict()
    scheduler.step()
    later = scheduler.state_dict()
    with pytest.raises(ValueError, match=message):
        scheduler.load_state_dict(first | wrong)
    assert scheduler.state_dict() == later

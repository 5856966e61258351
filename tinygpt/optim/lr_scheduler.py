"""
Learning-rate schedulers: objects that set the rate of every group before each step, as PyTorch's do.

    scheduler = CosineAnnealingLR(optimizer, T_max=1000)
    for inputs, targets in batches:
        ...
        optimizer.step()
        scheduler.step()

Each is a formula: the rate as a function of the group's first rate, base_lr, and of t, the number of calls of `step`,
which PyTorch calls `last_epoch`. t is 0 when the scheduler is made, and the optimizer then has the rate of its first
step.

    LambdaLR             base_lr f(t)
    StepLR               base_lr gamma^(t // step_size)
    MultiStepLR          base_lr gamma^(number of milestones up to t)
    ExponentialLR        base_lr gamma^t
    LinearLR             base_lr times a factor that goes from start_factor to end_factor in total_iters steps
    CosineAnnealingLR    eta_min + (base_lr - eta_min) (1 + cos(pi t / T_max)) / 2
    WarmupCosineLR       a linear warm-up, then half a cosine down to min_lr: `cosine_schedule`
    SequentialLR         one after the other

What surprises people here

    The rate is always that of the formula. PyTorch multiplies the present rate, so that two schedulers of one optimizer
    multiply. Here the one that steps last decides, and warns: combine them with `SequentialLR`, or multiply in the
    function of `LambdaLR`.

    `CosineAnnealingLR` rises again after T_max steps. `WarmupCosineLR` stays at min_lr.

    `last_epoch` counts calls of `step`, whatever they stand for. For a rate per batch, call it after each batch.

Source: Loshchilov & Hutter 2016, arXiv:1608.03983 (cosine annealing).
"""

from __future__ import annotations

import math
import warnings
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

from tinygpt.optim.optimizer import Optimizer
from tinygpt.optim.schedule import cosine_schedule
from tinygpt.runtime.missing import missing_name

_NOT_STATE = ("optimizer", "lr_lambdas", "_schedulers")  # attributes that `state_dict` does not return as they are


class LRScheduler:
    """
    The base class of schedulers. A scheduler of your own defines `get_lr`, the rates of all groups at `last_epoch`.

    Parameters
    ----------
    optimizer : Optimizer
    last_epoch : int
        -1 to begin; or how many calls of `step` came before, less one, for an optimizer whose state was loaded.

    Attributes
    ----------
    last_epoch : int
        How often `step` was called.
    base_lrs : list of float
        The first rate of each group. A group that is added later begins with the rate that it has then.

    Raises
    ------
    TypeError, ValueError
        If `optimizer` is none, or an option is out of range.

    Examples
    --------
    >>> from tinygpt import Tensor
    >>> from tinygpt.optim import SGD
    >>> class InverseRoot(LRScheduler):
    ...     def get_lr(self):
    ...         return [base_lr / (self.last_epoch + 1) ** 0.5 for base_lr in self.base_lrs]
    >>> scheduler = InverseRoot(SGD([Tensor([1.0], requires_grad=True)], lr=1.0))
    >>> for _ in range(3):
    ...     scheduler.step()
    >>> scheduler.get_last_lr()
    [0.5]
    """

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1) -> None:
        who = type(self).__name__
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"{who}: optimizer must be an optimizer of tinygpt, got {type(optimizer).__name__}")
        if last_epoch != -1 and not all("initial_lr" in group for group in optimizer.param_groups):
            raise ValueError(f"{who}: last_epoch={last_epoch} needs an 'initial_lr' in each group of the optimizer; "
                             "load its state first, or leave last_epoch out and use load_state_dict")  # fmt: skip
        self.optimizer = optimizer
        self.last_epoch = last_epoch
        self._last_lr: list[float] = []
        self.step()

    def __repr__(self) -> str:
        options = {name: value for name, value in vars(self).items() if name not in (*_NOT_STATE, "_last_lr")}
        shown = ", ".join(f"{name.lstrip('_')}={value!r}" for name, value in options.items())
        return f"{type(self).__name__}({shown}, lr={self._last_lr})"

    @property
    def base_lrs(self) -> list[float]:
        return [group.setdefault("initial_lr", group["lr"]) for group in self.optimizer.param_groups]

    def get_lr(self) -> list[float]:
        """The rates of all groups at `last_epoch`."""
        raise NotImplementedError(f"{type(self).__name__}: define get_lr()")

    def get_last_lr(self) -> list[float]:
        """The rates that the last `step` has set, one per group."""
        return list(self._last_lr)

    def step(self, epoch: int | None = None) -> None:
        """Set the rates of the next step, after `optimizer.step()`; or with `epoch`, those of that number of calls."""
        if not (epoch is None or isinstance(epoch, Integral)):
            raise TypeError(f"{type(self).__name__}.step: epoch must be an integer, got {epoch!r}; write step()")
        groups = self.optimizer.param_groups
        now = [group["lr"] for group in groups[: len(self._last_lr)]]
        if now != self._last_lr:
            warnings.warn(f"{type(self).__name__}.step: replaces the learning rate {now}, which is not the one that "
                          f"this scheduler has set, {self._last_lr}; combine schedulers with SequentialLR",
                          stacklevel=2)  # fmt: skip
        self.last_epoch = self.last_epoch + 1 if epoch is None else int(epoch)
        self._last_lr = [float(lr) for lr in self.get_lr()]
        for group, lr in zip(groups, self._last_lr, strict=True):
            group["lr"] = lr

    def state_dict(self) -> dict[str, Any]:
        """Everything but the optimizer and functions; numbers and lists, which JSON can hold."""
        state = {name: value for name, value in vars(self).items() if name not in _NOT_STATE}
        return state | {"base_lrs": self.base_lrs}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """
        Go on where the scheduler of `state_dict` was, in any order with `optimizer.load_state_dict`.

        Rates that this scheduler has set become those that were set last; others, such as those of an optimizer that
        was loaded before, stay.

        Raises
        ------
        ValueError
            If it is the state of another kind of scheduler, or of another number of groups. Nothing has changed then.
        """
        self._check_state(state_dict)
        groups = self.optimizer.param_groups
        ours = [group["lr"] for group in groups] == self._last_lr
        self._take(state_dict)
        if ours:
            for group, lr in zip(groups, self._last_lr, strict=False):  # a group that joined after has its own
                group["lr"] = lr

    def _check_state(self, state_dict: Mapping[str, Any]) -> None:
        """Raise ValueError unless this scheduler can go on from a state."""
        who, mine = f"{type(self).__name__}.load_state_dict", self.state_dict()
        if not isinstance(state_dict, Mapping):
            raise ValueError(f"{who}: the state must be a dict, got {type(state_dict).__name__}; give what "
                             "state_dict() of a scheduler returned")  # fmt: skip
        missing = [name for name in mine if name not in state_dict]
        if missing:
            raise ValueError(f"{who}: {' and '.join(missing)} must be in the state; it is of another scheduler")
        if not isinstance(state_dict["last_epoch"], Integral):
            raise ValueError(f"{who}: last_epoch must be an integer, got {state_dict['last_epoch']!r}")
        for name, present in mine.items():
            saved = state_dict[name]
            if isinstance(present, Real) and not isinstance(saved, Real):
                raise ValueError(f"{who}: {name} must be a number, got {saved!r}")
            if _are_numbers(present) and not _are_numbers(saved):
                raise ValueError(f"{who}: {name} must be a list of numbers, got {saved!r}")
        if len(state_dict["base_lrs"]) != len(self.base_lrs):
            raise ValueError(f"{who}: the state must have {len(self.base_lrs)} groups, as the optimizer has, got "
                             f"{len(state_dict['base_lrs'])}")  # fmt: skip

    def _take(self, state_dict: Mapping[str, Any]) -> None:
        for group, lr in zip(self.optimizer.param_groups, state_dict["base_lrs"], strict=True):
            group["initial_lr"] = lr
        vars(self).update({name: state_dict[name] for name in vars(self).keys() - set(_NOT_STATE)})

    def _require(self, name: str, required: str, right: Callable[[float], bool] = math.isfinite) -> None:
        """Raise ValueError unless an option is a number as it is required."""
        value = vars(self)[name]
        if not (isinstance(value, Real) and right(float(value))):
            raise ValueError(f"{type(self).__name__}: {name} must be {required}, got {value!r}")


class LambdaLR(LRScheduler):
    """
    The first rate times a function of the number of steps.

    Parameters
    ----------
    optimizer : Optimizer
    lr_lambda : callable, or list of one per group
        ``lr_lambda(t)``. Functions are not in the state dict.
    last_epoch : int
        See `LRScheduler`.

    Examples
    --------
    >>> from tinygpt import Tensor
    >>> from tinygpt.optim import SGD
    >>> scheduler = LambdaLR(SGD([Tensor([1.0], requires_grad=True)], lr=1.0), lambda t: 1 / (1 + t))
    >>> scheduler.step()
    >>> scheduler.get_last_lr()
    [0.5]
    """

    def __init__(self, optimizer: Optimizer, lr_lambda: Callable[[int], float] | Sequence[Callable[[int], float]],
                 last_epoch: int = -1) -> None:  # fmt: skip
        groups = len(getattr(optimizer, "param_groups", ()))
        self.lr_lambdas = list(lr_lambda) if isinstance(lr_lambda, Iterable) else [lr_lambda] * groups
        if not all(callable(each) for each in self.lr_lambdas):
            raise TypeError(f"LambdaLR: lr_lambda must be a function of the step, got {lr_lambda!r}")
        if len(self.lr_lambdas) != groups:
            raise ValueError(f"LambdaLR: lr_lambda must be {groups} functions, one per group, or one for all, got "
                             f"{len(self.lr_lambdas)}")  # fmt: skip
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        factors = [function(self.last_epoch) for function in self.lr_lambdas]
        for factor in factors:
            if not isinstance(factor, Real):
                raise TypeError(f"LambdaLR: lr_lambda must return a number, got {factor!r} at step {self.last_epoch}")
        return [lr * factor for lr, factor in zip(self.base_lrs, factors, strict=True)]


class StepLR(LRScheduler):
    """
    The rate is multiplied by `gamma` after every `step_size` steps.

    Parameters
    ----------
    optimizer : Optimizer
    step_size : int
    gamma : float
    last_epoch : int
        See `LRScheduler`.

    Examples
    --------
    >>> from tinygpt import Tensor
    >>> from tinygpt.optim import SGD
    >>> StepLR(SGD([Tensor([1.0], requires_grad=True)], lr=0.5), step_size=30)
    StepLR(step_size=30, gamma=0.1, last_epoch=0, lr=[0.5])
    """

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1, last_epoch: int = -1) -> None:
        self.step_size, self.gamma = step_size, gamma
        self._require("step_size", "positive", lambda size: size > 0)
        self._require("gamma", "a finite number")
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        return [lr * self.gamma ** (self.last_epoch // self.step_size) for lr in self.base_lrs]


class MultiStepLR(LRScheduler):
    """
    The rate is multiplied by `gamma` at each milestone.

    Parameters
    ----------
    optimizer : Optimizer
    milestones : list of int
        The numbers of these steps.
    gamma : float
    last_epoch : int
        See `LRScheduler`.

    Examples
    --------
    >>> from tinygpt import Tensor
    >>> from tinygpt.optim import SGD
    >>> scheduler = MultiStepLR(SGD([Tensor([1.0], requires_grad=True)], lr=1.0), milestones=[1, 3], gamma=0.5)
    >>> for _ in range(4):
    ...     print(scheduler.get_last_lr())
    ...     scheduler.step()
    [1.0]
    [0.5]
    [0.5]
    [0.25]
    """

    def __init__(self, optimizer: Optimizer, milestones: Iterable[int], gamma: float = 0.1,
                 last_epoch: int = -1) -> None:  # fmt: skip
        self.milestones, self.gamma = sorted(_steps("MultiStepLR", milestones)), gamma
        self._require("gamma", "a finite number")
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        return [lr * self.gamma ** bisect_right(self.milestones, self.last_epoch) for lr in self.base_lrs]


class ExponentialLR(LRScheduler):
    """
    The rate is multiplied by `gamma` after every step.

    Parameters
    ----------
    optimizer : Optimizer
    gamma : float
    last_epoch : int
        See `LRScheduler`.

    Examples
    --------
    >>> from tinygpt import Tensor
    >>> from tinygpt.optim import SGD
    >>> scheduler = ExponentialLR(SGD([Tensor([1.0], requires_grad=True)], lr=1.0), gamma=0.5)
    >>> scheduler.step()
    >>> scheduler.step()
    >>> scheduler.get_last_lr()
    [0.25]
    """

    def __init__(self, optimizer: Optimizer, gamma: float, last_epoch: int = -1) -> None:
        self.gamma = gamma
        self._require("gamma", "a finite number")
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        return [lr * self.gamma**self.last_epoch for lr in self.base_lrs]


class LinearLR(LRScheduler):
    """
    The first rate times a factor that changes in a line, such as a warm-up's.

    Parameters
    ----------
    optimizer : Optimizer
    start_factor, end_factor : float
        The factor of the first step, above 0, and of step `total_iters` and all after it; at most 1.
    total_iters : int
    last_epoch : int
        See `LRScheduler`.

    Examples
    --------
    >>> from tinygpt import Tensor
    >>> from tinygpt.optim import SGD
    >>> scheduler = LinearLR(SGD([Tensor([1.0], requires_grad=True)], lr=1.0), start_factor=0.5, total_iters=2)
    >>> for _ in range(3):
    ...     print(scheduler.get_last_lr())
    ...     scheduler.step()
    [0.5]
    [0.75]
    [1.0]
    """

    def __init__(self, optimizer: Optimizer, start_factor: float = 1 / 3, end_factor: float = 1.0,
                 total_iters: int = 5, last_epoch: int = -1) -> None:  # fmt: skip
        self.start_factor, self.end_factor, self.total_iters = start_factor, end_factor, total_iters
        self._require("start_factor", "above 0 and at most 1", lambda factor: 0 < factor <= 1)
        self._require("end_factor", "between 0 and 1", lambda factor: 0 <= factor <= 1)
        self._require("total_iters", "positive", lambda steps: steps > 0)
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        progress = min(self.last_epoch, self.total_iters) / self.total_iters
        factor = self.start_factor + (self.end_factor - self.start_factor) * progress
        return [lr * factor for lr in self.base_lrs]


class CosineAnnealingLR(LRScheduler):
    """
    Half a cosine, from the first rate down to `eta_min` in `T_max` steps.

    Parameters
    ----------
    optimizer : Optimizer
    T_max : int
        After as many steps more, the rate is the first one again.
    eta_min : float
    last_epoch : int
        See `LRScheduler`.

    Examples
    --------
    >>> from tinygpt import Tensor
    >>> from tinygpt.optim import SGD
    >>> scheduler = CosineAnnealingLR(SGD([Tensor([1.0], requires_grad=True)], lr=1.0), T_max=3)
    >>> for _ in range(4):
    ...     print([round(lr, 3) for lr in scheduler.get_last_lr()])
    ...     scheduler.step()
    [1.0]
    [0.75]
    [0.25]
    [0.0]
    """

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0, last_epoch: int = -1) -> None:
        self.T_max, self.eta_min = T_max, eta_min
        self._require("T_max", "positive", lambda steps: steps > 0)
        self._require("eta_min", "a finite number")
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        share = (1 + math.cos(math.pi * self.last_epoch / self.T_max)) / 2
        return [self.eta_min + (lr - self.eta_min) * share for lr in self.base_lrs]


class WarmupCosineLR(LRScheduler):
    """
    The schedule of `tinygpt train`: a linear warm-up, then half a cosine, then `min_lr`. PyTorch has none like it.

    Parameters
    ----------
    optimizer : Optimizer
    warmup, steps : int
        How many steps the warm-up takes, and the whole schedule.
    min_lr : float
        The last rate. The highest is the optimizer's.
    last_epoch : int
        See `LRScheduler`.

    Examples
    --------
    >>> from tinygpt import Tensor
    >>> from tinygpt.optim import SGD
    >>> optimizer = SGD([Tensor([1.0], requires_grad=True)], lr=1.0)
    >>> scheduler, rates = WarmupCosineLR(optimizer, warmup=2, steps=6, min_lr=0.1), []
    >>> for _ in range(7):
    ...     rates += scheduler.get_last_lr()
    ...     scheduler.step()
    >>> [round(rate, 3) for rate in rates]
    [0.333, 0.667, 1.0, 0.868, 0.55, 0.232, 0.1]
    """

    def __init__(self, optimizer: Optimizer, warmup: int, steps: int, min_lr: float = 0.0,
                 last_epoch: int = -1) -> None:  # fmt: skip
        self.warmup, self.steps, self.min_lr = warmup, steps, min_lr
        self._require("steps", "positive", lambda steps: steps > 0)
        self._require("warmup", f"between 0 and steps = {steps}", lambda warmup: 0 <= warmup <= steps)
        self._require("min_lr", "a finite number")
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        def rate(lr: float) -> float:
            return cosine_schedule(self.last_epoch, lr=lr, min_lr=self.min_lr, warmup=self.warmup, steps=self.steps)

        return list(map(rate, self.base_lrs))


class SequentialLR(LRScheduler):
    """
    Schedulers one after the other, such as a warm-up and a cosine.

    Parameters
    ----------
    optimizer : Optimizer
    schedulers : list of LRScheduler
        Of this optimizer. Each begins at its own step 0; step this object alone.
    milestones : list of int
        The step at which each of them but the first begins.
    last_epoch : int
        See `LRScheduler`.

    Examples
    --------
    >>> from tinygpt import Tensor
    >>> from tinygpt.optim import SGD
    >>> optimizer = SGD([Tensor([1.0], requires_grad=True)], lr=1.0)
    >>> parts = [LinearLR(optimizer, start_factor=0.5, total_iters=2), ExponentialLR(optimizer, gamma=0.9)]
    >>> scheduler = SequentialLR(optimizer, parts, milestones=[2])
    >>> for _ in range(4):
    ...     print(scheduler.get_last_lr())
    ...     scheduler.step()
    [0.5]
    [0.75]
    [1.0]
    [0.9]
    """

    def __init__(self, optimizer: Optimizer, schedulers: Sequence[LRScheduler], milestones: Sequence[int],
                 last_epoch: int = -1) -> None:  # fmt: skip
        if not (isinstance(schedulers, Iterable) and (schedulers := list(schedulers))):
            raise ValueError(f"SequentialLR: schedulers must be a list of at least one scheduler, got {schedulers!r}")
        if not all(isinstance(each, LRScheduler) and each.optimizer is optimizer for each in schedulers):
            raise ValueError("SequentialLR: schedulers must be schedulers of its own optimizer")
        self._schedulers, self._milestones = schedulers, _steps("SequentialLR", milestones)
        if len(self._milestones) != len(schedulers) - 1:
            raise ValueError(f"SequentialLR: milestones must be one less than the {len(schedulers)} schedulers, got "
                             f"{len(self._milestones)}")  # fmt: skip
        if self._milestones != sorted(self._milestones):
            raise ValueError(f"SequentialLR: milestones must be in order, got {self._milestones}")
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        index = bisect_right(self._milestones, self.last_epoch)
        scheduler = self._schedulers[index]
        scheduler.last_epoch = self.last_epoch - (self._milestones[index - 1] if index else 0)
        return scheduler.get_lr()

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"_schedulers": [scheduler.state_dict() for scheduler in self._schedulers]}

    def _check_state(self, state_dict: Mapping[str, Any]) -> None:
        super()._check_state(state_dict)
        states = state_dict["_schedulers"]
        if len(states) != len(self._schedulers):
            raise ValueError(f"SequentialLR.load_state_dict: the state must have {len(self._schedulers)} schedulers, "
                             f"got {len(states)}")  # fmt: skip
        for scheduler, state in zip(self._schedulers, states, strict=True):
            scheduler._check_state(state)

    def _take(self, state_dict: Mapping[str, Any]) -> None:
        super()._take(state_dict)
        for scheduler, state in zip(self._schedulers, state_dict["_schedulers"], strict=True):
            scheduler._take(state)


def _are_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, Real) for each in value)


def _steps(who: str, milestones: Any) -> list[int]:
    """The milestones as a list, checked."""
    found = list(milestones) if isinstance(milestones, Iterable) else [milestones]
    if not (isinstance(milestones, Iterable) and all(isinstance(each, Integral) for each in found)):
        raise TypeError(f"{who}: milestones must be a list of integers, got {milestones!r}")
    return found


if not TYPE_CHECKING:

    def __getattr__(name):
        raise missing_name(__name__, name)

"""
SGD: how a gradient becomes a step, by following it, with momentum or without.

The buffer is zero at first:

    (1) gradient  = gradient + weight_decay parameter           L2 regularization
    (2) buffer    = momentum buffer + (1 - dampening) gradient  a sum of all gradients, old ones faded
    (3) direction = buffer                                      or with Nesterov's momentum
                  = gradient + momentum buffer
    (4) parameter = parameter - lr direction

Without momentum there is no buffer, and direction = gradient.

Step (1). The gradient of loss + weight_decay/2 sum(parameter^2) is gradient + weight_decay parameter. Without momentum,
step (4) then takes the share lr weight_decay of each parameter away, which is AdamW's decay.

Step (2). Without dampening, buffer = sum_i momentum^(n-i) gradient_i after n steps, i from 1 to n: where all gradients
agree it grows to 1 / (1 - momentum) times one of them, ten times with 0.9, and where they alternate it stays small. It
is a sum, not a mean: with a dampening of momentum it would be a mean, and the step ten times smaller. The first
gradient is not dampened, as in PyTorch: `SGD` passes a dampening of 0 then.

Step (3). Whatever the gradient will be, momentum moves the parameter by -lr momentum buffer in the next step. Nesterov
computes the gradient after that move. Let x be the parameter before it, and look = x - lr momentum buffer the point
after it. The method is

    buffer' = momentum buffer + gradient(look)
    x'      = x - lr buffer'

The parameter that is stored is look instead of x: so backward computes gradient(look). The step of look is

    look' = x' - lr momentum buffer' = look + lr momentum buffer - lr buffer' - lr momentum buffer'
          = look - lr (gradient(look) + momentum buffer')       for buffer' - momentum buffer = gradient(look)

Source: Polyak 1964, doi:10.1016/0041-5553(64)90137-5 (momentum); Nesterov 1983, Soviet Mathematics Doklady 27(2);
        Sutskever et al. 2013, "On the importance of initialization and momentum in deep learning", section 2.
Cost:   one pass that reads three arrays and writes two: bound by memory. Without momentum, two and one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from tinygpt.autograd import Tensor
from tinygpt.optim.optimizer import Optimizer


def sgd_update(parameter, gradient, buffer, lr, momentum, dampening, weight_decay, nesterov, scale=1.0):
    """
    One step, in place: `parameter` and `buffer` change, `gradient` does not.

    Parameters
    ----------
    parameter, gradient, buffer : float arrays of one shape
        `buffer` is not looked at where momentum is 0.
    lr, momentum, dampening, weight_decay, nesterov
        As `SGD` takes them.
    scale : float
        What the gradient is multiplied by first, to clip its norm.
    """
    gradient = gradient * parameter.dtype.type(scale) + weight_decay * parameter  # (1)
    direction = gradient
    if momentum:
        buffer *= momentum  # (2)
        buffer += (1 - dampening) * gradient
        direction = gradient + momentum * buffer if nesterov else buffer  # (3)
    parameter -= lr * direction  # (4)


class SGD(Optimizer):
    """
    Stochastic gradient descent.

    Parameters
    ----------
    params : iterable of Tensor, of (str, Tensor), or of dict
        Parameters, or groups with options of their own: see `Optimizer`.
    lr : float
        Learning rate: what the gradient is multiplied by.
    momentum : float
        How much of the last steps' direction is kept; 0.9 is usual.
    dampening : float
        What share of a gradient does not enter that direction, after the first step.
    weight_decay : float
        Times the parameter, what is added to its gradient.
    nesterov : bool
        Whether the momentum is Nesterov's.
    **others
        PyTorch's other options where they change nothing: ``foreach``, ``fused``, ``maximize=False`` and so on.

    Raises
    ------
    TypeError, ValueError
        If there are no parameters, one is given twice or is no leaf of floats, or an option is out of range.

    Examples
    --------
    >>> w = Tensor([1.0], requires_grad=True)
    >>> optimizer = SGD([w], lr=0.1, momentum=0.9)
    >>> for _ in range(2):
    ...     optimizer.zero_grad()
    ...     (w * w).sum().backward()
    ...     optimizer.step()
    ...     print(w.data.round(4))
    [0.8]
    [0.46]
    """

    state_names = ("momentum_buffer",)
    kernel = "tinygpt.kernels.sgd"
    _reads_gradients_in = "tinygpt.kernels.sgd", sgd_update
    update = staticmethod(sgd_update)

    def __init__(self, params: Iterable[Any], lr: float = 1e-3, momentum: float = 0, dampening: float = 0,
                 weight_decay: float = 0, nesterov: bool = False, **others: Any) -> None:  # fmt: skip
        defaults = {"lr": lr, "momentum": momentum, "dampening": dampening, "weight_decay": weight_decay}
        super().__init__(params, defaults | {"nesterov": nesterov}, others)

    def update_options(self, group: dict[str, Any], parameter: Tensor) -> tuple[Any, ...]:
        dampening = group["dampening"] if "momentum_buffer" in self.state[parameter] else 0.0
        return group["lr"], group["momentum"], dampening, group["weight_decay"], group["nesterov"]

    def _array_names(self, group: dict[str, Any]) -> tuple[str, ...]:
        return self.state_names if group["momentum"] else ()

    def _step_arrays(self, group: dict[str, Any], parameter: Tensor) -> list[np.ndarray]:
        arrays = super()._step_arrays(group, parameter)
        return arrays if group["momentum"] else [*arrays, arrays[1]]  # no buffer: the gradient stands for it, unread

    def _check_options(self, options: dict[str, Any], who: str) -> None:
        super()._check_options(options, who)
        if options["nesterov"] and not (options["momentum"] > 0 and options["dampening"] == 0):
            raise ValueError(f"{who}: nesterov needs momentum above 0 and dampening 0, got momentum "
                             f"{options['momentum']} and dampening {options['dampening']}")  # fmt: skip

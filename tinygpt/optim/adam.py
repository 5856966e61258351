"""
Adam: how a gradient becomes a step, by running means of the gradient and of its square.

m and v are zero at first; `step` counts from 1:

    (1) gradient    = gradient + weight_decay parameter       L2 regularization
    (2) m           = beta1 m + (1 - beta1) gradient          running mean of the gradient
    (3) v           = beta2 v + (1 - beta2) gradient^2        running mean of its square, element by element
    (4) m_corrected = m / (1 - beta1^step)                    the means without the zeros that they began with
    (5) v_corrected = v / (1 - beta2^step)
    (6) parameter   = parameter - lr m_corrected / (sqrt(v_corrected) + eps)

Step (1). The gradient of loss + weight_decay/2 sum(parameter^2) is gradient + weight_decay parameter: weights are
drawn to zero. Step (6) divides that pull by sqrt(v_corrected), like the rest of the gradient. So parameters with large
gradients decay less, and a loss times ten makes the decay nearly ten times weaker. AdamW decays outside of (2) to (6).

Steps (2) to (6) are those of AdamW, and `adamw.py` derives them; without weight_decay the two optimizers are equal.
After one step m_corrected is the gradient, and v_corrected its square: whatever the scale of the loss, the first step
moves every parameter by lr, if its gradient is well above eps.

Source: Kingma & Ba 2014, arXiv:1412.6980, algorithm 1.
Cost:   one pass that reads four arrays and writes three: bound by memory. With weight_decay, one more for (1).
"""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Real
from typing import Any

import numpy as np

from tinygpt.autograd import Tensor
from tinygpt.optim.optimizer import Optimizer


def adam_update(parameter, gradient, m, v, step, lr, betas, eps, weight_decay, scale=1.0):
    """
    One Adam step, in place: `parameter`, `m` and `v` change, `gradient` does not.

    Parameters
    ----------
    parameter, gradient, m, v : float arrays of one shape
    step : int
        The number of this step, from 1.
    lr, betas, eps, weight_decay
        As `Adam` takes them.
    scale : float
        What the gradient is multiplied by first, to clip its norm.
    """
    beta1, beta2 = betas
    gradient = gradient * parameter.dtype.type(scale) + weight_decay * parameter  # (1)
    m *= beta1  # (2)
    m += (1 - beta1) * gradient
    v *= beta2  # (3)
    v += (1 - beta2) * (gradient * gradient)
    m_corrected = m / (1 - beta1**step)  # (4)
    v_corrected = v / (1 - beta2**step)  # (5)
    parameter -= lr * m_corrected / (np.sqrt(v_corrected) + eps)  # (6)


class Adam(Optimizer):
    """
    Adam, with weight decay as a term of the gradient.

    Parameters
    ----------
    params : iterable of Tensor, of (str, Tensor), or of dict
        Parameters, or groups with options of their own: see `Optimizer`.
    lr : float
        Learning rate: roughly the size of a step, in the units of the parameters.
    betas : (float, float)
        How much of the running means of gradient and square is kept each step.
    eps : float
        Added to the root of the second moment.
    weight_decay : float
        Times the parameter, what is added to its gradient. For the decay that GPT-2 is trained with, see `AdamW`.
    **others
        PyTorch's other options where they change nothing: ``foreach``, ``fused``, ``amsgrad=False`` and so on.

    Raises
    ------
    TypeError, ValueError
        If there are no parameters, one is given twice or is no leaf of floats, or an option is out of range.

    Examples
    --------
    >>> w = Tensor([1.0, -3.0], requires_grad=True)
    >>> optimizer = Adam([w], lr=0.1)
    >>> (w * w).sum().backward()
    >>> optimizer.step()
    >>> w.data.round(4)
    array([ 0.9, -2.9], dtype=float32)
    """

    state_names = ("step", "exp_avg", "exp_avg_sq")
    kernel = "tinygpt.kernels.adam"
    _reads_gradients_in = "tinygpt.kernels.adam", adam_update
    update = staticmethod(adam_update)

    def __init__(self, params: Iterable[Any], lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999),
                 eps: float = 1e-8, weight_decay: float = 0, **others: Any) -> None:  # fmt: skip
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults | {"decoupled_weight_decay": False}, others)

    def update_options(self, group: dict[str, Any], parameter: Tensor) -> tuple[Any, ...]:
        step = self.state[parameter].get("step", 0) + 1
        return step, group["lr"], tuple(group["betas"]), group["eps"], group["weight_decay"]

    def _check_options(self, options: dict[str, Any], who: str) -> None:
        super()._check_options(options, who)
        betas = options["betas"]
        pair = isinstance(betas, (tuple, list)) and len(betas) == 2
        if not (pair and all(isinstance(beta, Real) and 0 <= float(beta) < 1 for beta in betas)):
            raise ValueError(f"{who}: betas must be two numbers of at least 0 and below 1, got {betas}")
        decoupled = self.defaults["decoupled_weight_decay"]  # a name of PyTorch's, by which the two are told apart
        if options["decoupled_weight_decay"] != decoupled:
            raise ValueError(f"{who}: decoupled_weight_decay must be {decoupled}, got {not decoupled}; "
                             f"use {'Adam' if decoupled else 'AdamW'}")  # fmt: skip

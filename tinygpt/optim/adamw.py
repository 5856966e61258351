"""
AdamW: how a gradient becomes a step, by running means of the gradient and of its square.

m and v are zero at first; `step` counts from 1:

    (1) m           = beta1 m + (1 - beta1) gradient          running mean of the gradient
    (2) v           = beta2 v + (1 - beta2) gradient^2        running mean of its square, element by element
    (3) m_corrected = m / (1 - beta1^step)                    the means without the zeros that they began with
    (4) v_corrected = v / (1 - beta2^step)
    (5) parameter   = (1 - lr weight_decay) parameter         decay
    (6) parameter   = parameter - lr m_corrected / (sqrt(v_corrected) + eps)

Steps (3) and (4). After n steps, (1) has added up to m = (1 - beta1) sum_i beta1^(n-i) gradient_i, i from 1 to n. The
weights (1 - beta1) beta1^(n-i) are a geometric series with the sum 1 - beta1^n, less than 1. Divided by it, they sum to
1, and m_corrected is a weighted mean of the gradients. The same holds for v and their squares.

Step (6). If all gradients are multiplied by one number, m_corrected and sqrt(v_corrected) are too: their ratio stays.
It is about 1 where gradients agree in sign and size, and near 0 where they cancel. So lr is roughly the size of a step,
in units of the parameter, for any scale of the loss.

Step (5). Adam with L2 regularization adds weight_decay * parameter to the gradient instead. Step (6) then divides it by
sqrt(v_corrected), too, and parameters with large gradients decay less. Here all decay at the same rate.

Source: Kingma & Ba 2014, arXiv:1412.6980, algorithm 1; Loshchilov & Hutter 2017, arXiv:1711.05101, algorithm 2.
Cost:   one pass that reads four arrays and writes three: bound by memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from tinygpt.autograd import Tensor
from tinygpt.optim.adam import Adam
from tinygpt.optim.optimizer import Optimizer


def adamw_update(parameter, gradient, m, v, step, lr, betas, eps, weight_decay, scale=1.0):
    """
    One AdamW step, in place: `parameter`, `m` and `v` change, `gradient` does not.

    Parameters
    ----------
    parameter, gradient, m, v : float arrays of one shape
    step : int
        The number of this step, from 1.
    lr, betas, eps, weight_decay
        As `AdamW` takes them.
    scale : float
        What the gradient is multiplied by first, to clip its norm.
    """
    beta1, beta2 = betas
    gradient = gradient * parameter.dtype.type(scale)
    m *= beta1  # (1)
    m += (1 - beta1) * gradient
    v *= beta2  # (2)
    v += (1 - beta2) * (gradient * gradient)
    m_corrected = m / (1 - beta1**step)  # (3)
    v_corrected = v / (1 - beta2**step)  # (4)
    parameter *= 1 - lr * weight_decay  # (5)
    parameter -= lr * m_corrected / (np.sqrt(v_corrected) + eps)  # (6)


class AdamW(Adam):
    """
    Adam with decoupled weight decay.

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
        Times lr, the share of a weight that each step takes away.
    decay_vectors : bool
        Whether parameters with one axis or none, biases and norms, decay as well. PyTorch's do, and so do those of a
        group that names its own "weight_decay" and not "decay_vectors".
    **others
        PyTorch's other options where they change nothing: ``foreach``, ``fused``, ``amsgrad=False`` and so on.

    Raises
    ------
    TypeError, ValueError
        If there are no parameters, one is given twice or is no leaf of floats, or an option is out of range.

    Examples
    --------
    >>> w = Tensor([1.0], requires_grad=True)
    >>> optimizer = AdamW([w], lr=0.1, weight_decay=0.0)
    >>> (w * w).sum().backward()
    >>> optimizer.step()
    >>> w.data.round(4)
    array([0.9], dtype=float32)
    """

    kernel = "tinygpt.kernels.adamw"
    _reads_gradients_in = "tinygpt.kernels.adamw", adamw_update
    update = staticmethod(adamw_update)

    def __init__(self, params: Iterable[Any], lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999),
                 eps: float = 1e-8, weight_decay: float = 0.01, *, decay_vectors: bool = False,
                 **others: Any) -> None:  # fmt: skip
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay,
                    "decay_vectors": decay_vectors, "decoupled_weight_decay": True}  # fmt: skip
        Optimizer.__init__(self, params, defaults, others)  # not Adam's, whose defaults are others

    def update_options(self, group: dict[str, Any], parameter: Tensor) -> tuple[Any, ...]:
        *options, weight_decay = super().update_options(group, parameter)
        return *options, weight_decay if group["decay_vectors"] or parameter.ndim >= 2 else 0.0

    def _complete(self, given: Mapping[str, Any], who: str) -> dict[str, Any]:
        return super()._complete({"decay_vectors": True, **given} if "weight_decay" in given else given, who)

"""
The norm of all gradients together, and its clip, so that one bad batch cannot move the model far.

Neither takes a pass over a gradient that no user can reach, a private one (see `autograd/gradients.py`): the kernel
that wrote it has left the sum of its squares, and the optimizer multiplies by the scale of the clip as it reads.
`Tensor.grad` multiplies first, so a user finds the gradient clipped.

Source: Pascanu et al. 2013, arXiv:1211.5063, section 3.2.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from numbers import Real
from typing import Any

import numpy as np

from tinygpt.autograd import Tensor
from tinygpt.autograd.dispatch import in_place, kernel_for
from tinygpt.autograd.gradients import SCALE_LOCK
from tinygpt.autograd.graph import Node
from tinygpt.autograd.watch import observable, observed
from tinygpt.optim.merge_contiguous import merge_contiguous
from tinygpt.runtime.settings import current_implementation


def clip_grad_norm(parameters: Tensor | Iterable[Tensor], max_norm: float) -> float:
    """
    Scale all gradients together so that their norm, taken as one vector, is at most `max_norm`.

    `grad` becomes the gradient times ``max_norm / norm``, rounded once to float32. An optimizer that multiplies as it
    reads rounds elsewhere, so its step may differ by rounding from one that is taken with the clipped `grad`.

    Parameters
    ----------
    parameters : Tensor, or iterable of Tensor
        Those without a gradient are left out.
    max_norm : float
        Above 0; `inf` only measures.

    Returns
    -------
    float
        The norm before the clip, summed in float64. NaN or infinite where a gradient is: nothing is scaled then.

    Examples
    --------
    >>> w = Tensor([3.0, 4.0], requires_grad=True)
    >>> (w * w).sum().backward()
    >>> clip_grad_norm([w], 1.0)
    10.0
    >>> float(np.linalg.norm(w.grad).round(4))
    1.0
    """
    if not (isinstance(max_norm, Real) and max_norm > 0):
        raise ValueError(f"clip_grad_norm: max_norm must be positive, got {max_norm!r}")
    parameters, max_norm = _listed("clip_grad_norm", parameters), float(max_norm)
    with SCALE_LOCK:
        norm = grad_norm(parameters)
        if max_norm < norm < math.inf:
            to_scale = []
            for node in _with_gradient(parameters):
                if node.private and current_implementation() == "kernels":
                    node.pending_scale *= max_norm / norm  # the optimizer multiplies by it
                else:
                    node.squares = None
                    to_scale.append(node)
            for gradient in _merged(to_scale):
                _scale(gradient, max_norm / norm)
    return norm


@observable
def grad_norm(parameters: Tensor | Iterable[Tensor]) -> float:
    """
    The norm of all gradients, taken as one vector and summed in float64.

    Examples
    --------
    >>> w = Tensor([3.0, 4.0], requires_grad=True)
    >>> (w * w).sum().backward()
    >>> grad_norm([w])
    10.0
    """
    known = {node: node.sum_of_squares() for node in _with_gradient(_listed("grad_norm", parameters))}
    measured = map(_squares, _merged(node for node, squares in known.items() if squares is None))
    return math.sqrt(sum(squares for squares in known.values() if squares is not None) + sum(measured))


def _listed(who: str, parameters: Any) -> list[Tensor]:
    if isinstance(parameters, Tensor):
        return [parameters]
    if isinstance(parameters, (str, bytes, Mapping)) or not isinstance(parameters, Iterable):
        remedy = "write model.parameters()" if hasattr(parameters, "parameters") else "write [tensor], or dict.values()"
        raise TypeError(f"{who}: parameters must be a list of tensors, got {type(parameters).__name__}; {remedy}")
    found = list({id(parameter): parameter for parameter in parameters}.values())  # one that is tied counts once
    for parameter in found:
        if not isinstance(parameter, Tensor):
            raise TypeError(f"{who}: parameters must be a list of tensors, got {type(parameter).__name__} among them")
    return found


def _squares(gradient: np.ndarray) -> float:
    kernel = kernel_for("tinygpt.kernels.norm", gradient)
    return observed(kernel.squares, "kernel")(gradient) if kernel else observed(_sum_of_squares, "numpy")(gradient)


def _sum_of_squares(gradient: np.ndarray) -> float:
    return float(np.square(gradient, dtype=np.float64).sum())


def _scale(gradient: np.ndarray, factor: float) -> None:
    in_place("clip_grad_norm", "tinygpt.kernels.norm", lambda array, factor: np.multiply(array, factor, out=array),
             [gradient], [factor])  # fmt: skip


def _with_gradient(parameters: Iterable[Tensor]) -> list[Node]:
    """The nodes that hold a gradient, each once, in the order of `Module.flatten_parameters`."""
    # p.grad, which is None where node.grad is, warns of a tensor whose gradient is not kept: see `retain_grad`
    nodes = [p.node for p in parameters if p.node is not None and (p.node.grad is not None or p.grad is not None)]
    return sorted(dict.fromkeys(nodes), key=lambda node: len(node.shape) < 2)


def _merged(nodes: Iterable[Node]) -> list[np.ndarray]:
    """The gradients of nodes, multiplied by what is pending; those that are contiguous in memory as one array."""
    return [array for (array,) in merge_contiguous([node.apply_pending_scale()] for node in nodes)]

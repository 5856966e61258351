"""
Activation checkpointing: activations computed twice instead of kept, one block's memory for a third more work.

Backward needs what each operation saved. For a whole GPT-2 that is most of a step's memory, and it grows with the batch
and the context. A recomputed block keeps only its input: when backward reaches it, its forward runs again, from the
same input and with the same seeds of dropout, and backward goes through that. The gradients are the same in every bit.

Source: Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost", arXiv:1604.06174.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tinygpt.autograd import Op, Tensor, apply, no_grad
from tinygpt.runtime.default_generator import default_generator


def recompute(function: Callable[[Tensor], Tensor], x: Tensor, generator: np.random.Generator | None = None) -> Tensor:
    """
    ``function(x)``, keeping nothing but `x` for backward.

    Parameters
    ----------
    function : callable
        From one tensor to one tensor, by recorded operations; its parameters receive their gradients as usual.
    x : Tensor
    generator : np.random.Generator, optional
        Where `function` draws its seeds of dropout from. It is set back for the second run, and restored after it; so
        is the default generator, which layers without a generator draw from.

    Returns
    -------
    Tensor

    Examples
    --------
    >>> x = Tensor([1.0, 2.0], requires_grad=True)
    >>> recompute(lambda x: x * x * x, x).sum().backward()
    >>> x.grad
    array([ 3., 12.], dtype=float32)
    """

    sources = [each.bit_generator for each in (default_generator(), generator) if each is not None]

    def forward(array: np.ndarray) -> tuple[np.ndarray, Any]:
        states = [source.state for source in sources]
        with no_grad():
            return function(Tensor(array)).data, (array, states)

    def backward(dout: np.ndarray, saved: Any) -> tuple[np.ndarray | None]:
        array, states = saved
        later = [source.state for source in sources]
        _set(sources, states)
        again = Tensor(array, requires_grad=True)
        out = function(again)
        _set(sources, later)
        out.backward(dout)
        return (again.grad,)

    return apply(Op("recompute", forward, backward), x)


def _set(sources: list[Any], states: list[Any]) -> None:
    for source, state in zip(sources, states, strict=True):
        source.state = state

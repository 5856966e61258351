"""
Initial values by PyTorch's names, written into a tensor's array: `nn.init.normal_(layer.weight, std=0.02)`.

The random ones come from the generator that `manual_seed` starts anew, unless they are given one. What depends on the
number of inputs takes a weight as `nn.Linear` has it, (inputs, outputs); PyTorch's is (outputs, inputs).

Source: Glorot & Bengio 2010 (xavier); He et al. 2015, arXiv:1502.01852 (kaiming).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinygpt.autograd import Tensor
from tinygpt.nn.initial import generator_or_default, normal, uniform

_GAINS = {"linear": 1.0, "sigmoid": 1.0, "tanh": 5 / 3, "relu": math.sqrt(2)}


def normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0, generator: Any = None) -> Tensor:
    """
    Draw all elements from a normal distribution.

    Parameters
    ----------
    tensor : Tensor, float32 or float64
        Its array is overwritten.
    mean, std : float
    generator : np.random.Generator, optional

    Returns
    -------
    Tensor
        The same tensor.

    Examples
    --------
    >>> from tinygpt import nn
    >>> layer = nn.Linear(300, 400)
    >>> nn.init.normal_(layer.weight, std=0.02) is layer.weight, f"{layer.weight.std():.3f}"
    (True, '0.020')
    """
    array, generator = _array("normal_", tensor), generator_or_default("normal_", generator)
    array[...] = mean + normal(generator, array.shape, std, array.dtype)
    return tensor


def uniform_(tensor: Tensor, a: float = 0.0, b: float = 1.0, generator: Any = None) -> Tensor:
    """Draw all elements from the uniform distribution between `a` and `b`. Returns the tensor."""
    array, generator = _array("uniform_", tensor), generator_or_default("uniform_", generator)
    array[...] = (a + b) / 2 + uniform(generator, array.shape, (b - a) / 2, array.dtype)
    return tensor


def constant_(tensor: Tensor, val: float) -> Tensor:
    """
    Set all elements to `val`. Returns the tensor.

    Examples
    --------
    >>> constant_(Tensor([1.0, 2.0]), 0.5)
    Tensor([0.5, 0.5], dtype=float32)
    """
    _array("constant_", tensor).fill(val)
    return tensor


def zeros_(tensor: Tensor) -> Tensor:
    """Set all elements to 0. Returns the tensor."""
    _array("zeros_", tensor).fill(0)
    return tensor


def ones_(tensor: Tensor) -> Tensor:
    """Set all elements to 1. Returns the tensor."""
    _array("ones_", tensor).fill(1)
    return tensor


def xavier_uniform_(tensor: Tensor, gain: float = 1.0, generator: Any = None) -> Tensor:
    """Uniform, with the standard deviation ``gain * sqrt(2 / (inputs + outputs))``. Returns the tensor."""
    bound = gain * math.sqrt(6 / sum(_fans("xavier_uniform_", tensor)))
    return uniform_(tensor, -bound, bound, generator)


def xavier_normal_(tensor: Tensor, gain: float = 1.0, generator: Any = None) -> Tensor:
    """Normal, with the standard deviation ``gain * sqrt(2 / (inputs + outputs))``. Returns the tensor."""
    return normal_(tensor, 0.0, gain * math.sqrt(2 / sum(_fans("xavier_normal_", tensor))), generator)


def kaiming_uniform_(
    tensor: Tensor, a: float = 0.0, mode: str = "fan_in", nonlinearity: str = "leaky_relu", generator: Any = None
) -> Tensor:
    """Uniform, with the standard deviation that `kaiming_normal_` has. Returns the tensor."""
    bound = math.sqrt(3) * _kaiming("kaiming_uniform_", tensor, a, mode, nonlinearity)
    return uniform_(tensor, -bound, bound, generator)


def kaiming_normal_(
    tensor: Tensor, a: float = 0.0, mode: str = "fan_in", nonlinearity: str = "leaky_relu", generator: Any = None
) -> Tensor:
    """
    Normal, with a standard deviation that keeps the size of activations: ``gain / sqrt(inputs)``.

    Parameters
    ----------
    tensor : Tensor, shape (inputs, outputs)
    a : float
        The slope of "leaky_relu" below 0.
    mode : "fan_in" or "fan_out"
        "fan_out" divides by the root of the number of outputs: it keeps the size of gradients.
    nonlinearity : "linear", "sigmoid", "tanh", "relu" or "leaky_relu"
        What follows the layer. The gain is 1, 1, 5/3, sqrt(2) or ``sqrt(2 / (1 + a * a))``.
    generator : np.random.Generator, optional

    Returns
    -------
    Tensor
        The same tensor.

    Raises
    ------
    TypeError, ValueError
        If it is no tensor of floats with two axes, or the mode or the nonlinearity is none of these.
    """
    return normal_(tensor, 0.0, _kaiming("kaiming_normal_", tensor, a, mode, nonlinearity), generator)


def _kaiming(who: str, tensor: Any, a: float, mode: str, nonlinearity: str) -> float:
    gains = _GAINS | {"leaky_relu": math.sqrt(2 / (1 + a * a))}
    if nonlinearity not in gains:
        raise ValueError(f"{who}: nonlinearity must be one of {', '.join(gains)}, got {nonlinearity!r}")
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(f"{who}: mode must be 'fan_in' or 'fan_out', got {mode!r}")
    inputs, outputs = _fans(who, tensor)
    return gains[nonlinearity] / math.sqrt(inputs if mode == "fan_in" else outputs)


def _fans(who: str, tensor: Any) -> tuple[int, int]:
    shape = _array(who, tensor).shape
    if len(shape) != 2:
        raise ValueError(
            f"{who}: needs a weight of shape (inputs, outputs), got shape {shape}; write normal_ for others"
        )
    return shape


def _array(who: str, tensor: Any) -> np.ndarray:
    if not isinstance(tensor, Tensor) or tensor.dtype.kind != "f":
        kind = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
        raise TypeError(f"{who}: needs a tensor of float32 or float64, got {kind}")
    return tensor.data

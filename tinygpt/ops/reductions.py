"""
Many values into one: sum, mean, max, min, var, softmax and log_softmax along axes.

A reduction gives each of its inputs a share of the output's gradient. All backwards here first stretch `dout` back to
the shape of the input, in words: every input of a group sees the gradient of its group's output.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.lib.array_utils import normalize_axis_tuple

from tinygpt.autograd import Op, Tensor, apply

Axis = int | tuple[int, ...] | None


def _stretch(reduced, shape, axis, keepdims):
    """A reduced array (or gradient) broadcast back over the reduced axes, as a read-only view."""
    if not keepdims and axis is not None:
        reduced = np.expand_dims(reduced, axis)
    return np.broadcast_to(reduced, shape)


def _group_size(shape, axis):
    """How many inputs share one output."""
    axes = range(len(shape)) if axis is None else normalize_axis_tuple(axis, len(shape))
    return math.prod(shape[i] for i in axes)


# sum: out = sum_i x_i,  d out / dx_i = 1


def sum_forward(x, axis=None, keepdims=False):
    return x.sum(axis=axis, keepdims=keepdims), (x.shape, axis, keepdims)


def sum_backward(dout, saved):
    shape, axis, keepdims = saved
    return (_stretch(dout, shape, axis, keepdims),)


SUM = Op("sum", sum_forward, sum_backward)


def sum(x: Tensor, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """
    Sum over `axis` (all axes by default).

    Examples
    --------
    >>> sum(Tensor([[1.0, 2.0], [3.0, 4.0]]), axis=0)
    Tensor([4., 6.], dtype=float32)
    """
    return apply(SUM, x, axis=axis, keepdims=keepdims)


# mean: out = (1 / n) sum_i x_i,  d out / dx_i = 1 / n


def mean_forward(x, axis=None, keepdims=False):
    return x.mean(axis=axis, keepdims=keepdims), (x.shape, axis, keepdims)


def mean_backward(dout, saved):
    shape, axis, keepdims = saved
    count = _group_size(shape, axis) or 1  # an empty group has no input that a gradient could reach
    return (_stretch(dout / count, shape, axis, keepdims),)


MEAN = Op("mean", mean_forward, mean_backward)


def mean(x: Tensor, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """
    Mean over `axis` (all axes by default).

    Examples
    --------
    >>> mean(Tensor([[1.0, 2.0], [3.0, 4.0]]), axis=0)
    Tensor([2., 3.], dtype=float32)
    """
    return apply(MEAN, x, axis=axis, keepdims=keepdims)


# var: out = (1 / m) sum_i (x_i - mean)^2 with m = n - ddof.
# d out / dx_i = (2 / m) (x_i - mean): the mean moves too, but d out / d mean = -(2 / m) sum_i (x_i - mean) = 0.


def var_forward(x, axis=None, ddof=0, keepdims=False):
    return x.var(axis=axis, ddof=ddof, keepdims=keepdims), (x, axis, ddof, keepdims)


def var_backward(dout, saved):
    x, axis, ddof, keepdims = saved
    centred = x - x.mean(axis=axis, keepdims=True)
    return (_stretch(dout, x.shape, axis, keepdims) * centred * (2 / (_group_size(x.shape, axis) - ddof)),)


VAR = Op("var", var_forward, var_backward)


def var(x: Tensor, axis: Axis = None, ddof: int = 0, keepdims: bool = False) -> Tensor:
    """
    Variance over `axis` (all axes by default), the sum of squares divided by n - ddof.

    Raises
    ------
    ValueError
        If there are not more than `ddof` values to a group.

    Examples
    --------
    >>> var(Tensor([[1.0, 2.0], [3.0, 4.0]]), axis=0)
    Tensor([1., 1.], dtype=float32)
    """
    if _group_size(x.shape, axis) <= ddof:
        raise ValueError(f"var: needs more than ddof = {ddof} values along axis {axis}, got shape {x.shape}")
    return apply(VAR, x, axis=axis, ddof=ddof, keepdims=keepdims)


# max: out = max_i x_i. The gradient goes to the largest; k equal ones receive 1 / k each. (At a tie the function has a
# corner and no derivative; an even split is the mean of the one-sided ones, and does not depend on the order.)


def max_forward(x, axis=None, keepdims=False):
    out = x.max(axis=axis, keepdims=keepdims)
    return out, (x, out, axis, keepdims)


def max_backward(dout, saved):
    x, out, axis, keepdims = saved
    largest = (x == _stretch(out, x.shape, axis, keepdims)).astype(x.dtype)
    ties = largest.sum(axis=axis, keepdims=True)
    return (_stretch(dout, x.shape, axis, keepdims) * (largest / ties),)


MAX = Op("max", max_forward, max_backward)


def max(x: Tensor, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """
    Largest value over `axis` (all axes by default). Equal maxima share the gradient evenly; NaN gives NaN.

    Raises
    ------
    ValueError
        If there is nothing to take the largest of.

    Examples
    --------
    >>> x = Tensor([3.0, 1.0, 3.0], requires_grad=True)
    >>> max(x).backward()
    >>> x.grad
    array([0.5, 0. , 0.5], dtype=float32)
    """
    if _group_size(x.shape, axis) == 0:
        raise ValueError(f"max, min: need at least one value along axis {axis}, got shape {x.shape}")
    return apply(MAX, x, axis=axis, keepdims=keepdims)


def min(x: Tensor, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """
    Smallest value over `axis`: -max(-x), ties included.

    Examples
    --------
    >>> min(Tensor([[1.0, 2.0], [3.0, 4.0]]), axis=1)
    Tensor([1., 3.], dtype=float32)
    """
    if x.dtype.kind != "f":
        return Tensor(x.data.min(axis=axis, keepdims=keepdims))  # -x of an unsigned integer wraps around
    return -max(-x, axis=axis, keepdims=keepdims)


# softmax: p_i = e^{x_i} / sum_j e^{x_j}.  dp_i / dx_j = p_i (1[i = j] - p_j), so
# dx_j = sum_i dout_i p_i (1[i = j] - p_j) = p_j (dout_j - sum_i dout_i p_i).


def softmax_forward(x, axis=-1):
    e = np.exp(x - x.max(axis=axis, keepdims=True))  # p does not change when x shifts, and e^x cannot overflow
    p = e / e.sum(axis=axis, keepdims=True)
    return p, (p, axis)


def softmax_backward(dout, saved):
    p, axis = saved
    return (p * (dout - (dout * p).sum(axis=axis, keepdims=True)),)


SOFTMAX = Op("softmax", softmax_forward, softmax_backward)


def softmax(x: Tensor, axis: int = -1) -> Tensor:
    """
    exp(x) / sum(exp(x)) along `axis`: positive, and sums to 1.

    Examples
    --------
    >>> softmax(Tensor([0.0, 0.0]))
    Tensor([0.5, 0.5], dtype=float32)
    """
    _check_softmax("softmax", x, axis)
    return apply(SOFTMAX, x, axis=axis)


# log_softmax: out_i = x_i - ln sum_j e^{x_j}.  d out_i / dx_j = 1[i = j] - p_j with p = softmax(x) = e^out, so
# dx_j = dout_j - p_j sum_i dout_i.


def log_softmax_forward(x, axis=-1):
    shifted = x - x.max(axis=axis, keepdims=True)
    out = shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True))
    return out, (out, axis)


def log_softmax_backward(dout, saved):
    out, axis = saved
    return (dout - np.exp(out) * dout.sum(axis=axis, keepdims=True),)


LOG_SOFTMAX = Op("log_softmax", log_softmax_forward, log_softmax_backward)


def log_softmax(x: Tensor, axis: int = -1) -> Tensor:
    """
    ln softmax(x) along `axis`, without the underflow of taking the logarithm afterwards.

    Examples
    --------
    >>> log_softmax(Tensor([0.0, 0.0]))
    Tensor([-0.6931472, -0.6931472], dtype=float32)
    """
    _check_softmax("log_softmax", x, axis)
    return apply(LOG_SOFTMAX, x, axis=axis)


def _check_softmax(who: str, x: Tensor, axis: int) -> None:
    if x.ndim == 0 or _group_size(x.shape, axis) == 0:
        raise ValueError(f"{who}: needs at least one value along axis {axis}, got shape {x.shape}")

"""
Many values into one: sum, mean, max, min, var, softmax and log_softmax along axes.

The values along `axis` that make one output are a group; n is their number. Every value of a group sees the gradient of
its group's output: all backwards here first stretch `dout` over the group again. In the table sum, mean and max run
over each group, and dout and out are stretched.

Operation       Forward                             Backward
    sum         out = sum(x)                        dx = dout
    mean        out = sum(x) / n                    dx = dout / n
    var         centred = x - mean(x)
                out = sum(centred^2) / (n - ddof)   dx = dout * 2 * centred / (n - ddof)
    max         out = max(x)                        dx = dout * 1[x = out] / sum(1[x = out])
    softmax     out = e^x / sum(e^x)                dx = out * (dout - sum(dout * out))
    log_softmax out = x - ln(sum(e^x))              dx = dout - e^out * sum(dout)

`min` is -max(-x).

var. The mean moves with x too, but d out / d mean = -2 sum(centred) / (n - ddof) = 0: its path adds nothing.

softmax. With p = out, d p_i / d x_j = p_i (1[i = j] - p_j), so
    dx_j = sum_i dout_i p_i (1[i = j] - p_j) = p_j (dout_j - sum_i dout_i p_i)

log_softmax. With p = softmax(x) = e^out, d out_i / d x_j = 1[i = j] - p_j, so
    dx_j = dout_j - p_j sum_i dout_i

What surprises people here
    sum         Every value receives the whole gradient of its group: nothing is divided among them.
    mean        The gradient of one value shrinks with the size of its group: twice as many values, half the gradient.
    var         The formula treats the mean as a constant and is right: the centred values of a group sum to zero.
    max         k equal maxima receive 1 / k of the gradient each. A tie is a corner without a derivative; the even
                split is the mean of the one-sided slopes, and does not depend on the order of the values.
    softmax     dx sums to zero over each group: adding a number to all of x changes no probability.
    log_softmax Where a probability underflows to 0, ln(softmax(x)) is -inf; this form never makes the probability.
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
        If a group does not have more than `ddof` values.

    Examples
    --------
    >>> var(Tensor([[1.0, 2.0], [3.0, 4.0]]), axis=0)
    Tensor([1., 1.], dtype=float32)
    """
    if _group_size(x.shape, axis) <= ddof:
        raise ValueError(f"var: needs more than ddof = {ddof} values along axis {axis}, got shape {x.shape}")
    return apply(VAR, x, axis=axis, ddof=ddof, keepdims=keepdims)


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

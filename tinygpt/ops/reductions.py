"""
Reductions, many values into one: sum, mean, prod, max, min, var, std, norm and logsumexp along axes; and softmax,
log_softmax and cumsum, which combine the same values and keep the shape.

The values along `axis` that make one output are a group; n is their number. Every value of a group sees the gradient of
its group's output: the backwards here first stretch `dout` over the group again. In the table sum, mean, prod and max
run over each group, and dout and out are stretched.

Operation       Forward                                      Backward
    sum         out = sum(x)                                 dx = dout
    mean        out = sum(x) / n                             dx = dout / n
    prod        out = prod(x)                                dx = dout * product_of_others(x)
    max         out = max(x)                                 dx = dout * 1[x = out] / sum(1[x = out])
    var         centred = x - mean(x)
                out = sum(centred^2) / (n - ddof)            dx = dout * 2 * centred / (n - ddof)
    std         centred = x - mean(x)
                out = (sum(centred^2) / (n - ddof))^(1/2)    dx = dout * centred / (n - ddof) / (out + 1[out = 0])
    norm        out = sum(x^2)^(1/2)                         dx = dout * x / (out + 1[out = 0])
    logsumexp   out = ln(sum(e^x))                           dx = dout * e^(x - out)
    softmax     out = e^x / sum(e^x)                         dx = out * (dout - sum(dout * out))
    log_softmax out = x - ln(sum(e^x))                       dx = dout - e^out * sum(dout)
    cumsum      out = cumsum(x)                              dx = reverse(cumsum(reverse(dout)))

`min` is -max(-x). Sums, products and extremes of integers are integers, all else of them is float32.

prod. d out / d x_i is the product of all values but x_i: out / x_i, unless x_i is 0. The product of the values before
x_i and that of the values after it are running products, and need no division.

var. The mean moves with x too, but d out / d mean = -2 sum(centred) / (n - ddof) = 0: its path adds nothing.

std, norm. A root: d out = d(out^2) / (2 out). At out = 0 the group is a corner without a derivative, and the slopes of
both sides cancel: 0 by convention, as in PyTorch. The indicator makes it 0 / 1: there all centred, or all x, are 0. The
code makes dout 0 as well, since it may be infinite there: sqrt(norm(x)).

logsumexp. d out / d x_j = e^(x_j) / sum_i e^(x_i) = e^(x_j - out)

softmax. With p = out, d p_i / d x_j = p_i (1[i = j] - p_j), so
    dx_j = sum_i dout_i p_i (1[i = j] - p_j) = p_j (dout_j - sum_i dout_i p_i)

log_softmax. With p = softmax(x) = e^out, d out_i / d x_j = 1[i = j] - p_j, so
    dx_j = dout_j - p_j sum_i dout_i

cumsum. out_i = sum over j <= i of x_j, so x_j is in out_j and in all that follow it:
    dx_j = sum over i >= j of dout_i, the cumulative sum from the other end

What surprises people here
    sum         Every value receives the whole gradient of its group: nothing is divided among them.
    mean        The gradient of one value shrinks with the size of its group: twice as many values, half the gradient.
    prod        A zero keeps its gradient, the product of the others, and the others lose theirs: out / x would be NaN.
    max         k equal maxima receive 1 / k of the gradient each. A tie is a corner without a derivative; the even
                split is the mean of the one-sided slopes, and does not depend on the order of the values.
    var         The formula treats the mean as a constant and is right: the centred values of a group sum to zero.
    std         sqrt(var(x)) has another gradient where all values of a group are equal: infinity times 0, NaN.
    norm        The gradient has norm 1 however small x is. That of sum(x^2) shrinks with x; this one does not.
    logsumexp   The slope of this smooth maximum is the softmax: probabilities come out of a gradient.
    softmax     dx sums to zero over each group: adding a number to all of x changes no probability.
    log_softmax Where a probability underflows to 0, ln(softmax(x)) is -inf; this form never makes the probability.
    cumsum      Backward runs from the last to the first: what comes first counts in every sum.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.lib.array_utils import normalize_axis_tuple

from tinygpt.autograd import Op, Tensor, apply
from tinygpt.ops.basic import floating
from tinygpt.ops.elementwise import abs
from tinygpt.ops.shapes import as_tensor, checked_axis, one_axis, reshape
from tinygpt.runtime.aliases import aliases

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


def _needs(who, at_least=0, default=None):
    """The check of a reduction, whose groups need so many values; a tensor without axes may be given 0 or -1."""

    def check(x, axis=default, **attrs):
        places = checked_axis(who, axis, x.ndim)
        if _group_size(x.shape, places) < at_least:
            raise ValueError(f"{who}: needs at least one value along axis {axis}, got shape {x.shape}")
        return {"axis": places, **attrs}

    return check


def _needs_more_than_ddof(who):
    def check(x, axis=None, ddof=0, **attrs):
        if np.ndim(ddof) or not isinstance(ddof, (int, float, np.number, np.ndarray)):
            raise TypeError(f"{who}: ddof must be a number, got {ddof!r}")
        places, ddof = checked_axis(who, axis, x.ndim), np.asarray(ddof).item()  # NumPy's numbers would make float64
        if _group_size(x.shape, places) <= ddof:
            raise ValueError(f"{who}: needs more than ddof = {ddof} values along axis {axis}, got shape {x.shape}")
        return {"axis": places, "ddof": ddof, **attrs}

    return check


def sum_forward(x, axis=None, keepdims=False):
    return x.sum(axis=axis, keepdims=keepdims), (x.shape, axis, keepdims)


def sum_backward(dout, saved):
    shape, axis, keepdims = saved
    return (_stretch(dout, shape, axis, keepdims),)


SUM = Op("sum", sum_forward, sum_backward, check=_needs("sum"))


@aliases(dim="axis", keepdim="keepdims")
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


MEAN = Op("mean", mean_forward, mean_backward, check=_needs("mean"))


@aliases(dim="axis", keepdim="keepdims")
def mean(x: Tensor, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """
    Mean over `axis` (all axes by default); of integers and booleans, float32.

    Examples
    --------
    >>> mean(Tensor([[1.0, 2.0], [3.0, 4.0]]), axis=0)
    Tensor([2., 3.], dtype=float32)
    """
    return apply(MEAN, floating(x), axis=axis, keepdims=keepdims)


def prod_forward(x, axis=None, keepdims=False):
    return x.prod(axis=axis, keepdims=keepdims), (x, axis, keepdims)


def prod_backward(dout, saved):
    x, axis, keepdims = saved
    return (_stretch(dout, x.shape, axis, keepdims) * _product_of_others(x, axis),)


def _product_of_others(x, axis):
    """For each value the product of all others of its group."""
    axes = range(x.ndim) if axis is None else normalize_axis_tuple(axis, x.ndim)
    order = [i for i in range(x.ndim) if i not in axes] + [*axes]
    moved = x.transpose(order)  # each group along the last axes, which become one
    group = moved.reshape(*moved.shape[: x.ndim - len(axes)], _group_size(x.shape, axis))
    one = np.ones_like(group[..., :1])
    before = np.cumprod(np.concatenate([one, group[..., :-1]], -1), -1)
    after = np.cumprod(np.concatenate([one, group[..., :0:-1]], -1), -1)[..., ::-1]
    return (before * after).reshape(moved.shape).transpose(np.argsort(order))


PROD = Op("prod", prod_forward, prod_backward, check=_needs("prod"))


@aliases(dim="axis", keepdim="keepdims")
def prod(x: Tensor, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """
    Product over `axis` (all axes by default). Zeros are no exception: a zero's gradient is the product of the others.

    Examples
    --------
    >>> x = Tensor([2.0, 0.0, 3.0], requires_grad=True)
    >>> prod(x).backward()
    >>> x.grad
    array([0., 6., 0.], dtype=float32)
    """
    return apply(PROD, x, axis=axis, keepdims=keepdims)


def var_forward(x, axis=None, ddof=0, keepdims=False):
    return x.var(axis=axis, ddof=ddof, keepdims=keepdims), (x, axis, ddof, keepdims)


def var_backward(dout, saved):
    x, axis, ddof, keepdims = saved
    centred = x - x.mean(axis=axis, keepdims=True)
    return (_stretch(dout, x.shape, axis, keepdims) * centred * (2 / (_group_size(x.shape, axis) - ddof)),)


VAR = Op("var", var_forward, var_backward, check=_needs_more_than_ddof("var"))


@aliases(correction="ddof")
def var(
    x: Tensor, axis: Axis = None, ddof: int | None = None, keepdims: bool = False, *,
    dim: Axis = None, keepdim: bool | None = None, unbiased: bool | None = None,
) -> Tensor:  # fmt: skip
    """
    Variance over `axis` (all axes by default), the sum of squares divided by n - ddof.

    Parameters
    ----------
    x : Tensor
    axis : int or tuple of int, optional
    ddof : int
        0 by default, as in NumPy. PyTorch divides by n - 1: that is ``ddof=1``, `correction=1` or `unbiased=True`.
    keepdims : bool
    dim, keepdim
        Other names of axis and keepdims, accepted where the divisor is given, too: in PyTorch the default is another.

    Raises
    ------
    ValueError
        If a group does not have more than `ddof` values.

    Examples
    --------
    >>> var(Tensor([[1.0, 2.0], [3.0, 4.0]]), axis=0)
    Tensor([1., 1.], dtype=float32)
    """
    axis, ddof = _divisor("var", axis, ddof, dim, keepdim, unbiased)
    return apply(VAR, floating(x), axis=axis, ddof=ddof, keepdims=bool(keepdims or keepdim))


def _divisor(
    who: str, axis: Axis, ddof: int | None, dim: Axis, keepdim: bool | None, unbiased: bool | None
) -> tuple[Axis, int]:
    """axis and ddof, by NumPy's names or by PyTorch's."""
    if (dim is not None and axis is not None) or (unbiased is not None and ddof is not None):
        raise TypeError(f"{who}: dim is another name of axis, and unbiased one of ddof; give one of them")
    if unbiased is not None:
        ddof = int(unbiased)
    if ddof is None and (dim is not None or keepdim is not None):
        name = "dim" if dim is not None else "keepdim"
        raise TypeError(
            f"{who}: with {name} PyTorch divides by n - 1, with axis NumPy divides by n; say which by correction=1 or 0"
        )
    return (axis if dim is None else dim), (0 if ddof is None else ddof)


def std_forward(x, axis=None, ddof=0, keepdims=False):
    out = x.std(axis=axis, ddof=ddof, keepdims=keepdims)
    return out, (x, out, axis, ddof, keepdims)


def std_backward(dout, saved):
    x, out, axis, ddof, keepdims = saved
    centred = x - x.mean(axis=axis, keepdims=True)
    share = np.where(out == 0, 0, dout) / ((_group_size(x.shape, axis) - ddof) * np.where(out == 0, 1, out))
    return (_stretch(share, x.shape, axis, keepdims) * centred,)


STD = Op("std", std_forward, std_backward, check=_needs_more_than_ddof("std"))


@aliases(correction="ddof")
def std(
    x: Tensor, axis: Axis = None, ddof: int | None = None, keepdims: bool = False, *,
    dim: Axis = None, keepdim: bool | None = None, unbiased: bool | None = None,
) -> Tensor:  # fmt: skip
    """
    Standard deviation over `axis` (all axes by default): the root of `var`, whose arguments it takes.

    Where all values of a group are equal, its gradient is 0, as in PyTorch.

    Examples
    --------
    >>> std(Tensor([1.0, 3.0])), std(Tensor([1.0, 3.0]), ddof=1)
    (Tensor(1., dtype=float32), Tensor(1.4142135, dtype=float32))
    """
    axis, ddof = _divisor("std", axis, ddof, dim, keepdim, unbiased)
    return apply(STD, floating(x), axis=axis, ddof=ddof, keepdims=bool(keepdims or keepdim))


def norm_forward(x, axis=None, keepdims=False):
    out = np.sqrt((x * x).sum(axis=axis, keepdims=keepdims))
    return out, (x, out, axis, keepdims)


def norm_backward(dout, saved):
    x, out, axis, keepdims = saved
    share = np.where(out == 0, 0, dout) / np.where(out == 0, 1, out)
    return (_stretch(share, x.shape, axis, keepdims) * x,)


NORM = Op("norm", norm_forward, norm_backward, check=_needs("norm"))


@aliases(p="ord", dim="axis", keepdim="keepdims")
def norm(x: Tensor, ord: float | str | None = 2, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """
    Length of the vector of all values, or of the values along `axis`; never a matrix norm.

    Parameters
    ----------
    x : Tensor
    ord : 2, 1 or inf
        The root of the sum of squares ("fro" and None mean it, too), the sum of absolute values, or the largest one.
    axis : int or tuple of int, optional
    keepdims : bool

    Raises
    ------
    ValueError
        For any other `ord`.

    Examples
    --------
    >>> norm(Tensor([3.0, -4.0])), norm(Tensor([3.0, -4.0]), 1)
    (Tensor(5., dtype=float32), Tensor(7., dtype=float32))
    """
    if ord in (None, 2, "fro"):
        return apply(NORM, floating(x), axis=axis, keepdims=keepdims)
    if ord not in (1, math.inf):
        raise ValueError(f"norm: ord must be 2, 1 or inf, got {ord!r}; write (x ** p).sum() ** (1 / p) for positive x")
    return (sum if ord == 1 else max)(abs(floating(x)), axis, keepdims)


def max_forward(x, axis=None, keepdims=False):
    out = x.max(axis=axis, keepdims=keepdims)
    return out, (x, out, axis, keepdims)


def max_backward(dout, saved):
    x, out, axis, keepdims = saved
    largest = (x == _stretch(out, x.shape, axis, keepdims)).astype(x.dtype)
    ties = largest.sum(axis=axis, keepdims=True)
    return (_stretch(dout, x.shape, axis, keepdims) * (largest / ties),)


MAX = Op("max", max_forward, max_backward, check=_needs("max", 1))


def max(
    x: Tensor, axis: Axis = None, keepdims: bool = False, *, dim: Axis = None, keepdim: bool | None = None
) -> Tensor:
    """
    Largest value over `axis` (all axes by default). Equal maxima share the gradient evenly; NaN gives NaN.

    Raises
    ------
    ValueError
        If there is nothing to take the largest of.
    TypeError
        For `dim` and `keepdim`: in PyTorch they give the indices, too.

    Examples
    --------
    >>> x = Tensor([3.0, 1.0, 3.0], requires_grad=True)
    >>> max(x).backward()
    >>> x.grad
    array([0.5, 0. , 0.5], dtype=float32)
    """
    _values_alone("max", axis, dim, keepdim)
    return apply(MAX, x, axis=axis, keepdims=keepdims)


def min(
    x: Tensor, axis: Axis = None, keepdims: bool = False, *, dim: Axis = None, keepdim: bool | None = None
) -> Tensor:
    """
    Smallest value over `axis`: -max(-x), ties included.

    Examples
    --------
    >>> min(Tensor([[1.0, 2.0], [3.0, 4.0]]), axis=1)
    Tensor([1., 3.], dtype=float32)
    """
    x = as_tensor(x)
    _values_alone("min", axis, dim, keepdim)
    axis = _needs("min", 1)(x, axis)["axis"]
    if x.dtype.kind != "f":
        return Tensor(x.data.min(axis=axis, keepdims=keepdims))  # -x of an unsigned integer wraps around
    return -max(-x, axis=axis, keepdims=keepdims)


def _values_alone(who: str, axis: Any, dim: Axis, keepdim: bool | None) -> None:
    if isinstance(axis, Tensor):
        raise TypeError(f"{who}: axis must be an integer, got a Tensor; of two tensors take {who}imum(a, b)")
    if dim is not None or keepdim is not None:
        name, how = ("dim", f"dim={dim}") if dim is not None else ("keepdim", f"dim={axis}")
        how += "" if keepdim is None else f", keepdim={keepdim}"
        raise TypeError(
            f"{who}: with {name}, PyTorch returns (values, indices); write a{who}({how}) and arg{who}({how})"
        )


@aliases(dim="axis", keepdim="keepdims")
def amax(x: Tensor, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """`max` over `axis`, by the name that means the values alone in PyTorch, too."""
    x = as_tensor(x)
    return max(x, checked_axis("amax", axis, x.ndim), keepdims)


@aliases(dim="axis", keepdim="keepdims")
def amin(x: Tensor, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """`min` over `axis`, by the name that means the values alone in PyTorch, too."""
    x = as_tensor(x)
    return min(x, checked_axis("amin", axis, x.ndim), keepdims)


def logsumexp_forward(x, axis=None, keepdims=False):
    largest = x.max(axis=axis, keepdims=True)
    largest = np.where(np.isfinite(largest), largest, 0)  # inf - inf would be NaN
    with np.errstate(divide="ignore"):  # ln(0) = -inf, the maximum of nothing but -inf
        out = np.log(np.exp(x - largest).sum(axis=axis, keepdims=True)) + largest
    return (out if keepdims else np.squeeze(out, axis)), (x, out)


def logsumexp_backward(dout, saved):
    x, out = saved
    return (dout.reshape(out.shape) * np.exp(x - out),)


LOGSUMEXP = Op("logsumexp", logsumexp_forward, logsumexp_backward, check=_needs("logsumexp", 1))


@aliases(dim="axis", keepdim="keepdims")
def logsumexp(x: Tensor, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """
    ln(sum(exp(x))) over `axis` (all axes by default), without overflow: the maximum, smoothed.

    Raises
    ------
    ValueError
        If there is nothing to sum.

    Examples
    --------
    >>> logsumexp(Tensor([1000.0, 1000.0]))
    Tensor(1000.6932, dtype=float32)
    """
    return apply(LOGSUMEXP, floating(x), axis=axis, keepdims=keepdims)


def softmax_forward(x, axis=-1):
    e = np.exp(x - x.max(axis=axis, keepdims=True))  # p does not change when x shifts, and e^x cannot overflow
    p = e / e.sum(axis=axis, keepdims=True)
    return p, (p, axis)


def softmax_backward(dout, saved):
    p, axis = saved
    return (p * (dout - (dout * p).sum(axis=axis, keepdims=True)),)


SOFTMAX = Op("softmax", softmax_forward, softmax_backward, check=_needs("softmax", 1, default=-1))


@aliases(dim="axis")
def softmax(x: Tensor, axis: int = -1) -> Tensor:
    """
    exp(x) / sum(exp(x)) along `axis`: positive, and sums to 1.

    Examples
    --------
    >>> softmax(Tensor([0.0, 0.0]))
    Tensor([0.5, 0.5], dtype=float32)
    """
    return apply(SOFTMAX, floating(x), axis=axis)


def log_softmax_forward(x, axis=-1):
    shifted = x - x.max(axis=axis, keepdims=True)
    out = shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True))
    return out, (out, axis)


def log_softmax_backward(dout, saved):
    out, axis = saved
    return (dout - np.exp(out) * dout.sum(axis=axis, keepdims=True),)


LOG_SOFTMAX = Op("log_softmax", log_softmax_forward, log_softmax_backward, check=_needs("log_softmax", 1, default=-1))


@aliases(dim="axis")
def log_softmax(x: Tensor, axis: int = -1) -> Tensor:
    """
    ln softmax(x) along `axis`, without the underflow of taking the logarithm afterwards.

    Examples
    --------
    >>> log_softmax(Tensor([0.0, 0.0]))
    Tensor([-0.6931472, -0.6931472], dtype=float32)
    """
    return apply(LOG_SOFTMAX, floating(x), axis=axis)


def cumsum_forward(x, axis):
    return np.cumsum(x, axis), axis


def cumsum_backward(dout, axis):
    return (np.flip(np.cumsum(np.flip(dout, axis), axis), axis),)


CUMSUM = Op("cumsum", cumsum_forward, cumsum_backward)


@aliases(dim="axis")
def cumsum(x: Tensor, axis: int | None = None) -> Tensor:
    """
    The sums of the values up to each place along `axis`; without axis, of all values in a row.

    Examples
    --------
    >>> cumsum(Tensor([1.0, 2.0, 3.0]))
    Tensor([1., 3., 6.], dtype=float32)
    """
    x = as_tensor(x)
    place = 0 if axis is None else one_axis("cumsum", axis, x.ndim)
    out = apply(CUMSUM, reshape(x, -1) if axis is None or x.ndim == 0 else x, axis=place)
    return out if axis is None else reshape(out, x.shape)

"""
Functions of one number, element by element: exp, log, sqrt, expm1, log1p, tanh, sigmoid, sin, cos, abs, relu.

Such a function has a diagonal Jacobian: its backward multiplies by the slope. Where the slope is cheaper to write with
the output than with the input (exp, sqrt, expm1, tanh, sigmoid), the output is what is saved. Of integers, all but abs
and relu are float32.

Operation   Forward                 Backward
    exp     out = e^a               da = dout * out
    log     out = ln(a)             da = dout / a
    sqrt    out = a^(1/2)           da = dout / (2 * out)
    expm1   out = e^a - 1           da = dout * (out + 1)
    log1p   out = ln(1 + a)         da = dout / (1 + a)
    tanh    out = tanh(a)           da = dout * (1 - out^2)
    sigmoid out = 1 / (1 + e^(-a))  da = dout * out * (1 - out)
    sin     out = sin(a)            da = dout * cos(a)
    cos     out = cos(a)            da = -dout * sin(a)
    abs     out = max(a, -a)        da = dout * (1[a > 0] - 1[a < 0])
    relu    out = max(a, 0)         da = dout * (1 - 1[a <= 0])

sigmoid. With e = e^(-a), out = 1 / (1 + e), so d out / d a = e / (1 + e)^2 = out (1 - out).

Composed of these: `silu`, `exp2`, `log2`, `log10`, `sinh`, `cosh`. `sign` is constant between its jumps, and has no
gradient.

What surprises people here
    exp     The slope of e^a is e^a: the output is all that backward needs.
    log     The logarithm of a negative number is NaN, and yet its gradient dout / a is an ordinary number.
    sqrt    The slope at 0 is infinite: the gradient of sqrt(sum(x * x)) at x = 0 is infinity times 0, which is NaN.
    expm1   For |a| < 2e-8, e^a is exactly 1 in float32, and e^a - 1 would be 0 where the right value is a.
    log1p   For the same reason ln(1 + a) would be 0 there: losses near 0 and small probabilities would be lost.
    tanh    For |a| > 10 the output is exactly 1 or -1 in float32, and the gradient is exactly zero.
    sigmoid Its slope is at most 1/4: through many layers of sigmoids the gradient vanishes. In float32 e^(-a) overflows
            for a < -88, so the code takes e^(-|a|).
    sin     Each derivative shifts the curve by a quarter turn, sin(a + pi/2) = cos(a); the fourth one is sin again.
    cos     The minus is easily forgotten: cos falls where sin is positive.
    abs     There is no slope at a = 0; by convention it is 0 here: an L1 penalty leaves a weight of exactly 0 alone.
    relu    There is no slope at a = 0; by convention it is 0 here. A unit below 0 for every input stops learning.
            NaN is not <= 0: its gradient passes, as in PyTorch, and shows a fault of the forward in the gradients.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinygpt.autograd import Op, Tensor, apply
from tinygpt.ops.basic import div, floating, mul, power
from tinygpt.ops.shapes import as_tensor


def exp_forward(a):
    out = np.exp(a)
    return out, out


def exp_backward(dout, out):
    return (dout * out,)


EXP = Op("exp", exp_forward, exp_backward)


def exp(a: Any) -> Tensor:
    """
    e to the power a.

    Examples
    --------
    >>> exp(Tensor([0.0, 1.0]))
    Tensor([1.      , 2.718282], dtype=float32)
    """
    return apply(EXP, floating(a))


def log_forward(a):
    return np.log(a), a


def log_backward(dout, a):
    return (dout / a,)


LOG = Op("log", log_forward, log_backward)


def log(a: Any) -> Tensor:
    """
    Natural logarithm.

    Examples
    --------
    >>> log(Tensor([1.0, 2.0]))
    Tensor([0.       , 0.6931472], dtype=float32)
    """
    return apply(LOG, floating(a))


def sqrt_forward(a):
    out = np.sqrt(a)
    return out, out


def sqrt_backward(dout, out):
    return (dout / (2 * out),)


SQRT = Op("sqrt", sqrt_forward, sqrt_backward)


def sqrt(a: Any) -> Tensor:
    """
    Square root; its gradient at 0 is infinite, as the curve's slope is.

    Examples
    --------
    >>> sqrt(Tensor([4.0, 9.0]))
    Tensor([2., 3.], dtype=float32)
    """
    return apply(SQRT, floating(a))


def expm1_forward(a):
    out = np.expm1(a)
    return out, out


def expm1_backward(dout, out):
    return (dout * (out + 1),)


EXPM1 = Op("expm1", expm1_forward, expm1_backward)


def expm1(a: Any) -> Tensor:
    """
    e^a - 1, exact for small a too.

    Examples
    --------
    >>> expm1(Tensor([0.0, 1e-8]))
    Tensor([0.e+00, 1.e-08], dtype=float32)
    """
    return apply(EXPM1, floating(a))


def log1p_forward(a):
    return np.log1p(a), a


def log1p_backward(dout, a):
    return (dout / (1 + a),)


LOG1P = Op("log1p", log1p_forward, log1p_backward)


def log1p(a: Any) -> Tensor:
    """
    ln(1 + a), exact for small a too.

    Examples
    --------
    >>> log1p(Tensor([0.0, 1e-8]))
    Tensor([0.e+00, 1.e-08], dtype=float32)
    """
    return apply(LOG1P, floating(a))


def tanh_forward(a):
    out = np.tanh(a)
    return out, out


def tanh_backward(dout, out):
    return (dout * (1 - out * out),)


TANH = Op("tanh", tanh_forward, tanh_backward)


def tanh(a: Any) -> Tensor:
    """
    Hyperbolic tangent.

    Examples
    --------
    >>> tanh(Tensor([0.0, 1.0]))
    Tensor([0.       , 0.7615942], dtype=float32)
    """
    return apply(TANH, floating(a))


def sigmoid_forward(a):
    e = np.exp(-np.abs(a))  # at most 1
    out = np.where(a >= 0, 1, e) / (1 + e)
    return out, out


def sigmoid_backward(dout, out):
    return (dout * out * (1 - out),)


SIGMOID = Op("sigmoid", sigmoid_forward, sigmoid_backward)


def sigmoid(a: Any) -> Tensor:
    """
    1 / (1 + e^(-a)): a number between 0 and 1. For its logarithm write -softplus(-a), which does not underflow.

    Examples
    --------
    >>> sigmoid(Tensor([-1000.0, 0.0, 1.0]))
    Tensor([0.       , 0.5      , 0.7310586], dtype=float32)
    """
    return apply(SIGMOID, floating(a))


def sin_forward(a):
    return np.sin(a), a


def sin_backward(dout, a):
    return (dout * np.cos(a),)


SIN = Op("sin", sin_forward, sin_backward)


def sin(a: Any) -> Tensor:
    """
    Sine of an angle in radians.

    Examples
    --------
    >>> sin(Tensor([0.0, 1.0]))
    Tensor([0.      , 0.841471], dtype=float32)
    """
    return apply(SIN, floating(a))


def cos_forward(a):
    return np.cos(a), a


def cos_backward(dout, a):
    return (-dout * np.sin(a),)


COS = Op("cos", cos_forward, cos_backward)


def cos(a: Any) -> Tensor:
    """
    Cosine of an angle in radians.

    Examples
    --------
    >>> cos(Tensor([0.0, 1.0]))
    Tensor([1.       , 0.5403023], dtype=float32)
    """
    return apply(COS, floating(a))


def abs_forward(a):
    return np.abs(a), a


def abs_backward(dout, a):
    return (dout * np.sign(a),)


ABS = Op("abs", abs_forward, abs_backward)


def abs(a: Any) -> Tensor:
    """
    |a|; the gradient at 0 is 0.

    Examples
    --------
    >>> abs(Tensor([-1.0, 2.0]))
    Tensor([1., 2.], dtype=float32)
    """
    return apply(ABS, a)


def relu_forward(a):
    return np.maximum(a, 0), ~(a <= 0)


def relu_backward(dout, kept):
    return (np.where(kept, dout, 0),)  # dout * kept would be NaN where dout is infinite


RELU = Op("relu", relu_forward, relu_backward)


def relu(a: Any) -> Tensor:
    """
    max(a, 0); the gradient at 0 is 0.

    Examples
    --------
    >>> relu(Tensor([-1.0, 2.0]))
    Tensor([0., 2.], dtype=float32)
    """
    return apply(RELU, a)


# composed of others, or constant


def silu(a: Any) -> Tensor:
    """
    a * sigmoid(a), also called swish: a smooth relu.

    Examples
    --------
    >>> silu(Tensor([-1.0, 0.0, 1.0]))
    Tensor([-0.2689414,  0.       ,  0.7310586], dtype=float32)
    """
    return mul(a, sigmoid(a))


def exp2(a: Any) -> Tensor:
    """
    2 to the power a.

    Examples
    --------
    >>> exp2(Tensor([0.0, 3.0]))
    Tensor([1., 8.], dtype=float32)
    """
    return power(2.0, a)


def log2(a: Any) -> Tensor:
    """
    Logarithm to base 2.

    Examples
    --------
    >>> log2(Tensor([1.0, 8.0]))
    Tensor([0., 3.], dtype=float32)
    """
    return div(log(a), math.log(2))


def log10(a: Any) -> Tensor:
    """
    Logarithm to base 10.

    Examples
    --------
    >>> log10(Tensor([1.0, 100.0]))
    Tensor([0., 2.], dtype=float32)
    """
    return div(log(a), math.log(10))


def sinh(a: Any) -> Tensor:
    """
    Hyperbolic sine, (e^a - e^(-a)) / 2, exact for small a too.

    Examples
    --------
    >>> sinh(Tensor([0.0, 1.0]))
    Tensor([0.       , 1.1752012], dtype=float32)
    """
    a = floating(a)
    return (expm1(a) - expm1(-a)) / 2


def cosh(a: Any) -> Tensor:
    """
    Hyperbolic cosine, (e^a + e^(-a)) / 2.

    Examples
    --------
    >>> cosh(Tensor([0.0, 1.0]))
    Tensor([1.       , 1.5430807], dtype=float32)
    """
    a = floating(a)
    return (exp(a) + exp(-a)) / 2


def sign(a: Any) -> Tensor:
    """
    -1, 0 or 1, as a is below, at or above 0; without gradient.

    Examples
    --------
    >>> sign(Tensor([-3.0, 0.0, 2.0]))
    Tensor([-1.,  0.,  1.], dtype=float32)
    """
    a = as_tensor(a)
    return a if a.dtype == bool else Tensor(np.sign(a.data))

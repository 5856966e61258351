"""
Arithmetic and the matrix product: what `+`, `-`, `*`, `/`, `**`, `%`, `//` and `@` do with tensors.

Every pair here is one line of calculus. What they share is broadcasting: NumPy stretches (3, 1) and (4,) to (3, 4) by
using the same element several times. In backward that element collects the sum over all its uses: `unbroadcast` (in
`ops/shapes.py`). The table leaves this sum out.

Operation     Forward                     Backward
    add       out = a + b                 da = dout,  db = dout
    sub       out = a - b                 da = dout,  db = -dout
    mul       out = a * b                 da = dout * b,  db = dout * a
    div       out = a / b                 da = dout / b,  db = -dout * out / b
    neg       out = -a                    da = -dout
    pow       out = a^exponent            da = dout * exponent * a^(exponent - 1)
    power     out = a^b                   da = dout * b * a^(b - 1),  db = dout * out * ln(a)
    remainder out = a - b * floor(a / b)  da = dout,  db = -dout * floor(a / b)
    matmul    out = a @ b                 da = dout @ b^T,  db = a^T @ dout

power. With a held fixed, a^b = e^(b ln(a)) is an exponential function of b:
    d out / db = e^(b ln(a)) ln(a) = out ln(a)

matmul. Entry by entry out_ij = sum_k a_ik b_kj, so d out_ij / d a_ik = b_kj and
    da_ik = sum_j dout_ij b_kj = (dout b^T)_ik
    db_kj = sum_i a_ik dout_ij = (a^T dout)_kj
    Leading axes are a batch, and broadcast.

`square` is mul(a, a), `reciprocal` is div(1, a). `floor_divide` is constant between its jumps, and has no gradient.

What surprises people here
    add       Both operands receive dout itself, not copies: a residual connection costs backward no memory.
    sub       a - a has gradient zero: dout and -dout meet in a and cancel.
    mul       Each operand's gradient needs the other operand: both are kept until backward. x * x adds up to 2 x.
    div       db needs neither a nor b^2: a / b^2 is out / b, and out is there already.
    neg       Backward needs nothing of forward: nothing is saved.
    pow       Exponent 0 has gradient zero everywhere; the formula would give 0 * a^(-1), which is NaN at a = 0.
    power     A negative number has real powers at whole exponents only: there is no slope in b, and db is NaN.
    remainder The result has the sign of b, as in Python. The gradient treats floor(a / b) as a constant, which it is
              between its jumps; at a jump there is no slope.
    matmul    A forgotten transpose goes unnoticed where the matrices are square. A vector is one row on the left, and
              one column on the right.

Source: the derivatives are those of any calculus text; the broadcasting rule is NumPy's.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygpt.autograd import Op, Tensor, apply
from tinygpt.ops.shapes import apply_broadcast, as_tensor, astype, check_broadcast, operands, unbroadcast


def floating(a: Any) -> Tensor:
    """
    `a` as a tensor of floats: integers and booleans become float32, as beside a Python float.

    Examples
    --------
    >>> floating(np.array([1, 2]))
    Tensor([1., 2.], dtype=float32)
    """
    a = as_tensor(a)
    return a if a.dtype.kind == "f" else astype(a, np.float32)


def add_forward(a, b):
    return a + b, (a.shape, b.shape)


def add_backward(dout, saved):
    a_shape, b_shape = saved
    return unbroadcast(dout, a_shape), unbroadcast(dout, b_shape)


ADD = Op("add", add_forward, add_backward, kernel="tinygpt.kernels.add", min_size=2**12)


def add(a: Any, b: Any) -> Tensor:
    """
    a + b, with broadcasting.

    Examples
    --------
    >>> add(Tensor([1.0, 2.0]), 10.0)
    Tensor([11., 12.], dtype=float32)
    """
    return apply_broadcast(ADD, a, b)


def sub_forward(a, b):
    return a - b, (a.shape, b.shape)


def sub_backward(dout, saved):
    a_shape, b_shape = saved
    return unbroadcast(dout, a_shape), unbroadcast(-dout, b_shape)


SUB = Op("sub", sub_forward, sub_backward)


def sub(a: Any, b: Any) -> Tensor:
    """
    a - b, with broadcasting.

    Raises
    ------
    TypeError
        If both are boolean.

    Examples
    --------
    >>> sub(Tensor([1.0, 2.0]), 10.0)
    Tensor([-9., -8.], dtype=float32)
    """
    a, b = operands(a, b)
    if a.dtype == b.dtype == bool:
        raise TypeError("sub: boolean tensors have no difference; write a ^ b for where they differ")
    return apply_broadcast(SUB, a, b)


def mul_forward(a, b):
    return a * b, (a, b)


def mul_backward(dout, saved):
    a, b = saved
    return unbroadcast(dout * b, a.shape), unbroadcast(dout * a, b.shape)


MUL = Op("mul", mul_forward, mul_backward, uses=((1,), (0,)))


def mul(a: Any, b: Any) -> Tensor:
    """
    a * b, with broadcasting.

    Examples
    --------
    >>> mul(Tensor([1.0, 2.0]), 10.0)
    Tensor([10., 20.], dtype=float32)
    """
    return apply_broadcast(MUL, a, b)


def square(a: Any) -> Tensor:
    """
    a * a.

    Examples
    --------
    >>> square(Tensor([1.0, -3.0]))
    Tensor([1., 9.], dtype=float32)
    """
    return mul(a, a)


def div_forward(a, b):
    out = a / b
    return out, (a.shape, b, out)


def div_backward(dout, saved):
    a_shape, b, out = saved
    da = dout / b
    return unbroadcast(da, a_shape), unbroadcast(-da * out, b.shape)


DIV = Op("div", div_forward, div_backward)


def div(a: Any, b: Any) -> Tensor:
    """
    a / b, with broadcasting; of integers, float32.

    Examples
    --------
    >>> div(Tensor([1.0, 2.0]), 4.0)
    Tensor([0.25, 0.5 ], dtype=float32)
    """
    a, b = operands(a, b)
    return apply_broadcast(DIV, floating(a), b)


def reciprocal(a: Any) -> Tensor:
    """
    1 / a.

    Examples
    --------
    >>> reciprocal(Tensor([2.0, 4.0]))
    Tensor([0.5 , 0.25], dtype=float32)
    """
    return div(1.0, a)


def neg_forward(a):
    return -a, None


def neg_backward(dout, saved):
    return (-dout,)


NEG = Op("neg", neg_forward, neg_backward)


def neg(a: Tensor) -> Tensor:
    """
    -a.

    Raises
    ------
    TypeError
        If a is boolean: it has no negative.

    Examples
    --------
    >>> neg(Tensor([1.0, -2.0]))
    Tensor([-1.,  2.], dtype=float32)
    """
    (a,) = operands(a)
    if a.dtype == bool:
        raise TypeError("neg: a boolean tensor has no negative; write ~x for its opposite")
    return apply(NEG, a)


def pow_forward(a, exponent):
    return a**exponent, (a, exponent)


def pow_backward(dout, saved):
    a, exponent = saved
    if exponent == 0:
        return (np.zeros_like(dout),)  # 0 * a^-1 would be NaN at a = 0
    return (dout * exponent * a ** (exponent - 1),)


POW = Op("pow", pow_forward, pow_backward)


def pow(a: Any, exponent: Any) -> Tensor:
    """
    a ** exponent, a number; an exponent that is a tensor or an array broadcasts, and has a gradient too: `power`.

    Raises
    ------
    ValueError
        If integers are to be raised to negative powers.

    Examples
    --------
    >>> pow(Tensor([1.0, 2.0, 3.0]), 2)
    Tensor([1., 4., 9.], dtype=float32)
    >>> 2 ** Tensor([1.0, 2.0, 3.0])
    Tensor([2., 4., 8.], dtype=float32)
    """
    if isinstance(exponent, np.generic) or (isinstance(exponent, np.ndarray) and exponent.ndim == 0):
        exponent = exponent.item()
    if not isinstance(exponent, (int, float)):
        return power(a, exponent)
    a = floating(a) if isinstance(exponent, float) else operands(a)[0]
    _check_integer_power(a, exponent)
    return apply(POW, a, exponent=exponent)


def power_forward(a, b):
    out = a**b
    return out, (a, b, out)


def power_backward(dout, saved):
    a, b, out = saved
    with np.errstate(divide="ignore", invalid="ignore"):  # often one of the two is a constant: 2 ** x, x ** [1, 2]
        da = np.where(b == 0, 0, dout * b * a ** (b - 1))  # 0 * a^-1 would be NaN at a = 0
        db = np.where(np.logical_and(a == 0, b >= 0), 0, dout * out * np.log(a))  # and so would 0^b * ln(0)
    return unbroadcast(da, a.shape), unbroadcast(db, b.shape)


POWER = Op("power", power_forward, power_backward)


def power(a: Any, b: Any) -> Tensor:
    """
    a ** b, with broadcasting and a gradient for both; `pow` for an exponent that is a tensor or an array.

    At a = 0 the gradient of b is 0 where b >= 0, and for a negative a it is NaN.

    Raises
    ------
    ValueError
        If integers are to be raised to negative powers.

    Examples
    --------
    >>> power(Tensor([1.0, 2.0, 3.0]), Tensor([3.0, 2.0, 0.0]))
    Tensor([1., 4., 1.], dtype=float32)
    """
    a, b = operands(a, b)
    _check_integer_power(a, b.data)
    return apply_broadcast(POWER, a, b)


def _check_integer_power(a: Tensor, exponent: Any) -> None:
    if a.dtype.kind != "f" and np.any(exponent < 0):
        raise ValueError("pow: integers have no negative integer powers; write x.astype(np.float32) ** exponent")


def remainder_forward(a, b):
    return np.remainder(a, b), (a, b)


def remainder_backward(dout, saved):
    a, b = saved
    return unbroadcast(dout, a.shape), unbroadcast(-dout * np.floor_divide(a, b), b.shape)


REMAINDER = Op("remainder", remainder_forward, remainder_backward, uses=((), (0, 1)))


def remainder(a: Any, b: Any) -> Tensor:
    """
    a % b, with broadcasting: what a // b leaves, with the sign of b.

    Raises
    ------
    ZeroDivisionError
        If integers are to be divided by 0; the remainder of a float is NaN there.

    Examples
    --------
    >>> remainder(Tensor([5.0, -5.0]), 3.0)
    Tensor([2., 1.], dtype=float32)
    """
    return apply_broadcast(REMAINDER, *_divisible("remainder", a, b))


def floor_divide(a: Any, b: Any) -> Tensor:
    """
    a // b, with broadcasting: a / b, rounded down. It has no gradient, as comparisons have none.

    Raises
    ------
    ZeroDivisionError
        If integers are to be divided by 0; a float gives infinity or NaN there.

    Examples
    --------
    >>> floor_divide(Tensor([5.0, -5.0]), 3.0)
    Tensor([ 1., -2.], dtype=float32)
    """
    a, b = _divisible("floor_divide", a, b)
    check_broadcast("floor_divide", a.shape, b.shape)
    return Tensor(np.floor_divide(a.data, b.data))


def _divisible(who: str, a: Any, b: Any) -> list[Tensor]:
    a, b = operands(a, b)
    if a.dtype.kind != "f" and not np.all(b.data):
        raise ZeroDivisionError(f"{who}: integers cannot be divided by 0; write x.astype(np.float32)")
    return [a, b]


def matmul_forward(a, b):
    return a @ b, (a, b)


def matmul_backward(dout, saved):
    a, b = saved
    rows = a[None, :] if a.ndim == 1 else a  # a vector on the left is one row
    columns = b[:, None] if b.ndim == 1 else b  # a vector on the right is one column
    dout = dout[..., None] if b.ndim == 1 else dout
    dout = dout[..., None, :] if a.ndim == 1 else dout
    da = unbroadcast(dout @ columns.swapaxes(-1, -2), rows.shape).reshape(a.shape)
    db = unbroadcast(rows.swapaxes(-1, -2) @ dout, columns.shape).reshape(b.shape)
    return da, db


MATMUL = Op("matmul", matmul_forward, matmul_backward, uses=((1,), (0,)))


def matmul(a: Any, b: Any) -> Tensor:
    """
    The matrix product a @ b over the last two axes; the axes before them are a batch and broadcast.

    Parameters
    ----------
    a : Tensor, shape (..., n, k) or (k,)
    b : Tensor, shape (..., k, m) or (k,)

    Returns
    -------
    Tensor, shape (..., n, m), without the axis that a vector lacks

    Raises
    ------
    ValueError
        If an operand is 0-d or the inner sizes differ.

    Examples
    --------
    >>> matmul(np.ones((2, 3)), np.ones((5, 3, 4))).shape
    (5, 2, 4)
    """
    a, b = operands(a, b)
    if a.ndim == 0 or b.ndim == 0 or a.shape[-1] != b.shape[-2 if b.ndim > 1 else 0]:
        raise ValueError(f"matmul: needs a (..., n, k) and b (..., k, m), got {a.shape} and {b.shape}")
    if a.shape[:-2] and b.shape[:-2]:
        check_broadcast("matmul, axes before the last two", a.shape[:-2], b.shape[:-2])
    return apply(MATMUL, a, b)

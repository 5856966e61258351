"""
Arithmetic and the matrix product: what `+`, `-`, `*`, `/`, `**` and `@` do with tensors.

Every pair here is one line of calculus. What they share is broadcasting: NumPy stretches (3, 1) and (4,) to (3, 4) by
using the same element several times. In backward that element collects the sum over all its uses: `unbroadcast` (in
`ops/shapes.py`). The table leaves this sum out.

Operation   Forward               Backward
    add     out = a + b           da = dout,  db = dout
    sub     out = a - b           da = dout,  db = -dout
    mul     out = a * b           da = dout * b,  db = dout * a
    div     out = a / b           da = dout / b,  db = -dout * out / b
    neg     out = -a              da = -dout
    pow     out = a^exponent      da = dout * exponent * a^(exponent - 1)
    matmul  out = a @ b           da = dout @ b^T,  db = a^T @ dout

matmul. Entry by entry out_ij = sum_k a_ik b_kj, so d out_ij / d a_ik = b_kj and
    da_ik = sum_j dout_ij b_kj = (dout b^T)_ik
    db_kj = sum_i a_ik dout_ij = (a^T dout)_kj
    Leading axes are a batch, and broadcast.

What surprises people here
    add     Both operands receive dout itself, not copies: a residual connection costs backward no memory.
    sub     a - a has gradient zero: dout and -dout meet in a and cancel.
    mul     Each operand's gradient needs the other operand: both are kept until backward. x * x adds up to 2 x.
    div     db needs neither a nor b^2: a / b^2 is out / b, and out is there already.
    neg     Backward needs nothing of forward: nothing is saved.
    pow     Exponent 0 has gradient zero everywhere; the formula would give 0 * a^(-1), which is NaN at a = 0.
    matmul  A forgotten transpose goes unnoticed where the matrices are square. A vector is one row on the left, and one
            column on the right.

Source: the derivatives are those of any calculus text; the broadcasting rule is NumPy's.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygpt.autograd import Op, Tensor, apply
from tinygpt.ops.shapes import apply_broadcast, check_broadcast, operands, unbroadcast


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

    Examples
    --------
    >>> sub(Tensor([1.0, 2.0]), 10.0)
    Tensor([-9., -8.], dtype=float32)
    """
    return apply_broadcast(SUB, a, b)


def mul_forward(a, b):
    return a * b, (a, b)


def mul_backward(dout, saved):
    a, b = saved
    return unbroadcast(dout * b, a.shape), unbroadcast(dout * a, b.shape)


MUL = Op("mul", mul_forward, mul_backward)


def mul(a: Any, b: Any) -> Tensor:
    """
    a * b, with broadcasting.

    Examples
    --------
    >>> mul(Tensor([1.0, 2.0]), 10.0)
    Tensor([10., 20.], dtype=float32)
    """
    return apply_broadcast(MUL, a, b)


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
    a / b, with broadcasting.

    Examples
    --------
    >>> div(Tensor([1.0, 2.0]), 4.0)
    Tensor([0.25, 0.5 ], dtype=float32)
    """
    return apply_broadcast(DIV, a, b)


def neg_forward(a):
    return -a, None


def neg_backward(dout, saved):
    return (-dout,)


NEG = Op("neg", neg_forward, neg_backward)


def neg(a: Tensor) -> Tensor:
    """
    -a.

    Examples
    --------
    >>> neg(Tensor([1.0, -2.0]))
    Tensor([-1.,  2.], dtype=float32)
    """
    return apply(NEG, a)


def pow_forward(a, exponent):
    return a**exponent, (a, exponent)


def pow_backward(dout, saved):
    a, exponent = saved
    if exponent == 0:
        return (np.zeros_like(dout),)  # 0 * a^-1 would be NaN at a = 0
    return (dout * exponent * a ** (exponent - 1),)


POW = Op("pow", pow_forward, pow_backward)


def pow(a: Tensor, exponent: float) -> Tensor:
    """
    a ** exponent for a Python number.

    Raises
    ------
    TypeError
        If the exponent is not a number: for a tensor, write exp(b * log(a)).

    Examples
    --------
    >>> pow(Tensor([1.0, 2.0, 3.0]), 2)
    Tensor([1., 4., 9.], dtype=float32)
    """
    if isinstance(exponent, Tensor) or np.ndim(exponent):
        raise TypeError("pow: the exponent must be a number, got an array; for a tensor b write exp(b * log(a))")
    return apply(POW, a, exponent=exponent.item() if isinstance(exponent, (np.generic, np.ndarray)) else exponent)


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


MATMUL = Op("matmul", matmul_forward, matmul_backward)


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

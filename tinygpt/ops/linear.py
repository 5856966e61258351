"""
Linear: every token's I features become O features, each a weighted sum plus a bias.

Throughout this file
    x              (..., I)         weight   (I, O)         bias   (O,)
    out            (..., O)         dX       gradient of the loss with respect to X, same shape as X
    N              all leading axes of x as one: the tokens; x^T is (I, N)

Forward                                Backward
    (1) out = x @ weight + bias        (1) dx = dout @ weight^T
                                           dweight = x^T @ dout,  dbias = sum_N(dout)

Step (1), one entry at a time. For token n:  out_no = sum_i x_ni weight_io + bias_o, so
    d out_no / d x_ni      = weight_io   and   dx_ni      = sum_o dout_no weight_io  = (dout weight^T)_ni
    d out_no / d weight_io = x_ni        and   dweight_io = sum_n x_ni dout_no       = (x^T dout)_io
    d out_no / d bias_o    = 1           and   dbias_o    = sum_n dout_no
The inner index of each product is the one that the result does not have: shapes alone leave no other choice.

GPT-2 stores its weights as (I, O), "Conv1D" in its code, so x @ weight needs no transpose and loading is a copy.

What surprises people here
    dweight and dbias are sums over all tokens of the batch, not means: the loss has already divided. Where inputs and
    outputs are equally many, a forgotten transpose in dx still fits.

Source: the chain rule; layout from OpenAI's gpt-2, src/model.py, `conv1d`.
Cost:   2 N I O operations forward, 4 N I O backward: compute-bound, and most of a training step.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from tinygpt.autograd import Op, Tensor, apply
from tinygpt.ops.shapes import operands


# fmt: off
def linear_forward(x, weight, bias):
    inputs, outputs = weight.shape
    rows = x.reshape(-1, inputs)  # (N, I): one product for all tokens, much faster than one per sequence
    out = rows @ weight + bias    # (1) (N, O)
    return out.reshape(*x.shape[:-1], outputs), (x, weight)


def linear_backward(dout, saved):
    x, weight = saved
    inputs, outputs = weight.shape
    rows, drows = x.reshape(-1, inputs), dout.reshape(-1, outputs)  # (N, I), (N, O)
    dx = (drows @ weight.T).reshape(x.shape)                        # (1) (..., I)
    dweight = rows.T @ drows                                        # (1) (I, O)
    dbias = drows.sum(axis=0)                                       # (1) (O,)
    return dx, dweight, dbias
# fmt: on


def check_linear(who: str, x: Any, weight: Any, bias: Any) -> dict[str, Any]:
    """Raise unless the shapes fit together; there are no attributes."""
    if weight.ndim != 2 or weight.size == 0:
        raise ValueError(f"{who}: weight must have shape (I, O) with I, O >= 1, got {weight.shape}")
    if x.ndim == 0 or x.shape[-1] != weight.shape[0]:
        remedy = f"; weight {weight.shape} takes {weight.shape[0]} features"
        if x.ndim and x.shape[-1] == weight.shape[1]:
            remedy = f" and weight {weight.shape}; a weight of PyTorch's is (O, I): write weight.T"
        raise ValueError(f"{who}: x must have shape (..., I) = (..., {weight.shape[0]}), got {x.shape}{remedy}")
    if bias.shape != weight.shape[1:]:
        raise ValueError(f"{who}: bias must have shape (O,) = ({weight.shape[1]},), got {bias.shape}")
    return {}


def linear_operands(x: Any, weight: Any, bias: Any) -> list[Tensor]:
    """The inputs as tensors of one float type; a bias that is None as zeros."""
    if bias is None:
        bias = np.zeros(np.shape(weight)[-1:], int)  # integers follow the type of the others
    return operands(x, weight, bias)


LINEAR = Op(
    "linear",
    linear_forward,
    linear_backward,
    kernel="tinygpt.kernels.linear",
    check=partial(check_linear, "linear"),
    uses=((1,), (0,), ()),
)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """
    x @ weight + bias, or x @ weight.

    PyTorch keeps a weight as (O, I), its transpose.

    Parameters
    ----------
    x : Tensor, shape (..., I), float32 or float64
    weight : Tensor, shape (I, O)
    bias : Tensor, shape (O,), optional

    Returns
    -------
    Tensor, shape (..., O)

    Raises
    ------
    ValueError
        If the shapes do not fit together.

    Examples
    --------
    >>> linear(Tensor([[1.0, 2.0]]), Tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]]), Tensor([0.0, 0.0, 10.0]))
    Tensor([[ 1.,  2., 13.]], dtype=float32)
    """
    return apply(LINEAR, *linear_operands(x, weight, bias))

"""
GELU, then linear, as one op: the second half of GPT-2's MLP. One op, because the array between the two is the largest
that a block makes, and computing it again in backward is cheaper than keeping it.

Throughout this file
    x, h           (..., I)         before GELU, and after it
    weight         (I, O)           bias   (O,)         out   (..., O)
    dX             gradient of the loss with respect to X, same shape as X
    N              all leading axes of x as one: the tokens; h^T is (I, N)

Forward                                Backward, read upwards
    (1) h   = gelu(x)                  (1) dx = dh * gelu'(x)
    (2) out = h @ weight + bias        (2) dh = dout @ weight^T,  dweight = h^T @ dout,  dbias = sum_N(dout)
                                       (1) h again

Step (2) is derived in linear.py, step (1) in gelu.py, and the chain rule joins them; gelu' is the slope derived there.
The difference is in what is saved: x, not h. Of step (2) only dweight needs h.

What surprises people here
    The widest array of a block, h with its (N, 4C) numbers, is not kept: computing gelu a second time costs less than
    the memory would.

Source: the chain rule; recomputation of cheap activations: Chen et al. 2016, arXiv:1604.06174, section 3.
Cost:   that of both, and GELU's forward once more; keeps I numbers per token instead of 2 I.
"""

from __future__ import annotations

from functools import partial

from tinygpt.autograd import Op, Tensor, apply
from tinygpt.ops.basic import floating
from tinygpt.ops.gelu import gelu_backward, gelu_forward
from tinygpt.ops.linear import check_linear, linear_backward, linear_forward, linear_operands


# fmt: off
def gelu_linear_forward(x, weight, bias):
    h, _ = gelu_forward(x)                    # (1) (..., I)
    out, _ = linear_forward(h, weight, bias)  # (2) (..., O)
    return out, (x, weight)


def gelu_linear_backward(dout, saved):
    x, weight = saved
    h, of_gelu = gelu_forward(x)                             # (1) again
    dh, dweight, dbias = linear_backward(dout, (h, weight))  # (2)
    (dx,) = gelu_backward(dh, of_gelu)                       # (1)
    return dx, dweight, dbias
# fmt: on


GELU_LINEAR = Op(
    "gelu_linear",
    gelu_linear_forward,
    gelu_linear_backward,
    kernel="tinygpt.kernels.gelu_linear",
    check=partial(check_linear, "gelu_linear"),
)


def gelu_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """
    ``linear(gelu(x), weight, bias)``, without keeping gelu(x) for backward.

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
    >>> gelu_linear(Tensor([[0.0, 1.0]]), Tensor([[1.0], [10.0]]), Tensor([0.5])).data.round(3)
    array([[8.912]], dtype=float32)
    """
    return apply(GELU_LINEAR, *map(floating, linear_operands(x, weight, bias)))

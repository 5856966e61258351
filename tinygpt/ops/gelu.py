"""
GELU: a smooth gate. x times (almost exactly) the probability that a standard normal number is below x.

Throughout this file
    x, u, t, out   any shape, element by element
    dX             gradient of the loss with respect to X, same shape as X
    c = sqrt(2 / pi)                a = 0.044715

Forward                                Backward, read upwards
    (1) u   = c * (x + a * x^3)        (1) dx += du * c * (1 + 3 * a * x^2)
    (2) t   = tanh(u)                  (2) du  = dt * (1 - t^2)
    (3) out = x/2 * (1 + t)            (3) dx  = dout * (1 + t)/2,  dt = dout * x/2

Step (3). out = x/2 (1 + t) depends on x directly and through t:
    d out / dx = (1 + t) / 2        the direct path
    d out / dt = x / 2
Step (2). The derivative of tanh u is 1 - tanh(u)^2:
    dt / du = 1 - t^2
Step (1). u = c x + c a x^3:
    du / dx = c + 3 c a x^2 = c (1 + 3 a x^2)
Together, with the slopes multiplied first, as the code does:
    dt / dx = (1 - t^2) c (1 + 3 a x^2)
    dx = dout * [ (1 + t) / 2  +  x / 2 * dt / dx ]

This is the tanh form that OpenAI trained GPT-2 with ("gelu_new" elsewhere). The other form, x Phi(x) with the error
function, differs from it by up to 5e-4: enough to change what a trained GPT-2 says.

What surprises people here
    The slope is not between 0 and 1: it is above 1 from about x = 0.75 on, and below 0 for x under -0.75. And GPT-2's
    GELU, with tanh, is not the exact one, with erf: weights trained with one form lose a little under the other.

Source: Hendrycks & Gimpel 2016, arXiv:1606.08415, section 2; OpenAI's gpt-2, src/model.py, `gelu`.
Cost:   memory-bound, or bound by tanh where that is slow; fused, forward moves 2 arrays and backward 3.
"""

from __future__ import annotations

import math

import numpy as np

from tinygpt.autograd import Op, Tensor, apply
from tinygpt.ops.basic import floating

C = math.sqrt(2 / math.pi)
A = 0.044715


# fmt: off
def gelu_forward(x):
    u = C * (x + A * (x * x * x))  # (1) x*x*x, not x**3: the power function is many times slower
    t = np.tanh(u)                 # (2)
    out = 0.5 * x * (1 + t)        # (3)
    return out, (x, t)


def gelu_backward(dout, saved):
    x, t = saved
    du_dx = C * (1 + 3 * A * (x * x))              # (1)
    dt_dx = (1 - t * t) * du_dx                    # (2)
    dx = dout * (0.5 * (1 + t) + 0.5 * x * dt_dx)  # (3)
    return (dx,)
# fmt: on


GELU = Op("gelu", gelu_forward, gelu_backward, kernel="tinygpt.kernels.gelu")


def gelu(x: Tensor, approximate: str = "tanh") -> Tensor:
    """
    0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))), element by element: OpenAI's GELU.

    Parameters
    ----------
    x : Tensor, any shape, float32 or float64
    approximate : str
        "tanh", the name that PyTorch has for this form.

    Returns
    -------
    Tensor, same shape and dtype

    Raises
    ------
    ValueError
        If another form is asked for.

    Examples
    --------
    >>> gelu(Tensor([-1.0, 0.0, 1.0])).data.round(4)
    array([-0.1588,  0.    ,  0.8412], dtype=float32)
    """
    if approximate != "tanh":
        raise ValueError(f"gelu: approximate must be 'tanh', the form of GPT-2, got {approximate!r}; leave it out")
    return apply(GELU, floating(x))

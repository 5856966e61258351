"""
GELU, then linear, on all threads: the twin of ops/gelu_linear.py.

    (1) h   = gelu(x)                  (1) dx = dh * gelu'(x)
    (2) out = h @ weight + bias        (2) dh = dout @ weight^T,  dweight = h^T @ dout,  dbias = sum_N(dout)
                                       (1) h again

Both steps are the kernels of gelu.py and linear.py. The memory of h and dh is given back at the end and the next block
uses it again.

Cost: that of gelu.py and linear.py.
"""

from __future__ import annotations

from tinygpt.kernels import gelu, linear
from tinygpt.kernels.jit import all_float32 as accepts
from tinygpt.runtime import memory
from tinygpt.runtime.memory import Slot

__all__ = ["accepts", "backward", "forward"]


def forward(x, weight, bias):
    h, x_flat = gelu.forward(x)  # (1)
    out, (_, weight) = linear.forward(h, weight, bias)  # (2)
    return out, (x_flat.reshape(x.shape), weight)


def backward(dout, saved, into):
    x, weight = saved
    dx, dweight, dbias = into
    h, of_gelu = gelu.forward(x)  # (1) again
    dh = None if dx is None else Slot(memory.empty(x.shape), add=False)
    linear.backward(dout, (h, weight), (dh, dweight, dbias))  # (2)
    if dh is not None:
        gelu.backward(dh.array, of_gelu, (dx,))  # (1)

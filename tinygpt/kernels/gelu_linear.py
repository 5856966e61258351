"""
GELU, then linear, on all threads: the twin of ops/gelu_linear.py.

    (1) h   = gelu(x)                  (1) dx = dh * gelu'(x)
    (2) out = h @ weight + bias        (2) dh = dout @ weight^T,  dweight = h^T @ dout,  dbias = sum_N(dout)
                                       (1) h again

Both steps are the kernels of gelu.py and linear.py. Backward computes h and gelu'(x) in one pass. It is done with h
before it takes memory for dh; the memory of both is given back, and the next block uses it again.

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
    h, slope = gelu.forward_and_slope(x)  # (1) again
    linear.backward(dout, (h, weight), (None, dweight, dbias))  # (2)
    del h
    if dx is not None:
        dh = Slot(memory.empty(x.shape), add=False)
        linear.backward(dout, (x, weight), (dh, None, None))  # (2)
        gelu.times_slope(dh.array, slope, dx)  # (1)

"""
AdamW over flat arrays, on all threads: the twin of `adamw_update` in optim.py.

    (1) m = beta1 m + (1 - beta1) gradient                 gradient is what backward left, times `scale`
    (2) v = beta2 v + (1 - beta2) gradient^2
    (3) m_corrected = m / (1 - beta1^step)
    (4) v_corrected = v / (1 - beta2^step)
    (5) parameter *= 1 - lr weight_decay
    (6) parameter -= lr m_corrected / (sqrt(v_corrected) + eps)

`scale` is how the clip of the gradients' norm comes for free: nobody reads and writes them once more for it.

Cost: reads four arrays and writes three, 28 bytes a parameter: bound by memory.
"""

from __future__ import annotations

import math

import numpy as np
from numba import prange

from tinygpt.kernels.jit import parallel, spread

_PART = 2**14  # elements


def update(parameter, gradient, m, v, step, lr, betas, eps, weight_decay, scale=1.0):
    """One step, in place, on flat float32 arrays of one length."""
    beta1, beta2 = betas
    constants = (beta1, 1 - beta1, beta2, 1 - beta2, lr / (1 - beta1**step), 1 / math.sqrt(1 - beta2**step), eps,
                 1 - lr * weight_decay, scale)  # fmt: skip
    spread(_update, parameter.size)(parameter, gradient, m, v, np.array(constants, np.float32))


@parallel
def _update(parameter, gradient, m, v, constants):
    beta1, rest1, beta2, rest2, rate, root, eps, kept, scale = constants
    for part_ in prange((len(parameter) + _PART - 1) // _PART):
        first = np.int64(part_) * _PART
        last = first + _PART
        p, g, mean, square = parameter[first:last], gradient[first:last], m[first:last], v[first:last]
        for i in range(len(p)):
            scaled = g[i] * scale
            mean[i] = beta1 * mean[i] + rest1 * scaled  # (1)
            square[i] = beta2 * square[i] + rest2 * (scaled * scaled)  # (2)
            p[i] = p[i] * kept - rate * mean[i] / (np.sqrt(square[i]) * root + eps)  # (3, 4, 5, 6)

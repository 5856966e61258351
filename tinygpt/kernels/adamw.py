"""
AdamW over flat arrays, on all threads: the twin of `adamw_update` in optim/adamw.py.

    (1) m = beta1 * m + (1 - beta1) * gradient             the gradient that backward left, times `scale`
    (2) v = beta2 * v + (1 - beta2) * gradient^2
    (3) m_corrected = m / (1 - beta1^step)
    (4) v_corrected = v / (1 - beta2^step)
    (5) parameter *= 1 - lr * weight_decay
    (6) parameter -= lr * m_corrected / (sqrt(v_corrected) + eps)

`scale` clips the norm of the gradients at no cost: they need not be read and written once more for it.

Cost: reads four arrays and writes three, 28 bytes per parameter: bound by memory.
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
    lr_corrected = lr / (1 - beta1**step)  # (3) times lr
    root_corrected = 1 / math.sqrt(1 - beta2**step)  # (4) its square root
    decay = 1 - lr * weight_decay  # (5)
    constants = (beta1, 1 - beta1, beta2, 1 - beta2, lr_corrected, root_corrected, eps, decay, scale)
    spread(_update, parameter.size)(parameter, gradient, m, v, np.array(constants, np.float32))


@parallel
def _update(parameter, gradient, m, v, constants):
    beta1, one_minus_beta1, beta2, one_minus_beta2, lr_corrected, root_corrected, eps, decay, scale = constants
    for part_ in prange((len(parameter) + _PART - 1) // _PART):
        first = np.int64(part_) * _PART
        last = first + _PART
        parameter_part, gradient_part = parameter[first:last], gradient[first:last]
        m_part, v_part = m[first:last], v[first:last]
        for i in range(len(parameter_part)):
            gradient_i = gradient_part[i] * scale
            m_part[i] = beta1 * m_part[i] + one_minus_beta1 * gradient_i  # (1)
            v_part[i] = beta2 * v_part[i] + one_minus_beta2 * (gradient_i * gradient_i)  # (2)
            decayed = parameter_part[i] * decay  # (5)
            lr_m_corrected = lr_corrected * m_part[i]  # (3)
            root_v_corrected = np.sqrt(v_part[i]) * root_corrected  # (4)
            parameter_part[i] = decayed - lr_m_corrected / (root_v_corrected + eps)  # (6)

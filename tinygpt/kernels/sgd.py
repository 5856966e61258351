"""
SGD over flat arrays, on all threads: the twin of `sgd_update` in optim/sgd.py.

    (1) gradient  = gradient + weight_decay * parameter    the gradient that backward left, times `scale`
    (2) buffer    = momentum * buffer + (1 - dampening) * gradient
    (3) direction = gradient + momentum * buffer           Nesterov's; else the buffer; without momentum the gradient
    (4) parameter -= lr * direction

Cost: reads three arrays and writes two, 20 bytes per parameter; 12 without momentum: bound by memory.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from tinygpt.kernels.jit import parallel, spread

_PART = 2**14  # elements


def update(parameter, gradient, buffer, lr, momentum, dampening, weight_decay, nesterov, scale=1.0):
    """One step, in place, on flat float32 arrays of one length; `buffer` is not looked at where momentum is 0."""
    if momentum:
        constants = np.array((lr, momentum, 1 - dampening, weight_decay, scale), np.float32)
        spread(_with_momentum, parameter.size)(parameter, gradient, buffer, constants, bool(nesterov))
    else:
        constants = np.array((lr, weight_decay, scale), np.float32)
        spread(_without_momentum, parameter.size)(parameter, gradient, constants)


@parallel
def _with_momentum(parameter, gradient, buffer, constants, nesterov):
    lr, momentum, share, weight_decay, scale = constants
    for part_ in prange((len(parameter) + _PART - 1) // _PART):
        first = np.int64(part_) * _PART
        last = first + _PART
        parameter_part, gradient_part, buffer_part = parameter[first:last], gradient[first:last], buffer[first:last]
        for i in range(len(parameter_part)):
            gradient_i = gradient_part[i] * scale + weight_decay * parameter_part[i]  # (1)
            buffer_part[i] = momentum * buffer_part[i] + share * gradient_i  # (2)
            direction_i = gradient_i + momentum * buffer_part[i] if nesterov else buffer_part[i]  # (3)
            parameter_part[i] -= lr * direction_i  # (4)


@parallel
def _without_momentum(parameter, gradient, constants):
    lr, weight_decay, scale = constants
    for part_ in prange((len(parameter) + _PART - 1) // _PART):
        first = np.int64(part_) * _PART
        last = first + _PART
        parameter_part, gradient_part = parameter[first:last], gradient[first:last]
        for i in range(len(parameter_part)):
            gradient_i = gradient_part[i] * scale + weight_decay * parameter_part[i]  # (1)
            parameter_part[i] -= lr * gradient_i  # (4)

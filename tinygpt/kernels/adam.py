"""
Adam over flat arrays: the twin of `adam_update` in optim/adam.py, by the kernel of AdamW.

    (1) gradient = gradient + weight_decay * parameter

The rest is AdamW's update without its decay. Without weight_decay, the usual case, step (1) changes nothing.

No step (2, 3, 4, 5, 6) forward: kernels/adamw.py has them, as its (1, 2, 3, 4, 6).

Cost: that of AdamW, 28 bytes per parameter; with weight_decay, a pass of NumPy's more.
"""

from __future__ import annotations

import numpy as np

from tinygpt.kernels import adamw


def update(parameter, gradient, m, v, step, lr, betas, eps, weight_decay, scale=1.0):
    """One step, in place, on flat float32 arrays of one length."""
    if weight_decay:
        gradient = gradient * np.float32(scale) + np.float32(weight_decay) * parameter  # (1)
        scale = 1.0
    adamw.update(parameter, gradient, m, v, step, lr, betas, eps, 0.0, scale)

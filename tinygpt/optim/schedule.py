"""
The learning rate of each step: a linear warm-up, then half a cosine down.

Source: Loshchilov & Hutter 2016, arXiv:1608.03983 (cosine annealing, here without restarts). The warm-up is there
        because AdamW's second moment is a mean of few gradients at first, so that early steps are large and noisy.
"""

from __future__ import annotations

import math


def cosine_schedule(step: int, *, lr: float, min_lr: float, warmup: int, steps: int) -> float:
    """
    The learning rate of one step.

    Parameters
    ----------
    step : int
        Counted from 0; at and after `steps`, the rate stays `min_lr`.
    lr, min_lr : float
        The highest rate, reached after `warmup` steps, and the last one.
    warmup, steps : int
        How many steps the warm-up takes, and the whole schedule.

    Returns
    -------
    float

    Examples
    --------
    >>> [round(cosine_schedule(s, lr=1.0, min_lr=0.1, warmup=2, steps=6), 3) for s in range(7)]
    [0.333, 0.667, 1.0, 0.868, 0.55, 0.232, 0.1]
    """
    if step < warmup:
        return lr * (step + 1) / (warmup + 1)
    progress = min((step - warmup) / max(steps - warmup, 1), 1.0)
    return min_lr + 0.5 * (1 + math.cos(math.pi * progress)) * (lr - min_lr)

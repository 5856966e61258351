"""The norm of all gradients, against NumPy and PyTorch."""

from __future__ import annotations

import math

import numpy as np

from benchmarks.sides import Given
from tinygpt.kernels.norm import squares

CASES = {"7 M numbers": {"size": 7_077_888}, "40 M numbers": {"size": 40_000_000}}
TOLERANCE = 1e-2  # PyTorch sums in float32: off by 3e-3 for 40 M numbers; ours is tested to 1e-14


def given(case, rng):
    """A gradient."""
    return Given([rng.standard_normal(case["size"], np.float32)], np.float32(1))


def ours(given):
    """The kernel."""
    return lambda: [np.array(math.sqrt(squares(given.arrays[0])))]


def numpy(given):
    """The reference: squares in float64."""
    return lambda: [np.array(math.sqrt(np.square(given.arrays[0], dtype=np.float64).sum()))]


def torch(given):
    """What clip_grad_norm_ calls."""
    import torch

    gradient = torch.from_numpy(given.arrays[0])
    return lambda: [torch.linalg.vector_norm(gradient).numpy()]


def cost(case):
    """Reads one array."""
    return {"bytes": 4 * case["size"]}

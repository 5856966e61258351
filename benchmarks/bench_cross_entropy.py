"""Cross-entropy of whole logits, forward and backward, against NumPy and PyTorch."""

from __future__ import annotations

import numpy as np

from benchmarks.sides import Given, by_autograd
from tinygpt.ops.cross_entropy import CROSS_ENTROPY as OP

__all__ = ["OP"]

CASES = {"N=256, V=50257": {"shape": (256, 50257)}, "N=768, V=65": {"shape": (768, 65)}}
TOLERANCE = 1e-5


def given(case, rng):
    """Logits and targets; the gradient of the loss is 1."""
    rows, n_vocab = case["shape"]
    logits = rng.standard_normal((rows, n_vocab), np.float32)
    return Given([logits], np.float32(1), {"targets": rng.integers(0, n_vocab, rows)})


def torch(given):
    """cross_entropy and autograd."""
    import torch

    targets = torch.from_numpy(given.attrs["targets"])
    return by_autograd(lambda logits: torch.nn.functional.cross_entropy(logits, targets), given)


def cost(case):
    """Forward reads the logits, backward reads them and writes as many."""
    return {"bytes": 3 * 4 * int(np.prod(case["shape"]))}

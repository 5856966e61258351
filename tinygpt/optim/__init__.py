"""How a gradient becomes a step: AdamW, the learning-rate schedule, the norm of all gradients and its clip."""

from typing import TYPE_CHECKING

from tinygpt.optim.adamw import AdamW
from tinygpt.optim.gradient_norm import clip_grad_norm, grad_norm
from tinygpt.optim.schedule import cosine_schedule
from tinygpt.runtime.missing import missing_name

__all__ = ["AdamW", "clip_grad_norm", "cosine_schedule", "grad_norm"]

if not TYPE_CHECKING:

    def __getattr__(name):
        raise missing_name(__name__, name)

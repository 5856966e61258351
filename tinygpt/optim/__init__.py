"""How a gradient becomes a step: AdamW, the learning-rate schedule, the norm of all gradients and its clip."""

from tinygpt.optim.adamw import AdamW
from tinygpt.optim.gradient_norm import clip_grad_norm, grad_norm
from tinygpt.optim.schedule import cosine_schedule

__all__ = ["AdamW", "clip_grad_norm", "cosine_schedule", "grad_norm"]

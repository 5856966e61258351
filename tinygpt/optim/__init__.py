"""
How a gradient becomes a step.

Reading order
    adamw.py, adam.py, sgd.py     the updates: a derivation, the steps in NumPy, the class
    optimizer.py                  what they share: groups, the loop of a step, state dicts
    schedule.py, lr_scheduler.py  the learning rate of each step: a function; objects as PyTorch has them
    gradient_norm.py              the norm of all gradients, and its clip
    merge_contiguous.py           one kernel call for many parameters
"""

from tinygpt.optim import lr_scheduler
from tinygpt.optim.adam import Adam
from tinygpt.optim.adamw import AdamW
from tinygpt.optim.gradient_norm import clip_grad_norm, grad_norm
from tinygpt.optim.optimizer import Optimizer
from tinygpt.optim.schedule import cosine_schedule
from tinygpt.optim.sgd import SGD

__all__ = ["SGD", "Adam", "AdamW", "Optimizer", "clip_grad_norm", "cosine_schedule", "grad_norm", "lr_scheduler"]

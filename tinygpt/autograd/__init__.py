"""The engine: tensors that remember how they were computed, and the chain rule that walks back over it."""

from tinygpt.autograd.graph import Op
from tinygpt.autograd.tensor import Tensor, apply, no_grad

__all__ = ["Op", "Tensor", "apply", "no_grad"]

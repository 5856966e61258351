"""
The engine: tensors that remember how they were computed, and the chain rule that walks back over it.

Read the files in this order:

    reference           the whole engine in one page of NumPy: the definition
    tensor              `Tensor` and `apply`: what a user holds
    graph               `Op`, the nodes, and the walk back, with memory, hooks and errors
    gradients           the memory of gradients, and its owners
    hooks               functions of the user's that see gradients, and the handle that removes them
    dispatch            which implementation of an op runs: reference, kernel, or both

and these when their question comes up:

    gradient_check      `gradcheck`: are the gradients right?
    rounding            how far may rounding carry a result?
    contract            does an op change its arguments?
    check_mode          are kernel and reference the same? Both run, and an error names the first op where they differ
    watch               how `gradcheck`, check mode and `tinygpt diff` observe what is computed
    recomputed_outputs  single arrays that backward computes again in place of keeping them
    recompute           a block's activations, computed twice instead of kept
    conversion          what PyTorch's `to` asks for
    copying             what `copy` and pickle do with a tensor
"""

from typing import TYPE_CHECKING

from tinygpt.autograd.graph import Op
from tinygpt.autograd.tensor import Tensor, apply, no_grad
from tinygpt.runtime.missing import missing_name

__all__ = ["Op", "Tensor", "apply", "no_grad"]

if not TYPE_CHECKING:

    def __getattr__(name):
        raise missing_name(__name__, name)

"""
tinygpt: GPT-2 in pure Python, with the gradients written by hand.

The names below are imported when they are first used, so that `import tinygpt` and `tinygpt --help` are quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from tinygpt.autograd import Tensor as Tensor
    from tinygpt.autograd import apply as apply
    from tinygpt.autograd import no_grad as no_grad
    from tinygpt.config import GPTConfig as GPTConfig
    from tinygpt.gradient_check import GradientCheckError as GradientCheckError
    from tinygpt.gradient_check import gradcheck as gradcheck
    from tinygpt.gradient_norm import clip_grad_norm as clip_grad_norm
    from tinygpt.gradient_norm import grad_norm as grad_norm
    from tinygpt.graph import Op as Op
    from tinygpt.model import GPT as GPT
    from tinygpt.optim import AdamW as AdamW
    from tinygpt.optim import cosine_schedule as cosine_schedule
    from tinygpt.runtime import get_float32_matmul_precision as get_float32_matmul_precision
    from tinygpt.runtime import implementation as implementation
    from tinygpt.runtime import num_threads as num_threads
    from tinygpt.runtime import set_float32_matmul_precision as set_float32_matmul_precision
    from tinygpt.runtime import set_num_threads as set_num_threads
    from tinygpt.tokenizer import Tokenizer as Tokenizer

_HOME = {
    "AdamW": "optim",
    "GPT": "model",
    "GPTConfig": "config",
    "GradientCheckError": "gradient_check",
    "Op": "graph",
    "Tensor": "autograd",
    "Tokenizer": "tokenizer",
    "apply": "autograd",
    "clip_grad_norm": "gradient_norm",
    "cosine_schedule": "optim",
    "get_float32_matmul_precision": "runtime",
    "grad_norm": "gradient_norm",
    "gradcheck": "gradient_check",
    "implementation": "runtime",
    "no_grad": "autograd",
    "num_threads": "runtime",
    "set_float32_matmul_precision": "runtime",
    "set_num_threads": "runtime",
}

_NO_TENSORS = {"config", "runtime", "tokenizer"}  # these start without autograd, and sooner

__all__ = [*_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'tinygpt' has no attribute {name!r}")
    if _HOME[name] not in _NO_TENSORS:
        importlib.import_module("tinygpt.ops.basic")  # gives Tensor its operators
        importlib.import_module("tinygpt.display")  # and what notebooks show
    value = getattr(importlib.import_module(f"tinygpt.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])

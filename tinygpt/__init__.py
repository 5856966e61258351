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
    from tinygpt.autograd.gradient_check import GradientCheckError as GradientCheckError
    from tinygpt.autograd.gradient_check import gradcheck as gradcheck
    from tinygpt.autograd.graph import Op as Op
    from tinygpt.gpt2.config import GPTConfig as GPTConfig
    from tinygpt.gpt2.model import GPT as GPT
    from tinygpt.optim import AdamW as AdamW
    from tinygpt.optim import cosine_schedule as cosine_schedule
    from tinygpt.optim.gradient_norm import clip_grad_norm as clip_grad_norm
    from tinygpt.optim.gradient_norm import grad_norm as grad_norm
    from tinygpt.runtime.settings import get_float32_matmul_precision as get_float32_matmul_precision
    from tinygpt.runtime.settings import implementation as implementation
    from tinygpt.runtime.settings import num_threads as num_threads
    from tinygpt.runtime.settings import set_float32_matmul_precision as set_float32_matmul_precision
    from tinygpt.runtime.settings import set_num_threads as set_num_threads
    from tinygpt.tokenizer import Tokenizer as Tokenizer

_HOME = {
    "AdamW": "optim",
    "GPT": "gpt2.model",
    "GPTConfig": "gpt2.config",
    "GradientCheckError": "autograd.gradient_check",
    "Op": "autograd",
    "Tensor": "autograd",
    "Tokenizer": "tokenizer",
    "apply": "autograd",
    "clip_grad_norm": "optim",
    "cosine_schedule": "optim",
    "get_float32_matmul_precision": "runtime.settings",
    "grad_norm": "optim",
    "gradcheck": "autograd.gradient_check",
    "implementation": "runtime.settings",
    "no_grad": "autograd",
    "num_threads": "runtime.settings",
    "set_float32_matmul_precision": "runtime.settings",
    "set_num_threads": "runtime.settings",
}

_NO_TENSORS = {"gpt2.config", "runtime.settings", "tokenizer"}  # these start without autograd, and sooner

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

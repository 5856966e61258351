"""
tinygpt: GPT-2 in pure Python, with the gradients written by hand.

The names below are imported when they are first used, so that `import tinygpt` and `tinygpt --help` are quick.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from tinygpt import autograd as autograd
    from tinygpt import functional as functional
    from tinygpt import nn as nn
    from tinygpt import ops as ops
    from tinygpt import optim as optim
    from tinygpt.autograd import Tensor as Tensor
    from tinygpt.autograd import apply as apply
    from tinygpt.autograd import no_grad as no_grad
    from tinygpt.autograd.gradient_check import GradientCheckError as GradientCheckError
    from tinygpt.autograd.gradient_check import gradcheck as gradcheck
    from tinygpt.autograd.graph import Op as Op
    from tinygpt.files.state_file import load_state as load_state
    from tinygpt.files.state_file import save_state as save_state
    from tinygpt.gpt2.captured_step import CapturedStep as CapturedStep
    from tinygpt.gpt2.config import GPTConfig as GPTConfig
    from tinygpt.gpt2.model import GPT as GPT
    from tinygpt.gpt2.model_and_tokenizer import load as load
    from tinygpt.optim import SGD as SGD
    from tinygpt.optim import Adam as Adam
    from tinygpt.optim import AdamW as AdamW
    from tinygpt.optim import cosine_schedule as cosine_schedule
    from tinygpt.optim.gradient_norm import clip_grad_norm as clip_grad_norm
    from tinygpt.optim.gradient_norm import grad_norm as grad_norm
    from tinygpt.runtime.default_generator import manual_seed as manual_seed
    from tinygpt.runtime.settings import get_float32_matmul_precision as get_float32_matmul_precision
    from tinygpt.runtime.settings import implementation as implementation
    from tinygpt.runtime.settings import num_threads as num_threads
    from tinygpt.runtime.settings import set_float32_matmul_precision as set_float32_matmul_precision
    from tinygpt.runtime.settings import set_num_threads as set_num_threads
    from tinygpt.tokenizer import Tokenizer as Tokenizer

_HOME = {
    "Adam": "optim",
    "AdamW": "optim",
    "CapturedStep": "gpt2.captured_step",
    "GPT": "gpt2.model",
    "GPTConfig": "gpt2.config",
    "GradientCheckError": "autograd.gradient_check",
    "Op": "autograd",
    "SGD": "optim",
    "Tensor": "autograd",
    "Tokenizer": "tokenizer",
    "apply": "autograd",
    "clip_grad_norm": "optim",
    "cosine_schedule": "optim",
    "get_float32_matmul_precision": "runtime.settings",
    "grad_norm": "optim",
    "gradcheck": "autograd.gradient_check",
    "implementation": "runtime.settings",
    "load": "gpt2.model_and_tokenizer",
    "load_state": "files.state_file",
    "manual_seed": "runtime.default_generator",
    "no_grad": "autograd",
    "num_threads": "runtime.settings",
    "save_state": "files.state_file",
    "set_float32_matmul_precision": "runtime.settings",
    "set_num_threads": "runtime.settings",
}

_TIKTOKENS = ("Encoding", "encoding_for_model", "encoding_name_for_model", "get_encoding", "list_encoding_names")
_MODULES = ("autograd", "functional", "nn", "ops", "optim")

__all__ = ["__version__", *_HOME, *_MODULES]


def __getattr__(name: str) -> Any:
    if name in _TIKTOKENS:
        raise AttributeError(
            f"module 'tinygpt' has no attribute {name!r}: for an encoding of tiktoken write "
            "Tokenizer.from_pretrained('gpt2'), or Tokenizer.from_tiktoken(path, pattern, special_tokens)"
        )
    if name in _MODULES:
        return importlib.import_module(f"tinygpt.{name}")
    if name not in _HOME:
        from tinygpt.runtime.missing import missing_name

        computes = "tinygpt.autograd" in sys.modules  # else a submodule is looked for, which must stay quick
        found = computes and name in importlib.import_module("tinygpt.functional").__all__
        raise missing_name(__name__, name, f"tinygpt.functional.{name}" if found else "")
    value = getattr(importlib.import_module(f"tinygpt.{_HOME[name]}"), name)
    globals()[name] = value
    return value


class _MissingModules:
    """Python's last resort when it looks for a module: the error for one of PyTorch's says what to write instead."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> None:
        if name.startswith("tinygpt."):
            from tinygpt.runtime.missing import missing_module

            if error := missing_module(name):
                raise error


sys.meta_path.append(_MissingModules)


def __dir__() -> list[str]:
    return sorted(__all__)

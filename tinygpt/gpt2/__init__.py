"""
GPT-2. To read, in this order:

    config.py              the sizes, and the presets
    model.py               the model: attention, MLP, block, GPT
    kv_cache.py            the key/value cache of one layer: attention to what was read before
    decoder.py             prompts and tokens through all layers, each with its cache

then, as they are needed,

    pretrained.py          GPT.from_pretrained
    model_and_tokenizer.py tinygpt.load, which reads both
    checkpoint.py          a model's folder, written and read: configuration, weights, tokenizer
    weights.py             safetensors files, whole or in shards
    hugging_face.py        the fields and names of other programs' folders, and what is refused
    parameter_shapes.py    the shapes that a configuration implies, compared before anything is allocated
    memory_estimate.py     the memory that training needs, by kind
    decoder_weights.py     the weights, quantized or not, as the decoder's kernels read them
    captured_step.py       a training step's calls of kernels, replayed without the engine
    compile_ahead.py       kernels compiled before the work begins, on the smallest model

`GPT` and `GPTConfig` can be imported from here. They are loaded at first use: `GPTConfig` needs no autograd.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tinygpt.gpt2.config import GPTConfig as GPTConfig
    from tinygpt.gpt2.model import GPT as GPT

_HOME = {"GPT": "model", "GPTConfig": "config"}

__all__ = [*_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'tinygpt.gpt2' has no attribute {name!r}")
    return getattr(importlib.import_module(f"tinygpt.gpt2.{_HOME[name]}"), name)

"""
Loading a model: find its folder, compare shapes and memory before any weight is read, and copy the weights.

`load` is what `GPT.from_pretrained` does; `read` does it with a folder that was found. The files themselves are read by
checkpoint.py.
"""

from __future__ import annotations

import dataclasses
from os import PathLike
from pathlib import Path
from typing import Any

from tinygpt.files import locate
from tinygpt.files.one_line import shown
from tinygpt.gpt2 import checkpoint
from tinygpt.gpt2.config import GPTConfig
from tinygpt.gpt2.parameter_shapes import require_model
from tinygpt.quantization import quantize_model
from tinygpt.runtime.memory_limit import require_memory
from tinygpt.runtime.torch_names import instead_of_argument


def load(model_class: Any, name: str | PathLike[str], seed: int, weights: str, changes: dict[str, Any]) -> Any:
    """
    A model with the weights of a folder, or of a name on the hub.

    Parameters
    ----------
    model_class : type
        `GPT`.
    name, seed, weights, changes
        As for `GPT.from_pretrained`.

    Returns
    -------
    GPT

    Raises
    ------
    FileNotFoundError, ValueError
        If files are missing, damaged, or not of a GPT-2.
    TypeError
        If GPTConfig has no field of a name in `changes`.
    MemoryError
        If the weights do not fit into memory.
    """
    for field in sorted(changes.keys() - {field.name for field in dataclasses.fields(GPTConfig)}):
        remedy = instead_of_argument("from_pretrained", field)
        raise TypeError(f"GPT.from_pretrained: GPTConfig has no field {field!r}{remedy}")
    return locate.read(name, lambda folder: read(model_class, folder, seed, weights, changes))


def read(model_class: Any, folder: Path, seed: int, weights: str, changes: dict[str, Any]) -> Any:
    """Do what `load` does, from this folder as it is."""
    numbers = 0

    def check(values: dict[str, Any], shapes: checkpoint.Shapes) -> None:
        nonlocal numbers
        numbers = require_model("GPT.from_pretrained", folder, values, shapes)
        require_memory(2 * 4 * numbers, "the weights, and the model that they are copied to")

    try:
        config, state = checkpoint.read_model(folder, check)
        model = model_class(dataclasses.replace(GPTConfig.from_dict(config), **changes), seed=seed)
        model.load_state_dict(state)
        quantize_model(model, weights)
    except MemoryError as error:
        raise MemoryError(
            f"GPT.from_pretrained: the weights in {shown(folder)} take {4e-9 * numbers:,.1f} GB, and twice as much "
            f"while they are read: there is not enough memory: {error or 'MemoryError'}; close other programs, or "
            "use a smaller model"
        ) from error
    return model

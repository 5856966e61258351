"""
A model's weights as the kernels of a decoder read them: arrays of the shapes, types and order that decode_step.py and
prompt.py take, quantized where the model is. A kernel checks no index, so shapes are checked here.

Only where a kernel computes what the model does: `computes_as` tells, for a user may put a part of their own in its
place.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from tinygpt.autograd.dispatch import aligned
from tinygpt.quantization import GROUP, INPUTS_OF_WORDS, NO_SCALE, PACKED, PACKED_INT8, words_of

# The classes that the kernels compute, each followed by those of its parts; by name, since model.py imports this file.
_LINEAR, NORM, _DROPOUT = "nn.layers.Linear", "nn.layers.LayerNorm", "nn.layers.Dropout"
_ATTENTION = f"gpt2.model.CausalSelfAttention {_LINEAR} {_LINEAR} {_DROPOUT} {_DROPOUT}"
_MLP = f"gpt2.model.MLP {_LINEAR} gpt2.model.GELULinear {_DROPOUT}"
BLOCK = f"gpt2.model.Block {NORM} {_ATTENTION} {NORM} {_MLP}"
Norm = tuple[np.ndarray, np.ndarray]  # weight, bias
Projection = tuple[np.ndarray, np.ndarray, np.ndarray]  # values, scale, bias


class Layer(NamedTuple):
    """The weights of a block as the kernel reads them."""

    ln_1: Norm
    c_attn: Projection
    attn_c_proj: Projection
    ln_2: Norm
    c_fc: Projection
    mlp_c_proj: Projection


def computes_as(module: Any, classes: str) -> bool:
    """
    Whether a kernel may run in place of a module: it and its parts have the forward of these classes, and no hook.

    A user's own class may inherit a forward from ours, but not have another. Layer norms have the epsilon of the
    configuration, which the caller sees to.
    """
    if any(any(part._hooks or ()) for part in module.modules()):
        return False
    return [written_as(part.forward) for part in module.modules()] == [f"{name}.forward" for name in classes.split()]


def reads_tokens_as_gpt2(model: Any) -> bool:
    """Whether what is outside of the blocks and the head is that of `GPT`: a cache knows nothing of other ways."""
    embeddings = (model.wte, model.wpe, model.drop)
    functions = [model.hidden, *(part.forward for part in embeddings)]
    ours = [
        "gpt2.model.GPT.hidden",
        "nn.layers.Embedding.forward",
        "nn.layers.Embedding.forward",
        f"{_DROPOUT}.forward",
    ]
    return [written_as(f) for f in functions] == ours and not any(any(part._hooks or ()) for part in embeddings)


def written_as(function: Any) -> str | None:
    """Where in tinygpt a function was written, as "nn.layers.Linear.forward"; None for one from elsewhere."""
    function = getattr(function, "__func__", function)
    written = getattr(function, "__globals__", {}).get("__name__", "")  # a wrapper copies all other names
    if not written.startswith("tinygpt.") or hasattr(function, "__wrapped__"):
        return None
    return f"{written.removeprefix('tinygpt.')}.{function.__qualname__}"


def addresses_of(layers: list[Layer | None]) -> np.ndarray | None:
    """The addresses of all weights, (L, n), if a kernel computes all layers, and their arrays are of the same kinds."""
    arrays = [[] if layer is None else [array for group in layer for array in group] for layer in layers]
    kinds = {tuple((array.dtype, array.shape) for array in each) for each in arrays}
    if len(kinds) != 1 or not arrays[0]:
        return None
    return np.array([[array.ctypes.data for array in each] for each in arrays], np.int64)


def layer_of(model: Any, i: int, dense: bool = False) -> Layer:
    """The weights of a block as a step reads them, or as a prompt does, `dense`: see `matrix_of`."""
    block, C, inner = model.h[i], model.config.n_embd, model.config.inner

    def projection(name: str, linear: Any, inputs: int, outputs: int) -> Projection:
        name = f"h.{i}.{name}"
        matrix = matrix_of(model, name, linear, (inputs, outputs), axis=1, dense=dense)
        bias = np.zeros(outputs, model.wte.weight.dtype) if linear.bias is None else linear.bias.data
        return *matrix, as_read(model, f"{name}.bias", bias, (outputs,))

    return Layer(
        ln_1=norm_of(model, f"h.{i}.ln_1", block.ln_1),
        c_attn=projection("attn.c_attn", block.attn.c_attn, C, 3 * C),
        attn_c_proj=projection("attn.c_proj", block.attn.c_proj, C, C),
        ln_2=norm_of(model, f"h.{i}.ln_2", block.ln_2),
        c_fc=projection("mlp.c_fc", block.mlp.c_fc, C, inner),
        mlp_c_proj=projection("mlp.c_proj", block.mlp.c_proj, inner, C),
    )


def norm_of(model: Any, name: str, norm: Any) -> Norm:
    """Weight and bias of a layer norm."""
    shape = (model.config.n_embd,)
    weight = as_read(model, f"{name}.weight", norm.weight.data, shape)
    return weight, as_read(model, f"{name}.bias", norm.bias.data, shape)


def matrix_of(
    model: Any, name: str, layer: Any, shape: tuple[int, int], axis: int, dense: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """
    Values and scale of a layer's weight, quantized or not; `axis` is that of the output channels.

    A step reads those of a linear layer several inputs in a word. `dense`: int8 as it is, and what int4 stands for in
    float32.
    """
    quantized = layer.quantized
    if quantized is None or (quantized.kind == "int4" and dense):
        return as_read(model, f"{name}.weight", layer.weight.data, shape), NO_SCALE
    values, scale, inputs, outputs = quantized.values, quantized.scale, shape[1 - axis], shape[axis]
    scale_shape: tuple[int, ...] = (outputs,) if quantized.kind == "int8" else (0,)
    if quantized.kind == "int4":
        groups = -(-inputs // GROUP)
        shape, scale_shape = (groups * GROUP // PACKED, outputs), (groups, outputs)
    elif quantized.kind == "int8" and axis and not dense:
        values = quantized.words if quantized.words.size else words_of(values)
        shape = (-(-inputs // INPUTS_OF_WORDS) * INPUTS_OF_WORDS // PACKED_INT8, outputs)
    numbers = as_read(model, f"{name}.weight", values, shape, values.dtype)
    return numbers, as_read(model, f"the scale of {name}.weight", scale, scale_shape, scale.dtype)


def as_read(
    model: Any, name: str, array: np.ndarray, shape: tuple[int, ...], dtype: np.dtype | None = None
) -> np.ndarray:
    """The array as the kernel reads it. The kernel checks no index: it must be as the model, or `dtype`, says."""
    dtype = dtype or model.wte.weight.dtype
    if array.shape != shape or array.dtype != dtype:
        raise ValueError(f"Decoder: {name} must be {dtype} {shape}, got {array.dtype} {array.shape}")
    return aligned(np.ascontiguousarray(array))

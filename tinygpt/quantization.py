"""
Weights in fewer bits, for generation. One token reads every weight once, and takes as long as reading them takes. Many
tokens at once, a prompt, take as long as their products, and processors multiply numbers in fewer bits faster.

    float32     as they are
    bfloat16    the upper half of each float32, rounded: 2 bytes, an error of up to 2^-9 of the number
    int8        q = round(w / scale), w ~ q * scale: 1 byte, an error of up to scale / 2

int8 has one scale per output channel, scale = max |w| / 127 over everything that is summed for that output. So the
scale can be taken out of the sum, y_o = scale_o * sum_i x_i q_io, and one large weight affects its own channel only.
The output channels are the columns of a linear layer's (I, O) weight, and the rows of the (V, C) table of embeddings,
which is the head.

Layer norms, biases and positions stay float32: they are a thousandth of what is read.

What multiplies these weights depends on how many tokens come at once:

    one token of each text    the weight is converted to float32, and so is everything else: kernels/decode_step.py
    a prompt                  the activations are rounded to bfloat16 as well, each by up to 2^-9 of itself, where the
                              processor multiplies bfloat16; sums are float32: kernels/prompt.py
    anything else             float32, with the rounded weights: training, scoring, the NumPy implementation, the head,
                              and a `Decoder` of a model with a part of the user's own

Three functions quantize:

    quantize             an array: it stays as it is, and its quantized form is returned
    quantize_in_place    a layer's weight, which becomes what that form stands for. The layer holds the form itself:
                         `nn.Linear.quantize` calls it and sets `nn.Linear.quantized`; so does `nn.Embedding`
    quantize_model       all matrices of a GPT-2, by their layers' `quantize`

Source: symmetric quantization per channel, Wu et al. 2020, arXiv:2004.09602, sections 3 and 4.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from tinygpt.autograd import Tensor
from tinygpt.runtime import bfloat16
from tinygpt.runtime.pages import new_pages

KINDS = ("float32", "bfloat16", "int8")
_BLOCK = 2**20  # numbers converted at a time, so that temporaries stay small
_LINE = 64  # bytes of a cache line
_SMALLEST = np.finfo(np.float32).tiny  # of numbers with all 24 bits
_NO_SCALE = np.empty(0, np.float32)


class QuantizedWeight(NamedTuple):
    """
    A weight in fewer bits.

    Attributes
    ----------
    values : ndarray
        int8, uint16 (the bits of bfloat16), or the weight itself where it is not quantized; in the weight's shape.
    scale : ndarray, float32
        One per output channel; empty where `values` are the weights themselves.
    axis : int
        The axis of the output channels.
    """

    values: np.ndarray
    scale: np.ndarray = _NO_SCALE
    axis: int = 1

    @property
    def kind(self) -> str:
        """Which of `KINDS` it is."""
        return {"u": "bfloat16", "i": "int8"}.get(self.values.dtype.kind, "float32")


def quantize(weight: np.ndarray, kind: str, axis: int = 1) -> QuantizedWeight:
    """
    Round a weight to the nearest that `kind` can hold.

    Parameters
    ----------
    weight : ndarray, float32, 2-D
    kind : {"float32", "bfloat16", "int8"}
    axis : int
        The axis of the output channels: 1 for a linear layer's (I, O), 0 for the head's (V, C).

    Returns
    -------
    QuantizedWeight
        For float32, `weight` itself.

    Raises
    ------
    ValueError
        If `kind` is none of these, or is int8 and a weight is not finite.

    Examples
    --------
    >>> weight = np.array([[0.5, -8.0], [1.0, 0.1]], np.float32)
    >>> quantize(weight, "int8").values
    array([[  64, -127],
           [ 127,    2]], dtype=int8)
    """
    check_kind("quantize", kind)
    if kind == "float32":
        return QuantizedWeight(weight, axis=axis)
    if kind == "bfloat16":
        bits = np.empty(weight.shape, np.uint16)
        for rows in _blocks(weight):
            bits[rows] = bfloat16.to_bfloat16(weight[rows])
        return QuantizedWeight(bits, axis=axis)
    largest = np.maximum(weight.max(axis=1 - axis), -weight.min(axis=1 - axis))
    if not np.isfinite(largest).all():
        raise ValueError(
            "int8: the weights must be finite, got NaN or infinity: training of this model diverged, or its file is "
            "damaged; train again with a lower --lr, or use another checkpoint"
        )
    scale = largest / np.float32(127)
    scale = np.where(scale >= _SMALLEST, scale, np.float32(1))  # a smaller one is not exact: such a channel is 0
    values = np.empty(weight.shape, np.int8)
    for rows in _blocks(weight):
        values[rows] = np.rint(weight[rows] / (scale if axis else scale[rows, None]))
    return QuantizedWeight(values, scale, axis)


def dequantize(quantized: QuantizedWeight, out: np.ndarray | None = None) -> np.ndarray:
    """
    The weight that a quantized one stands for.

    Parameters
    ----------
    quantized : QuantizedWeight
    out : ndarray, float32, optional
        Where to write it.

    Returns
    -------
    ndarray
        float32; `quantized.values` themselves if they are the weights and there is no `out`.

    Examples
    --------
    >>> weight = np.array([[0.5, -8.0], [1.0, 0.1]], np.float32)
    >>> dequantize(quantize(weight, "bfloat16")).tolist()
    [[0.5, -8.0], [1.0, 0.10009765625]]
    """
    values, scale, axis = quantized
    if out is None:
        if quantized.kind == "float32":
            return values
        out = np.empty(values.shape, np.float32)
    for rows in _blocks(values):
        if quantized.kind == "bfloat16":
            out[rows] = bfloat16.to_float32(values[rows])
        elif quantized.kind == "int8":
            np.multiply(values[rows], scale if axis else scale[rows, None], out=out[rows])
        else:
            out[rows] = values[rows]
    return out


def quantize_in_place(weight: Tensor, kind: str, axis: int) -> QuantizedWeight | None:
    """
    Round a layer's weight to what `kind` can hold, and freeze it.

    Parameters
    ----------
    weight : Tensor, float32, 2-D
    kind : {"float32", "bfloat16", "int8"}
    axis : int
        The axis of the output channels.

    Returns
    -------
    QuantizedWeight or None
        What it was rounded to; None for float32, which changes nothing.

    Raises
    ------
    TypeError, ValueError
        If the weight is not float32, or is not finite and `kind` is int8.
    """
    check_kind("quantize", kind)
    if kind == "float32":
        return None
    if weight.dtype != np.float32:
        raise TypeError(f"quantize: the weight must be float32, got {weight.dtype}")
    quantized = quantize(weight.data, kind, axis)
    dequantize(quantized, out=weight.data)
    weight.requires_grad = False
    return quantized


def quantize_model(model: Any, kind: str) -> None:
    """
    Quantize the matrices of a GPT-2: those of its linear layers, and the table of embeddings, which is also the head.

    Each layer keeps both forms: `quantized`, which a `Decoder` reads, and `weight`, what that stands for in float32.
    All parameters are frozen, `requires_grad` being False: training would change one form and not the other. Where a
    `Decoder` reads a prompt, activations are rounded to bfloat16 too, if the processor multiplies that faster.

    Parameters
    ----------
    model : GPT
        float32. `model.weights` says what it was rounded to.
    kind : {"float32", "bfloat16", "int8"}
        float32 changes nothing.

    Raises
    ------
    ValueError
        If `kind` is none of these, or is int8 and a weight is not finite.
    TypeError
        If the model is not float32.

    Examples
    --------
    >>> from tinygpt import GPT, GPTConfig
    >>> model = GPT(GPTConfig(vocab_size=11, n_positions=8, n_embd=4, n_layer=1, n_head=2))
    >>> quantize_model(model, "int8")
    >>> model.weights, model.wte.quantized.values.dtype
    ('int8', dtype('int8'))
    """
    check_kind("quantize_model", kind)
    if kind == "float32":
        return
    if model.wte.weight.dtype != np.float32:
        raise TypeError(f"quantize_model: the model must be float32, got {model.wte.weight.dtype}")
    layers = [model.wte]
    for block in model.h:
        layers += [block.attn.c_attn, block.attn.c_proj, block.mlp.c_fc, block.mlp.c_proj]
    places = _places(layers, np.uint16 if kind == "bfloat16" else np.int8)
    for layer, place in zip(layers, places, strict=True):
        layer.quantize(kind)
        np.copyto(place, layer.quantized.values)
        layer.quantized = layer.quantized._replace(values=place)
    for parameter in model.parameters():
        parameter.requires_grad = False


def _places(layers: list[Any], dtype: Any) -> list[np.ndarray]:
    """
    Memory for the layers' quantized weights, side by side in huge pages.

    A product reads a few columns of a weight at a time, and each row of these lies on another page of 4096 bytes: more
    pages than the processor keeps addresses of. Most weights are smaller than a huge page, so they share them.
    """
    bytes_of = [layer.weight.size * np.dtype(dtype).itemsize for layer in layers]
    starts = np.cumsum([0] + [-(-size // _LINE) * _LINE for size in bytes_of]).tolist()
    pages = new_pages(starts[-1])
    return [np.ndarray(layer.weight.shape, dtype, pages, start) for layer, start in zip(layers, starts, strict=False)]


def check_kind(who: str, kind: str) -> None:
    """Raise ValueError unless there is such a kind."""
    if kind not in KINDS:
        raise ValueError(f"{who}: weights must be one of {', '.join(KINDS)}, got {kind!r}")


def _blocks(weight: np.ndarray) -> list[slice]:
    """Some rows at a time."""
    step = max(1, _BLOCK // max(1, weight.shape[1]))
    return [slice(row, row + step) for row in range(0, len(weight), step)]

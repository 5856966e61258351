"""
Weights in fewer bits, for decoding: one token asks for every weight once, so that its time is that of reading them.

    float32     as they are
    bfloat16    the upper half of each float32, rounded: 2 bytes, off by up to 2^-9 of the number
    int8        q = round(w / scale), w ~ q * scale: 1 byte, off by up to scale / 2

int8 has one scale for each output channel, scale = max |w| / 127 over all that is summed for that output: so the scale
is taken out of the sum, y_o = scale_o * sum_i x_i q_io, and one large weight spoils its own channel only. An output of
a linear layer is a column of its (I, O) weight, a score of the head a row of the (V, C) table of embeddings.

Layer norms, biases and positions stay float32: they are a thousandth of what is read.

Source: symmetric quantization per channel, Wu et al. 2020, arXiv:2004.09602, sections 3 and 4.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from tinygpt.runtime import bfloat16

KINDS = ("float32", "bfloat16", "int8")
_BLOCK = 2**20  # numbers that are converted at a time: what conversion needs besides stays small
_NO_SCALE = np.empty(0, np.float32)


class Stored(NamedTuple):
    """
    A weight as decoding reads it.

    Attributes
    ----------
    numbers : ndarray
        float32, uint16 (the bits of bfloat16) or int8, in the weight's shape; float64 where the model is.
    scale : ndarray, float32
        One for each output channel; empty where the numbers are the weights themselves.
    """

    numbers: np.ndarray
    scale: np.ndarray = _NO_SCALE


def store(weight: np.ndarray, kind: str, outputs: int = 1) -> Stored:
    """
    A weight in the form that `kind` names.

    Parameters
    ----------
    weight : ndarray, float32, 2-D
    kind : {"float32", "bfloat16", "int8"}
    outputs : int
        The axis of the output channels: 1 of a linear layer's (I, O), 0 of the head's (V, C).

    Raises
    ------
    ValueError
        If `kind` is none of these, or int8 is to hold weights that are not finite.

    Examples
    --------
    >>> weight = np.array([[0.5, -8.0], [1.0, 0.1]], np.float32)
    >>> store(weight, "int8").numbers
    array([[  64, -127],
           [ 127,    2]], dtype=int8)
    >>> restored(store(weight, "bfloat16")).tolist()
    [[0.5, -8.0], [1.0, 0.10009765625]]
    """
    check_kind("store", kind)
    if kind == "float32":
        return Stored(weight)
    if kind == "bfloat16":
        numbers = np.empty(weight.shape, np.uint16)
        for rows in _blocks(weight):
            numbers[rows] = bfloat16.to_bfloat16(weight[rows])
        return Stored(numbers)
    largest = np.maximum(weight.max(axis=1 - outputs), -weight.min(axis=1 - outputs))
    if not np.isfinite(largest).all():
        raise ValueError(
            "int8: the weights must be finite, got NaN or infinity: training of this model diverged, or its file is "
            "damaged; train again with a lower --lr, or use another checkpoint"
        )
    scale = np.where(largest > 0, largest / np.float32(127), np.float32(1))
    numbers = np.empty(weight.shape, np.int8)
    for rows in _blocks(weight):
        numbers[rows] = np.rint(weight[rows] / (scale if outputs else scale[rows, None]))
    return Stored(numbers, scale)


def restored(stored: Stored, outputs: int = 1) -> np.ndarray:
    """The weight that `stored` stands for: float32, or as it was where nothing was rounded."""
    numbers, scale = stored
    if numbers.dtype == np.uint16:
        return bfloat16.to_float32(numbers)
    if not scale.size:
        return numbers
    return numbers * (scale if outputs else scale[:, None])


def round_weights(model: Any, kind: str) -> None:
    """
    Replace a model's matrices by what `kind` can hold, and keep them in that form too, for decoding.

    Whatever the model computes from then on, perplexity for one, is computed with the rounded weights. They are
    frozen, `requires_grad` being False: training would leave the stored ones behind.

    Parameters
    ----------
    model : GPT
        Its `weights` becomes `kind`, and its `stored` the weights by name.
    kind : {"float32", "bfloat16", "int8"}

    Examples
    --------
    >>> from tinygpt import GPT, GPTConfig
    >>> model = GPT(GPTConfig(vocab_size=11, n_positions=8, n_embd=4, n_layer=1, n_head=2))
    >>> round_weights(model, "int8")
    >>> model.stored["wte.weight"].numbers.dtype
    dtype('int8')
    """
    check_kind("round_weights", kind)
    if kind == "float32":
        return
    parameters = dict(model.named_parameters())
    if model.wte.weight.dtype != np.float32:
        raise TypeError(f"round_weights: the model must be float32, got {model.wte.weight.dtype}")
    for name, parameter in parameters.items():
        if parameter.ndim == 2 and name != "wpe.weight":
            outputs = 0 if name == "wte.weight" else 1
            stored = model.stored[name] = store(parameter.data, kind, outputs)
            for rows in _blocks(parameter.data):
                part = stored._replace(numbers=stored.numbers[rows])
                if stored.scale.size and not outputs:
                    part = part._replace(scale=stored.scale[rows])
                parameter.data[rows] = restored(part, outputs)
    for parameter in parameters.values():
        parameter.requires_grad = False
    model.weights = kind


def check_kind(who: str, kind: str) -> None:
    """Raise ValueError unless there is such a form."""
    if kind not in KINDS:
        raise ValueError(f"{who}: weights must be one of {', '.join(KINDS)}, got {kind!r}")


def _blocks(weight: np.ndarray) -> list[slice]:
    """Some rows at a time."""
    step = max(1, _BLOCK // max(1, weight.shape[1]))
    return [slice(row, row + step) for row in range(0, len(weight), step)]

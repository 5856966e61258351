"""
Weights in fewer bits, for generation. One token reads every weight once, and takes as long as reading them takes. Many
tokens at once, a prompt, take as long as their products, and processors multiply numbers in fewer bits faster.

    float32     as they are
    bfloat16    the upper half of each float32, rounded: 2 bytes, an error of up to 2^-9 of the number
    int8        q = round(w / scale), w ~ q * scale: 1 byte, an error of up to scale / 2
    int4        the same with q from -8 to 7: half a byte, and 2 bytes of scale for 32 weights

int8 has one scale per output channel, scale = max |w| / 127 over everything that is summed for that output. So the
scale can be taken out of the sum, y_o = scale_o * sum_i x_i q_io, and one large weight affects its own channel only.
The output channels are the columns of a linear layer's (I, O) weight, and the rows of the (V, C) table of embeddings,
which is the head.

With 16 steps that is too coarse: int4 has one scale for each group of 32 weights that are summed for one output. The
scale is the best, by the squared error, for q where the weight of largest magnitude is -8 or near it (`_STEPS`). It is
a bfloat16, so that a weight takes 4.5 bits. Eight q of consecutive inputs, each raised by 8, lie in a uint32,

    bits     0-3  4-7  8-11  12-15     16-19  20-23  24-27  28-31
    input     0    2     4     6         1      3      5      7

which in four shifts become four pairs of int16, as kernels/simd/gemv.py multiplies them. The inputs are filled up with
zeros to whole groups. In the same way one token reads the int8 of a linear layer, from `words`: four q of consecutive
inputs in an int32, as input 0, 2, 1, 3 from the lowest byte on, and zeros up to a multiple of eight inputs. A prompt
reads `values`, so a layer has both.

Layer norms, biases and positions stay float32: they are a thousandth of what is read.

What multiplies these weights depends on how many tokens come at once:

    one token of each text    bfloat16 is converted to float32. With int8 and int4 the activations are rounded to whole
                              numbers of 15 bits or a few less, whose sums are exact: kernels/matvec.py. So is the
                              head after a prompt, of whose tokens it reads the last
    a prompt                  the activations are rounded to bfloat16 as well, each by up to 2^-9 of itself, where the
                              processor multiplies bfloat16; sums are float32: kernels/prompt.py. Instead of int4 it
                              reads what that stands for, in float32, and rounds it there, too
    anything else             float32, with the rounded weights: training, scoring, the NumPy implementation, and a
                              `Decoder` of a model with a part of the user's own

Three functions quantize:

    quantize             an array: it stays as it is, and its quantized form is returned
    quantize_in_place    a layer's weight, which becomes what that form stands for. The layer holds the form itself:
                         `nn.Linear.quantize` calls it and sets `nn.Linear.quantized`; so does `nn.Embedding`
    quantize_model       all matrices of a GPT-2, by their layers' `quantize`

Source: symmetric quantization per channel, Wu et al. 2020, arXiv:2004.09602, sections 3 and 4; in groups of 32 with
        -8 for the largest, the format Q4_0 of ggml.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from tinygpt.autograd import Tensor
from tinygpt.runtime import bfloat16
from tinygpt.runtime.pages import new_pages

KINDS = ("float32", "bfloat16", "int8", "int4")
_BETTER = np.float32(1 + 1e-6)  # how much a later candidate must gain: it would gain roundings else
GROUP = 32  # weights that have a scale in common, int4
PACKED = 8  # int4 in a uint32
PACKED_INT8 = 4  # int8 in an int32
INPUTS_OF_WORDS = 8  # inputs of int8 are filled up to a multiple of these: a kernel reads two words at a time
_STEPS = (8.0, 8.5, 7.0)  # candidates: how many steps of the scale the weight of largest magnitude is from 0
_BLOCK = 2**20  # numbers converted at a time, so that temporaries stay small
_SMALL_BLOCK = 2**17  # the same where there are several temporaries, which then stay in a cache
_LINE = 64  # bytes of a cache line
_SMALLEST = np.finfo(np.float32).tiny  # of numbers with all 24 bits
NO_SCALE, _NO_WORDS = np.empty(0, np.float32), np.empty((0, 0), np.int32)


class QuantizedWeight(NamedTuple):
    """
    A weight in fewer bits.

    Attributes
    ----------
    values : ndarray
        int8, uint16 (the bits of bfloat16), or the weight itself where it is not quantized; in the weight's shape. Of
        int4 uint32, (4 G, O): eight of the inputs that are summed, of one of O outputs, in G groups of 32.
    scale : ndarray
        float32, one per output channel; of int4 uint16, the bits of bfloat16, (G, O); empty where `values` are the
        weights themselves.
    axis : int
        The axis of the output channels in the weight. That of int4's `values` is always 1.
    inputs : int
        int4: how many inputs are summed for an output; the last group may have more. Else 0.
    words : ndarray
        int32, (2 ceil(I / 8), O): `words_of` the values of int8 with axis 1; else empty. Change both, or neither.
    """

    values: np.ndarray
    scale: np.ndarray = NO_SCALE
    axis: int = 1
    inputs: int = 0
    words: np.ndarray = _NO_WORDS

    @property
    def kind(self) -> str:
        """Which of `KINDS` it is."""
        return {"uint16": "bfloat16", "int8": "int8", "uint32": "int4"}.get(self.values.dtype.name, "float32")

    @property
    def shape(self) -> tuple[int, ...]:
        """The weight's."""
        if self.kind != "int4":
            return self.values.shape
        outputs = self.values.shape[1]
        return (self.inputs, outputs) if self.axis else (outputs, self.inputs)

    @property
    def nbytes(self) -> int:
        """Bytes of the values and the scales: about what a token reads, for `words` have as many as the values."""
        return self.values.nbytes + self.scale.nbytes


def quantize(weight: np.ndarray, kind: str, axis: int = 1) -> QuantizedWeight:
    """
    Round a weight to the nearest that `kind` can hold.

    Parameters
    ----------
    weight : ndarray, float32, 2-D
    kind : {"float32", "bfloat16", "int8", "int4"}
    axis : int
        The axis of the output channels: 1 for a linear layer's (I, O), 0 for the head's (V, C).

    Returns
    -------
    QuantizedWeight
        For float32, `weight` itself.

    Raises
    ------
    ValueError
        If `kind` is none of these, or is int8 or int4 and a weight is not finite.

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
            f"{kind}: the weights must be finite, got NaN or infinity: training of this model diverged, or its file is "
            "damaged; train again with a lower --lr, or use another checkpoint"
        )
    if kind == "int4":
        return _quantize_int4(weight, axis)
    scale = largest / np.float32(127)
    scale = np.where(scale >= _SMALLEST, scale, np.float32(1))  # a smaller one is not exact: such a channel is 0
    values = np.empty(weight.shape, np.int8)
    for rows in _blocks(weight):
        values[rows] = np.rint(weight[rows] / (scale if axis else scale[rows, None]))
    return QuantizedWeight(values, scale, axis, words=words_of(values) if axis else _NO_WORDS)


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
    values, scale, axis, *_ = quantized
    if out is None:
        if quantized.kind == "float32":
            return values
        out = np.empty(quantized.shape, np.float32)
    if quantized.kind == "int4":
        _dequantize_int4(quantized, out if axis else out.T)
        return out
    for rows in _blocks(values):
        if quantized.kind == "bfloat16":
            out[rows] = bfloat16.to_float32(values[rows])
        elif quantized.kind == "int8":
            np.multiply(values[rows], scale if axis else scale[rows, None], out=out[rows])
        else:
            out[rows] = values[rows]
    return out


def words_of(values: np.ndarray) -> np.ndarray:
    """
    Four of consecutive inputs in one.

    Parameters
    ----------
    values : ndarray, int8, (I, O)

    Returns
    -------
    ndarray, int32, (2 ceil(I / 8), O)

    Examples
    --------
    >>> [[hex(word)] for [word] in words_of(np.array([[1], [2], [3], [4]], np.int8)).tolist()]
    [['0x4020301'], ['0x0']]
    """
    inputs, outputs = values.shape
    words = np.zeros((-(-inputs // INPUTS_OF_WORDS) * INPUTS_OF_WORDS // PACKED_INT8, outputs), "<i4")
    in_bytes = words.view(np.int8).reshape(*words.shape, PACKED_INT8)
    for i, place in enumerate((0, 2, 1, 3)):
        in_bytes[: len(values[i::PACKED_INT8]), :, place] = values[i::PACKED_INT8]
    return words


def _quantize_int4(weight: np.ndarray, axis: int) -> QuantizedWeight:
    inputs, outputs = weight.shape if axis else weight.shape[::-1]
    groups = -(-inputs // GROUP)
    values = np.empty((groups * GROUP // PACKED, outputs), np.uint32)
    scale = np.empty((groups, outputs), np.uint16)
    step = max(1, _SMALL_BLOCK // (GROUP * max(1, outputs)))
    for first in range(0, groups, step):
        rows = (weight if axis else weight.T)[first * GROUP : (first + step) * GROUP]
        w = np.zeros((min(step, groups - first), GROUP, outputs), np.float32)
        w.reshape(-1, outputs)[: len(rows)] = rows
        q, scale[first : first + step] = _nearest_int4(w)
        values[first * GROUP // PACKED :][: q.size // (PACKED * outputs)] = _pack(q.reshape(-1, PACKED, outputs))
    return QuantizedWeight(values, scale, axis, inputs)


def _nearest_int4(w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """
    w (G, 32, O) as q from -8 to 7, and the bits of the scale of each group, (G, O).

    For given q, sum (w - q scale)^2 is least at scale = sum w q / sum q^2, where it is sum w^2 - (sum w q)^2 / sum q^2.
    """
    lowest, highest = w.min(axis=1), w.max(axis=1)
    extreme = np.where(-lowest > highest, lowest, highest)  # (G, O)
    extreme[np.abs(extreme) < 16 * _SMALLEST] = np.inf  # a smaller scale is not exact: all q of such a group are 0
    best, most = np.zeros_like(extreme), np.zeros_like(extreme)
    for steps in _STEPS:
        q = _steps_of(w, extreme / np.float32(-steps))
        products, squares = np.einsum("gio,gio->go", w, q), np.maximum(np.einsum("gio,gio->go", q, q), 1)
        scale = products / squares
        better = products * scale > most * _BETTER
        np.copyto(best, scale, where=better)
        np.copyto(most, products * scale, where=better)
    bits = bfloat16.to_bfloat16(best)
    scale = bfloat16.to_float32(bits)
    return _steps_of(w, np.where(scale == 0, np.float32(np.inf), scale)), bits


def _steps_of(w: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """w (G, 32, O) as the nearest whole numbers of steps from -8 to 7; all 0 where the scale (G, O) is infinite."""
    return np.clip(np.rint(w * (1 / scale)[:, None]), -8, 7)


def _pack(q: np.ndarray) -> np.ndarray:
    """q (N, 8, O), whole numbers from -8 to 7, as words (N, O)."""
    words = np.zeros((len(q), q.shape[2]), np.uint32)
    for i in range(PACKED):
        words |= (q[:, i] + 8).astype(np.uint32) << np.uint32(_shift(i))
    return words


def _shift(i: int) -> int:
    """Where in a word the i-th of its inputs lies."""
    return 4 * (i // 2) + 16 * (i % 2)


def _dequantize_int4(quantized: QuantizedWeight, out: np.ndarray) -> None:
    """Into out (I, O)."""
    values, scale, inputs = quantized.values, bfloat16.to_float32(quantized.scale), quantized.inputs
    for i in range(PACKED):
        q = (values[: -(-(inputs - i) // PACKED)] >> np.uint32(_shift(i)) & np.uint32(15)).astype(np.float32) - 8
        out[i::PACKED] = q * np.repeat(scale, GROUP // PACKED, axis=0)[: len(q)]


def quantize_in_place(weight: Tensor, kind: str, axis: int) -> QuantizedWeight | None:
    """
    Round a layer's weight to what `kind` can hold, and freeze it.

    Parameters
    ----------
    weight : Tensor, float32, 2-D
    kind : {"float32", "bfloat16", "int8", "int4"}
    axis : int
        The axis of the output channels.

    Returns
    -------
    QuantizedWeight or None
        What it was rounded to; None for float32, which changes nothing.

    Raises
    ------
    TypeError, ValueError
        If the weight is not float32, or is not finite and `kind` is int8 or int4.
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
    int8 takes two more bytes per weight of a linear layer, the others what their bits say: it saves time, not memory.
    All parameters are frozen, `requires_grad` being False: training would change one form and not the other. Where a
    `Decoder` reads a prompt, activations are rounded to bfloat16 too, if the processor multiplies that faster.

    Parameters
    ----------
    model : GPT
        float32. `model.weights` says what it was rounded to.
    kind : {"float32", "bfloat16", "int8", "int4"}
        float32 changes nothing.

    Raises
    ------
    ValueError
        If `kind` is none of these, or is int8 or int4 and a weight is not finite.
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
    for layer in layers:
        layer.quantize(kind)
    for part in ("values", "words") if kind == "int8" else ("values",):
        for layer, array in zip(
            layers, _side_by_side([getattr(layer.quantized, part) for layer in layers]), strict=True
        ):
            layer.quantized = layer.quantized._replace(**{part: array})
    for parameter in model.parameters():
        parameter.requires_grad = False


def _side_by_side(arrays: list[np.ndarray]) -> list[np.ndarray]:
    """
    Copies of arrays, side by side in huge pages.

    With several rows of activations a product reads a few columns of a weight at a time, and each row of these lies on
    another page of 4096 bytes: more pages than the processor keeps addresses of. Most weights are smaller than a huge
    page, so they share them.
    """
    starts = np.cumsum([0] + [-(-array.nbytes // _LINE) * _LINE for array in arrays]).tolist()
    pages = new_pages(starts[-1])
    copies = [np.ndarray(array.shape, array.dtype, pages, start) for array, start in zip(arrays, starts, strict=False)]
    for copy, array in zip(copies, arrays, strict=True):
        np.copyto(copy, array)
    return copies


def check_kind(who: str, kind: str) -> None:
    """Raise ValueError unless there is such a kind."""
    if kind not in KINDS:
        raise ValueError(f"{who}: weights must be one of {', '.join(KINDS)}, got {kind!r}")


def _blocks(weight: np.ndarray) -> list[slice]:
    """Some rows at a time."""
    step = max(1, _BLOCK // max(1, weight.shape[1]))
    return [slice(row, row + step) for row in range(0, len(weight), step)]

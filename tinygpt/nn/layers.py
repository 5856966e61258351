"""The four layers that GPT-2 is built from: linear, embedding, layer normalization, dropout."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygpt.autograd import Tensor
from tinygpt.nn.module import Module, Parameter
from tinygpt.ops.dropout import dropout
from tinygpt.ops.embedding import embedding
from tinygpt.ops.layernorm import layernorm
from tinygpt.ops.linear import linear
from tinygpt.quantization import QuantizedWeight, round_in_place
from tinygpt.runtime.scope import Block, Setting


def normal(rng: np.random.Generator, shape: tuple[int, ...], std: float, dtype: Any = np.float32) -> np.ndarray:
    """Numbers from a normal distribution of mean 0."""
    array = rng.standard_normal(shape, dtype=dtype)
    array *= std
    return array


class Linear(Module):
    """
    A linear layer: ``x @ weight + bias``.

    Parameters
    ----------
    inputs, outputs : int
        I and O, the sizes of the last axis before and after.
    rng : np.random.Generator
        The source of the initial weights.
    std : float
        Standard deviation of the initial weights.
    dtype : float32 or float64

    Attributes
    ----------
    weight : Parameter, shape (I, O)
        Drawn from N(0, std^2).
    bias : Parameter, shape (O,)
        Zeros at first.
    quantized : QuantizedWeight or None
        The weight in fewer bits, after `quantize`.

    Examples
    --------
    >>> Linear(2, 3, np.random.default_rng(0))(Tensor(np.ones((5, 2), np.float32))).shape
    (5, 3)
    """

    quantized: QuantizedWeight | None = None

    def __init__(self, inputs: int, outputs: int, rng: np.random.Generator, std: float = 0.02, dtype: Any = np.float32):
        self.weight = Parameter(normal(rng, (inputs, outputs), std, dtype))
        self.bias = Parameter(np.zeros(outputs, dtype))

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)

    def quantize(self, kind: str) -> None:
        """
        Round the weight to what `kind` can hold, keep it in that form in `quantized`, and freeze it.

        Parameters
        ----------
        kind : {"float32", "bfloat16", "int8"}
            int8 has one scale per column of the weight, which is one per output. float32 changes nothing.

        Raises
        ------
        TypeError, ValueError
            If the weight is not float32, or is not finite and `kind` is int8.

        Examples
        --------
        >>> layer = Linear(2, 3, np.random.default_rng(0))
        >>> layer.quantize("int8")
        >>> layer.quantized.values.dtype, layer.quantized.scale.shape
        (dtype('int8'), (3,))
        """
        self.quantized = round_in_place(self.weight, kind, axis=1)


class Embedding(Module):
    """
    A lookup table: one row of features per id.

    Parameters
    ----------
    count, size : int
        How many rows, and the features of each.
    rng : np.random.Generator
        The source of the initial weights.
    std : float
        Standard deviation of the initial weights.
    dtype : float32 or float64

    Attributes
    ----------
    weight : Parameter, shape (count, size)
        Drawn from N(0, std^2).
    quantized : QuantizedWeight or None
        The table in fewer bits, after `quantize`.

    Examples
    --------
    >>> Embedding(10, 3, np.random.default_rng(0))([[1, 2]]).shape
    (1, 2, 3)
    """

    quantized: QuantizedWeight | None = None

    def __init__(self, count: int, size: int, rng: np.random.Generator, std: float = 0.02, dtype: Any = np.float32):
        self.weight = Parameter(normal(rng, (count, size), std, dtype))

    def forward(self, ids: Any) -> Tensor:
        return embedding(ids, self.weight)

    def quantize(self, kind: str) -> None:
        """As `Linear.quantize`. int8 has one scale per row: a row is an output of a head that shares the table."""
        self.quantized = round_in_place(self.weight, kind, axis=0)


class LayerNorm(Module):
    """
    Layer normalization over the last axis, of `size` features; starts as the plain normalization.

    Examples
    --------
    >>> LayerNorm(3)(Tensor([[1.0, 2.0, 3.0]])).data.round(3)
    array([[-1.225,  0.   ,  1.225]], dtype=float32)
    """

    def __init__(self, size: int, eps: float = 1e-5, dtype: Any = np.float32):
        self.weight = Parameter(np.ones(size, dtype))
        self.bias = Parameter(np.zeros(size, dtype))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return layernorm(x, self.weight, self.bias, self.eps)


_dropping = Setting("dropping", True)


class no_dropout(Block):
    """
    Dropout off inside the block, or inside the decorated function, whatever the modules' `training` flags say.

    It holds for this thread alone, and changes no module: several threads may generate with one model.

    Examples
    --------
    >>> layer = Dropout(0.5, np.random.default_rng(0))
    >>> with no_dropout():
    ...     layer(Tensor([1.0, 2.0]))
    Tensor([1., 2.], dtype=float32)
    """

    def __init__(self) -> None:
        super().__init__(_dropping, False)


class Dropout(Module):
    """
    Dropout: in training, sets each value to zero with probability `p` and divides the others by 1 - p.

    Parameters
    ----------
    p : float
        In [0, 1).
    generator : np.random.Generator
        The source of the masks: one seed is drawn per call.

    Examples
    --------
    >>> Dropout(0.5, np.random.default_rng(0)).eval()(Tensor([1.0, 2.0]))
    Tensor([1., 2.], dtype=float32)
    """

    def __init__(self, p: float, generator: np.random.Generator):
        self.p, self.generator = p, generator

    def seed(self) -> int | None:
        """The seed of the next mask, or None where nothing is dropped."""
        return int(self.generator.integers(2**63)) if self.training and self.p and _dropping.get() else None

    def forward(self, x: Tensor) -> Tensor:
        seed = self.seed()
        return x if seed is None else dropout(x, self.p, seed)

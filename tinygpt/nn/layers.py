"""
The layers that GPT-2 is built from: linear, embedding, layer normalization, dropout; and two that only pass values on.

Layers that are given no generator draw from that of the process: see `tinygpt.manual_seed`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygpt.autograd import Tensor
from tinygpt.nn.initial import (
    check_dtype,
    check_generator,
    check_number,
    check_size,
    generator_or_default,
    normal,
    uniform,
)
from tinygpt.nn.module import Module, Parameter
from tinygpt.ops.dropout import check_dropout, dropout
from tinygpt.ops.embedding import embedding
from tinygpt.ops.layernorm import layernorm
from tinygpt.ops.linear import linear
from tinygpt.ops.shapes import flatten
from tinygpt.quantization import QuantizedWeight, quantize_in_place
from tinygpt.runtime.aliases import aliases
from tinygpt.runtime.capture import current_recorder
from tinygpt.runtime.default_generator import default_generator
from tinygpt.runtime.scope import Block, Setting


class Linear(Module):
    """
    A linear layer: ``x @ weight + bias``.

    Parameters
    ----------
    in_features, out_features : int
        I and O, the sizes of the last axis before and after.
    generator : np.random.Generator, optional
        The source of the initial values.
    std : float, optional
        Standard deviation of the initial weights. Without it they start as PyTorch's.
    dtype : float32 or float64
    bias : bool
        Whether there is a bias.

    Attributes
    ----------
    weight : Parameter, shape (I, O)
        Drawn from the uniform distribution between -1/sqrt(I) and 1/sqrt(I), or with `std` from N(0, std^2).
    bias : Parameter, shape (O,), or None
        Drawn as the weight; with `std`, zeros at first.
    quantized : QuantizedWeight or None
        The weight in fewer bits, after `quantize`.

    Raises
    ------
    TypeError, ValueError
        If a size is not an integer of at least 1, or the generator or the dtype is another.

    Examples
    --------
    >>> Linear(2, 3)(Tensor(np.ones((5, 2), np.float32))).shape
    (5, 3)
    """

    quantized: QuantizedWeight | None = None

    @aliases()
    def __init__(
        self,
        in_features: int,
        out_features: int,
        generator: np.random.Generator | None = None,
        std: float | None = None,
        dtype: Any = np.float32,
        bias: bool = True,
    ):
        self.in_features = check_size("Linear: in_features", in_features)
        self.out_features = check_size("Linear: out_features", out_features)
        check_dtype("Linear", dtype)
        check_number("Linear: std", 0.0 if std is None else std)
        rng, bound = generator_or_default("Linear", generator), self.in_features**-0.5
        shape = (self.in_features, self.out_features)
        self.weight = Parameter(uniform(rng, shape, bound, dtype) if std is None else normal(rng, shape, std, dtype))
        initial_bias = uniform(rng, shape[1:], bound, dtype) if std is None and bias else np.zeros(shape[1], dtype)
        self.bias = Parameter(initial_bias) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)

    def quantize(self, kind: str) -> None:
        """
        Round the weight to what `kind` can hold, keep it in that form in `quantized`, and freeze it.

        A `Decoder` reads the weight in that form. All others read the rounded weight in float32.

        Parameters
        ----------
        kind : {"float32", "bfloat16", "int8", "int4"}
            int8 has one scale per column of the weight, which is one per output; int4 one for each 32 inputs of an
            output. float32 changes nothing.

        Raises
        ------
        TypeError, ValueError
            If the weight is not float32, or is not finite and `kind` is int8 or int4.

        Examples
        --------
        >>> layer = Linear(2, 3, np.random.default_rng(0))
        >>> layer.quantize("int8")
        >>> layer.quantized.values.dtype, layer.quantized.scale.shape
        (dtype('int8'), (3,))
        """
        self.quantized = quantize_in_place(self.weight, kind, axis=1)


class Embedding(Module):
    """
    A lookup table: one row of features per id.

    Parameters
    ----------
    num_embeddings, embedding_dim : int
        How many rows, and the features of each.
    generator : np.random.Generator, optional
        The source of the initial weights.
    std : float
        Standard deviation of the initial weights.
    dtype : float32 or float64

    Attributes
    ----------
    weight : Parameter, shape (num_embeddings, embedding_dim)
        Drawn from N(0, std^2).
    quantized : QuantizedWeight or None
        The table in fewer bits, after `quantize`.

    Raises
    ------
    TypeError, ValueError
        If a size is not an integer of at least 1, or the generator or the dtype is another. In `forward`, if the weight
        was set to that of a `Linear`, which is (inputs, outputs).

    Examples
    --------
    >>> Embedding(10, 3)([[1, 2]]).shape
    (1, 2, 3)
    """

    quantized: QuantizedWeight | None = None

    @aliases()
    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        generator: np.random.Generator | None = None,
        std: float = 1.0,
        dtype: Any = np.float32,
    ):
        self.num_embeddings = check_size("Embedding: num_embeddings", num_embeddings)
        self.embedding_dim = check_size("Embedding: embedding_dim", embedding_dim)
        check_dtype("Embedding", dtype)
        check_number("Embedding: std", std)
        rng = generator_or_default("Embedding", generator)
        self.weight = Parameter(normal(rng, (self.num_embeddings, self.embedding_dim), std, dtype))

    def forward(self, ids: Any) -> Tensor:
        shape, found = (self.num_embeddings, self.embedding_dim), self.weight.shape
        if found != shape and found == shape[::-1]:
            raise ValueError(f"Embedding: weight must have the shape {shape}, got {found}; a head that shares it "
                             "is F.linear(x, embedding.weight.T)")  # fmt: skip
        return embedding(ids, self.weight)

    def quantize(self, kind: str) -> None:
        """As `Linear.quantize`. int8 has one scale per row: a row is an output of a head that shares the table."""
        self.quantized = quantize_in_place(self.weight, kind, axis=0)


class LayerNorm(Module):
    """
    Layer normalization over the last axis; starts as the plain normalization.

    Parameters
    ----------
    normalized_shape : int or tuple of one int
        C, the size of the last axis.
    eps : float
        Added to the variance.
    dtype : float32 or float64

    Attributes
    ----------
    weight, bias : Parameter, shape (C,)
        Ones and zeros at first.

    Raises
    ------
    TypeError, ValueError
        If `normalized_shape` is not one integer of at least 1.

    Examples
    --------
    >>> LayerNorm(3)(Tensor([[1.0, 2.0, 3.0]])).data.round(3)
    array([[-1.225,  0.   ,  1.225]], dtype=float32)
    """

    @aliases()
    def __init__(self, normalized_shape: int | tuple[int, ...], eps: float = 1e-5, dtype: Any = np.float32):
        shape = normalized_shape if isinstance(normalized_shape, (tuple, list)) else (normalized_shape,)
        if len(shape) != 1:
            raise ValueError(f"LayerNorm: normalized_shape must be the size of the last axis alone, got {shape}; "
                             "reshape the input so that these axes are one")  # fmt: skip
        self.normalized_shape = (check_size("LayerNorm: normalized_shape", shape[0]),)
        check_dtype("LayerNorm", dtype)
        check_number("LayerNorm: eps", eps)
        self.weight = Parameter(np.ones(self.normalized_shape, dtype))
        self.bias = Parameter(np.zeros(self.normalized_shape, dtype))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return layernorm(x, self.weight, self.bias, self.eps)


class Flatten(Module):
    """
    The axes from `start_dim` to `end_dim` as one; by default all but the first, that of the batch.

    Examples
    --------
    >>> Flatten()(Tensor(np.zeros((5, 2, 3), np.float32))).shape
    (5, 6)
    """

    def __init__(self, start_dim: int = 1, end_dim: int = -1):
        self.start_dim, self.end_dim = start_dim, end_dim

    def forward(self, x: Tensor) -> Tensor:
        return flatten(x, self.start_dim, self.end_dim)

    def extra_repr(self) -> str:
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"


class Identity(Module):
    """
    Its input. In place of a module that is left out; takes any arguments.

    Examples
    --------
    >>> Identity(54)(Tensor([1.0]))
    Tensor([1.], dtype=float32)
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def forward(self, x: Any) -> Any:
        return x


_dropping = Setting("dropping", True)


def dropout_is_on() -> bool:
    """Whether this is outside of every `no_dropout` block."""
    return bool(_dropping.get())


class no_dropout(Block):
    """
    Dropout off inside the block, or inside the decorated function, whatever the modules' `training` flags say.

    It holds for this thread alone, and changes no module: several threads may generate with one model.

    Examples
    --------
    >>> layer = Dropout(0.5)
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
    generator : np.random.Generator, optional
        The source of the masks: one seed is drawn per call.

    Raises
    ------
    TypeError, ValueError
        If `p` is out of range, or the generator is none of NumPy's.

    Examples
    --------
    >>> Dropout(0.5).eval()(Tensor([1.0, 2.0]))
    Tensor([1., 2.], dtype=float32)
    """

    @aliases()
    def __init__(self, p: float = 0.5, generator: np.random.Generator | None = None):
        check_dropout("Dropout", p, seed=0)
        check_generator("Dropout", generator)
        self.p, self.generator = p, generator

    def seed(self) -> int | None:
        """The seed of the next mask, or None where nothing is dropped."""
        if not (self.training and self.p and _dropping.get()):
            return None
        generator = default_generator() if self.generator is None else self.generator
        seed = int(generator.integers(2**63))
        if (recorder := current_recorder()) is not None:
            recorder.drew(generator, seed)
        return seed

    def forward(self, x: Tensor) -> Tensor:
        seed = self.seed()
        return x if seed is None else dropout(x, self.p, seed)

    def extra_repr(self) -> str:
        return f"p={self.p}"

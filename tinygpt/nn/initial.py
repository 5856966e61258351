"""The initial values of parameters, and the checks of a layer's arguments."""

from __future__ import annotations

import math
from contextlib import suppress
from numbers import Real
from typing import Any

import numpy as np

from tinygpt.runtime.default_generator import default_generator
from tinygpt.runtime.whole_number import whole_number


def normal(generator: np.random.Generator, shape: tuple[int, ...], std: float, dtype: Any) -> np.ndarray:
    """Numbers from a normal distribution of mean 0."""
    array = generator.standard_normal(shape, dtype=dtype)
    array *= std
    return array


def uniform(generator: np.random.Generator, shape: tuple[int, ...], bound: float, dtype: Any) -> np.ndarray:
    """Numbers from the uniform distribution between -bound and bound."""
    array = generator.random(shape, dtype=dtype)
    array *= 2 * bound
    array -= bound
    return array


def check_size(who: str, size: Any) -> int:
    """`size` as Python's integer, or an error unless it is an integer of at least 1."""
    size = whole_number(who, size)
    if size < 1:
        raise ValueError(f"{who} must be at least 1, got {size}")
    return size


def check_dtype(who: str, dtype: Any) -> None:
    """Raise TypeError unless `dtype` is float32 or float64."""
    with suppress(TypeError):  # what NumPy does not know, such as torch.float32, stays as it is
        dtype = np.dtype(dtype)
    if dtype not in (np.float32, np.float64):
        raise TypeError(f"{who}: dtype must be float32 or float64, got {dtype}; write dtype=np.float32")


def check_number(who: str, number: Any) -> None:
    """Raise ValueError unless `number` is a finite one of at least 0."""
    if not (isinstance(number, Real) and 0 <= float(number) < math.inf):
        raise ValueError(f"{who} must be a finite number of at least 0, got {number!r}")


def check_generator(who: str, generator: Any) -> None:
    """Raise TypeError unless `generator` is a generator of NumPy, or None."""
    if generator is not None and not isinstance(generator, np.random.Generator):
        raise TypeError(
            f"{who}: generator must be a np.random.Generator, got {generator!r}; write np.random.default_rng(seed), "
            "and other options by name, such as bias=False"
        )


def generator_or_default(who: str, generator: Any) -> np.random.Generator:
    """The generator, or that of the process where it is None."""
    check_generator(who, generator)
    return default_generator() if generator is None else generator

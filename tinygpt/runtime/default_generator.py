"""The random numbers of layers that were given no generator of their own: one generator for the whole process."""

from __future__ import annotations

import numpy as np

from tinygpt.runtime.seeds import check_seed
from tinygpt.runtime.whole_number import whole_number

DEFAULT_SEED = 1337
_generator = np.random.default_rng(DEFAULT_SEED)


def default_generator() -> np.random.Generator:
    """The generator of this process. Its seed is 1337, so that every run of a program draws the same numbers."""
    return _generator


def manual_seed(seed: int) -> np.random.Generator:
    """
    Start the default generator anew.

    Initial weights of `nn.Linear` and `nn.Embedding` and the masks of `nn.Dropout` come from it, unless they were given
    a generator. `GPT` has a seed of its own, and so has text generation.

    Parameters
    ----------
    seed : int
        At least 0. Until this function is called, it is 1337.

    Returns
    -------
    np.random.Generator

    Raises
    ------
    TypeError, ValueError
        If the seed is not an integer, or is negative.

    Examples
    --------
    >>> from tinygpt import manual_seed
    >>> from tinygpt.nn import Linear
    >>> first, second = (Linear(2, 3, generator=manual_seed(0)) for _ in range(2))
    >>> (first.weight.data == second.weight.data).all()
    np.True_
    """
    seed = whole_number("manual_seed: seed", seed)
    check_seed("manual_seed", seed)
    _generator.bit_generator.state = np.random.default_rng(seed).bit_generator.state  # in place: others may hold it
    return _generator

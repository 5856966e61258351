"""
Who owns a gradient's memory.

While backward runs, most gradients pass through unchanged: the sum of a residual connection hands the same array to
both of its branches. Copying it for each would double the memory traffic of a training step, and writing into it for
one would corrupt the other. So a gradient travels in a *cell*, the array together with a count of who holds it:

    one holder     the next gradient is added in place, nothing is allocated
    more holders   the sum goes into a new array, once, and the others keep what they had
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


class Holders:
    """How many cells use one block of memory. Views of an array share their base's count."""

    __slots__ = ("count",)

    def __init__(self, count: int = 0) -> None:
        self.count = count


@dataclass(slots=True)
class GradientCell:
    """A gradient on its way: its array, and the count of holders of the array's memory."""

    array: np.ndarray
    holders: Holders

    def hold(self) -> GradientCell:
        """Count one more holder."""
        self.holders.count += 1
        return self

    def release(self) -> None:
        """Count one holder less."""
        self.holders.count -= 1

    @property
    def exclusive(self) -> bool:
        """True where nobody else would notice a write, and no two elements share a place, as broadcast ones do."""
        own_places = all(stride or size == 1 for size, stride in zip(self.array.shape, self.array.strides, strict=True))
        return self.holders.count == 1 and own_places and self.array.flags.writeable

    def add(self, other: np.ndarray) -> None:
        """Accumulate `other`: in place when this cell is the only holder, else into a new array."""
        if self.exclusive:
            self.array += other
        else:
            self.release()
            self.array = self.array + other
            self.holders = Holders(1)

    def take(self) -> np.ndarray:
        """The array itself if nobody else holds it, else a copy: what becomes a leaf's `grad`."""
        base = self.array.base
        whole = base is None or getattr(base, "nbytes", None) == self.array.nbytes  # a part keeps the rest alive
        return self.array if whole and self.exclusive else np.array(self.array)


class Slot(NamedTuple):
    """
    Memory that waits for a gradient, and what is in it now.

    `add=True`: it holds a gradient already, add to it. `add=False`: it holds garbage, overwrite it (never multiply it
    by zero: 0 * NaN is NaN).
    """

    array: np.ndarray
    add: bool

    def write(self, gradient: np.ndarray) -> None:
        """Add or overwrite, as `add` says."""
        if self.add:
            np.add(self.array, gradient, out=self.array)
        else:
            np.copyto(self.array, gradient)

"""
Memory for the arrays of a training step, and `Slot`, the destination of a gradient.

A training step needs the same large arrays as the step before. Fresh memory from the system is slow, since each page of
it is filled with zeros when it is first touched. So `empty` takes memory from a *pool* of what was used before.
"""

from __future__ import annotations

import functools
import math
import mmap
import os
import threading
import weakref
from collections import defaultdict
from typing import Any, NamedTuple

import numpy as np

from tinygpt.runtime import settings
from tinygpt.runtime.guard import guarded
from tinygpt.runtime.pages import new_pages

_SMALLEST = 2**16  # bytes: below this NumPy's own memory is as good


class Pool:
    """
    Memory for arrays, used again once the array and all its views are gone.

    Pieces come in eight sizes per power of two, so that a piece is at most an eighth larger than its array. Time is
    counted in bytes handed out. Each time that these have reached the size of the whole pool once more, it returns to
    the system the free pieces that were not used for `patience` times that size.

    Each piece holds one array, which is the base of all views of it, views of views included. So any view keeps the
    array alive, and when a weak reference to the array dies, the piece is free.

    Attributes
    ----------
    in_use, kept : int
        Bytes in use, and bytes that are free.
    allocated : int
        How many pieces the system has given so far: constant from the second step of a training run on.

    Examples
    --------
    >>> pool = Pool()
    >>> first = pool.empty((1000, 1000), np.float32)
    >>> place = first.ctypes.data
    >>> del first
    >>> pool.empty((1000, 999), np.float32).ctypes.data == place
    True
    """

    def __init__(self, patience: int = 32) -> None:
        self.patience = patience
        self.in_use = self.kept = self.allocated = 0
        self._free: dict[int, list[tuple[mmap.mmap, int]]] = defaultdict(list)  # size -> piece, when it came back
        self._pieces: dict[int, _PieceInUse] = {}
        self._clock = self._next_trim = 0  # bytes handed out so far; when to look for pieces that are too old
        self._lock = threading.RLock()  # a weak reference may call back while this thread holds it

    def empty(self, shape: int | tuple[int, ...], dtype: Any = np.float32) -> np.ndarray:
        """An uninitialized array; all NaN with TINYGPT_DEBUG=1. Costs 2 microseconds, and 1 when it is freed."""
        dtype = np.dtype(dtype)
        size = math.prod(shape if isinstance(shape, tuple) else (shape,)) * dtype.itemsize
        if settings.GUARD:
            return _poisoned(guarded(size).view(dtype).reshape(shape))
        if size < _SMALLEST:
            return _poisoned(np.empty(shape, dtype))
        rounded = _rounded(size)
        with self._lock:
            free = self._free[rounded]
            if free:
                piece = free.pop()[0]
                self.kept -= rounded
            else:
                piece = new_pages(rounded)
                self.allocated += 1
            self.in_use += rounded
            self._clock += rounded
            array: np.ndarray = np.ndarray(shape, dtype, piece)
            self._pieces[id(piece)] = used = _PieceInUse(array, self._take_back)
            used.piece, used.size = piece, rounded
            if self._clock >= self._next_trim:
                self._trim()
        return _poisoned(array)

    def _take_back(self, used: _PieceInUse) -> None:
        with self._lock:
            del self._pieces[id(used.piece)]
            self.in_use -= used.size
            self.kept += used.size
            self._free[used.size].append((used.piece, self._clock))

    def _trim(self) -> None:
        """Return to the system what was not used for too long: the oldest of each size come first."""
        whole = max(self.in_use + self.kept, 2**24)
        self._next_trim = self._clock + whole
        for free in self._free.values():
            while free and free[0][1] < self._clock - self.patience * whole:
                self.kept -= len(free.pop(0)[0])

    def clear(self) -> None:
        """Return all free memory to the system."""
        with self._lock:
            self._free.clear()
            self.kept = 0


class _PieceInUse(weakref.ref):
    """A weak reference to an array, and the piece that becomes free when the array is gone."""

    __slots__ = ("piece", "size")
    piece: mmap.mmap
    size: int


@functools.lru_cache(1024)
def _rounded(size: int) -> int:
    """The next of eight sizes per power of two, in whole pages."""
    step = max(4096, 2 ** ((size - 1).bit_length() - 4))
    return -(-size // step) * step


def _poisoned(array: np.ndarray) -> np.ndarray:
    if settings.DEBUG and array.dtype.kind == "f":
        array.fill(np.nan)  # so that a read before the first write shows
    return array


pool = Pool()
empty = pool.empty
if hasattr(os, "register_at_fork"):  # a thread that is not in the child may have held the lock
    os.register_at_fork(after_in_child=lambda: setattr(pool, "_lock", threading.RLock()))


def copied(array: np.ndarray) -> np.ndarray:
    """A copy in the pool's memory."""
    copy = empty(array.shape, array.dtype)
    np.copyto(copy, array)
    return copy


class SquareSum:
    """
    The sum of the squares of a gradient, in float64, where a kernel knows it: the norm then takes no pass over memory.

    Attributes
    ----------
    before, after : float or None
        The sum of what was there before the kernel's share was written or added, and of what is there now. None if
        unknown: a kernel that is able to sets `after`, others leave it.
    """

    __slots__ = ("after", "before")

    def __init__(self, before: float | None = None) -> None:
        self.before, self.after = before, None


class Slot(NamedTuple):
    """
    Memory for a gradient, and whether it holds something already.

    `add=True`: it holds a gradient, add to it. `add=False`: it is uninitialized, overwrite it (never multiply it by
    zero: 0 * NaN is NaN). `squares`: where a kernel may leave the sum of the squares, None where nobody wants it.
    """

    array: np.ndarray
    add: bool
    squares: SquareSum | None = None

    def write(self, gradient: np.ndarray) -> None:
        """Add or overwrite, as `add` says."""
        if self.add:
            np.add(self.array, gradient, out=self.array)
        else:
            np.copyto(self.array, gradient)

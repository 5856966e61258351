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
from bisect import bisect_left, insort_left
from collections import deque
from collections.abc import Callable
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np

from tinygpt.runtime import settings
from tinygpt.runtime.capture import current_recorder, run
from tinygpt.runtime.guard import guarded
from tinygpt.runtime.pages import new_pages

_SMALLEST = 2**16  # bytes: below this NumPy's own memory is as good
_CHUNK = 2**20  # bytes: what a pool for arrays of all sizes asks the system for at a time, at least


class Pool:
    """
    Memory for arrays, used again once the array and all its views are gone.

    An array gets the smallest free piece of memory that it fits into. What it does not need of it stays free, as a
    piece of its own: so the gradients of a block lie where the logits were. Pieces that are free side by side are
    joined, so that the next logits find their piece whole again. The system is asked only if no piece is large enough.
    Sizes are rounded up to eight per power of two, so that arrays of almost one size use the same pieces in turn.

    Time is counted in bytes handed out. Each time that these have reached the size of the whole pool once more, it
    returns to the system what was free, and not used, for `patience` times that size.

    A piece in use has one array over all of it, the base of what `empty` returns, and of all views, views of views
    included. So any view keeps the base alive, and when a weak reference to the base dies, the piece comes back. That
    happens in any thread, and between any two steps of `empty`, so it is only noted; the next `empty` makes the piece a
    free one. A finalizer or a signal handler may run there as well, and Ctrl-C may end `empty` there: see `_update`.

    Parameters
    ----------
    patience : float
    smallest : int
        Bytes; NumPy has the memory of smaller arrays.

    Attributes
    ----------
    in_use, kept : int
        Bytes in use, and bytes that are free.
    allocated : int
        How often the system was asked for memory so far: constant from the second step of a training run on.

    Source: Knuth, The Art of Computer Programming, volume 1, section 2.5: best fit, and neighbors joined by their tags.

    Examples
    --------
    >>> pool = Pool()
    >>> first = pool.empty((1000, 1000), np.float32)
    >>> place = first.ctypes.data
    >>> del first
    >>> halves = [pool.empty((1000, 500), np.float32) for _ in range(2)]
    >>> halves[0].ctypes.data - place, halves[1].ctypes.data - place, pool.allocated
    (0, 2097152, 1)
    """

    def __init__(self, patience: float = 32, smallest: int = _SMALLEST) -> None:
        self.patience, self.smallest = patience, smallest
        self.forget()

    def forget(self) -> None:
        """Begin with nothing, and a lock that nobody holds."""
        self.allocated = 0
        self._lock = threading.RLock()
        self._updating = False
        self._begin()

    def _begin(self) -> None:
        """Begin with nothing. Memory in use returns to the system with its arrays."""
        self._in_use = self._kept = 0
        self._free: list[_Piece] = []  # the smallest first; of one size, the one that was used last
        self._uses: dict[int, _Use] = {}  # by id, because a weak reference has to live to be told
        self._ended: deque[_Use] = deque()
        self._clock = self._next_trim = 0  # bytes handed out so far; when to look for pieces that are too old

    def empty(self, shape: int | tuple[int, ...], dtype: Any = np.float32) -> np.ndarray:
        """An uninitialized array; all NaN with TINYGPT_DEBUG=1. Costs 2 to 3 microseconds, its end included."""
        dtype = np.dtype(dtype)
        size = int(math.prod(shape) if isinstance(shape, tuple) else shape) * dtype.itemsize
        if settings.GUARD:
            return _poisoned(guarded(size).view(dtype).reshape(shape))
        base = None if size < self.smallest else self._update(self._base, size, dtype)
        array = np.empty(shape, dtype) if base is None else base.reshape(shape)
        return _poisoned(array) if settings.DEBUG else array

    def _update(self, step: Callable[..., Any], *arguments: Any) -> Any:
        """
        What `step` returns, after which the pool is consistent. In the middle it is not: so None for a finalizer or a
        signal handler that runs there, in the same thread; and if an error or Ctrl-C ends it there, the pool begins
        with nothing.
        """
        with self._lock:
            if self._updating:
                return None
            try:
                self._updating = True
                return step(*arguments)
            except BaseException:
                self._begin()
                raise
            finally:
                self._updating = False

    def _base(self, size: int, dtype: np.dtype) -> np.ndarray:
        """An array over so many bytes."""
        piece = self._take(_rounded(size, 4096 if self.smallest >= 4096 else 64))
        base = np.frombuffer(piece.given, dtype, size // dtype.itemsize, piece.start)
        use = _Use(base, self._ended.append)
        use.piece = piece
        self._uses[id(use)] = use
        return base

    def _take(self, size: int) -> _Piece:
        self._collect()
        self._clock += size
        if self._clock >= self._next_trim:
            self._trim()
        index = bisect_left(self._free, size, key=_size_of)
        if index < len(self._free):
            piece = self._free.pop(index)
            piece.free = False
            self._kept -= size
            if piece.size > size:
                self._add(piece.split(size))
        else:
            piece = self._new_piece(size)
            self.allocated += 1
            if piece.size > size:
                self._add(piece.split(size))
        self._in_use += size
        return piece

    def _new_piece(self, size: int) -> _Piece:
        return _Piece(self._new_pages(size), 0, size)

    def _new_pages(self, size: int) -> mmap.mmap:
        try:
            return new_pages(size)
        except (OSError, MemoryError):
            self._return(math.inf)  # the system may have enough with what is free here, in pieces that are too small
            return new_pages(size)

    def _collect(self) -> None:
        """Make the pieces of arrays that are gone free ones, joined with those beside them."""
        while self._ended:
            use = self._ended.popleft()
            piece = self._uses.pop(id(use)).piece
            self._in_use -= piece.size
            self._kept += piece.size
            if piece.after is not None and piece.after.free:
                self._remove(piece.after)
                piece.join_next()
            if piece.before is not None and piece.before.free:
                piece = piece.before
                self._remove(piece)
                piece.join_next()
            piece.since = self._clock
            self._add(piece)

    def _add(self, piece: _Piece) -> None:
        piece.free = True
        insort_left(self._free, piece, key=_size_of)

    def _remove(self, piece: _Piece) -> None:
        piece.free = False
        del self._free[self._free.index(piece, bisect_left(self._free, piece.size, key=_size_of))]

    def _trim(self) -> None:
        """Return to the system what was not used for too long."""
        whole = max(self._in_use + self._kept, 2**24)
        self._next_trim = self._clock + whole
        self._return(self._clock - self.patience * whole)

    def _return(self, before: float) -> None:
        """Return to the system what is free since before this time, if it is all that the system gave at once."""
        self._free = [piece for piece in self._free if piece.since >= before or not piece.alone]
        self._kept = sum(map(_size_of, self._free))

    def clear(self) -> None:
        """Return all free memory to the system."""
        self._update(self._collect)
        self._update(self._return, math.inf)

    @property
    def in_use(self) -> int:
        """Bytes in use."""
        self._update(self._collect)
        return self._in_use

    @property
    def kept(self) -> int:
        """Bytes that are free."""
        self._update(self._collect)
        return self._kept


class PrivatePool(Pool):
    """
    A pool for arrays of all sizes that keeps all of its memory: that of one captured computation, see `capture.py`.

    Attributes
    ----------
    pages : list of mmap
        What the system gave.
    obtained : int
        Its bytes.
    """

    def __init__(self) -> None:
        self.pages: list[mmap.mmap] = []
        self.obtained = 0
        super().__init__(math.inf, smallest=1)

    def _new_piece(self, size: int) -> _Piece:
        size = max(size, _CHUNK)
        piece = super()._new_piece(size)
        self.pages.append(piece.given)
        self.obtained += size
        return piece


class _Piece:
    """A part of memory that the system gave at once, and the parts before and after it."""

    __slots__ = ("after", "before", "free", "given", "since", "size", "start")

    def __init__(self, given: mmap.mmap, start: int, size: int) -> None:
        self.given, self.start, self.size = given, start, size
        self.free, self.since = False, 0  # since when it is, on the pool's clock
        self.before: _Piece | None = None
        self.after: _Piece | None = None

    @property
    def alone(self) -> bool:
        """Whether it is all that the system gave."""
        return self.before is None and self.after is None

    def split(self, size: int) -> _Piece:
        """Keep the first bytes; returns the rest."""
        rest = _Piece(self.given, self.start + size, self.size - size)
        rest.since = self.since
        rest.before, rest.after = self, self.after
        if rest.after is not None:
            rest.after.before = rest
        self.after, self.size = rest, size
        return rest

    def join_next(self) -> None:
        """Become one with the piece after this one."""
        gone = self.after
        assert gone is not None
        self.after, self.size = gone.after, self.size + gone.size
        if self.after is not None:
            self.after.before = self


_size_of = attrgetter("size")


class _Use(weakref.ref):
    """A weak reference to the base of an array, and the piece that it lies in."""

    __slots__ = ("piece",)
    piece: _Piece


@functools.lru_cache(1024)
def _rounded(size: int, unit: int) -> int:
    """The next of eight sizes per power of two, in whole units."""
    step = max(unit, 2 ** ((size - 1).bit_length() - 4))
    return -(-size // step) * step


def _poisoned(array: np.ndarray) -> np.ndarray:
    if settings.DEBUG and array.dtype.kind == "f":
        array.fill(np.nan)  # so that a read before the first write shows
    return array


pool = Pool()
if hasattr(os, "register_at_fork"):  # a thread that is not in the child may have been within `empty`
    os.register_at_fork(after_in_child=pool.forget)


def empty(shape: int | tuple[int, ...], dtype: Any = np.float32) -> np.ndarray:
    """An uninitialized array in the pool's memory, or in that of the `Recorder` of this thread."""
    recorder = current_recorder()
    array = None if recorder is None else recorder.empty(shape, dtype)
    return pool.empty(shape, dtype) if array is None else array


def zeros(shape: int | tuple[int, ...], dtype: Any) -> np.ndarray:
    """An array of zeros, for few numbers: counters, and sums."""
    recorder = current_recorder()
    return np.zeros(shape, dtype) if recorder is None else recorder.zeros(shape, dtype)


def copied(array: np.ndarray, dtype: Any = None) -> np.ndarray:
    """A C-contiguous copy in the pool's memory."""
    copy = empty(array.shape, dtype or array.dtype)
    run(np.copyto, copy, array)
    return copy


class SquareSum:
    """
    The sum of the squares of a gradient, in float64, where a kernel knows it: the norm then takes no pass over memory.

    Attributes
    ----------
    before : SquareSum or None
        That of what was there before the kernel's share was written or added.
    parts : ndarray, float64, or None
        Terms of the sum of what is there now, which nobody else writes. None if unknown: a kernel that is able to sets
        it, others leave it.
    """

    __slots__ = ("before", "parts")

    def __init__(self, before: SquareSum | None = None) -> None:
        self.before = before
        self.parts: np.ndarray | None = None

    @property
    def after(self) -> float | None:
        """The sum; None if it is unknown."""
        return None if self.parts is None else float(self.parts.sum())

    @after.setter
    def after(self, value: float | None) -> None:
        self.parts = None if value is None else np.array([value])


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
            run(np.add, self.array, gradient, self.array)
        else:
            run(np.copyto, self.array, gradient)

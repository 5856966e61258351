"""
Capture: what one run of a computation did to memory, kept as a list of calls, to be replayed on other numbers.

A step of a small model is in large part Python: the graph, shapes, checks. What it does to memory is the same from step
to step: the same kernels, with arrays at the same addresses. So while a `Recorder` is entered, this thread computes as
always, and the recorder keeps each call that changes an array:

    kernels with parallel loops     `launch.py` reports them
    others                          made by `run`, such as ``run(np.copyto, out, x)``

and arrays come from a pool of its own, which nobody else gets memory from afterwards: memory that is given back and
taken again within the step is so in every replay.

A call is replayed with the same arguments, so arrays must be in memory whose content the recorder accounts for:

    its own pool, `zeros`           written by calls that were captured before; zeros are zeros again in every replay
    weights, gradients, inputs      `known` to the recorder from the start: who replays says what is in them
    `constant`, `known`             never written

Any other array, such as the result of a NumPy function that was called without `run`, ends the capture: `failure` then
says why, and the computation goes on as always. So what depends on the numbers must be in an array too: a Python number
among the arguments is the same in every replay.

Source: CUDA graphs, the section "CUDA Graphs" of the CUDA C++ Programming Guide, for the idea and the words.
"""

from __future__ import annotations

import os
import threading
from bisect import bisect_right
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import numpy as np

from tinygpt.runtime.seeds import dropout_keys

_Array = TypeVar("_Array", bound=np.ndarray)
_MOST_SEEDS = 1024
_CHUNK = 2**16  # bytes that `zeros` are taken from at a time

recorders: dict[int, Recorder] = {}  # by thread; almost always empty, which is quick to see
_constants: list[np.ndarray] = []


if hasattr(os, "register_at_fork"):
    # A thread of the child may have the number of one that captured.
    os.register_at_fork(after_in_child=recorders.clear)


def current_recorder() -> Recorder | None:
    """The recorder that this thread computes under, or None."""
    return recorders.get(threading.get_ident()) if recorders else None


def run(function: Callable[..., Any], *arguments: Any) -> None:
    """
    Call a function that changes arrays among its arguments, or other objects among them, and returns nothing of use.

    Examples
    --------
    >>> total = np.ones(2)
    >>> run(np.add, total, [1.0, 2.0], total)
    >>> total
    array([2., 3.])
    """
    recorder = current_recorder()
    if recorder is None:
        function(*arguments)
    else:
        recorder.run(function, arguments)


def results_of(function: Callable[..., Any], *arguments: Any) -> Any:
    """
    The arrays that a function returns, which changes nothing. Replayed, it writes them to the same places.

    Examples
    --------
    >>> results_of(np.divmod, np.array([7]), 2)
    (array([3]), array([1]))
    """
    results, recorder = function(*arguments), current_recorder()
    return results if recorder is None else recorder.results(function, arguments, results)


def _write_results(function: Callable[..., Any], arguments: tuple[Any, ...], places: tuple[Any, ...]) -> None:
    for result, place in zip(function(*arguments), places, strict=True):
        if place is not None:
            np.copyto(place, result)


def constant(array: _Array) -> _Array:
    """A constant of a module: nobody writes into the array from now on, and captured calls may read it."""
    _constants.append(array)
    return array


def known(array: _Array) -> _Array:
    """An array of the running computation that is the same in every replay, such as the positions of tokens."""
    if (recorder := current_recorder()) is not None:
        recorder.know(array)
    return array


class Capture:
    """
    The calls of one run, in order.

    Attributes
    ----------
    seeds : int
        How many seeds of dropout the run drew.
    nbytes : int
        Memory of its own.
    """

    def __init__(self, calls: list[tuple[Callable[..., Any], tuple[Any, ...]]], zeros: list[np.ndarray],
                 keys: np.ndarray, seeds: int, nbytes: int) -> None:  # fmt: skip
        self._calls, self._zeros, self._keys = calls, zeros, keys[:seeds]
        self.seeds, self.nbytes = seeds, nbytes

    def replay(self, generator: np.random.Generator) -> None:
        """Run the calls again; the seeds of dropout are the next ones of the generator."""
        if self.seeds:
            self._keys[:] = dropout_keys(generator.integers(2**63, size=self.seeds))
        for zeros in self._zeros:
            zeros.fill(0)
        for function, arguments in self._calls:
            function(*arguments)


class Recorder:
    """
    A block in which this thread's computation is captured.

    Parameters
    ----------
    pool : memory.PrivatePool
        The memory of the computation, to be used by nobody else before or after.
    known : iterable of ndarray
        Arrays that the computation reads and writes where they are.
    limit : int
        The most bytes of the pool's memory for which a replay is worth its memory.
    generator : np.random.Generator, optional
        That of all seeds of dropout.

    Attributes
    ----------
    failure : str
        Why there is no capture; empty if there is one.

    Examples
    --------
    >>> from tinygpt.runtime.memory import PrivatePool, empty
    >>> x, out = np.ones(3), np.empty(3)
    >>> with Recorder(PrivatePool(), known=[x, out]) as recorder:
    ...     doubled = empty(3, np.float64)
    ...     run(np.add, x, x, doubled)
    ...     run(np.add, doubled, x, out)
    >>> x[:] = 7
    >>> recorder.finish().replay(np.random.default_rng())
    >>> out
    array([21., 21., 21.])
    """

    def __init__(self, pool: Any, known: Iterable[np.ndarray], limit: int = 2**62,
                 generator: np.random.Generator | None = None) -> None:  # fmt: skip
        self.pool, self.limit, self.failure = pool, limit, ""
        self._calls: list[tuple[Callable[..., Any], tuple[Any, ...]]] = []
        self._inside = False  # a call that is kept as a whole
        self._threads = 0  # of the last kernel; 0: unknown
        self._keys = np.zeros((_MOST_SEEDS, 2), np.uint32)
        self._seeds: dict[int, int] = {}  # and their rows in `_keys`
        self._generator = generator
        self._zeros: list[np.ndarray] = []
        self._left = 0  # bytes of the last chunk of zeros that are not taken
        extents = [(*_extent(array), None) for array in (*known, *_constants, self._keys)]
        self._extents: list[tuple[int, int, Any]] = sorted(extents, key=lambda each: each[:2])
        self._pages = 0  # how many of the pool's are among them

    def __enter__(self) -> Recorder:
        recorders[threading.get_ident()] = self
        return self

    def __exit__(self, *exception: object) -> None:
        recorders.pop(threading.get_ident(), None)
        if exception[0] is not None:
            self.fail("it was not finished")

    def fail(self, reason: str) -> None:
        """There will be no capture; the computation goes on."""
        self.failure = self.failure or reason
        self._calls = []

    def finish(self) -> Capture:
        """The capture, of a computation that did not fail."""
        assert not self.failure
        return Capture(self._calls, self._zeros, self._keys, len(self._seeds), self.pool.obtained)

    def run(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        """What `run` does; calls inside the function are part of it."""
        self.note(function, arguments)
        if self._inside:
            function(*arguments)
            return
        self._inside = True
        try:
            function(*arguments)
        finally:
            self._inside, self._threads = False, 0

    def results(self, function: Callable[..., Any], arguments: tuple[Any, ...], results: Any) -> list[Any]:
        """Keep a call that returned arrays; those that are not parts of its arguments get memory of the pool."""
        given = [value for value in arguments if isinstance(value, np.ndarray)]
        places = []
        for result in results:
            shared = result is None or any(np.may_share_memory(result, array) for array in given)
            places.append(None if shared else self.empty(result.shape, result.dtype))
        self.run(_write_results, (function, arguments, tuple(places)))
        return [result if place is None else place for result, place in zip(results, places, strict=True)]

    def launch(self, kernel: Callable[..., Any], arguments: tuple[Any, ...], numba: Any) -> None:
        """Keep a call of a kernel with parallel loops, which the caller makes, on as many threads as it does now."""
        threads = numba.get_num_threads()
        if threads != self._threads and not self._inside:
            self._threads = threads
            self.note(numba.set_num_threads, (threads,))
        self.note(kernel, arguments)

    def note(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        """Keep a call, which the caller makes."""
        if self._inside or self.failure:
            return
        try:
            self._calls.append((function, self._kept(arguments)))
        except LookupError as error:
            self.fail(f"{getattr(function, '__name__', function)} {error}")

    def empty(self, shape: Any, dtype: Any) -> np.ndarray | None:
        """Memory of the pool; None where it has none left, or has enough."""
        if self.failure:
            return None
        try:
            array = self.pool.empty(shape, dtype)
        except (MemoryError, OSError):
            self.fail("there is too little memory")
            return None
        if self.pool.obtained > self.limit:
            self.fail(f"it takes more than {self.limit / 1e6:,.0f} MB")
        return array

    def zeros(self, shape: Any, dtype: Any) -> np.ndarray:
        """An array of zeros, which is one of zeros again when a replay begins."""
        dtype = np.dtype(dtype)
        size = int(np.prod(shape)) * dtype.itemsize
        if self.failure or not size:
            return np.zeros(shape, dtype)
        taken = -(-size // 64) * 64
        if taken > self._left:
            self._zeros.append(np.zeros(max(taken, _CHUNK), np.uint8))
            self._left = self._zeros[-1].size
            self.know(self._zeros[-1])
        chunk = self._zeros[-1]
        start = chunk.size - self._left
        self._left -= taken
        return chunk[start : start + size].view(dtype).reshape(shape)

    def drew(self, generator: np.random.Generator, seed: int) -> None:
        """Dropout has drawn this seed."""
        if generator is not self._generator or len(self._seeds) == _MOST_SEEDS:
            self.fail("dropout draws from another generator, or too often")
        self._seeds.setdefault(seed, len(self._seeds))

    def keys(self, seed: int) -> np.ndarray | None:
        """The memory for the keys of a seed that was drawn; None of another seed."""
        return self._keys[self._seeds[seed]] if seed in self._seeds else None

    def kept(self, array: np.ndarray) -> np.ndarray:
        """An array of the computation, to be read after each replay."""
        return self._kept(array)

    def _kept(self, value: Any) -> Any:
        """Arguments as they are, but arrays in the pool made anew: these do not keep the pool from using it again."""
        if isinstance(value, tuple):
            items = (self._kept(item) for item in value)
            return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
        if not isinstance(value, np.ndarray) or value.size == 0:
            return value
        for pages in self.pool.pages[self._pages :]:
            self.know(np.frombuffer(pages, np.uint8), pages)
            self._pages += 1
        low, high = _extent(value)
        index = bisect_right(self._extents, low, key=lambda each: each[0]) - 1
        start, end, pages = self._extents[index] if index >= 0 else (0, 0, None)
        if not high <= end:
            raise LookupError(f"takes {value.dtype} {value.shape} that was computed in a way that cannot be captured")
        if pages is None:
            return value
        anew: np.ndarray = np.ndarray(value.shape, value.dtype, pages, low - start, value.strides)
        anew.flags.writeable = value.flags.writeable
        return anew

    def know(self, array: np.ndarray, pages: Any = None) -> None:
        """What is in this array is accounted for; `pages`, if it lies in the pool."""
        self._extents.append((*_extent(array), pages))
        self._extents.sort(key=lambda each: each[:2])


def _extent(array: np.ndarray) -> tuple[int, int]:
    """The addresses from the first byte of an array to behind its last."""
    return np.lib.array_utils.byte_bounds(array) if array.size else (array.ctypes.data, array.ctypes.data)

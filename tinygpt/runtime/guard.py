"""
A debug mode: every array that is passed to a kernel ends at a protected page.

Kernels check no index, so one that reads or writes past an array works by chance, and corrupts something else. With
TINYGPT_GUARD=end each call of a compiled kernel gets copies of its arrays that end where a protected page begins, and
what it wrote is copied back: the first access past the end stops the process with a segmentation fault, in code that
LLVM made as in any other, and `faulthandler` prints which call it was. TINYGPT_GUARD=start puts the arrays right behind
a protected page, to find accesses before them. It is slow, and meant for tests; see tests/test_guard.py.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import math
import mmap
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from tinygpt.runtime import settings
from tinygpt.runtime.pages import new_pages

_PAGE = mmap.PAGESIZE
_NO_ACCESS = 0  # PROT_NONE of mprotect(2)


def guarded(size: int) -> np.ndarray:
    """
    Bytes between two protected pages, adjacent to the one that TINYGPT_GUARD names; the rest of its page is 255, NaN.

    Raises
    ------
    OSError
        If the system has no mprotect, or no memory is left.

    Examples
    --------
    >>> len(guarded(10))
    10
    """
    inside = max(1, math.ceil(size / _PAGE)) * _PAGE
    piece = new_pages(inside + 2 * _PAGE)
    memory = np.frombuffer(piece, np.uint8)  # unmapped when it and all its views are gone
    memory[_PAGE : 2 * _PAGE] = memory[-2 * _PAGE : -_PAGE] = 255  # what is left of the first or last page, too
    for page in (memory.ctypes.data, memory.ctypes.data + _PAGE + inside):
        if _protect()(page, _PAGE, _NO_ACCESS):
            raise OSError(ctypes.get_errno(), "guarded: mprotect failed")
    first = _PAGE if settings.GUARD == "start" else _PAGE + inside - size
    return memory[first : first + size]


def call_guarded(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """
    Call a kernel on guarded copies of all arrays among its arguments, and copy back what it may have written.

    Arrays that share memory share it in the copy, too. A fault prints the lines of Python that led to it.
    """
    if not faulthandler.is_enabled():
        with contextlib.suppress(OSError, ValueError, RuntimeError, AttributeError):  # there is no stderr to print to
            faulthandler.enable(sys.__stderr__)  # type: ignore[arg-type]
    blocks = [(low, high, guarded(high - low)) for low, high in _merged(map(_extent, _arrays_in(arguments)))]
    for low, high, block in blocks:
        ctypes.memmove(block.ctypes.data, low, high - low)
    try:
        return function(*_moved(arguments, blocks))
    finally:
        for array in _arrays_in(arguments):
            if array.flags.writeable:
                array[...] = _moved(array, blocks)


def _protect() -> Callable[[int, int, int], int]:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return libc.mprotect


def _arrays_in(value: Any) -> Iterator[np.ndarray]:
    if isinstance(value, np.ndarray):
        yield value
    elif isinstance(value, tuple):
        for item in value:
            yield from _arrays_in(item)


def _extent(array: np.ndarray) -> tuple[int, int]:
    """The addresses from the first byte of an array to behind its last."""
    return np.lib.array_utils.byte_bounds(array) if array.size else (array.ctypes.data, array.ctypes.data)


def _merged(extents: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same addresses as extents that do not overlap."""
    result: list[tuple[int, int]] = []
    for low, high in sorted(set(extents)):
        if result and low < result[-1][1]:
            result[-1] = result[-1][0], max(result[-1][1], high)
        else:
            result.append((low, high))
    return result


def _moved(value: Any, blocks: list[tuple[int, int, np.ndarray]]) -> Any:
    """Arguments as they are, but arrays at their places in the guarded blocks."""
    if isinstance(value, tuple):
        items = (_moved(item, blocks) for item in value)
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    if not isinstance(value, np.ndarray):
        return value
    low, high = _extent(value)
    start, block = next((first, block) for first, last, block in blocks if first <= low and high <= last)
    offset = value.ctypes.data - start
    moved = np.ndarray(value.shape, value.dtype, block.data, offset, value.strides)
    moved.flags.writeable = value.flags.writeable
    return moved

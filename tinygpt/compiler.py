"""
Numba, as tinygpt uses it: decorators whose compiled code is kept on disk and never goes stale.

Numba's own cache looks at the file that holds a function, not at the files of the functions that it calls: after an
edit there, it would run the old code without a word. So the code of each *group* of kernels is kept in a folder named
by a hash of all files of the group, of Numba's version and of the processor's features. A changed file is a new folder.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import llvmlite.binding
import numba
from numba.core.registry import CPUDispatcher

from tinygpt import runtime
from tinygpt.guard import call_guarded

Function = TypeVar("Function", bound=Callable)

# What "fast math" may do: make one instruction of a product and a sum. Nothing else: a NaN must be seen; a division
# must not become a product with the reciprocal in some places of a loop; and a sum must keep its order, because a
# function is compiled once more as part of each that calls it, and the compiler's choice would be another there.
FAST = {"contract"}


class _Guarded(CPUDispatcher):
    """A compiled function that works beside protected pages whenever Python calls it."""

    def __call__(self, *arguments: Any) -> Any:
        return call_guarded(super().__call__, arguments)


class Compiler:
    """
    The decorators of one group of kernels.

    Parameters
    ----------
    name : str
        What the group's cache folder begins with.
    sources : iterable of Path
        All files whose text the compiled code may depend on.

    Attributes
    ----------
    folder : Path or None
        Where compiled code is kept; None where nothing can be written (each process then compiles anew), or where
        ``NUMBA_DISABLE_JIT=1`` makes every kernel plain Python.
    """

    def __init__(self, name: str, sources: Iterable[Path]) -> None:
        self.folder = None if numba.config.DISABLE_JIT else _cache_folder(name, [Path(__file__), *sources])

    def kernel(self, function: Function, **options: Any) -> Function:
        """
        Compile a function when it is first called; it runs without the global interpreter lock.

        Division by zero gives infinity as in NumPy: Numba's default check for it would stop vectorization. There are
        no reference counts: a kernel works in memory that it is given, and allocates none.
        """
        return self._compile(function, _nrt=False, **options)

    def float_kernel(self, function: Function) -> Function:
        """Like `kernel`, for floating-point numbers: see `FAST`."""
        return self.kernel(function, fastmath=FAST)

    def parallel_kernel(self, function: Function) -> Function:
        """Like `float_kernel`, and the iterations of each `prange` are shared among threads."""
        return self._compile(function, fastmath=FAST, parallel=True)

    def inlined(self, function: Function) -> Function:
        """For what must not cost a call: the function becomes part of each kernel that calls it."""
        return numba.njit(inline="always", nogil=True, error_model="numpy", fastmath=FAST, _nrt=False)(function)

    def _compile(self, function: Function, **options: Any) -> Function:
        # Numba reads the name of its cache folder while it decorates, so the name is ours only for that moment.
        before = numba.config.CACHE_DIR
        numba.config.CACHE_DIR = str(self.folder) if self.folder else before
        try:
            compiled = numba.njit(cache=self.folder is not None, nogil=True, error_model="numpy", **options)(function)
            if runtime.GUARD and not numba.config.DISABLE_JIT:
                compiled.__class__ = _Guarded
            return compiled
        finally:
            numba.config.CACHE_DIR = before

    def announce(self, work: str, text: str) -> None:
        """Say on stderr that a first compilation begins, for it takes seconds; nothing if `work` was done before."""
        if self.folder is not None and not (self.folder / work).exists():
            print(f"tinygpt: {text}", file=sys.stderr)
            (self.folder / work).touch()


def _cache_folder(name: str, sources: Iterable[Path]) -> Path | None:
    digest = hashlib.sha256(f"{numba.__version__} {llvmlite.binding.get_host_cpu_name()}".encode())
    digest.update(f"{numba.config.CPU_NAME} {numba.config.CPU_FEATURES}".encode())
    digest.update(llvmlite.binding.get_host_cpu_features().flatten().encode())
    for path in sources:
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    folder = cache_root() / f"{name}-{digest.hexdigest()[:16]}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return folder if os.access(folder, os.W_OK) else None


def cache_root() -> Path:
    """The folder of all cached kernels: NUMBA_CACHE_DIR, else XDG_CACHE_HOME, else ~/.cache, and `tinygpt` in it."""
    return Path(numba.config.CACHE_DIR or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tinygpt"

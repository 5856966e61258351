"""
Shared by all kernel files, a user's own too: the decorators that compile functions, the number of threads, and arrays
in the layout that kernels take. docs/own_operations.md has a kernel in thirty lines.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from tinygpt.kernels.compiler import Compiler, numba
from tinygpt.kernels.parallel_loops import OwnThreads
from tinygpt.kernels.simd import cpu
from tinygpt.kernels.thread_pool import pool
from tinygpt.runtime import launch, settings
from tinygpt.runtime.launch import launcher

# Where parallel loops run on Numba's layer, and that is OpenMP: how often one of its threads looks for its next loop
# before it sleeps. Steps per second of a small model (nanoGPT's recipe) on two cores of an Intel Xeon, beside 0, 1 and
# 2 busy processes: with 0 17.8, 14.2, 8.2; with 3,000 22.0, 12.4, 11.4; with 300,000 25.2, 1.4, 2.6.
if launch.numbas_layer:
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")

# A parallel loop starts within microseconds on OpenMP, within a tenth of a millisecond on Numba's own layer.
if "NUMBA_THREADING_LAYER_PRIORITY" not in os.environ:
    numba.config.THREADING_LAYER_PRIORITY = ["omp", "tbb", "workqueue"]

compiler = Compiler(
    "kernels",
    [Path(__file__).parent],
    facts=cpu.facts(),
    pipeline=OwnThreads,
)
pool.compiler = compiler
Function = TypeVar("Function", bound=Callable)
_FROM_ENVIRONMENT = settings.threads_from_environment()  # read once, as by Numba: parsing takes microseconds
ZERO = np.int64(0)
_FLOAT32 = {np.dtype(np.float32)}

kernel, inlined, exact = compiler.float_kernel, compiler.inlined, compiler.kernel
parallel_part = compiler.parallel_kernel  # for functions with parallel loops that other parallel functions call


def parallel(function: Function) -> Function:
    """Compile a function whose `prange` loops are shared among threads; see `launch.py` for when it may be called."""
    return launcher(compiler.parallel_kernel(function))


def threads(most: int | None = None) -> int:
    """
    Set how many threads the next parallel loop uses, and return it: `most`, or what `set_num_threads` says.

    Call it before a parallel kernel, and pass the result in where the kernel divides work among threads.
    """
    count = most or settings.chosen_threads() or _FROM_ENVIRONMENT or settings.available_cores()
    count = min(count, numba.config.NUMBA_NUM_THREADS)
    if _threads_now() != count:
        numba.set_num_threads(count)
    return count


def _threads_now() -> int:
    """`numba.get_num_threads()`, which takes two locks to start the threads; once they run, without."""
    count = getattr(numba.np.ufunc.parallel, "_get_num_threads", numba.get_num_threads)()
    return count if count > 0 else numba.get_num_threads()


def spread(function: Callable, work: int, small: int = 2**15) -> Callable:
    """
    Return `function` itself, with the number of threads set for its next call: all, or one if its work is small.

    ``spread(kernel, x.size)(x, out)`` is ``kernel(x, out)`` on as many threads as `x.size` numbers are worth. Waking
    the other threads takes microseconds while they busy-wait, and much longer once they sleep: a small model would
    spend most of its time on it.

    Parameters
    ----------
    function : kernel made by `parallel`
    work : int
        How many numbers it reads or multiplies.
    small : int
        Up to this much work, one thread does it alone.
    """
    threads(most=None if work > small else 1)
    return function


def all_float32(*arrays: np.ndarray, **attrs: Any) -> bool:
    """True if every array holds float32, which the kernels are written for; `accepts` of most of them."""
    return {array.dtype for array in arrays} <= _FLOAT32


def rows_of(array: np.ndarray, width: int) -> np.ndarray:
    """(..., width) as contiguous (N, width); a view where possible."""
    return np.ascontiguousarray(array).reshape(-1, width)


def flat(array: np.ndarray) -> np.ndarray:
    """The numbers of an array in C order, along one contiguous axis; a view where possible."""
    return np.ascontiguousarray(array).reshape(-1)

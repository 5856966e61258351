"""
How the kernels are compiled, on how many threads they run, and how arrays are given to them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

# How long a thread of the OpenMP runtime waits for its next loop before it sleeps: some milliseconds, so that it is
# awake between the operations of a step, and leaves the core to others soon after. Read when the runtime is loaded.
os.environ.setdefault("GOMP_SPINCOUNT", "1000000")

import numpy as np

from tinygpt.kernels.compiler import Compiler, numba
from tinygpt.kernels.simd import cpu
from tinygpt.runtime import settings
from tinygpt.runtime.launch import launcher

# Loops start in microseconds on OpenMP, in a tenth of a millisecond on Numba's own layer.
if "NUMBA_THREADING_LAYER_PRIORITY" not in os.environ:
    numba.config.THREADING_LAYER_PRIORITY = ["omp", "tbb", "workqueue"]

compiler = Compiler(
    "kernels",
    [Path(__file__).parent],
    facts=cpu.facts(),
    notice="compiling kernels as they are needed, once: half a minute for a training step",
)
Function = TypeVar("Function", bound=Callable)
ZERO, ALONG_K, ACROSS = np.int64(0), np.bool_(True), np.bool_(False)

kernel, inlined = compiler.float_kernel, compiler.inlined


def parallel(function: Function) -> Function:
    """Compile a function whose `prange` loops are shared among threads; see `launch.py` for when it may be called."""
    return launcher(compiler.parallel_kernel(function))


def threads(most: int | None = None) -> int:
    """
    How many threads the next parallel loop will use: what `set_num_threads` says, at most what Numba has, or `most`.

    Call it before a parallel kernel, and pass the result in where the kernel divides work among threads.
    """
    count = most or min(settings.num_threads(), numba.config.NUMBA_NUM_THREADS)
    if numba.get_num_threads() != count:
        numba.set_num_threads(count)
    return count


def spread(function: Callable, work: int, small: int = 2**15) -> Callable:
    """
    `function` itself, its next call being on all threads, or on one where its work is small.

    Waking the others takes microseconds if they are awake still, and as long as it takes to get a core if somebody else
    uses it: a small model would spend most of its time waiting.

    Parameters
    ----------
    function : kernel made by `parallel`
    work : int
        How many numbers it goes through, or multiplies.
    small : int
        Up to how much of it one thread works alone.
    """
    threads(most=None if work > small else 1)
    return function


def all_float32(*arrays: np.ndarray, **attrs: Any) -> bool:
    """True where every array holds float32 numbers, which the kernels are written for; nothing else matters."""
    return all(array.dtype == np.float32 for array in arrays)


def rows_of(array: np.ndarray, width: int) -> np.ndarray:
    """(..., width) as contiguous (N, width): a view where possible."""
    return np.ascontiguousarray(array).reshape(-1, width)


def flat(array: np.ndarray) -> np.ndarray:
    """All numbers of an array in C order, as one contiguous axis: a view where possible."""
    return np.ascontiguousarray(array).reshape(-1)

"""
The operations once more, as loops that Numba compiles: each file is the fast twin of the file of the same name in
`ops/`, with the same names and the same step numbers, and works in memory that it is given.

What a kernel module offers
    accepts(*arrays, **attrs)      whether the kernel takes these; where not, the reference runs
    forward(*arrays, **attrs)      -> out, saved
    backward(dout, saved, into)    writes each input's gradient into its place: `into[i]` is a `Slot`, memory and
                                   whether to add to it or to overwrite it, or None where nobody wants that gradient

What to know before changing anything here
    No index is checked, so whatever comes from outside is validated in `ops/`, before a kernel sees it.
    `prange` counts in uint64, and uint64 with int64 gives float64: the first line of such a loop makes an int64 of it.
    An index that could be negative, for all the compiler knows, keeps a loop from being vectorized: take a part of the
    arrays, `x[here]`, and count from 0.
    A kernel that another one calls with a number written there, or True, is compiled once more for just that number:
    pass np.int64(0), or a constant of such a type.
    A number without a type is a float64 and makes the whole loop one: np.float32(0.5).
    Results do not depend on the number of threads: sums are cut into parts by size alone, and joined in their order.
    NUMBA_DISABLE_JIT=1 makes all of it plain Python, to be stepped through.
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

from tinygpt import runtime
from tinygpt.compiler import Compiler, numba
from tinygpt.kernels import processor
from tinygpt.launch import launcher

# Loops start in microseconds on OpenMP, in a tenth of a millisecond on Numba's own layer.
if "NUMBA_THREADING_LAYER_PRIORITY" not in os.environ:
    numba.config.THREADING_LAYER_PRIORITY = ["omp", "tbb", "workqueue"]

compiler = Compiler(
    "kernels",
    [Path(__file__).parent],
    facts=processor.facts(),
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
    count = most or min(runtime.num_threads(), numba.config.NUMBA_NUM_THREADS)
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

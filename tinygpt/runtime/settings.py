"""
The settings that every part of tinygpt reads: the implementation, the number of threads, the precision of products,
and debugging.

The implementation is chosen per thread and asyncio task, so that one can run the kernels while another steps through
the reference. The number of threads and the precision of products hold for the whole process.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from operator import index
from typing import Any

from tinygpt.runtime.scope import Block, Setting

IMPLEMENTATIONS = ("kernels", "numpy", "check")
PRECISIONS = ("highest", "high", "medium")


def _checked(name: str, who: str, known: Sequence[str] = IMPLEMENTATIONS) -> str:
    if name not in known:
        raise ValueError(f"{who}: must be one of {', '.join(known)}, got {name[:40]!r}")
    return name


def _from_environment(variable: str, known: Sequence[str], default: str) -> str:
    """The value of an environment variable; the default where it is not set, or empty."""
    given = os.environ.get(variable, "")
    return _checked(given, variable, known) if given else default


# Read once: with TINYGPT_DEBUG=1 the engine finds every in-place edit of what it saves for backward, not only edits of
# whole arrays, and backwards that write into their arguments; memory from the pool is full of NaN until it is written.
DEBUG = _from_environment("TINYGPT_DEBUG", ("0", "1"), "0") == "1"

# Read once: TINYGPT_GUARD=end or start puts the arrays of kernels beside protected pages; see `guard.py`.
GUARD = _from_environment("TINYGPT_GUARD", ("end", "start"), "")

# Read once: TINYGPT_CAPTURE=0 runs every training step operation by operation; see `gpt2/captured_step.py`.
CAPTURE = _from_environment("TINYGPT_CAPTURE", ("0", "1"), "1") == "1"

# Read once: TINYGPT_THREAD_POOL=numba runs parallel loops on Numba's threading layer; see `kernels/thread_pool.py`.
THREAD_POOL = _from_environment("TINYGPT_THREAD_POOL", ("own", "numba"), "own")

_implementation = Setting(
    "implementation", _from_environment("TINYGPT_IMPLEMENTATION", IMPLEMENTATIONS, IMPLEMENTATIONS[0])
)
_process: dict[str, Any] = {"threads": 0, "precision": "highest"}  # 0 threads: not chosen yet


def current_implementation() -> str:
    """The implementation that is in force: "kernels", "numpy" or "check"."""
    return _implementation.get()


class implementation(Block):
    """
    Choose, for this block or the decorated function, which implementation of every op runs.

    It holds for this thread, for the asyncio task, and in a generator while the generator runs: see `scope.py`.

    Parameters
    ----------
    name : {"kernels", "numpy", "check"}
        "kernels": an op's kernel where it has one, else its NumPy reference (the default).
        "numpy": the reference, for every op.
        "check": both, and an error at the first op, forward or backward, where they disagree.

    Raises
    ------
    ValueError
        If `name` is none of these.

    Notes
    -----
    The environment variable ``TINYGPT_IMPLEMENTATION`` sets the initial value.

    Examples
    --------
    >>> with implementation("numpy"):
    ...     print(current_implementation())
    numpy
    """

    def __init__(self, name: str) -> None:
        super().__init__(_implementation, _checked(name, "implementation"))


def available_cores() -> int:
    """How many cores this process may use, which can be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def max_threads() -> int:
    """The largest number of threads that is accepted: four for each core of the machine, and 64 anywhere."""
    return max(64, 4 * (os.cpu_count() or 1))


def chosen_threads() -> int:
    """What `set_num_threads` was told; 0 before."""
    return int(_process["threads"])


def num_threads() -> int:
    """The kernels' number of threads: the value set, else ``NUMBA_NUM_THREADS``, else one per available core."""
    return chosen_threads() or threads_from_environment() or available_cores()


def checked_threads(who: str, count: Any) -> int:
    """
    A number of threads; ValueError, in the name of `who`, unless it is an integer from 1 to `max_threads`.

    Examples
    --------
    >>> checked_threads("--threads", 4)
    4
    """
    if hasattr(count, "__index__") and not isinstance(count, bool):
        count = index(count)  # NumPy's integers, too
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= max_threads():
        text = repr(count) if not isinstance(count, int) or abs(count) < 10**30 else "a number of many digits"
        raise ValueError(f"{who}: must be an integer of at least 1 and at most {max_threads()}, got {text}; one per "
                         "core is fastest")  # fmt: skip
    return count


def threads_from_environment() -> int:
    """
    What ``NUMBA_NUM_THREADS`` says; 0 where it says nothing.

    Raises
    ------
    ValueError
        If it is no number, or one that `checked_threads` refuses. Numba would start so many threads, or crash.
    """
    given = os.environ.get("NUMBA_NUM_THREADS", "")
    if not given.strip():
        return 0
    try:
        count: Any = int(given)
    except ValueError:
        count = given[:40]
    return checked_threads("NUMBA_NUM_THREADS", count)


def set_num_threads(count: int) -> None:
    """
    Choose how many threads the kernels use, in the whole process. Results are the same, bit for bit, for any number.

    Parameters
    ----------
    count : int
        From 1 to `max_threads()`. More than one per core does not help; where Numba has fewer threads than `count`
        (``NUMBA_NUM_THREADS``, else one per core), all of them work.

    Raises
    ------
    ValueError
        If `count` is not such an integer.

    Examples
    --------
    >>> before = num_threads()
    >>> set_num_threads(1)
    >>> num_threads()
    1
    >>> set_num_threads(before)
    """
    _process["threads"] = checked_threads("set_num_threads", count)


def get_float32_matmul_precision() -> str:
    """How the kernels multiply float32 matrices: "highest", "high" or "medium"."""
    return str(_process["precision"])


def set_float32_matmul_precision(precision: str) -> None:
    """
    Choose how the kernels multiply float32 matrices, in the whole process. Name and meaning are PyTorch's.

    Parameters
    ----------
    precision : {"highest", "high", "medium"}
        "highest" and "high": in float32. "medium": the operands are rounded to bfloat16, 8 significant bits, as they
        are read, and sums are kept in float32; without bfloat16 instructions, products are in float32 all the same.
        Arrays stay float32 in any case.

    Raises
    ------
    ValueError
        If `precision` is none of these.

    Examples
    --------
    >>> set_float32_matmul_precision("medium")
    >>> get_float32_matmul_precision()
    'medium'
    >>> set_float32_matmul_precision("highest")
    """
    if precision not in PRECISIONS:
        raise ValueError(f"set_float32_matmul_precision: must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    _process["precision"] = precision


@contextlib.contextmanager
def float32_matmul_precision(precision: str) -> Iterator[None]:
    """
    `set_float32_matmul_precision` for this block; the process has its former precision again after it.

    Examples
    --------
    >>> with float32_matmul_precision("medium"):
    ...     print(get_float32_matmul_precision())
    medium
    """
    before = _process["precision"]
    set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        _process["precision"] = before


def kernel_tolerance(float64: bool = False) -> float:
    """How far a kernel may be from its reference in check mode, as a share of the largest value of the result."""
    if float64:
        return 1e-10
    return 2e-2 if _process["precision"] == "medium" else 1e-4


def unit_of_rounding(float64: bool = False) -> float:
    """The relative error of one rounding in the kernels, at the present precision of products."""
    if float64:
        return 2.0**-53
    return 2.0**-9 if _process["precision"] == "medium" else 2.0**-24

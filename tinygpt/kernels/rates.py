"""
This machine's peak rates, with which the speed of a kernel is compared: measured within a second, on the threads that
a run would use.

Other work on a shared machine takes a core away for a tenth of a second at a time, and halves what is measured
meanwhile. So the rates are measured in turns, over a longer time than that, and the best of the turns counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tinygpt.kernels import norm
from tinygpt.kernels.matmul.gemm import multiply
from tinygpt.runtime import settings
from tinygpt.runtime.memory_limit import memory_limit

_SIZE = 1536
_TURNS = 5  # at least
_CACHES = Path("/sys/devices/system/cpu")


def rates(seconds: float = 0.5) -> dict[str, float]:
    """
    GFLOP/s of the product of two matrices of 1536 x 1536, and GB/s of reading an array larger than every cache.

    Parameters
    ----------
    seconds : float
        How long to measure, after a first turn that does not count. Five turns are taken in any case.

    Returns
    -------
    dict
        "float32_gflops", "bfloat16_gflops" and "read_gbytes", each the best of "turns"; "read_megabytes", the array's.
    """
    a, b, c = np.ones((3, _SIZE, _SIZE), np.float32)
    array = np.ones(_beyond_caches() // 4, np.float32)

    def product(precision: str) -> None:
        with settings.float32_matmul_precision(precision):
            multiply(a, b, c)

    work: dict[str, tuple[float, Callable[[], object]]] = {
        "float32_gflops": (2 * _SIZE**3, lambda: product("highest")),
        "bfloat16_gflops": (2 * _SIZE**3, lambda: product("medium")),
        "read_gbytes": (array.nbytes, lambda: norm.squares(array)),
    }
    for _, run in work.values():
        run()
    best, turns, end = dict.fromkeys(work, 0.0), 0, time.perf_counter() + seconds
    while turns < _TURNS or time.perf_counter() < end:
        for name, (amount, run) in work.items():
            best[name] = max(best[name], amount / _seconds(run) / 1e9)
        turns += 1
    return best | {"turns": turns, "read_megabytes": array.nbytes / 1e6}


def fastest_seconds(run: Callable[[], object], seconds: float = 0.25) -> float:
    """The time of the fastest of the runs that fit into some seconds, five at least, after one that does not count."""
    run()
    taken: list[float] = []
    while len(taken) < _TURNS or sum(taken) < seconds:
        taken.append(_seconds(run))
    return min(taken)


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def in_words(rate: float, unit: str = "B/s") -> str:
    """
    A rate with three digits, whatever its size.

    Parameters
    ----------
    rate : float
        In billions of the unit.
    unit : str
        What comes after the prefix.

    Examples
    --------
    >>> in_words(38.25), in_words(0.0004), in_words(1234, "FLOP/s")
    ('38.2 GB/s', '400 kB/s', '1230 GFLOP/s')
    """
    prefix, size = ("G", 1.0) if rate >= 1 else ("M", 1e-3) if rate >= 1e-3 else ("k", 1e-6)
    digits = f"{rate / size:.3g}"
    return f"{float(digits):.0f} {prefix}{unit}" if "e" in digits else f"{digits} {prefix}{unit}"


def _beyond_caches() -> int:
    """Bytes of an array, twice what all caches hold: at least 2^28, and at most an eighth of the memory."""
    size = max(2**28, 2 * _last_level_caches())
    return min(size, (memory_limit() or 2**40) // 8)


def _last_level_caches() -> int:
    """Bytes of all caches of the last level; 0 where the system does not say."""
    found: dict[tuple[int, str], int] = {}
    for cache in _CACHES.glob("cpu[0-9]*/cache/index[0-9]*"):
        try:
            level, size, shared = ((cache / name).read_text().strip() for name in ("level", "size", "shared_cpu_list"))
            found[int(level), shared] = int(size.removesuffix("K")) * 1024
        except (OSError, ValueError):
            continue
    return sum(size for (level, _), size in found.items() if level == max(found)[0])

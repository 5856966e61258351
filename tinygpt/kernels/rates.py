"""
This machine's peak rates, with which the speed of a kernel is compared: measured within a second, on the threads that
a run would use.

    products    GFLOP/s of the product of two matrices of 1536 x 1536, in float32 and in bfloat16
    memory      GB/s of reading an array of twice what all caches hold, which takes every number from memory
    cache       GB/s of reading an array that exceeds the second-level caches and stays in the third

Other work on a shared machine takes a core away for a tenth of a second at a time, and halves what is measured
meanwhile. So the rates are measured in turns, over a longer time than that, and the best of the turns counts. Where
fewer than three turns come near the best, more turns are made. Within a turn a short measurement is repeated, and its
fastest run counts: the first read of the array for the third level, after that of the large one, comes from memory.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numba import prange

from tinygpt.kernels.jit import parallel, threads
from tinygpt.kernels.matmul.gemm import multiply
from tinygpt.runtime import settings
from tinygpt.runtime.memory_limit import memory_limit
from tinygpt.runtime.processor import Cache, caches

_SIZE = 1536
_TURNS = 5  # at least
_TURN = 0.015  # seconds that a turn gives to each rate, at least
_NEAR, _AGREEING = 0.95, 3  # so many turns reach so much of the best, or it is measured for longer: three times at most
_PART = 2**15  # numbers of 8 bytes that a thread reads at a time


def rates(seconds: float = 0.5) -> dict[str, float]:
    """
    GFLOP/s of products, and GB/s of reading memory and the third-level cache.

    Parameters
    ----------
    seconds : float
        How long to measure, after a first turn that does not count: at least five turns, and up to three times as long
        where the best of a rate stands alone.

    Returns
    -------
    dict
        "float32_gflops", "bfloat16_gflops", "read_gbytes" and "cache_gbytes", each the best of "turns";
        "read_megabytes" and "cache_megabytes", the sizes of the arrays that are read; "product_size". Those of the
        cache are absent where there is no third level, or the system does not say how large it is. "spread": how far
        half of the turns were below the best, of that rate where it was most; 0.2 and more is a busy machine.
    """
    a, b, c = np.ones((3, _SIZE, _SIZE), np.float32)

    def product(precision: str) -> None:
        with settings.float32_matmul_precision(precision):
            multiply(a, b, c)

    work: dict[str, tuple[float, Callable[[], object]]] = {
        "float32_gflops": (2 * _SIZE**3, lambda: product("highest")),
        "bfloat16_gflops": (2 * _SIZE**3, lambda: product("medium")),
        "read_gbytes": reading(beyond_caches()),
    }
    if within := within_third_level():
        work["cache_gbytes"] = reading(within)
    for _, run in work.values():
        run()
    found: dict[str, list[float]] = {name: [] for name in work}
    start, turns = time.perf_counter(), 0
    while turns < _TURNS or time.perf_counter() < start + seconds * (1 if _agree(found) else 3):
        for name, (amount, run) in work.items():
            found[name].append(amount / _fastest(run, _TURN) / 1e9)
        turns += 1
    best = {name: max(each) for name, each in found.items()}
    spread = max(1 - statistics.median(each) / max(each) for each in found.values())
    sizes = {name.replace("gbytes", "megabytes"): work[name][0] / 1e6 for name in work if name.endswith("gbytes")}
    return best | sizes | {"product_size": _SIZE, "turns": turns, "spread": spread}


def _agree(found: Mapping[str, Sequence[float]]) -> bool:
    """Whether several turns come near the best of each rate."""
    return all(sum(rate >= _NEAR * max(each) for rate in each) >= _AGREEING for each in found.values())


def reading(size: int) -> tuple[float, Callable[[], object]]:
    """An array of about `size` bytes: how many it has, and a function that reads all of them on all threads."""
    array = np.ones(size // 8, np.int64)
    sums = np.empty(-(-array.size // _PART), np.int64)

    def read() -> int:
        threads()
        _sum(array, sums)
        return int(sums.sum())

    return float(array.nbytes), read


@parallel
def _sum(array, sums):
    """Sums of integers, since those of floating-point numbers take longer than reading them from the cache."""
    for part_ in prange(len(sums)):
        part = np.int64(part_)
        sums[part] = array[part * _PART : (part + 1) * _PART].sum()


def fastest_seconds(run: Callable[[], object], seconds: float = 0.25) -> float:
    """The time of the fastest of the runs that fit into some seconds, five at least, after one that does not count."""
    run()
    return _fastest(run, seconds, least=_TURNS)


def _fastest(run: Callable[[], object], seconds: float, least: int = 1) -> float:
    taken: list[float] = []
    while len(taken) < least or sum(taken) < seconds:
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


def beyond_caches() -> int:
    """
    Bytes of an array, twice what all caches of the last level hold: at least 2^28, at most an eighth of the memory.

    Where a virtual machine shows the whole cache of a processor, whose other cores serve others, this is more than
    needed, and right: nobody says how much of it is ours.
    """
    return min(max(2**28, 2 * _total(caches()[-1:])), (memory_limit() or 2**40) // 8)


def within_third_level() -> int | None:
    """Bytes of an array, four times the second-level caches, and at most half the third-level ones; None without."""
    levels = {each.level: each for each in caches()}
    second, third = (_total([levels[level]] if level in levels else []) for level in (2, 3))
    size = min(max(2**23, 4 * second), third // 2)
    return size if third and size > second else None


def _total(found: list[Cache]) -> int:
    return sum(cache.bytes * cache.instances for cache in found)

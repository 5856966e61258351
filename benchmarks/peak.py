"""
The peak rates of this machine, of which every other figure is a share.

    product     the micro-kernel of the matrix product, again and again on packed panels that stay in the cache, on all
                threads: nothing is packed, nothing comes from memory
    bandwidth   the best of reading an array larger than all caches, and of a = b + c over three of such a size together
    cache       reading an array that exceeds the second-level caches and stays in the third
"""

from __future__ import annotations

import time

import numba
import numpy as np
from numba import prange

from tinygpt.kernels.add import forward as add
from tinygpt.kernels.jit import ZERO, parallel, threads
from tinygpt.kernels.matmul.amx import AMX_LAYOUT, configure_amx, release_amx
from tinygpt.kernels.matmul.epilogue import OVERWRITE
from tinygpt.kernels.matmul.gemm import operand_format
from tinygpt.kernels.matmul.matrix import row_major
from tinygpt.kernels.matmul.packing import format_of
from tinygpt.kernels.matmul.panels import EDGE, STAGED, Panels, multiply, packed_elements, panel_size, scratch_in
from tinygpt.kernels.rates import beyond_caches, reading, within_third_level
from tinygpt.kernels.simd.cpu import LANES
from tinygpt.runtime import settings

DEPTH, ROWS, TURNS = 384, 64, 400


@parallel
def _products(a, b, c, columns, scratch, layout, workers):
    for worker_ in prange(workers):
        worker = np.int64(worker_)
        form = format_of(a)
        left = Panels(a, ZERO, panel_size(form, form.rows, DEPTH), DEPTH)
        right = Panels(b, ZERO, ZERO, DEPTH)  # one panel
        tile = row_major(c[worker], ZERO, columns, ROWS, columns)
        configure_amx(a, layout)
        for _ in range(TURNS):
            multiply(left, right, into=tile, mode=OVERWRITE, scratch=scratch_in(scratch[worker]))
        release_amx(a)


def measure(rounds: int = 7) -> dict[str, float]:
    """GFLOP/s of products in float32 and as "medium" computes them, and GB/s; no "cache" where there is no third."""
    size = beyond_caches()
    bandwidth = max(_best(lambda: reading(size), rounds), _best(lambda: _adding(size), rounds))
    rates = {"bandwidth": bandwidth / 1e9, "bandwidth_megabytes": size / 1e6}
    if within := within_third_level():
        rates |= {"cache": _best(lambda: reading(within), 20 * rounds) / 1e9, "cache_megabytes": within / 1e6}
    for precision in ("highest", "medium"):
        settings.set_float32_matmul_precision(precision)
        rates[precision] = product(rounds)
    settings.set_float32_matmul_precision("highest")
    return rates


def product(rounds: int = 7) -> float:
    """GFLOP/s of products on as many threads, and in the precision, as are set."""
    return _best(_multiplying, rounds) / 1e9


def _best(prepare, rounds: int) -> float:
    work, run = prepare()
    run()
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return work / min(seconds)


def _multiplying():
    workers, (form, dtype) = threads(), operand_format()
    columns = form.vectors * LANES
    of_a, of_b = packed_elements(form, ROWS, columns, DEPTH)
    a, b = np.zeros(of_a, dtype), np.zeros(of_b, dtype)
    c, scratch = (np.zeros((workers, size), np.float32) for size in (ROWS * columns, STAGED + EDGE))
    arguments = (a, b, c, columns, scratch, AMX_LAYOUT, workers)
    return 2 * ROWS * columns * DEPTH * TURNS * workers, lambda: _products(*arguments)


def _adding(size: int):
    a, b = np.ones((2, size // 12), np.float32)
    return 3 * a.nbytes, lambda: add(a, b)


if __name__ == "__main__":
    print(measure(), f"{numba.get_num_threads()} threads")

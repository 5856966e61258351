"""
The peak rates of this machine, of which every other figure is a share.

    product     the innermost tile of a matrix product again and again on packed panels that stay in cache, on all
                threads: nothing is packed, nothing comes from memory
    bandwidth   the best of reading an array far larger than the caches, and of a = b + c over three such arrays
"""

from __future__ import annotations

import time

import numba
import numpy as np
from numba import prange

from tinygpt.kernels import norm
from tinygpt.kernels.add import forward as add
from tinygpt.kernels.jit import parallel, threads
from tinygpt.kernels.matmul.gemm import factors
from tinygpt.kernels.matmul.microkernel import AMX_LAYOUT, OVERWRITE, begin_tiles, end_tiles
from tinygpt.kernels.matmul.panels import multiply_packed, packed_elements, panel_sizes
from tinygpt.kernels.simd.cpu import LANES
from tinygpt.runtime import settings

DEPTH, ROWS, TURNS = 384, 64, 400


@parallel
def _products(a, b, c, columns, sizes, form, edge, layout, workers):
    for worker_ in prange(workers):
        worker = np.int64(worker_)
        begin_tiles(a, layout)
        for _ in range(TURNS):
            multiply_packed(a, 0, ROWS, b, columns, DEPTH, sizes[0], sizes[1], c[worker], 0, columns, OVERWRITE, form,
                            edge[worker])  # fmt: skip
        end_tiles(a)


def measure(rounds: int = 7) -> dict[str, float]:
    """GFLOP/s of products in float32 and as "medium" computes them, and GB/s."""
    rates = {"bandwidth": max(_best(_reading, rounds), _best(_adding, rounds)) / 1e9}
    for precision in ("highest", "medium"):
        settings.set_float32_matmul_precision(precision)
        rates[precision] = _best(_multiplying, rounds) / 1e9
    settings.set_float32_matmul_precision("highest")
    return rates


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
    workers, (form, dtype) = threads(), factors()
    columns = form.vectors * LANES
    of_a, of_b = packed_elements(form, ROWS, columns, DEPTH)
    a, b = np.zeros(of_a, dtype), np.zeros(of_b, dtype)
    c, edge = np.zeros((workers, ROWS * columns), np.float32), np.zeros((workers, 32 * 48), np.float32)
    arguments = (a, b, c, columns, panel_sizes(form, DEPTH), form, edge, AMX_LAYOUT, workers)
    return 2 * ROWS * columns * DEPTH * TURNS * workers, lambda: _products(*arguments)


def _reading():
    array = np.ones(2**26, np.float32)
    return array.nbytes, lambda: norm.squares(array)


def _adding():
    a, b = np.ones((2, 2**25), np.float32)
    return 3 * a.nbytes, lambda: add(a, b)


if __name__ == "__main__":
    print(measure(), f"{numba.get_num_threads()} threads")

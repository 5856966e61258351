"""
This machine's peak rates, with which the speed of a kernel is compared: measured in a few seconds, on the threads that
a run would use. Other work on the machine lowers them.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from tinygpt.kernels import norm
from tinygpt.kernels.matmul.gemm import multiply
from tinygpt.runtime import settings

_SIZE = 1536


def rates() -> dict[str, float]:
    """
    GFLOP/s of the product of two matrices of 1536 x 1536, and GB/s of reading an array larger than every cache.

    Returns
    -------
    dict
        "float32_gflops", "bfloat16_gflops" and "read_gbytes", each the best of five.
    """
    a, b, c = np.ones((3, _SIZE, _SIZE), np.float32)
    result = {}
    for name, precision in (("float32_gflops", "highest"), ("bfloat16_gflops", "medium")):
        with settings.float32_matmul_precision(precision):
            result[name] = 2 * _SIZE**3 / fastest_seconds(lambda: multiply(a, b, c)) / 1e9
    array = np.ones(2**26, np.float32)
    result["read_gbytes"] = array.nbytes / fastest_seconds(lambda: norm.squares(array)) / 1e9
    return result


def fastest_seconds(run: Callable[[], object]) -> float:
    """The time of the fastest of five runs, after one that does not count."""
    run()
    taken = []
    for _ in range(5):
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
    return min(taken)

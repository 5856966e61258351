"""
`python -m benchmarks.bench_ladder`: the steps of kernels/matmul/ladder.py and the real product, on one thread.

Prints what each reaches in GFLOP/s, and as a share of the processor's peak: the micro-kernel on operands in the
first-level cache. Every result is checked against NumPy's product in float64 before anything is timed.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np

from benchmarks import peak
from benchmarks.kernel_race import WrongResult
from benchmarks.machine import processor
from tinygpt.kernels.matmul import gemm, ladder
from tinygpt.runtime import settings

SIZE = 512
LEAST = 0.05  # seconds that each is given per turn


def contestants(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> dict[str, Callable[[], None]]:
    """The four steps and the real product, all of c = a b."""
    packed = np.empty((ladder.MC, ladder.KC), np.float32), np.empty((ladder.NC, ladder.KC), np.float32)
    return {
        "triple loop": lambda: ladder.triple_loop(a, b, c),
        "blocked": lambda: ladder.blocked(a, b, c),
        "packed": lambda: ladder.packed(a, b, c, *packed),
        "register tile": lambda: ladder.register_tile(a, b, c, *packed),
        "gemm.multiply": lambda: gemm.multiply(a, b, into=c),
    }


def verify(name: str, run: Callable[[], None], c: np.ndarray, exact: np.ndarray) -> None:
    """Raise WrongResult unless the product is right to 1e-5 of its largest number."""
    c[...] = np.nan
    run()
    gap, scale = np.max(np.abs(c - exact)), np.max(np.abs(exact))
    if not gap <= 1e-5 * scale:
        raise WrongResult(f"{name}: off by {gap:.3g}, allowed 1e-5 of {scale:.3g}; not timed")


def fastest(run: Callable[[], None]) -> float:
    """Seconds of the fastest call, of as many as fit into a short time."""
    best, end = float("inf"), time.perf_counter() + LEAST
    while best == float("inf") or time.perf_counter() < end:
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
    return best


def rates(runs: dict[str, Callable[[], None]], rounds: int) -> tuple[dict[str, float], float]:
    """GFLOP/s of the fastest call of each, and the peak, all measured in turns."""
    best, most = dict.fromkeys(runs, float("inf")), 0.0
    for _ in range(rounds):
        for name, run in runs.items():
            best[name] = min(best[name], fastest(run))
        most = max(most, peak.product(rounds=3))
    return {name: 2 * SIZE**3 / seconds / 1e9 for name, seconds in best.items()}, most


def main() -> None:
    """Verify, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_ladder", description="The product in four steps.")
    parser.add_argument("--verify-only", action="store_true", help="check the results, time nothing")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each step (default: 7)")
    options = parser.parse_args()
    settings.set_num_threads(1)
    rng = np.random.default_rng(0)
    a, b, c = rng.standard_normal((3, SIZE, SIZE), np.float32)
    runs, exact = contestants(a, b, c), a.astype(np.float64) @ b.astype(np.float64)
    for name, run in runs.items():
        verify(name, run, c, exact)
    if options.verify_only:
        print(f"{len(runs)} products: all results are right")
        return
    found, best = rates(runs, options.rounds)
    print(f"{SIZE} x {SIZE} x {SIZE}, float32, one thread of {processor()}, peak {best:.0f} GFLOP/s\n")
    print("| product | GFLOP/s | of peak |\n|---|---:|---:|")
    for name, rate in found.items():
        print(f"| {name} | {rate:.1f} | {rate / best:.1%} |")


if __name__ == "__main__":
    main()

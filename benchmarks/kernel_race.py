"""
A kernel against its NumPy reference and PyTorch: checked first, then timed in turns.

Each side runs in a process of its own (worker.py). A result that is not the reference's is not timed: the race stops.
Every round times the reference, the kernel, PyTorch and the kernel once more; the last is the noise.
"""

from __future__ import annotations

import importlib
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from benchmarks.worker import Worker, median

OPS = ["linear", "attention", "layernorm", "gelu", "gelu_linear", "linear_cross_entropy", "cross_entropy",
       "embedding", "dropout", "add", "adamw", "norm"]  # fmt: skip
SIDES = ("numpy", "tinygpt", "torch")
PAUSE = 0.2  # seconds: OpenBLAS's threads spin for a while after their work, on cores that the next side needs
MEDIUM = 3e-2  # how far bfloat16 products may be from the reference, as a share of the largest value


class WrongResult(AssertionError):
    """A result that must not be timed."""


def cases(names: list[str], bfloat16: bool = True) -> Iterator[tuple[str, str, str]]:
    """Name, case and precision of every row; without `bfloat16`, of those with float32 products."""
    for name in names:
        module = importlib.import_module(f"benchmarks.bench_{name}")
        for precision in getattr(module, "PRECISIONS", ("highest",))[: None if bfloat16 else 1]:
            for case in module.CASES:
                yield name, case, precision


def race(
    names: list[str], rounds: int, peak: dict[str, float] | None, bfloat16: bool = True
) -> Iterator[dict[str, Any]]:
    """
    The rows of the table, each as soon as it is measured.

    Parameters
    ----------
    names : list of str
        Of benchmarks.
    rounds : int
        0 only verifies, and gives no rows.
    peak : dict or None
        What `benchmarks.peak.measure` gave.
    bfloat16 : bool
        Whether the rows with bfloat16 products are there.

    Raises
    ------
    WrongResult
        If a result differs from the reference's by more than the benchmark allows.
    """
    workers = {side: Worker(side) for side in SIDES}
    try:
        for name, case, precision in tqdm(list(cases(names, bfloat16)), desc="kernels", unit="case"):
            with tempfile.TemporaryDirectory() as folder:
                for side, worker in workers.items():
                    worker.ask("benchmarks.worker", "prepare", side=side, name=name, case=case, precision=precision,
                               result=str(Path(folder) / f"{side}.npz"))  # fmt: skip
                verify(name, case, precision, Path(folder))
            if rounds:
                yield _time(workers, name, case, precision, rounds, peak)
    finally:
        for worker in workers.values():
            worker.close()


def verify(name: str, case: str, precision: str, folder: Path) -> None:
    """Raise WrongResult unless both sides computed what the reference did."""
    module = importlib.import_module(f"benchmarks.bench_{name}")
    tolerance = max(module.TOLERANCE, MEDIUM if precision == "medium" else 0)
    with np.load(folder / "numpy.npz") as reference:
        for side in ("tinygpt", "torch"):
            with np.load(folder / f"{side}.npz") as results:
                for index, key in enumerate(reference):
                    expected, got = reference[key], results[key]
                    gap, scale = np.max(np.abs(got - expected), initial=0), np.max(np.abs(expected), initial=0)
                    if got.shape != expected.shape or not gap <= tolerance * scale:
                        raise WrongResult(f"{name}, {case}, {precision}: {side}'s result {index} is off by {gap:.3g}, "
                                          f"allowed {tolerance:.3g} of {scale:.3g}; not timed")  # fmt: skip


def _time(workers, name, case, precision, rounds, peak) -> dict[str, Any]:
    readings: dict[str, list[float]] = {side: [] for side in (*SIDES, "tinygpt again")}
    for _ in range(rounds):
        for side, times in readings.items():
            time.sleep(PAUSE)
            times.append(workers[side.removesuffix(" again")].ask("benchmarks.worker", "measure"))
    module = importlib.import_module(f"benchmarks.bench_{name}")
    ((kind, amount),) = module.cost(module.CASES[case]).items()
    rate = amount / median(readings["tinygpt"]) / 1e9
    best = None if peak is None else peak["bandwidth" if kind == "bytes" else precision]
    return {
        "benchmark": name, "case": case, "precision": precision, "readings": readings, "kind": kind, "rate": rate,
        "share": None if best is None else rate / best,
        "to_torch": median(readings["torch"]) / median(readings["tinygpt"]),
        "to_numpy": median(readings["numpy"]) / median(readings["tinygpt"]),
        "noise": median(readings["tinygpt again"]) / median(readings["tinygpt"]),
    }  # fmt: skip

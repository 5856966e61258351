"""
A kernel against its NumPy reference and PyTorch: checked first, then timed in turns.

Each side runs in a process of its own (worker.py). A result that is not the reference's is not timed: the race stops.
Every round times the reference, the kernel, PyTorch and the kernel once more; the last is the noise. The kernel of
another checkout may race, too, as "against".
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import modules
from benchmarks.machine import HAS_TORCH
from benchmarks.worker import ROOT, Worker, WorkerError, median
from tinygpt.runtime.streams import bar

SIDES = ("numpy", "tinygpt", "torch") if HAS_TORCH else ("numpy", "tinygpt")
PAUSE = 0.2  # seconds: OpenBLAS's threads spin for a while after their work, on cores that the next side needs
MEDIUM = 3e-2  # how far bfloat16 products may be from the reference, as a share of the largest value


class WrongResult(AssertionError):
    """A result that must not be timed."""


def cases(
    names: Collection[str], bfloat16: bool = True, only: Mapping[str, Collection[str]] | None = None
) -> Iterator[tuple[str, str, str]]:
    """Name, case and precision of every row; without `bfloat16`, of float32 products only; `only` has some cases."""
    for name in names:
        benchmark = modules.load(name)
        for precision in benchmark.precisions[: None if bfloat16 else 1]:
            for case in benchmark.cases:
                if only is None or name not in only or case in only[name]:
                    yield name, case, precision


def race(
    rows: Collection[tuple[str, str, str]],
    rounds: int,
    peak: dict[str, float] | None,
    until: float = np.inf,
    sides: Collection[str] = SIDES,
    against: Path | None = None,
) -> Iterator[dict[str, Any]]:
    """
    The rows of the table, each as soon as it is measured.

    Parameters
    ----------
    rows : list of (name, case, precision)
        As `cases` gives them.
    rounds : int
        0 only verifies, and gives no rows.
    peak : dict or None
        What `benchmarks.peak.measure` gave.
    until : float
        No row is begun after this time of `time.monotonic`; one that is being measured ends with the round.
    sides : collection of str
        Those that are timed, "tinygpt" among them; the reference computes in any case.
    against : Path, optional
        Another checkout, whose tinygpt races as the side "against".

    Raises
    ------
    WrongResult
        If a result differs from the reference's by more than the benchmark allows.
    WorkerError
        If a side fails.
    """
    with contextlib.ExitStack() as processes:
        wanted = ["numpy", "tinygpt"]
        if "torch" in sides and any(modules.load(name).torch for name, _, _ in rows):
            wanted.append("torch")
        if against is not None:
            wanted.append("against")
        roots = {"against": against or ROOT}
        workers = {side: processes.enter_context(Worker(side, roots.get(side, ROOT))) for side in wanted}
        for name, case, precision in bar(iterable=rows, desc="kernels", unit="case", leave=False):
            if time.monotonic() > until:
                return
            computing = [side for side in wanted if side != "torch" or modules.load(name).torch]
            with tempfile.TemporaryDirectory() as folder:
                for side in computing:
                    try:
                        result = str(Path(folder) / f"{side}.npz")
                        kind = side.replace("against", "tinygpt")
                        cost = workers[side].ask("benchmarks.worker", "prepare", side=kind, name=name, case=case,
                                                 precision=precision, result=result)  # fmt: skip
                    except WorkerError as error:
                        raise WorkerError(f"{name.rstrip(':')}, {case}: {error}") from None
                verify(name, case, precision, Path(folder), computing)
            if rounds:
                used = {side: workers[side] for side in computing if side != "numpy" or "numpy" in sides}
                yield _time(used, name, case, precision, rounds, peak, cost, until)


def verify(name: str, case: str, precision: str, folder: Path, sides: Collection[str] = SIDES) -> None:
    """Raise WrongResult unless all sides computed what the reference did."""
    benchmark = modules.load(name)
    tolerance = max(benchmark.tolerance, MEDIUM if precision == "medium" else 0)
    with np.load(folder / "numpy.npz") as reference:
        for side in sides:
            with np.load(folder / f"{side}.npz") as results:
                who = f"{benchmark.name}, {case}, {precision}: {side}"
                if len(results) != len(reference):
                    raise WrongResult(f"{who} gives {len(results)} results, the reference {len(reference)}; not timed")
                for index, key in enumerate(reference):
                    _compare(f"{who}: {benchmark.result(index)}", results[key], reference[key], tolerance)


def _compare(who: str, got: np.ndarray, expected: np.ndarray, tolerance: float) -> None:
    if got.shape != expected.shape:
        raise WrongResult(f"{who} has shape {got.shape}, the reference's {expected.shape}; not timed")
    gap, scale = np.max(np.abs(got - expected), initial=0), np.max(np.abs(expected), initial=0)
    if not gap <= tolerance * scale:
        raise WrongResult(f"{who} is off by {gap:.3g}, allowed {tolerance:.3g} of {scale:.3g}; not timed")


def _time(workers, name, case, precision, rounds, peak, cost, until) -> dict[str, Any]:
    readings: dict[str, list[float]] = {side: [] for side in (*workers, "tinygpt again")}
    for turn in range(rounds):
        if turn and time.monotonic() > until:
            break
        for side, times in readings.items():
            time.sleep(PAUSE)
            times.append(workers[side.removesuffix(" again")].ask("benchmarks.worker", "measure"))
    ((kind, amount),) = cost.items()
    times = {side: median(values) for side, values in readings.items()}
    rate = amount / times["tinygpt"] / 1e9
    best = None if peak is None else peak["bandwidth" if kind == "bytes" else precision]
    return {
        "benchmark": modules.load(name).name, "case": case, "precision": precision, "readings": readings, "kind": kind,
        "rate": rate, "share": None if best is None else rate / best,
        "to_torch": times["torch"] / times["tinygpt"] if "torch" in times else None,
        "to_numpy": times["numpy"] / times["tinygpt"] if "numpy" in times else None,
        "to_against": times["against"] / times["tinygpt"] if "against" in times else None,
        "noise": times["tinygpt again"] / times["tinygpt"],
    }  # fmt: skip

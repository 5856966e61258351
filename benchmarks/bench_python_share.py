"""
Python's share of a training step, against that of another checkout: how much is outside of compiled kernels.

Every compiled function that Python calls is timed, from the call to its return: the conversion of its arguments is in
it, and so are the loops of all threads. What such a step takes beyond its kernels is Python's share: the engine, the
model's Python, NumPy, and the interpreter between two calls. The watch takes half a microsecond per call. The
time of a step is that of steps that are not watched, in turns with those. A *launch* is a call of a kernel with a
parallel loop on more than one thread.

Steps are those of `bench_train_step`; their losses must be the same bits, watched or not.
"""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import bench_train_step
from benchmarks.kernel_race import WrongResult
from benchmarks.worker import threads
from tinygpt.runtime.streams import bar

CASES = ("nanoGPT's recipe, B=12 T=64", *bench_train_step.SMALL, "GPT-2 124M, B=1 T=512")
SIDES = bench_train_step.OURS
DEFAULT = ("tinygpt float32",)
LEAST = 0.75  # seconds of each kind of step, in a turn


class Counts:
    """Time inside of compiled functions, their calls, and the launches among them, so far."""

    def __init__(self) -> None:
        self.ns = self.calls = self.launches = 0


@contextlib.contextmanager
def watched(package: str = "tinygpt") -> Iterator[Counts]:
    """
    Time every call from Python of a function of this package that Numba has compiled; those there are by now.

    Examples
    --------
    >>> import numba
    >>> double = numba.njit(lambda x: 2 * x)
    >>> double(1)
    2
    >>> with watched(double.py_func.__module__) as counts:
    ...     double(3), double(4)
    (6, 8)
    >>> counts.calls, counts.launches, counts.ns > 0
    (2, 0, True)
    """
    import numba
    from numba.core.registry import CPUDispatcher

    counts, several = Counts(), numba.get_num_threads
    found = [each for each in gc.get_objects() if issubclass(type(each), CPUDispatcher)]
    found = [each for each in found if f"{each.py_func.__module__}.".startswith(f"{package}.")]
    before = [each.__class__ for each in found]
    parallel = {id(each) for each in found if each.targetoptions.get("parallel")}

    def timed(kind: type) -> type:
        def call(self: Any, *arguments: Any) -> Any:
            counts.calls += 1
            counts.launches += id(self) in parallel and several() > 1
            start = time.perf_counter_ns()
            try:
                return kind.__call__(self, *arguments)
            finally:
                counts.ns += time.perf_counter_ns() - start

        return type(kind.__name__, (kind,), {"__call__": call})

    kinds = {kind: timed(kind) for kind in set(before)}
    try:
        for each in found:
            each.__class__ = kinds[each.__class__]
        yield counts
    finally:
        for each, kind in zip(found, before, strict=True):
            each.__class__ = kind


def measure(steps: int) -> dict[str, float]:
    """Seconds of a plain step and of a watched one; of the latter, those inside of kernels, calls and launches."""
    seconds = bench_train_step.measure(steps)
    with watched() as counts:
        start = time.perf_counter_ns()
        for _ in range(steps):
            bench_train_step._step["run"]()
        taken = time.perf_counter_ns() - start
    return {"step": seconds, "watched": taken / 1e9 / steps, "kernels": counts.ns / 1e9 / steps,
            "calls": counts.calls / steps, "launches": counts.launches / steps}  # fmt: skip


def losses(side: str, case: str) -> list[list[float]]:
    """Of the same steps, plain and watched."""
    plain = bench_train_step.prepare(side, case)
    with watched() as counts:
        seen = bench_train_step.prepare(side, case)
    if not counts.calls:
        raise WrongResult(f"{case}: {side} called no compiled function; nothing to measure")
    return [plain, seen]


def race(
    rounds: int, cases: Sequence[str] = CASES, sides: Sequence[str] = DEFAULT, until: float = np.inf,
    against: Path | None = None,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """
    The rows of the table, each as soon as it is measured; none with 0 rounds, when losses are verified.

    A row has, for each side, the readings of `measure`.

    Parameters
    ----------
    rounds, cases, sides, until, against
        As in `bench_train_step.race`; sides of PyTorch have no kernels that could be timed so.
    """
    for case in bar(iterable=cases, desc="Python's share", unit="case", leave=False, disable=not rounds):
        if time.monotonic() > until:
            return
        with bench_train_step.started(case, sides, against) as (workers, left_out):
            readings: dict[str, dict[str, list[float]]] = {}
            steps = 1
            for side, worker in workers.items():
                plain, seen = worker.ask(__name__, "losses", side=side.replace("against", "tinygpt"), case=case)
                if plain != seen:
                    raise WrongResult(f"{case}: {side} has losses {plain}, and {seen} when it is watched; not timed")
                readings[side] = {name: [] for name in ("step", "watched", "kernels", "calls", "launches")}
                steps = max(steps, int(LEAST / worker.ask(__name__, "measure", steps=1)["step"]) if rounds else 1)
            for turn in range(rounds):
                if turn and time.monotonic() > until:
                    break
                for side, worker in workers.items():
                    time.sleep(bench_train_step.PAUSE)
                    for name, value in worker.ask(__name__, "measure", steps=steps).items():
                        readings[side][name].append(value)
        if rounds:
            yield {"case": case, "readings": readings, "left_out": left_out, "threads": threads()}

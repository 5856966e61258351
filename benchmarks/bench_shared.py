"""
Training steps beside busy processes, against PyTorch: how much of the speed alone is left.

A busy process is `while True: pass`. In each round every number of them is started, all sides take a turn of some
seconds beside them, one after the other, and they are ended. A fair share of the machine is that of a program whose
threads get as much of the cores as the busy processes do, and lose nothing by it: see `fair_share`.

The busy processes end with this one, however it ends: at the end of a block, on an error, on Ctrl-C, and if it is
killed, since their input is closed then.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import bench_train_step
from benchmarks.bench_train_step import COMPILE_LIMIT, COMPILED, PAUSE
from benchmarks.worker import WorkerError, threads
from tinygpt.runtime.settings import available_cores
from tinygpt.runtime.streams import bar

CASES = ("nanoGPT's recipe, B=12 T=64", "GPT-2 124M, B=4 T=64")
SIDES = bench_train_step.SIDES
DEFAULT = tuple(side for side in SIDES if "float32" in side and not side.endswith(COMPILED))
BUSY = (0, 1, 2)
ROUNDS, SECONDS = 5, 10.0

# The thread sleeps until the pipe is closed; it says that the loop begins, so that nothing is timed before.
_LOOP = """
import os, sys, threading

def end_with_the_parent():
    sys.stdin.buffer.read()
    os._exit(0)

threading.Thread(target=end_with_the_parent, daemon=True).start()
print("busy", flush=True)
while True:
    pass
"""


@contextlib.contextmanager
def busy_processes(count: int) -> Iterator[list[subprocess.Popen]]:
    """
    So many busy processes, which run when the block begins and are ended with it.

    Examples
    --------
    >>> with busy_processes(1) as busy:
    ...     [process.poll() for process in busy]
    [None]
    >>> busy[0].poll() is None
    False
    """
    processes: list[subprocess.Popen] = []
    try:
        for _ in range(count):
            processes.append(subprocess.Popen(
                [sys.executable, "-c", _LOOP], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
            ))  # fmt: skip
        for process in processes:
            if process.stdout is None or not process.stdout.readline():
                raise WorkerError("shared: a busy process did not start")
        yield processes
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.communicate()


def fair_share(busy: int, cores: int, threads: int) -> float:
    """
    The share of its speed alone that is left to a program of so many threads beside busy processes of one thread each.

    Examples
    --------
    >>> [round(fair_share(busy, cores=2, threads=2), 2) for busy in (0, 1, 2)], fair_share(1, cores=2, threads=1)
    ([1.0, 0.67, 0.5], 1.0)
    """
    return min(1.0, cores / (min(threads, cores) + busy))


def race(
    rounds: int, cases: Sequence[str] = CASES, sides: Sequence[str] = DEFAULT, until: float = np.inf,
    against: Path | None = None, limit: float = COMPILE_LIMIT, seconds: float = SECONDS, busy: Sequence[int] = BUSY,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """
    The rows of the table, each as soon as it is measured; none with 0 rounds, when losses are verified, and one turn of
    a step is taken beside a busy process.

    A row has the steps per second of each side, for each number of busy processes.

    Parameters
    ----------
    rounds, cases, sides, until, against, limit
        As in `bench_train_step.race`.
    seconds : float
        Of each turn of a side.
    busy : sequence of int
        How many busy processes; none at all is always among them.
    """
    counts = sorted({0, *busy})
    for case in bar(iterable=cases, desc="beside busy processes", unit="case", leave=False, disable=not rounds):
        if time.monotonic() > until:
            return
        with bench_train_step.started(case, sides, against, limit) as (workers, left_out):
            readings: dict[str, dict[str, list[float]]] = {side: {str(n): [] for n in counts} for side in workers}
            if not rounds:
                with busy_processes(1):
                    next(iter(workers.values())).ask("benchmarks.bench_train_step", "steps_per_second", seconds=0)
            for turn in range(rounds):
                if turn and time.monotonic() > until:
                    break
                for count in counts:
                    with busy_processes(count):
                        for side, worker in workers.items():
                            time.sleep(PAUSE)
                            speed = worker.ask("benchmarks.bench_train_step", "steps_per_second", seconds=seconds)
                            readings[side][str(count)].append(speed)
        if rounds:
            yield {
                "case": case, "readings": readings, "left_out": left_out, "seconds": seconds, "threads": threads(),
                "cores": available_cores(),
                "fair": {str(count): fair_share(count, available_cores(), threads()) for count in counts},
            }  # fmt: skip

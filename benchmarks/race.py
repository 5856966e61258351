"""Timing in turns: a machine that is slow for a while is slow for every side."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from benchmarks.table import noisy


class Times(NamedTuple):
    """What one contestant needed, in seconds, and whether that spreads too far to mean much: see `table.py`."""

    median: float
    fastest: float
    slowest: float
    noisy: bool


def race(contestants: Mapping[str, Callable[[], Callable[[], object]]], rounds: int) -> dict[str, Times]:
    """
    Run each contestant once a round, after one round that does not count.

    Parameters
    ----------
    contestants : mapping of str to callable
        Each prepares a round and returns what is to be timed.
    rounds : int

    Returns
    -------
    times : dict of str to Times
    """
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    gc.disable()
    try:
        for turn in range(rounds + 1):
            for name, prepare in contestants.items():
                gc.collect()
                run = prepare()
                start = time.perf_counter()
                run()
                if turn:
                    seconds[name].append(time.perf_counter() - start)
    finally:
        gc.enable()
    return {name: Times(statistics.median(all_), min(all_), max(all_), noisy(all_)) for name, all_ in seconds.items()}

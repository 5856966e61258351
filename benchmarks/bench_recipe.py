"""
nanoGPT's command of 2,000 steps from start to exit, against PyTorch.

`tinygpt train --preset shakespeare-char --data tinyshakespeare.txt`, as a user types it: Python's start, the tokenizer,
2,000 steps, validation every 250, checkpoints, and the last validation over all of the text. Beside it torch_recipe.py,
which is the same recipe in PyTorch, eagerly. Kernels are compiled before, by a run of a few steps that does not count.

The text is the one that --data names, else tinyshakespeare.txt in the folder of `TINYGPT_TEST_DATA`, else the bundled
stories: the table says which.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.kernel_race import WrongResult
from benchmarks.machine import HAS_TORCH
from benchmarks.worker import ROOT, WorkerError, environment, median, threads
from tinygpt.runtime.streams import bar

CASES = ("2,000 steps of nanoGPT's recipe",)
OURS = ("tinygpt float32", "tinygpt bfloat16")
SIDES = (*OURS, "torch float32") if HAS_TORCH else OURS
ROUNDS, STEPS = 1, 2000
FEW, SHORT = 10, 40_000  # steps, and characters of the text, of a run that compiles or verifies
TOLERANCE = 0.05  # of the loss: the sides differ in their random numbers


def text_of(data: Path | None, folder: Path) -> Path:
    """The text to train on; the bundled stories are written into `folder`."""
    if data is not None:
        return data.resolve()
    found = Path(os.environ.get("TINYGPT_TEST_DATA", ROOT.parent / "shared" / "data")) / "tinyshakespeare.txt"
    if found.is_file():
        return found.resolve()
    stories = folder / "the bundled stories.txt"
    stories.write_bytes(b"\n\n".join(path.read_bytes() for path in sorted((ROOT / "data").glob("*.txt"))))
    return stories


def run(side: str, text: Path, steps: int, root: Path = ROOT) -> tuple[float, float]:
    """Seconds from the start of a side's command to its exit, and the last validation loss."""
    framework, precision = side.split()
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "run"
        if framework == "torch":
            command = ["benchmarks.torch_recipe", str(text), str(result), str(steps)]
        else:
            command = ["tinygpt", "train", "--preset", "shakespeare-char", "--data", str(text), "--out", str(result),
                       "--steps", str(steps), "--precision", precision, "--quiet"]  # fmt: skip
        start = time.perf_counter()
        with subprocess.Popen(
            [sys.executable, "-m", *command], cwd=root, env=environment(side, root), stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True,
        ) as process:  # fmt: skip
            try:
                said, _ = process.communicate()
            except BaseException:
                process.kill()
                raise
        seconds = time.perf_counter() - start
        if process.returncode:
            last = said.strip().splitlines()[-1:] or ["it said nothing"]
            raise WorkerError(f"{side}: its command ended with status {process.returncode}: {last[0]}")
        return seconds, _loss(result)


def _loss(result: Path) -> float:
    """What a run has written: a JSON object, or the folder of one of ours, whose log ends with the last validation."""
    if result.is_file():
        return float(json.loads(result.read_text())["loss"])
    lines = [json.loads(line) for line in (result / "metrics.jsonl").read_text().splitlines()]
    last = [line for line in lines if "validation_loss" in line][-1]
    return float(last.get("final_validation_loss", last["validation_loss"]))


def verify(losses: dict[str, float]) -> None:
    """Raise WrongResult unless every side has learned something, and all as much, but for their random numbers."""
    ours = next(iter(losses.values()))
    for side, loss in losses.items():
        if not loss < math.log(256) or not abs(loss - ours) <= TOLERANCE * ours:
            raise WrongResult(f"{CASES[0]}: {side} ends at a loss of {loss:.4f}, {next(iter(losses))} at {ours:.4f}")


def race(
    rounds: int, cases: Sequence[str] = CASES, sides: Sequence[str] = SIDES, until: float = np.inf,
    against: Path | None = None, data: Path | None = None, steps: int = STEPS,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """
    The row of the table; none with 0 rounds, when commands of a few steps are run, and their losses verified.

    A row has the seconds and the last validation losses of each side.

    Parameters
    ----------
    rounds, cases, sides, until, against
        As in `bench_train_step.race`. No round is begun after `until`.
    data : Path, optional
        The text.
    steps : int
        How many each command takes.
    """
    roots = {"against": against or ROOT}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for case in cases:
            text, beginning = text_of(data, folder), folder / "beginning.txt"
            beginning.write_text(text.read_text(encoding="utf-8")[:SHORT], encoding="utf-8")

            def of(side: str, text: Path, steps: int) -> tuple[float, float]:
                return run(side, text, steps, roots.get(side.split()[0], ROOT))

            verify({side: of(side, beginning, FEW)[1] for side in sides})  # this compiles, too
            seconds: dict[str, list[float]] = {side: [] for side in sides}
            losses: dict[str, list[float]] = {side: [] for side in sides}
            for _ in bar(iterable=range(rounds), desc="whole runs", unit="round", leave=False, disable=not rounds):
                if time.monotonic() > until:
                    break
                for side in sides:
                    taken, loss = of(side, text, steps)
                    seconds[side].append(taken)
                    losses[side].append(loss)
            if any(seconds.values()):
                verify({side: median(values) for side, values in losses.items()})
                yield {"case": case, "readings": seconds, "losses": losses, "text": text.name, "steps": steps,
                       "threads": threads()}  # fmt: skip

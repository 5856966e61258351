"""
One whole training step, forward, backward, clip, AdamW, against PyTorch with its best settings.

Ours and PyTorch's model (torch_gpt2.py) start from the same weights and see the same batch: the losses of the first
four steps must agree before anything is timed. `tinygpt train` captures the second of a small model, compares the third
with a replay, and replays the fourth. Each side has a process of its own, and they take turns.

PyTorch runs eagerly, by torch.compile, and by torch.compile(mode="max-autotune"), which tries several programs for each
product. What it compiles is kept (`machine.compiled_by_torch`). A side that cannot be compiled, takes too long, or
finds no memory beside the others is left out of its case, and the table names it.

For the models of `SMALL`, whose steps take a millisecond or a few, PyTorch runs eagerly unless --sides names what is
compiled. Another checkout runs these same cases: its tinygpt, this harness.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.kernel_race import WrongResult
from benchmarks.machine import HAS_TORCH
from benchmarks.worker import ROOT, Worker, WorkerError, median
from tinygpt.runtime.memory_limit import available_memory
from tinygpt.runtime.streams import bar

GPT2 = {"vocab_size": 50257, "n_positions": 1024, "n_embd": 768, "n_layer": 12, "n_head": 12}
NANO = {"vocab_size": 65, "n_positions": 64, "n_embd": 128, "n_layer": 4, "n_head": 4}
CASES = {
    "GPT-2 124M, B=4 T=64": (GPT2, 4, 64),
    "GPT-2 124M, B=4 T=256": (GPT2, 4, 256),
    "GPT-2 124M, B=1 T=512": (GPT2, 1, 512),
    "nanoGPT's recipe, B=12 T=64": (NANO, 12, 64),
}
SMALL = {
    "the preset tiny, B=8 T=128": (
        {"vocab_size": 2048, "n_positions": 128, "n_embd": 128, "n_layer": 4, "n_head": 4}, 8, 128
    ),
    "2 layers, C=64, B=8 T=16": ({"vocab_size": 65, "n_positions": 16, "n_embd": 64, "n_layer": 2, "n_head": 2}, 8, 16),
}  # fmt: skip
TINY = {"tiny": ({"vocab_size": 97, "n_positions": 16, "n_embd": 24, "n_layer": 2, "n_head": 2}, 2, 16)}
OURS = ("tinygpt float32", "tinygpt bfloat16")
EXACT = OURS[0]  # the losses of all others are compared with its
COMPILED = ("compiled", "max-autotune")
SIDES = (
    *OURS,
    *(f"torch {kind}{how}" for kind in ("float32", "bfloat16") for how in ("", " compiled", " max-autotune")),
)
SIDES = SIDES if HAS_TORCH else OURS
VERIFIED = 4  # steps; of a model that is small enough to be captured, the last is the first that is replayed
COMPILE_LIMIT = 300.0  # seconds that a side may take until these have ended
PAUSE = 0.2  # seconds: threads of the side before spin for a while after their work
TOLERANCE = {"float32": 1e-4, "bfloat16": 2e-2}  # of the loss
OPTIONS = {"lr": 1e-4, "weight_decay": 0.1}

_step: dict[str, Any] = {}


def prepare(side: str, case: str) -> list[float]:
    """Build a side in this process; the losses of its first steps."""
    sizes, B, T = {**CASES, **SMALL, **TINY}[case]
    rng = np.random.default_rng(5)
    tokens, targets = rng.integers(0, sizes["vocab_size"], (2, B, T))
    framework, precision, *how = side.split()
    make = _torch_step if framework == "torch" else _our_step
    _step["run"] = make(sizes, tokens, targets, precision == "bfloat16", "".join(how))
    return [_step["run"]() for _ in range(VERIFIED)]


def measure(steps: int) -> float:
    """Seconds of one step, the mean of several after one that wakes the threads."""
    _step["run"]()
    start = time.perf_counter()
    for _ in range(steps):
        _step["run"]()
    return (time.perf_counter() - start) / steps


def steps_per_second(seconds: float) -> float:
    """The speed of the steps that begin within so many seconds, and of one at least."""
    start, count = time.perf_counter(), 0
    while True:
        _step["run"]()
        count += 1
        taken = time.perf_counter() - start
        if taken >= seconds:
            return count / taken


def _model(sizes: dict[str, int]):
    from tinygpt import GPT, GPTConfig

    return GPT(GPTConfig(**sizes, embd_pdrop=0.0, attn_pdrop=0.0, resid_pdrop=0.0), seed=1337)


def _our_step(sizes, tokens, targets, bfloat16, how):
    import tinygpt
    from tinygpt import AdamW
    from tinygpt.optim.gradient_norm import grad_norm
    from tinygpt.runtime import settings

    settings.set_float32_matmul_precision("medium" if bfloat16 else "highest")
    model = _model(sizes)
    optimizer = AdamW(model.parameters(), betas=(0.9, 0.95), **OPTIONS)

    def as_always(tokens: Any, targets: Any) -> float:
        loss = model.loss(tokens, targets)
        loss.backward()
        return loss.item()

    # As `tinygpt train` computes it; another checkout may be of before.
    compute = tinygpt.CapturedStep(model) if hasattr(tinygpt, "CapturedStep") else as_always

    def step() -> float:
        loss = compute(tokens, targets)
        optimizer.step(scale=min(1.0, 1.0 / grad_norm(model.parameters())))
        optimizer.zero_grad()
        return loss

    return step


def _torch_step(sizes, tokens, targets, bfloat16, how):
    import torch

    torch_gpt2 = importlib.import_module("benchmarks.torch_gpt2")
    if os.environ.get("ATEN_CPU_CAPABILITY") == "avx2":  # the compiler has a switch of its own
        importlib.import_module("torch._inductor.config").cpp.simdlen = 256
    model = torch_gpt2.TorchGPT2(**sizes)
    model.load(_model(sizes).state_dict())
    optimizer = torch_gpt2.optimizer_for(model, **OPTIONS)
    run = torch.compile(model, mode="max-autotune" if how == "max-autotune" else None) if how else model
    tokens, targets = torch.from_numpy(tokens), torch.from_numpy(targets)
    return lambda: torch_gpt2.train_step(run, optimizer, tokens, targets, bfloat16)


def race(
    rounds: int, cases: Sequence[str] | None = None, sides: Sequence[str] = SIDES, until: float = np.inf,
    against: Path | None = None, limit: float = COMPILE_LIMIT,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """
    The rows of the table, each as soon as it is measured; none with 0 rounds, when losses are verified and that is all.

    A row has the readings and the peak memory of each side, ratios to PyTorch's best, and why a side was left out.

    Parameters
    ----------
    rounds : int
    cases, sides : sequence of str
        Of `CASES`, `SMALL` or `TINY`, and of `SIDES`; "against" in place of "tinygpt" is that of another checkout.
    until : float
        No row is begun after this time of `time.monotonic`.
    against : Path, optional
        The other checkout.
    limit : float
        How many seconds a side of PyTorch may take to compile.
    """
    for case in bar(iterable=list(CASES) if cases is None else cases, desc="training steps", unit="case", leave=False):
        if time.monotonic() > until:
            return
        with started(case, sides, against, limit) as (workers, left_out):
            first = next(iter(workers))
            steps = max(1, int(1.5 / workers[first].ask(__name__, "measure", steps=1)))
            readings: dict[str, list[float]] = {side: [] for side in (*workers, f"{first} again")}
            for turn in range(rounds):
                if turn and time.monotonic() > until:
                    break
                for side, times in readings.items():
                    time.sleep(PAUSE)
                    times.append(workers[side.removesuffix(" again")].ask(__name__, "measure", steps=steps))
            memory = {side: worker.ask("benchmarks.worker", "peak_memory") for side, worker in workers.items()}
        if rounds:
            yield {"case": case, "readings": readings, "memory": memory, "left_out": left_out, **ratios(readings)}


@contextlib.contextmanager
def started(
    case: str, sides: Sequence[str], against: Path | None = None, limit: float = COMPILE_LIMIT
) -> Iterator[tuple[dict[str, Worker], dict[str, str]]]:
    """
    A warm process for each side, all of which have the same losses; and why others were left out.

    Parameters
    ----------
    case, sides, against, limit
        As `race` takes them.

    Raises
    ------
    WrongResult
        If a side has other losses than our float32.
    WorkerError
        If a side fails that PyTorch need not compile, or none is left.
    """
    with contextlib.ExitStack() as processes:
        roots = {"against": against or ROOT}
        workers, losses, left_out = {}, {}, {}
        for side in dict.fromkeys((EXACT, *sides)):
            if (full := _no_room(workers)) is not None:
                left_out[side] = full
                continue
            worker = processes.enter_context(Worker(side, roots.get(side.split()[0], ROOT), harness=ROOT))
            try:
                losses[side] = _losses(worker, side, case, limit)
                workers[side] = worker
            except WorkerError as error:
                worker.kill()
                if not side.endswith(COMPILED):
                    raise
                left_out[side] = f"{error}".removeprefix(f"{side}: ")
        verify(case, losses)
        if EXACT not in sides:
            workers.pop(EXACT).close()
        if not workers:
            raise WorkerError(f"{case}: no side is left: {'; '.join(f'{s}: {w}' for s, w in left_out.items())}")
        yield workers, left_out


def _losses(worker: Worker, side: str, case: str, limit: float) -> list[float]:
    arguments = {"side": side.replace("against", "tinygpt"), "case": case}
    if side.endswith(COMPILED):
        return worker.ask_within(limit, __name__, "prepare", **arguments)
    return worker.ask(__name__, "prepare", **arguments)


def _no_room(workers: dict[str, Worker]) -> str | None:
    """Why no further side fits beside these: it may need as much as the largest of them did."""
    largest = max((worker.ask("benchmarks.worker", "peak_memory") or 0 for worker in workers.values()), default=0)
    left = available_memory()
    if left is None or left > 1.1 * largest:
        return None
    return (
        f"{left / 1e9:.1f} GB of memory are left beside the other sides, {largest / 1e9:.1f} are needed; choose fewer"
    )


def verify(case: str, losses: dict[str, list[float]]) -> None:
    """Raise unless every side has the losses of our float32, each but the first after steps of its own."""
    exact = losses[EXACT]
    for side, got in losses.items():
        tolerance = TOLERANCE[side.split()[1]]
        if not np.allclose(got, exact, rtol=tolerance, atol=0):
            raise WrongResult(f"{case}: {side} has losses {got}, tinygpt float32 {exact}; not timed")


def ratios(readings: dict[str, list[float]]) -> dict[str, float]:
    """How many times as long PyTorch's best takes, of float32 and of all, by the medians; of those that were raced."""
    times = {side: median(values) for side, values in readings.items() if not side.endswith(" again")}
    ours, theirs = ({side: t for side, t in times.items() if side.startswith(who)} for who in ("tinygpt", "torch"))
    float32 = [time for side, time in theirs.items() if "float32" in side]
    found = {}
    if float32 and "tinygpt float32" in ours:
        found["float32_to_torch"] = min(float32) / ours["tinygpt float32"]
    if ours and theirs:
        found["best_to_torch"] = min(theirs.values()) / min(ours.values())
    if theirs and "tinygpt bfloat16" in ours:
        found["bfloat16_to_torch"] = min(theirs.values()) / ours["tinygpt bfloat16"]
    return found

"""
A process of its own for each side of a race, so that neither side's threads hinder the other's.

The parent writes one line of JSON per request and waits for one in return: only one process works at a time, and the
others sleep in a read. Started by `Worker(side)`; inside, `python -m benchmarks.worker`.

A worker has a process group of its own: Ctrl-C reaches the parent alone, which ends its workers and what they have
started. A worker whose parent is gone ends when it has finished what it was asked for.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import compiled_by_torch
from tinygpt.runtime.settings import available_cores

ROOT = Path(__file__).resolve().parents[1]
# Each runtime's own best, as far as measured: threads bound to cores help PyTorch, and NumPy takes no harm.
ENVIRONMENT = {
    "torch": {"OMP_NUM_THREADS": "{threads}", "OMP_PROC_BIND": "true", **compiled_by_torch()},
    "numpy": {f"{library}_NUM_THREADS": "{threads}" for library in ("OPENBLAS", "MKL", "BLIS")},
    "tinygpt": {"NUMBA_NUM_THREADS": "{threads}"},
    "against": {"NUMBA_NUM_THREADS": "{threads}"},
}
# The features of the levels of x86-64, as Numba and LLVM name them.
X86_64_V2 = "+sse,+sse2,+sse3,+ssse3,+sse4.1,+sse4.2,+popcnt,+cx16"
X86_64_V3 = f"{X86_64_V2},+avx,+avx2,+fma,+bmi,+bmi2,+lzcnt,+f16c"
# What makes each library take the processor for an older one.
PROCESSORS = {
    "this": {},
    "avx2": {
        "NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": X86_64_V3,
        "ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "OPENBLAS_CORETYPE": "Haswell",
    },
}  # fmt: skip
# Python looks in the current folder first, which is that of the checkout: tinygpt comes from there, benchmarks do not.
_WITH_HARNESS = """
import sys, tinygpt
sys.path.insert(0, {harness!r})
import benchmarks.worker
benchmarks.worker.serve()
"""
LEAST = 0.05  # seconds of work between two readings of the clock


class WorkerError(RuntimeError):
    """What went wrong in a worker."""


def threads() -> int:
    """How many threads each side uses: what --threads says, else one for each core."""
    return int(os.environ.get("BENCHMARK_THREADS", 0)) or available_cores()


def environment(side: str, root: Path = ROOT) -> dict[str, str]:
    """The variables of a process that runs a side, with the tinygpt of a checkout."""
    own = {name: value.format(threads=threads()) for name, value in ENVIRONMENT[side.split()[0]].items()}
    others = [each for each in sys.path if each and Path(each).resolve() != ROOT]  # a user's module is there
    return {**os.environ, **own, "PYTHONPATH": os.pathsep.join([str(root), *others])}


class Worker:
    """
    A warm process that runs one side.

    Parameters
    ----------
    side : str
        "tinygpt", "numpy" or "torch", alone or followed by what distinguishes two of a kind ("torch compiled"); or
        "against" in place of "tinygpt": that of another checkout.
    root : Path
        The checkout whose tinygpt it runs.
    harness : Path, optional
        The checkout whose benchmarks it runs: by default that of tinygpt, whose kernels they call. Ours, for benchmarks
        that use public functions only: they then have cases that an earlier commit does not know.
    """

    def __init__(self, side: str, root: Path = ROOT, harness: Path | None = None) -> None:
        self.side = side
        foreign = harness is not None and harness != root
        start = ["-c", _WITH_HARNESS.format(harness=str(harness))] if foreign else ["-m", "benchmarks.worker"]
        self._process = subprocess.Popen(
            [sys.executable, *start], env=environment(side, root), text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
            cwd=None if root == ROOT else root,  # Python looks there first
        )  # fmt: skip

    def ask_within(self, seconds: float, module: str, function: str, **arguments: Any) -> Any:
        """As `ask`, but the process is killed, and that is an error, if it takes longer."""
        late = threading.Event()

        def stop() -> None:
            late.set()
            self.kill()

        timer = threading.Timer(seconds, stop)
        timer.start()
        try:
            return self.ask(module, function, **arguments)
        except WorkerError:
            if late.is_set():
                raise WorkerError(f"{self.side}: took longer than {seconds:g} s") from None
            raise
        finally:
            timer.cancel()

    def ask(self, module: str, function: str, **arguments: Any) -> Any:
        """Call a function of a module there; arguments and result must be JSON."""
        request = {"module": module, "function": function, "arguments": arguments}
        answer = ""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        if not answer:
            status = self._process.wait()
            died = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
            raise WorkerError(f"{self.side}: its process {died}")
        result = json.loads(answer)
        if "error" in result:
            raise WorkerError(f"{self.side}: {result['error']}")
        return result["result"]

    def close(self) -> None:
        """Let the process end; it has nothing to do."""
        self._process.stdin.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.kill()
        self._process.stdout.close()

    def kill(self) -> None:
        """End the process, and those that it has started, whatever they do."""
        with contextlib.suppress(OSError):
            os.killpg(self._process.pid, signal.SIGKILL) if hasattr(os, "killpg") else self._process.kill()
        self._process.wait()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, kind: object, *exception: object) -> None:
        if kind is not None:
            self.kill()
        self.close()


_prepared: dict[str, Any] = {}


def prepare(side: str, name: str, case: str, precision: str, result: str) -> dict[str, float]:
    """Make the inputs of a case, run it once, and save what came out as an .npz file; returns what the case costs."""
    from benchmarks.modules import load
    from tinygpt.runtime import settings

    settings.set_float32_matmul_precision(precision)
    benchmark = load(name)
    given = benchmark.given(benchmark.cases[case], np.random.default_rng(11))
    make = {"tinygpt": benchmark.ours, "numpy": benchmark.numpy, "torch": benchmark.torch}[side]
    run = make(given)
    np.savez(result, *run())
    seconds = _seconds(run, 1)  # warm
    _prepared["run"], _prepared["count"] = run, max(1, int(LEAST / max(seconds, 1e-7)))
    return benchmark.cost(benchmark.cases[case], given)


def measure() -> float:
    """Seconds of one run, the mean over so many that the clock can be trusted, after one that wakes the threads."""
    _prepared["run"]()
    return _seconds(_prepared["run"], _prepared["count"])


def _seconds(run: Any, count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
        run()
    return (time.perf_counter() - start) / count


def peak_memory() -> int | None:
    """The most memory that this process ever held, in bytes; not what it was forked from. None where unknown."""
    status = Path("/proc/self/status")
    return int(status.read_text().split("VmHWM:")[1].split()[0]) * 1024 if status.exists() else None


def median(values: list[float]) -> float:
    """The middle of several readings."""
    return statistics.median(values)


def serve() -> None:
    """Answer requests until the parent closes its end."""
    out, sys.stdout = sys.stdout, sys.stderr  # prints must not mix with the answers
    for line in sys.stdin:
        request = json.loads(line)
        try:
            function = getattr(importlib.import_module(request["module"]), request["function"])
            answer = {"result": function(**request["arguments"])}
        except (Exception, SystemExit) as error:  # the parent tells the user
            answer = {"error": _told(error)}
        try:
            print(json.dumps(answer), file=out, flush=True)
        except BrokenPipeError:  # the parent is gone
            os._exit(1)


def _told(error: BaseException) -> str:
    """An error in a line; one that no code of ours has raised with the place in the user's file."""
    from tinygpt.study.checks import problem_of

    frame = traceback.extract_tb(error.__traceback__)[-1]
    if Path(frame.filename).is_relative_to(ROOT / "benchmarks"):
        return " ".join(f"{error}".split())
    problem = problem_of(error)
    return problem if "numba" in frame.filename else f"{problem} ({Path(frame.filename).name}, line {frame.lineno})"


if __name__ == "__main__":
    from benchmarks import worker

    worker.serve()

"""
A process of its own for each side of a race, so that neither side's threads hinder the other's.

The parent writes one line of JSON per request and waits for one in return: only one process works at a time, and the
others sleep in a read. Started by `Worker(side)`; inside, `python -m benchmarks.worker`.
"""

from __future__ import annotations

import importlib
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
THREADS = 2
# Each runtime's own best, as far as measured: threads bound to cores help PyTorch, and NumPy takes no harm.
ENVIRONMENT = {
    "torch": {"OMP_NUM_THREADS": str(THREADS), "OMP_PROC_BIND": "true"},
    "numpy": {"OPENBLAS_NUM_THREADS": str(THREADS)},
    "tinygpt": {"NUMBA_NUM_THREADS": str(THREADS)},
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
LEAST = 0.05  # seconds of work between two readings of the clock


class WorkerError(RuntimeError):
    """What went wrong in a worker."""


class Worker:
    """
    A warm process that runs one side.

    Parameters
    ----------
    side : str
        "tinygpt", "numpy" or "torch", alone or followed by what distinguishes two of a kind ("torch compiled").
    """

    def __init__(self, side: str) -> None:
        self.side = side
        environment = {**os.environ, **ENVIRONMENT[side.split()[0]], "PYTHONPATH": str(ROOT)}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker"], cwd=ROOT, env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def ask(self, module: str, function: str, **arguments: Any) -> Any:
        """Call a function of a module there; arguments and result must be JSON."""
        request = {"module": module, "function": function, "arguments": arguments}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise WorkerError(f"{self.side}: the process ended with status {self._process.wait()}")
        result = json.loads(answer)
        if "error" in result:
            raise WorkerError(f"{self.side}: {result['error']}")
        return result["result"]

    def close(self) -> None:
        """Let the process end."""
        self._process.stdin.close()
        self._process.wait()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


_prepared: dict[str, Any] = {}


def prepare(side: str, name: str, case: str, precision: str, result: str) -> None:
    """Make the inputs of a case, run it once, and save what came out as an .npz file."""
    from benchmarks import sides
    from tinygpt.runtime import settings

    settings.set_float32_matmul_precision(precision)
    module = importlib.import_module(f"benchmarks.bench_{name}")
    given = module.given(module.CASES[case], np.random.default_rng(11))
    run = getattr(sides, side.replace("tinygpt", "ours"))(module, given)
    np.savez(result, *run())
    seconds = _seconds(run, 1)  # warm
    _prepared["run"], _prepared["count"] = run, max(1, int(LEAST / max(seconds, 1e-7)))


def measure() -> float:
    """Seconds of one run, the mean over so many that the clock can be trusted, after one that wakes the threads."""
    _prepared["run"]()
    return _seconds(_prepared["run"], _prepared["count"])


def _seconds(run: Any, count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
        run()
    return (time.perf_counter() - start) / count


def peak_memory() -> int:
    """The most memory that this process ever held, in bytes; not what it was forked from."""
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024


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
        except Exception as error:  # the parent tells the user
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=out, flush=True)


if __name__ == "__main__":
    from benchmarks import worker

    worker.serve()

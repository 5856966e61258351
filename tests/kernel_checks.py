"""
What every kernel is asked: is it its reference, whatever it is given to write into, on any number of threads?

The reference runs in float64 on the same float32 inputs, so a difference is the kernel's own rounding. Bounds are
shares of the largest value of each result: float32 has 24 bits, 6e-8, and a sum of n terms that are added one by one
may lose up to n times that, in practice a small multiple of its square root.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llvmlite import binding

from benchmarks.worker import X86_64_V2, X86_64_V3
from tinygpt import Op
from tinygpt.autograd.gradients import Reservation
from tinygpt.runtime import settings
from tinygpt.runtime.memory import Slot

AVX512 = f"{X86_64_V3},+avx512f,+avx512bw,+avx512dq,+avx512vl,+avx512cd"
PROCESSORS = {  # the features of processors that a newer one can emulate
    "generic": X86_64_V2,
    "AVX2": X86_64_V3,
    "AVX-512": AVX512,
    "AVX-512 with VNNI": f"{AVX512},+avx512vnni",
    "AVX-512 with bfloat16": f"{AVX512},+avx512bf16",
}


@contextlib.contextmanager
def using_threads(count: int) -> Iterator[None]:
    """Kernels inside use `count` threads."""
    before = settings.num_threads()
    settings.set_num_threads(count)
    try:
        yield
    finally:
        settings.set_num_threads(before)


precision = settings.float32_matmul_precision  # products inside are computed as it says


def run_kernel(op: Op, arrays, attrs=None, dout=None, into=None) -> tuple[np.ndarray, list[np.ndarray | None]]:
    """
    The kernel's result, and its gradients if it is given `dout`.

    `into` has for each input "overwrite" (memory full of NaN), "add" (memory full of ones, taken off again) or None.
    """
    kernel, attrs = importlib.import_module(op.kernel), attrs or {}
    into = into or ["overwrite"] * len(arrays)
    assert kernel.accepts(*arrays, **attrs)
    reserved = tuple(
        None if how is None else Reservation(np.full(array.shape, np.nan, array.dtype))
        for array, how in zip(arrays, into, strict=True)
    )
    eager = {"reserved": reserved} if getattr(kernel, "GRADIENTS_IN_FORWARD", False) else {}
    copies = [array.copy() for array in arrays]
    out, saved = kernel.forward(*arrays, **attrs, **eager)
    out = np.array(out)
    if dout is None or not hasattr(kernel, "backward"):
        return out, []
    slots = [
        None if how is None else Slot(np.full(array.shape, 1 if how == "add" else np.nan, array.dtype), how == "add")
        for array, how in zip(arrays, into, strict=True)
    ]
    kernel.backward(dout, saved, slots)
    for array, copy in zip(arrays, copies, strict=True):
        np.testing.assert_array_equal(array, copy)  # nobody wrote into an input
    return out, [None if slot is None else slot.array - np.float32(slot.add) for slot in slots]


def check_kernel(op: Op, arrays, attrs=None, tolerance: float = 1e-6, seed: int = 0) -> None:
    """
    Assert that forward and every gradient are the reference's, into each kind of slot and on one and two threads.

    Parameters
    ----------
    op : Op
        With a kernel.
    arrays : list of float32 arrays
        Its inputs, of any memory order.
    attrs : dict, optional
    tolerance : float
        The largest difference, as a share of the largest value of each result.
    """
    attrs = attrs or {}
    exact_out, exact_saved = op.forward(*(array.astype(np.float64) for array in arrays), **attrs)
    dout = np.random.default_rng(seed).standard_normal(np.shape(exact_out)).astype(np.float32)
    exact = op.backward(dout.astype(np.float64), exact_saved)
    n = len(arrays)
    patterns = [["overwrite"] * n, ["add"] * n]
    patterns += [["overwrite" if i == only else None for i in range(n)] for only in range(n)] if n > 1 else []
    for into in patterns:
        results = []
        for count in (1, 2):
            with using_threads(count):
                results.append(run_kernel(op, arrays, attrs, dout, into))
        for one, two in zip((results[0][0], *results[0][1]), (results[1][0], *results[1][1]), strict=True):
            np.testing.assert_array_equal(one, two, err_msg=f"{op.name}: one thread and two give different bits")
        out, gradients = results[0]
        assert_close(f"{op.name}.forward", out, exact_out, tolerance)
        for index, (gradient, reference) in enumerate(zip(gradients, exact, strict=False)):
            if gradient is not None:
                assert_close(f"{op.name}.backward, input {index}, {into[index]}", gradient, reference, tolerance,
                             besides=1 if into[index] == "add" else 0)  # fmt: skip


def assert_close(who: str, ours: np.ndarray, exact: np.ndarray, tolerance: float, besides: float = 0,
                 floor: float = 0) -> None:  # fmt: skip
    """
    Equal up to a share of the largest value, or of `floor` if that is larger; float32, the same shape.

    `besides` is what else was in the sum: it was rounded with it.
    """
    assert ours.dtype == np.float32 and ours.shape == np.shape(exact), who
    scale = max(np.max(np.abs(exact), initial=0), floor) + besides
    gap = np.max(np.abs(ours - exact), initial=0)
    assert gap <= tolerance * scale, f"{who}: off by {gap:.3g}, allowed {tolerance:.3g} of {scale:.3g}"


def in_a_process(program: str, **environment: str) -> str:
    """Run a program in a process of its own, with these environment variables; returns what it printed."""
    root = Path(__file__).resolve().parents[1]
    path = os.pathsep.join([str(root), str(root / "tests")])
    result = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": path, **environment},
        cwd=root,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


def on_a_processor(name: str, program: str) -> str:
    """Run a program as on one of `PROCESSORS`: on this one, told to do without its newer instructions."""
    has = binding.get_host_cpu_features()
    if name == "AVX2" and not has.get("avx512f"):
        pytest.skip("this processor is such a one: all tests are of that code")
    if any(not has.get(feature[1:]) for feature in PROCESSORS[name].split(",")):
        pytest.skip("this processor lacks what is to be emulated")
    with tempfile.TemporaryDirectory() as cache:
        environment = {"NUMBA_CPU_NAME": "x86-64", "NUMBA_CPU_FEATURES": PROCESSORS[name], "NUMBA_CACHE_DIR": cache}
        return in_a_process(program, **environment).strip()


def digest_on_threads(program: str) -> list[str]:
    """
    What `program` prints with 1, 2 and 4 threads, each in a process that has so many.

    The program prints a digest of its results: equal lines mean equal bits.
    """
    return [in_a_process(program, NUMBA_NUM_THREADS=count) for count in ("1", "2", "4")]


def expect_nan(result: Any) -> None:
    """A NaN went in: one must come out."""
    assert np.isnan(result).any()

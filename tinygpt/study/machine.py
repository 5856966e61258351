"""
The report of `tinygpt doctor`: the processor, the libraries, the measured rates, and advice.
"""

from __future__ import annotations

import contextlib
import os
import platform
from pathlib import Path
from typing import Any

import llvmlite.binding
import numba
import numpy as np

from tinygpt.files.user_cache import kernel_root
from tinygpt.kernels import norm
from tinygpt.kernels.jit import compiler, threads
from tinygpt.kernels.rates import rates
from tinygpt.kernels.simd.cpu import BFLOAT16, FEATURES, TILES
from tinygpt.runtime import settings
from tinygpt.runtime.plural import counted

_WORTH_KNOWING = ("avx2", "fma", "avx512f", "avx512bf16", "amx-bf16", "neon")


def report() -> dict[str, Any]:
    """
    The report as plain values.

    Returns
    -------
    dict
        Texts, numbers and, under "advice", a list of sentences.
    """
    count = threads()
    result: dict[str, Any] = {
        "processor": f"{llvmlite.binding.get_host_cpu_name()}, {platform.machine()}",
        "features": " ".join(name for name in _WORTH_KNOWING if name in FEATURES) or "none that matter",
        "bfloat16": "by AMX's tiles" if TILES else "by AVX-512" if BFLOAT16 else "none: products stay float32",
        "cores": settings.available_cores(),
        "threads": count,
        "memory": _memory(),
        "numpy": f"{np.__version__}, {_blas()}",
        "numba": f"{numba.__version__}, threading layer {_layer()}",
        "busy_waiting": f"GOMP_SPINCOUNT={os.environ.get('GOMP_SPINCOUNT', 'unset')}, "
        f"OMP_WAIT_POLICY={os.environ.get('OMP_WAIT_POLICY', 'unset')}, "
        f"OMP_PROC_BIND={os.environ.get('OMP_PROC_BIND', 'unset')}",
        "kernels": f"{compiler.folder}, {_megabytes(compiler.folder):.3g} MB" if compiler.folder else "not kept",
        **rates(seconds=1.0),
    }
    trouble = compiler.trouble()
    result["cache"] = f"does not work: {trouble}" if trouble else f"works, in {kernel_root()}"
    result["advice"] = advice(result, _layer(), not trouble)
    return result


def advice(found: dict[str, Any], layer: str, kept: bool) -> list[str]:
    """
    Recommendations, most useful first.

    Examples
    --------
    >>> advice({"cores": 4, "threads": 2, "bfloat16": "by AVX-512"}, "omp", True)
    ['2 of 4 cores are used: set NUMBA_NUM_THREADS, or --threads, to 4']
    """
    lines = []
    if layer != "omp":
        lines.append(f"Numba's threading layer is {layer}, which starts loops slowly: install OpenMP (libgomp1)")
    if found["threads"] < found["cores"]:
        lines.append(f"{found['threads']} of {found['cores']} cores are used: set NUMBA_NUM_THREADS, or --threads, "
                     f"to {found['cores']}")  # fmt: skip
    if found["threads"] > found["cores"]:
        lines.append(
            f"{found['threads']} threads share {counted(found['cores'], 'core')}: one thread per core is faster"
        )
    if not kept:
        lines.append(f"compiled kernels cannot be kept{_where()}: make it writable, or set NUMBA_CACHE_DIR or "
                     "XDG_CACHE_HOME to an absolute path")  # fmt: skip
    if found["bfloat16"].startswith("none"):
        lines.append("this processor has no bfloat16 instructions: --precision bfloat16 would change nothing")
    else:
        lines.append("bfloat16 products train faster here: tinygpt train --precision bfloat16")
    return lines[:-1] if lines[-1].startswith("bfloat16") and len(lines) > 1 else lines


def _where() -> str:
    try:
        return f" in {kernel_root()}"
    except FileNotFoundError:
        return ", because this user has no home"


def _memory() -> str:
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return "unknown"
    return f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 1e9:.3g} GB"


def _blas() -> str:
    blas = np.show_config(mode="dicts").get("Build Dependencies", {}).get("blas", {})
    return f"BLAS {blas.get('name', 'unknown')} {blas.get('version', '')}".strip()


def _layer() -> str:
    """The layer that loops run on; known only once one has run."""
    norm.squares(np.ones(1, np.float32))
    try:
        return numba.threading_layer()
    except ValueError:
        return "none (NUMBA_DISABLE_JIT)"


def _megabytes(folder: Path) -> float:
    total = 0
    for file in folder.rglob("*"):
        with contextlib.suppress(OSError):  # removed meanwhile
            total += file.lstat().st_size
    return total / 1e6

"""
The report of `tinygpt doctor`: the processor, the libraries, the measured rates, and advice.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import llvmlite.binding
import numba
import numpy as np

from tinygpt.files.user_cache import kernel_root
from tinygpt.kernels import norm, thread_pool
from tinygpt.kernels.jit import compiler, threads
from tinygpt.kernels.rates import rates
from tinygpt.kernels.simd.cpu import BFLOAT16, FEATURES, LANES, TILES
from tinygpt.runtime import launch
from tinygpt.runtime.plural import counted
from tinygpt.runtime.processor import Cache, Topology, caches, identity, topology

BUSY = 0.2  # a spread of the rates above this: something else was running, see `rates`
_WORTH_KNOWING = ("avx2", "fma", "avx512f", "avx512bf16", "amx-bf16", "neon")


def report() -> dict[str, Any]:
    """
    The report as plain values.

    Returns
    -------
    dict
        Texts, numbers and, under "advice", a list of sentences.
    """
    who, where = identity(), topology()
    result: dict[str, Any] = {
        "processor": who.text,
        "features": f"{' '.join(name for name in _WORTH_KNOWING if name in FEATURES) or 'none that matter'}; "
        f"LLVM takes it for {llvmlite.binding.get_host_cpu_name()}",
        "float32": f"by {_vectors()}",
        "bfloat16": "by AMX's tiles" if TILES else "by AVX-512" if BFLOAT16 else "none: products stay float32",
        "topology": topology_text(where),
        "processors": where.processors,
        "cores": where.cores,
        "sockets": where.sockets,
        "threads": threads(),
        "caches": caches_text(caches(), where),
        "host": "a virtual machine: others may share its cores and its last cache" if who.virtual else "",
        "memory": _memory(),
        "numpy": f"{np.__version__}, {_blas()}",
        "numba": f"{numba.__version__}, threading layer {_layer()}",
        "loops": _loops(),
        "busy_waiting": _waiting(),
        "kernels": f"{compiler.folder}, {_megabytes(compiler.folder):.3g} MB" if compiler.folder else "not kept",
        "cache_gbytes": None,
        "cache_megabytes": None,
        **rates(seconds=1.5),
    }
    trouble = compiler.trouble()
    result["cache"] = f"does not work: {trouble}" if trouble else f"works, in {kernel_root()}"
    result["advice"] = advice(result, _layer() if launch.numbas_layer else "own", not trouble)
    return result


def topology_text(found: Topology) -> str:
    """
    Cores, hyperthreads and sockets.

    Examples
    --------
    >>> topology_text(Topology(16, cores=8, sockets=1))
    '8 cores with 2 hyperthreads each, 1 socket'
    >>> topology_text(Topology(4))
    '4 processors; the system does not say which are hyperthreads of one core'
    """
    if found.cores is None or found.sockets is None:
        return f"{counted(found.processors, 'processor')}; the system does not say which are hyperthreads of one core"
    whole, rest = divmod(found.processors, found.cores)
    each = "without hyperthreads" if found.processors == found.cores else f"with {whole} hyperthreads each"
    if rest:
        each = f"with {found.processors} hyperthreads"
    return f"{counted(found.cores, 'core')} {each}, {counted(found.sockets, 'socket')}"


def caches_text(found: Sequence[Cache], where: Topology) -> str:
    """
    The size of each level, and how many share it.

    Examples
    --------
    >>> levels = [Cache(1, 49152, 2, 8), Cache(2, 2**21, 2, 8), Cache(3, 2**25, 8, 2)]
    >>> caches_text(levels, Topology(16, cores=8, sockets=1))
    'L1 48 KiB per core, L2 2 MiB per core, 2 x L3 32 MiB, each shared by 8 processors'
    """
    siblings = where.processors // where.cores if where.cores else 1
    return ", ".join(_cache_text(cache, siblings) for cache in found) or "the system does not say"


def _cache_text(cache: Cache, siblings: int) -> str:
    size = f"{cache.bytes / 2**20:.3g} MiB" if cache.bytes >= 2**20 else f"{cache.bytes / 2**10:.3g} KiB"
    if cache.shared_by <= siblings:
        return f"L{cache.level} {size} per core"
    several, each = (f"{cache.instances} x ", ", each") if cache.instances > 1 else ("", "")
    return f"{several}L{cache.level} {size}{each} shared by {counted(cache.shared_by, 'processor')}"


def _vectors() -> str:
    kind = "AVX-512" if "avx512f" in FEATURES else "AVX2" if LANES == 8 else "NEON" if "neon" in FEATURES else "SSE"
    return f"{kind}, vectors of {LANES} numbers"


def advice(found: dict[str, Any], layer: str, kept: bool) -> list[str]:
    """
    Recommendations, most useful first.

    Examples
    --------
    >>> advice({"processors": 4, "cores": 4, "threads": 2, "bfloat16": "by AVX-512"}, "omp", True)
    ['2 of 4 cores are used: set NUMBA_NUM_THREADS, or --threads, to 4']
    """
    lines, count = [], found["threads"]
    cores = found["cores"] or found["processors"]
    if layer not in ("omp", "own"):
        lines.append(f"Numba's threading layer is {layer}, which starts loops slowly: install OpenMP (libgomp1)")
    if count < cores:
        lines.append(f"{count} of {cores} cores are used: set NUMBA_NUM_THREADS, or --threads, to {cores}")
    elif count > found["processors"]:
        lines.append(f"{count} threads share {counted(cores, 'core')}: one thread per core is faster")
    elif count > cores:
        lines.append(f"{count} threads are hyperthreads of {counted(cores, 'core')}: compare with --threads {cores}")
    if not kept:
        lines.append(f"compiled kernels cannot be kept{_where()}: make it writable, or set NUMBA_CACHE_DIR or "
                     "XDG_CACHE_HOME to an absolute path")  # fmt: skip
    if found["bfloat16"].startswith("none"):
        lines.append("this processor has no bfloat16 instructions: --precision bfloat16 would change nothing")
    elif not lines:
        lines.append("bfloat16 products train faster here: tinygpt train --precision bfloat16")
    if found.get("spread", 0) > BUSY:
        lines.append("something else was running, and the rates may be too low: measure again")
    return lines


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


def _loops() -> str:
    """What parallel loops run on."""
    if numba.config.DISABLE_JIT:
        return "in plain Python, one iteration after the other"
    return (
        f"on Numba's threading layer: {launch.numbas_layer}" if launch.numbas_layer else "on a thread pool of our own"
    )


def _waiting() -> str:
    """How a thread waits for its next loop."""
    if numba.config.DISABLE_JIT:
        return ""
    if launch.numbas_layer:
        names = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_PROC_BIND")
        return ", ".join(f"{name}={os.environ.get(name, 'unset')}" for name in names)
    alone, shared = thread_pool.ALONE / 1e6, thread_pool.SHARED / 1e6
    return f"spins for {alone:g} ms, beside other programs for {shared:g} ms, then sleeps"


def _megabytes(folder: Path) -> float:
    total = 0
    for file in folder.rglob("*"):
        with contextlib.suppress(OSError):  # removed meanwhile
            total += file.lstat().st_size
    return total / 1e6

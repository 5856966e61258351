"""What a table of speed must name: the processor, its cores, and the versions of what was raced."""

from __future__ import annotations

import os
import platform
import re
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

import llvmlite.binding

from tinygpt.files.user_cache import cache_root
from tinygpt.runtime.processor import identity

HAS_TORCH = find_spec("torch") is not None
HAS_TRANSFORMERS = HAS_TORCH and find_spec("transformers") is not None


# What tells processors apart that have the same name: as LLVM calls it, and as a reader does.
_FEATURES = {"amx-bf16": "AMX", "avx512bf16": "AVX512_BF16", "avx512f": "AVX-512", "avx2": "AVX2", "neon": "NEON"}


def processor() -> str:
    """Its name and numbers, and the features that matter here: 'AMD EPYC, Zen 5, ...; AVX-512, AVX512_BF16'."""
    return f"{identity().text}; {', '.join(_features()) or 'no features that matter'}"


def short_name(processor: str = "this") -> str:
    """
    The name of the file of a processor's results: "amd-zen-4", "intel-6-143-amx".

    Parameters
    ----------
    processor : str
        What the sides took it for, if not "this".
    """
    who = identity()
    if who.core:
        name = f"amd {who.core}"
    elif who.family is not None:
        vendor = {"GenuineIntel": "intel", "AuthenticAMD": "amd"}.get(who.vendor, who.vendor)
        name = f"{vendor} {who.family} {who.model}{' amx' * ('AMX' in _features())}"
    else:
        name = who.name
    as_older = "" if processor == "this" else f" as {processor}"
    return re.sub(r"[^a-z0-9]+", "-", f"{name}{as_older}".lower()).strip("-")


def _features() -> list[str]:
    has = llvmlite.binding.get_host_cpu_features()
    return [text for name, text in _FEATURES.items() if has.get(name)]


def compiled_by_torch() -> dict[str, str]:
    """The variable that keeps what torch.compile makes, so that a second race compiles nothing; none without a home."""
    try:
        folder = cache_root().with_name("tinygpt-benchmarks") / "torchinductor"
    except FileNotFoundError:
        return {}
    return {"TORCHINDUCTOR_CACHE_DIR": os.environ.get("TORCHINDUCTOR_CACHE_DIR") or str(folder)}


def libraries() -> str:
    """The system, Python, and the versions of the libraries that run."""
    names = []
    for name in ("numpy", "numba", "torch"):
        try:
            names.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            names.append(f"no {name}")
    return ", ".join([platform.system(), f"Python {platform.python_version()}", *names])

"""What a table of speed must name: the processor, its cores, and the versions of what was raced."""

from __future__ import annotations

import platform
import re
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import llvmlite.binding

HAS_TORCH = find_spec("torch") is not None
HAS_TRANSFORMERS = HAS_TORCH and find_spec("transformers") is not None


def processor() -> str:
    """Its name, and what LLVM takes it for."""
    info = Path("/proc/cpuinfo")
    text = info.read_text(encoding="utf-8", errors="replace") if info.exists() else ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    name = found.group(1).strip() if found else platform.processor() or platform.machine() or "unknown processor"
    return f"{name} ({llvmlite.binding.get_host_cpu_name()})"


def libraries() -> str:
    """The system, Python, and the versions of the libraries that run."""
    names = []
    for name in ("numpy", "numba", "torch"):
        try:
            names.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            names.append(f"no {name}")
    return ", ".join([platform.system(), f"Python {platform.python_version()}", *names])

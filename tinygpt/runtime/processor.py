"""
The processor as the operating system describes it: its name, cores and hyperthreads, and caches.

Linux says all of it in /proc/cpuinfo and /sys/devices/system/cpu. Elsewhere, and in containers that do not show these
files, what is not known is None or empty, and nothing fails.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

_INFO = Path("/proc/cpuinfo")
_PROCESSORS = Path("/sys/devices/system/cpu")
_SUFFIXES = {"K": 2**10, "M": 2**20, "G": 2**30}
# AMD's cores by CPUID's family, without and with AVX-512, which Zen 4 is the first to have.
_AMD_CORES = {0x17: ("Zen 1 or 2", ""), 0x19: ("Zen 3 or 4", "Zen 4"), 0x1A: ("Zen 5", "Zen 5")}


class Identity(NamedTuple):
    """
    What a processor says of itself.

    Attributes
    ----------
    name : str
        As its maker, or a hypervisor, calls it.
    vendor : str
        "GenuineIntel", "AuthenticAMD"; empty where the system does not say.
    family, model, stepping : int or None
        CPUID's numbers, which x86 processors have.
    virtual : bool
        Whether a hypervisor shows a part of a machine that others may use too.
    features : frozenset of str
        The names of Linux: "avx512_bf16", "amx_tile".
    """

    name: str
    vendor: str = ""
    family: int | None = None
    model: int | None = None
    stepping: int | None = None
    virtual: bool = False
    features: frozenset[str] = frozenset()

    @property
    def core(self) -> str:
        """AMD's name of the cores, "Zen 4"; empty for other vendors, whose numbers a hypervisor may have made up."""
        known = _AMD_CORES.get(self.family or 0) if self.vendor == "AuthenticAMD" else None
        return known["avx512f" in self.features] if known else ""

    @property
    def numbers(self) -> str:
        """
        Family, model and stepping as text; empty where there are none.

        Examples
        --------
        >>> Identity("Xeon", "GenuineIntel", 6, 143, 8).numbers
        'family 6, model 143, stepping 8'
        """
        if self.family is None:
            return ""
        return f"family {self.family}, model {self.model}, stepping {self.stepping}"

    @property
    def text(self) -> str:
        """
        The name, with AMD's name of the cores and the numbers that tell apart processors of one name.

        Examples
        --------
        >>> Identity("Intel(R) Xeon(R) Processor", "GenuineIntel", 6, 167, 1).text
        'Intel(R) Xeon(R) Processor, family 6, model 167, stepping 1'
        """
        return ", ".join(filter(None, (self.name, self.core, self.numbers)))


class Topology(NamedTuple):
    """
    The logical processors that this process may use.

    Attributes
    ----------
    processors : int
        How many.
    cores, sockets : int or None
        On how many cores and sockets they are. Fewer cores than processors: some are hyperthreads of one core.
    """

    processors: int
    cores: int | None = None
    sockets: int | None = None


class Cache(NamedTuple):
    """
    The data caches of a level, as far as this process may use them.

    Attributes
    ----------
    level : int
    bytes : int
        The size of each.
    shared_by : int
        How many logical processors share one, those included that this process may not use.
    instances : int
        How many there are.
    """

    level: int
    bytes: int
    shared_by: int
    instances: int


def identity() -> Identity:
    """The first processor of the machine."""
    lines = {}
    with contextlib.suppress(OSError):
        text = _INFO.read_text(encoding="utf-8", errors="replace").split("\n\n")[0]
        lines = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())}
    features = frozenset(lines.get("flags", lines.get("Features", "")).split())

    def number(key: str) -> int | None:
        return int(lines[key]) if lines.get(key, "").isdigit() else None

    return Identity(
        lines.get("model name") or _name_elsewhere(), lines.get("vendor_id", ""),
        number("cpu family"), number("model"), number("stepping"), virtual="hypervisor" in features, features=features,
    )  # fmt: skip


def _name_elsewhere() -> str:
    if sys.platform == "darwin":
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            command = ["sysctl", "-n", "machdep.cpu.brand_string"]
            return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    return platform.processor() or platform.machine() or "unknown processor"


def topology() -> Topology:
    """How many processors, cores and sockets this process may use."""
    usable = _usable()
    if not usable:
        return Topology(os.cpu_count() or 1)
    cores, sockets = (
        {_text(_PROCESSORS / f"cpu{each}" / "topology" / name) for each in usable}
        for name in ("thread_siblings_list", "physical_package_id")
    )
    return Topology(len(usable), *(None if "" in found else len(found) for found in (cores, sockets)))


def caches() -> list[Cache]:
    """The data caches from the first level to the last; empty where the system does not say."""
    found: dict[int, dict[str, int]] = {}
    for each in _usable():
        for folder in (_PROCESSORS / f"cpu{each}" / "cache").glob("index[0-9]*"):
            kind, level, size, shared = (_text(folder / name) for name in ("type", "level", "size", "shared_cpu_list"))
            if kind != "Instruction" and level.isdigit() and (amount := _amount(size)) and shared:
                found.setdefault(int(level), {})[shared] = amount
    return [
        Cache(level, max(parts.values()), max(map(_count, parts)), len(parts)) for level, parts in sorted(found.items())
    ]


def _usable() -> list[int]:
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def _text(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text(encoding="ascii", errors="replace").strip()
    return ""


def _amount(size: str) -> int:
    """
    Bytes of a size such as "48K"; 0 where it is none.

    Examples
    --------
    >>> _amount("48K"), _amount("2M"), _amount("")
    (49152, 2097152, 0)
    """
    found = re.fullmatch(r"(\d+)([KMG]?)", size)
    return int(found[1]) * _SUFFIXES.get(found[2], 1) if found else 0


def _count(ranges: str) -> int:
    """
    How many processors a list of ranges names.

    Examples
    --------
    >>> _count("0-7,64-71"), _count("3")
    (16, 1)
    """
    total = 0
    for part in ranges.split(","):
        first, _, last = part.partition("-")
        total += int(last or first) - int(first) + 1
    return total

"""
The memory limit of this process: a run that needs more fails after minutes of work, or is killed silently.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

_CGROUPS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")  # version 2, version 1


def memory_limit() -> int | None:
    """
    The machine's memory (swap space included), or the limit of this process or its container if that is smaller.

    Returns
    -------
    int or None
        Bytes; None where the system does not say.

    Examples
    --------
    >>> limit = memory_limit()
    >>> limit is None or limit > 0
    True
    """
    limits = [limit for limit in (_of_machine(), _of_process(), *map(_in_file, _CGROUPS)) if limit]
    return min(limits, default=None)


def require_memory(needed: int, message: str) -> None:
    """
    Raise MemoryError if the process cannot have this many bytes.

    Examples
    --------
    >>> require_memory(1 << 60, "train: needs an exabyte")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    MemoryError: train: needs an exabyte...
    """
    limit = memory_limit()
    if limit is not None and needed > limit:
        had = f"of {needed / 1e9:,.1f} GB that are needed, this process can have {limit / 1e9:,.1f}"
        raise MemoryError(f"{message} ({had})")


def available_memory() -> int | None:
    """
    Bytes that processes can still have together without swapping; None where the system does not say.

    Examples
    --------
    >>> left = available_memory()
    >>> left is None or left > 0
    True
    """
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return None


def _of_machine() -> int | None:
    with contextlib.suppress(OSError, ValueError, AttributeError):  # Windows has no sysconf
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        with contextlib.suppress(OSError, ValueError):
            for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
                if line.startswith("SwapTotal:"):
                    memory += int(line.split()[1]) * 1024
        return memory
    return None


def _of_process() -> int | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    limits = [resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA)]
    return min((limit for limit in limits if limit != resource.RLIM_INFINITY), default=None)


def _in_file(path: str) -> int | None:
    with contextlib.suppress(OSError, ValueError):
        return int(Path(path).read_text(encoding="ascii"))  # "max" is no number
    return None

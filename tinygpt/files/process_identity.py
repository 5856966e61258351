"""
The identity of a process, which another process, another machine or a later boot can check.

A process id alone is not enough: the system uses it again, and another host or boot has the same ids. The identity adds
the start time of the process, the boot, the machine, and the namespace of process ids (a container has its own).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import sys
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

_PROC = Path("/proc")
_MACHINE_FILES = ("/etc/machine-id", "/var/lib/dbus/machine-id")


class Process(NamedTuple):
    """
    A process. Fields that the system does not tell are empty.

    Attributes
    ----------
    host : str
        The name of the host.
    machine : str
        A hash of the machine's id, which tells two hosts of one name apart.
    boot : str
        The boot of the kernel.
    namespace : str
        In which namespace `pid` counts.
    pid : int
    start : str
        When the process started, in the system's own unit.
    """

    host: str
    machine: str
    boot: str
    namespace: str
    pid: int
    start: str

    def on_host_of(self, other: Process) -> bool:
        """Whether both are of one machine, as far as one can tell."""
        same_machine = self.machine == other.machine or not (self.machine and other.machine)
        return self.host == other.host and same_machine


def this_process() -> Process:
    """
    The process that calls.

    Examples
    --------
    >>> this_process().pid == os.getpid(), is_alive(this_process())
    (True, True)
    """
    namespace = ""
    with contextlib.suppress(OSError):
        namespace = os.readlink(_PROC / "self/ns/pid")
    boot = _first_line(_PROC / "sys/kernel/random/boot_id")
    return Process(socket.gethostname(), _machine(), boot, namespace, os.getpid(), _start_of(os.getpid()))


def is_alive(process: Process) -> bool | None:
    """
    Whether a process of this host still runs.

    Parameters
    ----------
    process : Process
        One for which `on_host_of` says that it was of this host.

    Returns
    -------
    bool or None
        None if it cannot be seen from here: its process ids are of another container.
    """
    here = this_process()
    if process.boot and here.boot and process.boot != here.boot:
        return False
    if process.namespace and here.namespace and process.namespace != here.namespace:
        return None
    if not _exists(process.pid):
        return False
    start = _start_of(process.pid)
    return start == process.start or not (start and process.start)


@lru_cache(maxsize=1)
def _machine() -> str:
    for name in _MACHINE_FILES:
        found = _first_line(Path(name))
        if found:  # the id itself is confidential, says its manual
            return hashlib.sha256(f"tinygpt {found}".encode()).hexdigest()[:16]
    return ""


def _first_line(path: Path) -> str:
    with contextlib.suppress(OSError, ValueError):
        return path.read_text(encoding="utf-8").partition("\n")[0].strip()
    return ""


def _start_of(pid: int) -> str:
    """When it started, in ticks since the boot; empty if unknown."""
    if sys.platform == "win32":
        return _windows_start(pid)
    fields = _stat_of(pid)
    return fields[19] if len(fields) > 19 else ""


def _stat_of(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on: the name before may hold any character."""
    with contextlib.suppress(OSError, ValueError):
        return (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    return []


def _exists(pid: int) -> bool:
    """Whether there is a process of that number, other than one that has ended and waits for its parent to notice."""
    if sys.platform == "win32":
        return bool(_windows_start(pid))  # os.kill would end it
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # another user's
    return _stat_of(pid)[:1] not in (["Z"], ["X"])


def _windows_start(pid: int) -> str:
    """When a process of Windows started; empty if it does not run."""
    if sys.platform != "win32":
        return ""
    import ctypes

    kernel = ctypes.WinDLL("kernel32", use_last_error=True)
    kernel.OpenProcess.restype = ctypes.c_void_p
    handle = kernel.OpenProcess(0x1000, False, pid)  # PROCESS_QUERY_LIMITED_INFORMATION
    if not handle:
        return "unknown" if ctypes.get_last_error() == 5 else ""  # access denied: it exists
    try:
        times, code = (ctypes.c_uint64 * 4)(), ctypes.c_uint32()
        each = [ctypes.byref(times, 8 * n) for n in range(4)]
        known = kernel.GetProcessTimes(ctypes.c_void_p(handle), *each)
        kernel.GetExitCodeProcess(ctypes.c_void_p(handle), ctypes.byref(code))
        return str(times[0]) if known and code.value == 259 else ""  # 259: still active
    finally:
        kernel.CloseHandle(ctypes.c_void_p(handle))

"""What the tests of ownership share: a system with locks or without, and a process that owns a folder."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tinygpt.files import atomic, locks
from tinygpt.files.owner_file import OWNER_FILE

NEEDS_FORK = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
NEEDS_PROC = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc, which tells start times")

WITHOUT_LOCKS = {
    "locks": "",
    "locks that fail": """
        import errno, fcntl
        def flock(descriptor, how):
            raise OSError(errno.ENOLCK, "No locks available")
        fcntl.flock = flock
    """,
    "no locks": """
        import tinygpt.files.atomic, tinygpt.files.locks
        tinygpt.files.atomic.fcntl = tinygpt.files.locks.fcntl = None
    """,
}
OWNER = """
import os, signal, sys, time
from tinygpt.files.ownership import own_run
with own_run(sys.argv[1]):
    print("owns", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(name="kind", params=WITHOUT_LOCKS)
def kind_of_locks(request, monkeypatch):
    """Makes this process one that has locks, or has none; gives what another process must run to be the same."""
    if request.param != "locks" and locks.fcntl is None:
        pytest.skip("has no locks anyhow")
    if request.param == "locks that fail":

        def flock(descriptor, how):
            raise OSError(errno.ENOLCK, "No locks available")

        monkeypatch.setattr(locks.fcntl, "flock", flock)
    elif request.param == "no locks":
        monkeypatch.setattr(locks, "fcntl", None)
        monkeypatch.setattr(atomic, "fcntl", None)
    return textwrap.dedent(WITHOUT_LOCKS[request.param])


@pytest.fixture(name="start")
def start_processes():
    """Starts a program with the folder as its argument; waits until it has said what it says; ends it in the end."""
    started = []

    def run(program: str, folder: Path) -> subprocess.Popen:
        process = subprocess.Popen([sys.executable, "-c", program, str(folder)], stdin=subprocess.PIPE,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # fmt: skip
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def owner_process(start, kind: str, folder: Path) -> subprocess.Popen:
    process = start(kind + OWNER, folder)
    assert process.stdout.readline() == "owns\n", process.communicate()[1]
    return process


def state_of(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}


def edit(run: Path, **changes) -> None:
    """Change fields of the owner file as somebody would, without changing the folder itself."""
    path = run / OWNER_FILE
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


def leave_owner_file(start, kind: str, folder: Path) -> None:
    """What a kill -9 leaves."""
    process = owner_process(start, kind, folder)
    process.kill()
    process.wait()
    assert OWNER_FILE in os.listdir(folder)

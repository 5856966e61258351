"""
`owner.json`: the file that names the process which owns a folder. Of two processes, only one can create it.

Who may own a run, given this file and the locks, is decided in `ownership.py`; `directory_swap.py` and `fetch.py` use
the file where there are no locks. Anyone may have written it, so it is read like any untrusted file.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import stat
import time
from pathlib import Path
from typing import Any, NamedTuple

from tinygpt.files.atomic import create_temporary
from tinygpt.files.json_file import parse
from tinygpt.files.locks import OWNER_FILE, PARTIAL
from tinygpt.files.process_identity import Process, is_alive, this_process

_LARGEST = 1 << 16  # bytes
_KINDS = {"host": str, "pid": int, "since": str, "machine": str, "boot": str, "namespace": str, "start": str,
          "folder": str, "device": int, "inode": int, "written": int, "locked": bool, "token": str}  # fmt: skip


class Owner(NamedTuple):
    """
    What an owner writes down.

    Attributes
    ----------
    process : Process
    since : str
        When it began to own the folder, in its local time.
    folder : str
        The folder's path on the owner's host, without symbolic links.
    device, inode : int
        What the owner's file system calls the folder.
    written : int
        The modification time that the file was given, in seconds.
    locked : bool
        Whether the owner holds the folder's lock, too.
    token : str
        Random, so that an owner knows its own file.
    """

    process: Process
    since: str
    folder: str
    device: int
    inode: int
    written: int
    locked: bool
    token: str

    def __str__(self) -> str:
        return f"process {self.process.pid} on {_printable(self.process.host)} since {_printable(self.since)}"


class Found(NamedTuple):
    """The bytes of an owner file, the owner (None if it is damaged), and the file's modification time."""

    data: bytes
    owner: Owner | None
    modified: float


def describe_owner(folder: Path, locked: bool) -> Owner:
    """The owner file's content for this process and `folder`, which must exist."""
    there = os.stat(folder)
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    return Owner(this_process(), since, str(folder), there.st_dev, there.st_ino, int(time.time()), locked,
                 secrets.token_hex(16))  # fmt: skip


def read_owner_file(folder: Path) -> Found | None:
    """
    Read the owner file of a folder.

    Parameters
    ----------
    folder : Path

    Returns
    -------
    Found or None
        None if there is none.

    Raises
    ------
    FileExistsError
        If a folder has its name.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     print(read_owner_file(Path(folder)))
    ...     _ = Path(folder, OWNER_FILE).write_text("[1, 2", encoding="utf-8")
    ...     print(read_owner_file(Path(folder)).owner)
    None
    None
    """
    try:
        data, modified = _read(folder / OWNER_FILE)
    except FileNotFoundError:
        return None
    return Found(data, parse_owner(data), modified)


def _read(path: Path) -> tuple[bytes, float]:
    """The bytes of a file and when it was modified; no bytes if it is a link or a pipe, or not readable."""
    there = os.lstat(path)
    if stat.S_ISDIR(there.st_mode):
        raise FileExistsError(f"train: {path} must be a file, got a folder; rename or delete it")
    data = b""
    if stat.S_ISREG(there.st_mode):
        with contextlib.suppress(PermissionError), open(path, "rb") as file:
            data = file.read(_LARGEST)
    return data, there.st_mtime


def parse_owner(data: bytes) -> Owner | None:
    """
    The owner that the bytes of a file name, or None if they are not what an owner writes.

    Examples
    --------
    >>> parse_owner(b'{"host": 5}') is None
    True
    """
    try:
        values: Any = parse(data, OWNER_FILE)
    except ValueError:
        return None
    if not isinstance(values, dict) or any(type(values.get(name)) is not kind for name, kind in _KINDS.items()):
        return None
    if not 0 < values["pid"] < 2**31:
        return None
    process = Process(**{name: values[name] for name in Process._fields})
    return Owner(process, **{name: values[name] for name in Owner._fields[1:]})


def create_owner_file(folder: Path, owner: Owner) -> bool:
    """
    Create the owner file, whole at once, unless there is one.

    Parameters
    ----------
    folder : Path
    owner : Owner

    Returns
    -------
    bool
        False if there was one already.

    Raises
    ------
    OSError
        If the folder is missing or cannot be written, or the disk is full.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     mine = describe_owner(Path(folder), locked=False)
    ...     print([create_owner_file(Path(folder), mine) for attempt in (1, 2)])
    ...     read_owner_file(Path(folder)).owner == mine
    [True, False]
    True
    """
    path = folder / OWNER_FILE
    values = owner.process._asdict() | {name: getattr(owner, name) for name in Owner._fields[1:]}
    data = (json.dumps({name: values[name] for name in _KINDS}, indent=2) + "\n").encode()
    descriptor, temporary = create_temporary(path)
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
            os.utime(temporary, (owner.written, owner.written))
            try:
                os.link(temporary, path)  # unlike a rename, it replaces nothing
            except FileExistsError:
                return False
            except (OSError, NotImplementedError):
                return _create_in_place(path, data, owner.written)  # a file system without hard links
    finally:
        temporary.unlink(missing_ok=True)
    return True


def _create_in_place(path: Path, data: bytes, written: int) -> bool:
    try:
        with open(path, "xb") as file:
            file.write(data)
    except FileExistsError:
        return False
    os.utime(path, (written, written))
    return True


def remove_owner_file(folder: Path, found: Found) -> None:
    """
    Remove the owner file that was read before, but not one that another process has put in its place since.

    Parameters
    ----------
    folder : Path
    found : Found
        What `read_owner_file` gave.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = create_owner_file(Path(folder), describe_owner(Path(folder), locked=False))
    ...     remove_owner_file(Path(folder), read_owner_file(Path(folder)))
    ...     os.listdir(folder)
    []
    """
    path = folder / OWNER_FILE
    aside = path.with_name(f"{OWNER_FILE}.{secrets.token_hex(8)}{PARTIAL}")  # deleted with the other leftovers
    try:
        os.rename(path, aside)  # if two remove it, one succeeds
    except FileNotFoundError:
        return
    if _read(aside)[0] != found.data:
        try:
            os.link(aside, path)  # it was another one: put it back
        except FileExistsError:
            pass
        except (OSError, NotImplementedError):
            os.replace(aside, path)
            return
    aside.unlink()


def is_copy(found: Found, owner: Owner, folder: Path) -> bool:
    """Whether an owner file came here with a copy of its folder; see the docstring of `ownership.py`."""
    there = os.stat(folder)
    if this_process().on_host_of(owner.process):
        moved = os.path.normcase(folder) != os.path.normcase(owner.folder)
        return moved and (there.st_dev, there.st_ino) != (owner.device, owner.inode)
    return there.st_ino != owner.inode and abs(found.modified - owner.written) > 2  # FAT counts in two seconds


def owner_of(folder: Path) -> tuple[Owner, bool] | None:
    """
    The process that the owner file of a folder names, and whether it is seen to live. No lock is taken.

    Returns
    -------
    tuple or None
        With False, the process cannot be seen from here: it is of another host or container. None if there is no owner
        file, or if its process has ended.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = create_owner_file(Path(folder), describe_owner(Path(folder), locked=False))
    ...     owner, alive = owner_of(Path(folder))
    ...     owner.process.pid == os.getpid(), alive
    (True, True)
    """
    with contextlib.suppress(FileNotFoundError, FileExistsError):
        found = read_owner_file(folder)
        owner = found and found.owner
        if found and owner and not is_copy(found, owner, folder):
            alive = is_alive(owner.process) if this_process().on_host_of(owner.process) else None
            return None if alive is False else (owner, alive is True)
    return None


def may_be_owned(folder: Path) -> bool:
    """
    Whether the owner file of a folder names a process that lives, or that cannot be seen from here.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     before = may_be_owned(Path(folder))
    ...     _ = create_owner_file(Path(folder), describe_owner(Path(folder), locked=False))
    ...     before, may_be_owned(Path(folder))
    (False, True)
    """
    return owner_of(folder) is not None


def _printable(text: str) -> str:
    """One line that is safe to print, though anyone may have written it."""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:100])

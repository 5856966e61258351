"""
Ownership of a run: one process at a time, from before it writes the first file until training has ended.

The owner holds a lock on the run's folder, where the system has locks (`locks.py`); the lock ends with its process, so
an owner that was killed leaves none. And `owner.json` in the folder names the owner: host, process, since when. Other
processes show it, and it decides where locks are missing, or are local to a host while the disk is not.

    the lock      owner.json names                      a new process
    is held       anyone                                is refused
    is free       nobody, or is damaged                 owns the run
                  a process on this host                owns the run: its owner ended, or has another folder (a copy)
                  a process on another host             is refused, unless the folder is a copy
    is missing    nobody                                owns the run
                  a process of this host that lives     is refused, unless the folder is a copy
                  one that ended (other start, boot)    owns the run
                  one that cannot be seen from here     is refused, unless the folder is a copy
                  nobody, because it is damaged         is refused

The error of a refusal says which file to delete if the owner is known to be dead. Only one of two processes can create
the file. A stale one is renamed first, so that only one of two replaces it. A forked child owns nothing.

A copy of a run that is being trained has a copy of `owner.json`, and no owner. The file says what tells it from the
run itself: the folder's inode, device and path, and the time of the file. On one host, a copy has another inode and
another path. Between hosts, paths and devices differ for one and the same folder, and some network disks assign new
inodes; so there a copy must have another inode and another time than the file was given. `cp -r` gives both. A copy to
another host that keeps times (`rsync -a`) while the owner lives is refused, and the owner file must be deleted by hand:
that is better than two owners.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path

from tinygpt.files.atomic import explain_full_disk, remove_leftovers
from tinygpt.files.locate import did_you_mean
from tinygpt.files.locks import OWNER_FILE, PARTIAL, FolderLock
from tinygpt.files.owner_file import (
    Found,
    Owner,
    create_owner_file,
    describe_owner,
    is_copy,
    read_owner_file,
    remove_owner_file,
)
from tinygpt.files.process_identity import is_alive, this_process

_ATTEMPTS = 20
_PATIENCE = 2.0  # seconds until the process that just took the lock has written its owner file
_MINE: set[tuple[int, str]] = (
    set()
)  # process and token of the runs that this process owns: for its threads, without locks


@contextlib.contextmanager
def own_run(run: str | os.PathLike[str], create: bool = True) -> Iterator[Ownership]:
    """
    Own a run while the block runs.

    Parameters
    ----------
    run : path
        The run's folder.
    create : bool
        Whether to create it where it is missing. A folder that was created and is still empty in the end is removed.

    Yields
    ------
    Ownership

    Raises
    ------
    BlockingIOError
        If another owns it: a process, or a thread of this one. Nothing in the folder was changed then.
    FileNotFoundError
        If it is missing and not to be created.
    OSError
        If it is a file, or cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder, own_run(Path(folder) / "run"):
    ...     print(os.listdir(Path(folder) / "run"))
    ...     with own_run(Path(folder) / "run"):
    ...         pass  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    BlockingIOError: train: ...run is owned by process ... on ... since ...; wait for it to end, ...
    """
    run, folder = Path(run), Path(os.path.realpath(run))
    created: list[Path] = []
    ownership = None
    try:
        ownership = _start(run, folder, create, created)
        yield ownership
    finally:
        if ownership is not None:
            ownership.release(created)
        else:
            _remove_empty(created)


def _start(run: Path, folder: Path, create: bool, created: list[Path]) -> Ownership:
    for attempt in range(_ATTEMPTS):
        if not create and not folder.is_dir():
            remedy = did_you_mean(run) or "; check --out"
            raise FileNotFoundError(f"train: {run} is not a run to resume: there is no such folder{remedy}")
        try:
            if create:
                created += _create_folders(folder, run)
            return Ownership(run, folder)
        except FileNotFoundError:  # another that had created it has failed, and removed it
            if attempt == _ATTEMPTS - 1:
                raise
    raise AssertionError("unreachable")


class Ownership:
    """
    What a process has while it owns a run; `own_run` makes and releases it.

    Parameters
    ----------
    run : Path
        The run's folder as errors name it.
    folder : Path
        The folder, without symbolic links.
    """

    def __init__(self, run: Path, folder: Path) -> None:
        self.run, self.folder = run, folder
        self._pid = os.getpid()
        self._lock = _lock(folder, run)
        try:
            self._owner = _sign(folder, run, self._lock.held)
        except BaseException:
            self._lock.close()
            raise
        remove_leftovers(folder)

    def is_new(self) -> bool:
        """Whether the run's folder has nothing but the files of ownership."""
        return all(path.name == OWNER_FILE or path.name.endswith(PARTIAL) for path in self.folder.iterdir())

    def hold(self) -> bool:
        """
        Make sure that the run is still owned, to be called before files are written.

        Returns
        -------
        bool
            Whether the folder was moved or deleted, and is now a new one.

        Raises
        ------
        BlockingIOError
            If another process owns the run now, because its owner file or its folder was deleted; or in a forked
            child, which owns nothing.
        FileExistsError
            If another folder with files in it has the run's name now.
        """
        if os.getpid() != self._pid:
            raise BlockingIOError(f"train: {self.run} is owned by process {self._pid}; its forked child may not write "
                                  "there")  # fmt: skip
        if self._is_here():
            found = read_owner_file(self.folder)
            if found is None or found.owner != self._owner:
                self._sign()
            return False
        self._lock.close()
        self.folder = Path(os.path.realpath(self.run))
        _create_folders(self.folder, self.run)
        self._lock = _lock(self.folder, self.run)
        if not self.is_new():
            raise FileExistsError(f"train: {self.run} must stay in place while it is trained, and another folder has "
                                  "its name now; move that away and start again with --resume")  # fmt: skip
        self._sign()
        return True

    def _sign(self) -> None:
        _MINE.discard((self._pid, self._owner.token))
        self._owner = _sign(self.folder, self.run, self._lock.held)

    def is_held(self) -> bool:
        """Whether the folder that has the run's name is still this process's."""
        if os.getpid() != self._pid or not self._is_here():
            return False
        found = read_owner_file(self.folder)
        return found is not None and found.owner == self._owner

    def _is_here(self) -> bool:
        with contextlib.suppress(FileNotFoundError):
            there = os.stat(self.run)
            return (there.st_dev, there.st_ino) == (self._owner.device, self._owner.inode)
        return False

    def release(self, created: list[Path] | None = None) -> None:
        """Release the run; remove folders that were created for it and are still empty."""
        if os.getpid() != self._pid:
            return
        try:
            found = read_owner_file(self.folder)
            if found is not None and found.owner == self._owner:
                remove_owner_file(self.folder, found)
        except OSError:
            pass  # it stays, and will be recognised as stale
        finally:
            _remove_empty(created or [])  # still locked: a process that waits for the lock sees that the folder is gone
            _MINE.discard((self._pid, self._owner.token))
            self._lock.close()


def _create_folders(folder: Path, run: Path) -> list[Path]:
    """Create a folder and its parents; returns those that were missing, the innermost first."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"train: {run} must be a folder, got a file; choose another --out")
    with _in_words(run):
        folder.mkdir(parents=True, exist_ok=True)
    return missing


def _remove_empty(folders: list[Path]) -> None:
    for path in folders:
        with contextlib.suppress(OSError):
            path.rmdir()


def _lock(folder: Path, run: Path) -> FolderLock:
    """The folder's lock, or an error that names its owner."""
    deadline = time.monotonic() + _PATIENCE
    who = ""
    while not who:
        try:
            return FolderLock(folder)
        except BlockingIOError:
            found = read_owner_file(folder)
            owner = found and found.owner
        if owner and not (this_process().on_host_of(owner.process) and is_alive(owner.process) is False):
            who = str(owner)
        elif time.monotonic() > deadline:
            who = "another process"
        else:  # its owner file is not there yet, or the process that the file names is just ending
            time.sleep(0.02)
    raise BlockingIOError(f"train: {run} is owned by {who}; wait for it to end, stop it, or choose another --out")


def _sign(folder: Path, run: Path, locked: bool) -> Owner:
    """Write this process into the owner file; one that is stale is replaced, any other is an error."""
    for attempt in range(_ATTEMPTS):
        found = read_owner_file(folder)
        if found is not None and found.owner is None and attempt == 0:
            time.sleep(0.2)  # where there are no hard links, it may be in the middle of being written
            continue
        if found is not None:
            reason = _reason_to_refuse(found, folder, run, locked)
            if reason:
                raise BlockingIOError(reason)
        owner = describe_owner(folder, locked)
        _MINE.add((os.getpid(), owner.token))
        try:
            with _in_words(run):
                if found is not None:
                    remove_owner_file(folder, found)
                if create_owner_file(folder, owner):
                    return owner
        except BaseException:
            _MINE.discard((os.getpid(), owner.token))
            raise
        _MINE.discard((os.getpid(), owner.token))
    raise BlockingIOError(f"train: {run} is being started by several processes at once; choose another --out")


def _reason_to_refuse(found: Found, folder: Path, run: Path, locked: bool) -> str | None:
    """Why an owner file forbids to own the folder, or None if it does not."""
    path, owner, here = folder / OWNER_FILE, found.owner, this_process()
    if owner is None:
        return None if locked else (f"train: {path} must name the owner of {run}, and is damaged; if no process trains "
                                    "there, delete it")  # fmt: skip
    same_host = here.on_host_of(owner.process)
    if is_copy(found, owner, folder) or (same_host and locked and owner.locked):
        return None  # an owner that lived would hold the lock
    alive = is_alive(owner.process) if same_host else None
    if same_host and owner.process == here:
        alive = (here.pid, owner.token) in _MINE
    if alive is None:
        return (f"train: {run} is owned by {owner}, and whether that still runs cannot be seen from here; if it does "
                f"not, delete {path}")  # fmt: skip
    return f"train: {run} is owned by {owner}; wait for it to end, stop it, or choose another --out" if alive else None


@contextlib.contextmanager
def _in_words(run: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        explain_full_disk(error, f"train: cannot write {run}", "what was there is unchanged")
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise PermissionError(f"train: {run} must be a folder that can be written, got: {error.strerror}; change "
                                  "its permissions, or choose another --out") from error  # fmt: skip
        raise

"""
Directory swap: the files of a checkpoint are replaced together, also if the process is killed.

A rename cannot replace a folder that is not empty, so `swap_in` takes three. After each, the names of the folders tell
`recover` which of them were done. `read_whole` reads a checkpoint that another process may be replacing.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from tinygpt.files.atomic import explain_write, sync_folder
from tinygpt.files.locks import OWNER_FILE, PARTIAL, FolderLock, lock_folder
from tinygpt.files.owner_file import create_owner_file, describe_owner, may_be_owned

__all__ = ["read_whole", "recover", "swap_in"]

T = TypeVar("T")
_MOMENT = 10.0  # seconds between two renames that a writer that lives may need, where there are no locks

# Loading deletes folders with these names: a user does not give them to a copy of a checkpoint.
_PARTIAL, _NEW, _OLD = PARTIAL, ".tinygpt-new", ".tinygpt-old"


@contextlib.contextmanager
def swap_in(directory: str | os.PathLike[str]) -> Iterator[Path]:
    """
    Replace a checkpoint folder by a new one, as a whole: a kill at any moment leaves the old one or the new one.

    Parameters
    ----------
    directory : path
        The checkpoint folder, say ``last``. Its parents are created. What it holds before is deleted in the end.

    Yields
    ------
    fresh : Path
        An empty folder beside it. Write every file of the new checkpoint there.

    Raises
    ------
    FileExistsError
        If `directory` is a file, or holds files but no ``config.json`` (it is not a checkpoint, and replacing it would
        delete someone's work), or if another process is saving to it.
    OSError
        If the disk is full. Whatever the block raises, the old checkpoint is untouched and the fresh folder removed.

    Notes
    -----
    Below, P, N and O are the folders ``last.tinygpt-partial``, ``-new`` and ``-old`` beside ``last``. The steps, the
    folders that exist after each, and what `recover`, which every loader calls, makes of them if the process dies::

        1  create P                             last, P     deletes P           the old checkpoint
        2  write files into it, in this block   last, P     deletes P           the old checkpoint
        3  fsync every file, then P             last, P     deletes P           the old checkpoint
        4  rename P to N                        last, N     goes on at step 5   the new checkpoint
        5  rename last to O                     O, N        goes on at step 6   the new checkpoint
        6  rename N to last, fsync its parent   last, O     goes on at step 7   the new checkpoint
        7  delete O                             last        has nothing to do   the new checkpoint

    Step 4 decides: N exists only if it is whole, because step 3 came before. In the middle of step 7, O has lost some
    of its files, and no loader reads it while there is a ``last``. If there was no ``last`` at the start, step 5 is
    left out, and dying in steps 1 to 3 leaves no checkpoint, as before. If the power fails, a file system may keep
    step 5 and forget step 4: then O and P are left, and `recover` deletes P and renames O back. A kill inside
    `recover` leaves one of the same states.

    While the block runs, the process holds a lock on the fresh folder that dies with it, so a loader in another
    process can tell a save that goes on, which it leaves alone, from one that was killed. Where there are no such
    locks, as on Windows, an owner file in the fresh folder names the process until step 6 is done. A loader then
    leaves the folder alone if that process lives, or is of another host. It cannot wait out the moment between two
    renames as reliably, because it sees the folder vanish and not the lock.

    Examples
    --------
    >>> import tempfile
    >>> from tinygpt.files.atomic import atomic_write
    >>> with tempfile.TemporaryDirectory() as run:
    ...     for step in (1, 2):
    ...         with swap_in(Path(run) / "last") as fresh:
    ...             atomic_write(fresh / "config.json", f"step {step}")
    ...     print(os.listdir(run), (Path(run) / "last" / "config.json").read_text())
    ['last'] step 2
    """
    target = Path(os.path.realpath(directory))
    recover(target)
    _require_replaceable(target, directory)
    fresh, writer = None, os.getpid()
    with contextlib.ExitStack() as locks:
        try:
            fresh = _claim(locks, _beside(target, _PARTIAL))
            yield fresh
            if os.getpid() != writer:
                raise BlockingIOError(f"swap_in: {directory} is saved by process {writer}, not by its forked child")
            _sync_tree(fresh)
            os.rename(fresh, _beside(target, _NEW))
            _promote_new(target)
            if (target / OWNER_FILE).exists():
                (target / OWNER_FILE).unlink()
            _remove_old(target)
        except BaseException as error:
            if fresh is not None and os.getpid() == writer:
                shutil.rmtree(fresh, ignore_errors=True)
            explain_write(error, f"swap_in: cannot save {directory}", "what was there before is still whole")
            raise


def recover(directory: str | os.PathLike[str]) -> None:
    """
    Complete or undo a directory swap that was interrupted. Every loader calls this first.

    Parameters
    ----------
    directory : path
        The checkpoint folder, which need not exist. Only it and the three folders that `swap_in` names are touched.
        A swap that a living process is making is left to that process.

    Examples
    --------
    >>> import tempfile
    >>> from tinygpt.files.atomic import atomic_write
    >>> with tempfile.TemporaryDirectory() as run:
    ...     for name in ("last.tinygpt-old", "last.tinygpt-new"):  # killed between steps 5 and 6
    ...         (Path(run) / name).mkdir()
    ...         atomic_write(Path(run) / name / "config.json", name)
    ...     recover(Path(run) / "last")
    ...     print(os.listdir(run), (Path(run) / "last" / "config.json").read_text())
    ['last'] last.tinygpt-new
    """
    target = Path(os.path.realpath(directory))
    if not target.name:
        return  # the root folder: nothing can stand beside it
    partial, new = _beside(target, _PARTIAL), _beside(target, _NEW)
    with contextlib.ExitStack() as locks:
        if lock_folder(locks, partial, wait=False) and not may_be_owned(partial):
            shutil.rmtree(partial, ignore_errors=True)
    with contextlib.ExitStack() as locks:
        if lock_folder(locks, new, wait=True):  # a writer that lives needs a moment, and has then renamed it
            deadline = time.monotonic() + _MOMENT
            while may_be_owned(new) and time.monotonic() < deadline:
                time.sleep(0.01)
            if new.exists():
                _promote_new(target)
    _remove_old(target)


def read_whole(directory: str | os.PathLike[str], read: Callable[[Path], T]) -> T:
    """
    Read several files of one checkpoint while another process may be replacing it.

    Parameters
    ----------
    directory : path
        The checkpoint folder. A directory swap that was interrupted there is completed first.
    read : callable
        Reads from the folder that it is given, and is called again if the folder was replaced meanwhile.

    Returns
    -------
    object
        What `read` returns.

    Raises
    ------
    Exception
        What `read` raises, if that is not due to a swap.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     read_whole(folder, os.listdir)
    []
    """
    directory = Path(directory)
    while True:
        recover(directory)
        before = _identity(directory)
        try:
            result = read(directory)
        except Exception:
            recover(directory)  # waits, if this came between two renames
            if _identity(directory) == before:
                raise
        else:
            if _identity(directory) == before:
                return result


def _claim(locks: contextlib.ExitStack, partial: Path) -> Path:
    """Step 1 of `swap_in`, and the lock. Until it is taken, a loader may delete the folder as a leftover."""
    while True:
        try:
            partial.mkdir(parents=True)
        except FileExistsError:
            raise FileExistsError(f"swap_in: another process is writing {partial}; wait for it to end, or delete the "
                                  "folder if it has ended") from None  # fmt: skip
        with contextlib.suppress(FileNotFoundError):
            lock = FolderLock(partial, wait=True)
            locks.callback(lock.close)
            if lock.held or create_owner_file(partial, describe_owner(partial, locked=False)):
                return partial


def _promote_new(target: Path) -> None:
    """Steps 5 and 6 of `swap_in`."""
    old = _beside(target, _OLD)
    if target.exists():
        shutil.rmtree(old, ignore_errors=True)  # left because it could not be deleted; both others are complete
        os.rename(target, old)
    os.rename(_beside(target, _NEW), target)
    sync_folder(target.parent)


def _remove_old(target: Path) -> None:
    """Step 7 of `swap_in`, or step 5 undone."""
    old = _beside(target, _OLD)
    if target.exists():
        shutil.rmtree(old, ignore_errors=True)
    elif not _beside(target, _NEW).exists() and old.exists():  # asked in this order: a writer that lives has one of two
        os.rename(old, target)
        sync_folder(target.parent)


def _beside(target: Path, suffix: str) -> Path:
    return target.with_name(target.name + suffix)


def _require_replaceable(target: Path, shown: str | os.PathLike[str]) -> None:
    if target.exists() and not target.is_dir():
        raise FileExistsError(f"swap_in: {shown} must be a folder, got a file; choose another name")
    if target.is_dir() and any(target.iterdir()) and not (target / "config.json").exists():
        raise FileExistsError(f"swap_in: {shown} holds files but no checkpoint, and would be replaced; choose another")


def _identity(directory: Path) -> tuple[int, int] | None:
    """An identity of a folder, other than its name: the inode of a deleted folder is used again, the time is not."""
    with contextlib.suppress(OSError):
        found = os.stat(directory)
        return found.st_ino, found.st_mtime_ns
    return None


def _sync_tree(folder: Path) -> None:
    """Force every file below a folder to the disk, then the folders that name them."""
    for parent, _, names in os.walk(folder, topdown=False):
        for name in names:
            with open(Path(parent) / name, "rb+") as file:  # Windows syncs only what is open for writing
                os.fsync(file.fileno())
        sync_folder(Path(parent))

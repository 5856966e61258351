"""
Locks on files and folders: released when their process ends, and not kept by a forked child.

`flock` locks the opened folder, not its name: the lock follows a folder through renames, and a copy is not locked. A
child that is forked while its parent holds a lock would hold it too, also after the parent was killed, so it closes the
lock at once. A program started by `exec` does not inherit it. Windows has no such locks, nor have some network file
systems: there, `FolderLock.held` is False, and `ownership.py` decides by files.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["OWNER_FILE", "PARTIAL", "FolderLock", "lock_file", "lock_folder", "one_writer"]

OWNER_FILE = "owner.json"  # present while a process owns the folder; see `ownership.py`
PARTIAL = ".tinygpt-partial"  # the end of the names of incomplete files and folders
_FORKING = threading.Lock()  # no fork between the opening of a folder and its entry below
_OPEN: weakref.WeakSet[FolderLock] = weakref.WeakSet()
_THREAD = threading.local()  # .writing: the folders of `one_writer`


class FolderLock:
    """
    The lock of a folder, taken by the constructor and given back by `close`.

    Parameters
    ----------
    folder : Path
    wait : bool
        Whether to wait until another has given it back.

    Attributes
    ----------
    held : bool
        False where there are no locks.

    Raises
    ------
    FileNotFoundError
        If there is no such folder.
    BlockingIOError
        If another holds the lock, here or in another process, and we do not wait.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     lock = FolderLock(Path(folder))
    ...     lock.close()
    ...     FolderLock(Path(folder)).close()
    """

    def __init__(self, folder: Path, wait: bool = False) -> None:
        self._descriptor: int | None = None
        try:
            while fcntl is not None and not self._lock(folder, wait):
                self.close()  # renamed or deleted since it was opened: open the name again
        except (FileNotFoundError, BlockingIOError):
            self.close()
            raise
        except OSError:
            self.close()  # network file systems without locks
        except BaseException:
            self.close()
            raise
        self.held = self._descriptor is not None
        if not self.held and not folder.exists():
            raise FileNotFoundError(f"FolderLock: {folder} must be a folder, and is not there")

    def _lock(self, folder: Path, wait: bool) -> bool:
        with _FORKING:
            self._descriptor = os.open(folder, os.O_RDONLY)
            _OPEN.add(self)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        with contextlib.suppress(FileNotFoundError):
            return os.path.samestat(os.fstat(self._descriptor), os.stat(folder))
        return False

    def close(self) -> None:
        """Release the lock; does nothing the second time, or in a forked child."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def __del__(self) -> None:
        self.close()


def lock_folder(locks: contextlib.ExitStack, folder: Path, wait: bool) -> bool:
    """
    Take the lock of a folder until `locks` is closed or the process dies; it follows the folder through renames.

    Parameters
    ----------
    locks : ExitStack
        What gives the lock back.
    folder : Path
        The folder.
    wait : bool
        Whether to wait until another has given it back.

    Returns
    -------
    bool
        False if there is no such folder, or if another holds the lock and we do not wait. True without any lock where
        there are none: on Windows, and on some network file systems.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as mine, contextlib.ExitStack() as theirs:
    ...     print(lock_folder(mine, Path(folder), wait=True), lock_folder(theirs, Path(folder), wait=False))
    True False
    """
    try:
        locks.callback(FolderLock(folder, wait).close)
    except (FileNotFoundError, BlockingIOError):
        return False
    return True


@contextlib.contextmanager
def one_writer(folder: str | os.PathLike[str]) -> Iterator[None]:
    """
    Be the only process and thread that writes into a folder, for several files that belong together; may be nested.

    Parameters
    ----------
    folder : path
        Created if it is missing. A second writer waits. A folder that `swap_in` yields belongs to its writer anyway.

    Raises
    ------
    BlockingIOError
        If the folder is a run that is being trained.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as parent, one_writer(Path(parent) / "tokenizer") as _:
    ...     with one_writer(Path(parent) / "tokenizer"):
    ...         print(os.listdir(parent))
    ['tokenizer']
    """
    folder = Path(os.path.realpath(folder))
    writing: set[Path] = _THREAD.__dict__.setdefault("writing", set())
    if folder in writing or folder.name.endswith(PARTIAL):
        folder.mkdir(parents=True, exist_ok=True)
        yield
        return
    created = not folder.exists()
    lock = _wait_for(folder)
    writing.add(folder)
    try:
        yield
    except BaseException:
        if created:
            with contextlib.suppress(OSError):
                folder.rmdir()  # if nothing was written
        raise
    finally:
        writing.discard(folder)
        lock.close()


def _wait_for(folder: Path) -> FolderLock:
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            return FolderLock(folder)
        except FileNotFoundError:
            continue
        except BlockingIOError:
            if (folder / OWNER_FILE).exists():
                raise BlockingIOError(f"{folder} is a run that is being trained; choose another folder") from None
            time.sleep(0.02)


def lock_file(descriptor: int) -> bool | None:
    """
    Lock an open file until it is closed, without waiting.

    Returns
    -------
    bool or None
        False if another holds the lock; None where there are no locks.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryFile() as file:
    ...     lock_file(file.fileno()) is not False
    True
    """
    if fcntl is None:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _let_go_in_child() -> None:
    _FORKING.release()
    for lock in list(_OPEN):
        lock.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_FORKING.acquire, after_in_parent=_FORKING.release, after_in_child=_let_go_in_child)

"""
Files that survive a kill: each is what it was before or what it should become, never half of it.

The operating system promises one thing to build on: a rename inside a folder happens entirely or not at all. So a
file is written under another name, forced to the disk, and then renamed. `swap.py` does the same for whole folders.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["atomic_open", "atomic_write", "explain_full_disk", "lock_folder", "sync_folder"]

_DISK_FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}  # full, over a limit, over a quota


@contextlib.contextmanager
def atomic_open(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """
    Open a binary file that takes its name only once it is whole and on the disk.

    Parameters
    ----------
    path : path
        The file to write or replace. Its folder must exist. A symbolic link is followed.

    Yields
    ------
    file : binary file
        Open for writing, under a temporary name in the same folder.

    Raises
    ------
    OSError
        If the disk is full, the folder is missing (FileNotFoundError), or `path` is a folder or a device
        (FileExistsError), which a rename would replace. Whatever is raised, here or in the block, the file that was
        there before is as it was and the temporary one is gone.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with atomic_open(Path(folder) / "curve.bin") as file:
    ...         _ = file.write(b"123")
    ...     print([(found.name, found.stat().st_size) for found in Path(folder).iterdir()])
    [('curve.bin', 3)]
    """
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():
        raise FileNotFoundError(f"atomic_open: the folder of {path} must exist; create {target.parent} first")
    if target.exists() and not target.is_file():
        raise FileExistsError(f"atomic_open: {path} must be an ordinary file, got a folder or a device; choose a name")
    temporary = target.with_name(target.name + ".tinygpt-partial")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
        sync_folder(target.parent)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        explain_full_disk(error, f"atomic_open: cannot write {path}", "any file of that name is unchanged")
        raise


def atomic_write(path: str | os.PathLike[str], data: bytes | str) -> None:
    r"""
    Write a whole file at once, so that a reader finds the old content or the new, and a kill changes nothing.

    Parameters
    ----------
    path : path
        The file to write or to replace. Its folder must exist.
    data : bytes or str
        The content. Text is stored as UTF-8, its line ends as they are.

    Raises
    ------
    TypeError
        If `data` is neither bytes nor text.
    OSError
        As `atomic_open` does.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     atomic_write(Path(folder) / "story.txt", "The fox slept.\n")
    ...     print((Path(folder) / "story.txt").read_bytes())
    b'The fox slept.\n'
    """
    if isinstance(data, str):
        data = data.encode("utf-8")
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise TypeError(f"atomic_write: data must be bytes or str, got {type(data).__name__}")
    with atomic_open(path) as file:
        file.write(data)


def sync_folder(folder: Path) -> None:
    """
    Force the names in a folder to the disk, which syncing the files does not do.

    Parameters
    ----------
    folder : Path
        The folder. Where the system cannot do it, nothing happens.

    Raises
    ------
    OSError
        If the disk fails.

    Examples
    --------
    >>> sync_folder(Path("."))
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:  # Windows opens no folders; its file system keeps the order of renames by itself
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # what network file systems say to a folder
            raise
    finally:
        os.close(descriptor)


def explain_full_disk(error: BaseException, what_failed: str, what_is_safe: str) -> None:
    """
    If an error means a full disk, raise it again in words; return otherwise.

    Parameters
    ----------
    error : BaseException
        What went wrong.
    what_failed, what_is_safe : str
        The first two parts of the message.

    Raises
    ------
    OSError
        With the `errno` of `error`, if that is one of a full disk, an exceeded quota or limit.

    Examples
    --------
    >>> explain_full_disk(OSError(errno.ENOSPC, "full"), "cannot write a.txt", "nothing is lost")
    Traceback (most recent call last):
    OSError: cannot write a.txt: No space left on device; nothing is lost; free space and try again
    """
    if isinstance(error, OSError) and error.errno in _DISK_FULL:
        clear = OSError(f"{what_failed}: {os.strerror(error.errno or 0)}; {what_is_safe}; free space and try again")
        clear.errno = error.errno
        raise clear from error


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
    while fcntl is not None:
        try:
            descriptor = os.open(folder, os.O_RDONLY)
            locks.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except (FileNotFoundError, BlockingIOError):
            return False
        except OSError:
            break
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), os.stat(folder)):
                return True
        # It was renamed or deleted since it was opened: see what has the name now.
    return folder.exists()

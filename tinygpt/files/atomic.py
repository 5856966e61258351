"""
Atomic writes: a file has its old content or its new content, never a part of it, also after a kill.

A rename inside a folder is atomic. So a file is written under a temporary name, forced to the disk, and then renamed.
`directory_swap.py` does the same for folders.

Each writer has its own temporary name: if two write one file at once, the file is wholly of one of them. A writer that
is killed leaves its temporary file, but its lock ends with its process. So the next writer of the same file recognises
the leftover and deletes it; the next owner of a run does so for all files of the run.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from tinygpt.files.locks import PARTIAL, fcntl, lock_file

LEFTOVER_AGE = 24 * 3600.0  # seconds after which a temporary file counts as a leftover where there are no locks
_LONGEST_NAME = 100  # bytes of a file's name that its temporary file repeats; file systems allow 143 to 255 in all
_DISK_FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}  # full, over a limit, over a quota


@contextlib.contextmanager
def atomic_open(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """
    Open a binary file for an atomic write: it gets its name when it is complete and on the disk.

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
    remove_leftovers(target.parent, _stem(target))
    what_failed, what_is_safe = f"atomic_open: cannot write {path}", "any file of that name is unchanged"
    try:
        descriptor, temporary = create_temporary(target)
    except OSError as error:
        explain_write(error, what_failed, what_is_safe)
        raise
    writer = os.getpid()
    try:
        with open(descriptor, "wb") as file:
            yield file
            _require_writer(writer, path)
            file.flush()
            os.fsync(file.fileno())
            if fcntl is not None:
                os.replace(temporary, target)  # still open, hence locked: not taken for a leftover
        if fcntl is None:
            os.replace(temporary, target)  # Windows renames closed files only
        sync_folder(target.parent)
    except BaseException as error:
        if os.getpid() == writer:
            temporary.unlink(missing_ok=True)
        explain_write(error, what_failed, what_is_safe)
        raise


def _require_writer(writer: int, path: str | os.PathLike[str]) -> None:
    if os.getpid() != writer:
        raise BlockingIOError(f"atomic_open: {path} is written by process {writer}; its forked child may not finish it")


def create_temporary(target: Path) -> tuple[int, Path]:
    """
    Create a temporary file beside `target`, under a name that no other writer has, and lock it while it is open.

    Parameters
    ----------
    target : Path
        The file that the temporary one will become. Its name may be as long as the file system allows.

    Returns
    -------
    descriptor : int
        Open for writing. Its mode is that of `target` where that exists, else that of any new file.
    temporary : Path
        Its name, for the caller to rename or to delete.

    Raises
    ------
    OSError
        If the folder is missing or cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     descriptor, temporary = create_temporary(Path(folder) / "curve.bin")
    ...     os.close(descriptor)
    ...     print(re.sub("[0-9a-f]{16}", "0123456789abcdef", temporary.name))
    curve.bin.0123456789abcdef.tinygpt-partial
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    while True:
        temporary = target.with_name(f"{_stem(target)}.{secrets.token_hex(8)}{PARTIAL}")
        try:
            descriptor = os.open(temporary, flags, 0o666)
        except FileExistsError:
            continue
        try:
            with contextlib.suppress(OSError, AttributeError):  # Windows has other permissions
                os.fchmod(descriptor, stat.S_IMODE(target.stat().st_mode) & 0o777)
            if lock_file(descriptor) is not False and temporary.exists():
                return descriptor, temporary
        except BaseException:
            os.close(descriptor)
            temporary.unlink(missing_ok=True)
            raise
        os.close(descriptor)  # another writer deleted it as a leftover, between its creation and its lock


def remove_leftovers(folder: Path, stem: str | None = None) -> None:
    """
    Delete the temporary files that killed writers left in a folder; those of living writers stay.

    Parameters
    ----------
    folder : Path
        The folder; its subfolders are not looked into.
    stem : str, optional
        Only files whose names begin with it; by default, all.

    Notes
    -----
    A living writer holds a lock on its file. Where there are no locks, a file counts as a leftover after a day.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "curve.bin.0123456789abcdef.tinygpt-partial").write_bytes(b"12")
    ...     remove_leftovers(Path(folder))
    ...     os.listdir(folder)
    []
    """
    start = ".*" if stem is None else re.escape(stem)
    temporary = re.compile(rf"{start}\.[0-9a-f]{{16}}{re.escape(PARTIAL)}", re.DOTALL)
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if temporary.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                _remove_leftover(Path(entry.path))


def _remove_leftover(path: Path) -> None:
    with contextlib.suppress(OSError), contextlib.ExitStack() as closing:
        locked = None
        if fcntl is not None:
            descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
            closing.callback(os.close, descriptor)
            locked = lock_file(descriptor)
        if locked or (locked is None and time.time() - path.stat().st_mtime > LEFTOVER_AGE):
            path.unlink()


def _stem(target: Path) -> str:
    """How the names of a file's temporary files begin."""
    name = os.fsencode(target.name)
    return target.name if len(name) <= _LONGEST_NAME else hashlib.sha256(name).hexdigest()[:32]


def atomic_write(path: str | os.PathLike[str], data: bytes | str) -> None:
    r"""
    Write a file atomically: a reader finds the old content or the new one, also after a kill.

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
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # network file systems cannot sync a folder
            raise
    finally:
        os.close(descriptor)


def explain_full_disk(error: BaseException, what_failed: str, what_is_safe: str) -> None:
    """
    Raise an error of a full disk again, and say what to do; return if it is another error.

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
        explain_write(error, what_failed, what_is_safe)


def explain_write(error: BaseException, what_failed: str, what_is_safe: str) -> None:
    """
    Raise an error of a full or failing disk, or of a missing permission, again, and say what to do.

    Parameters
    ----------
    error : BaseException
        What went wrong.
    what_failed, what_is_safe : str
        The first two parts of the message.

    Raises
    ------
    OSError
        With the `errno` of `error`, if it is one of a full disk, an exceeded quota or limit, a failing disk, a
        read-only file system, or a missing permission. For other errors, nothing is raised.

    Examples
    --------
    >>> explain_write(OSError(errno.EIO, "failed"), "cannot write a.txt", "nothing is lost")
    Traceback (most recent call last):
    OSError: cannot write a.txt: Input/output error; nothing is lost; check the disk, or write to another
    """
    if not isinstance(error, OSError) or error.errno is None:
        return
    if error.errno in _DISK_FULL:
        remedy = "free space and try again"
    elif error.strerror is None:  # it has this message already
        return
    elif error.errno == errno.EIO:
        remedy = "check the disk, or write to another"
    elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        remedy = "make it writable, or choose another place"
    else:
        return
    kind = PermissionError if error.errno in (errno.EACCES, errno.EPERM) else OSError
    clear = kind(f"{what_failed}: {os.strerror(error.errno)}; {what_is_safe}; {remedy}")
    clear.errno = error.errno
    raise clear from error

"""
Reading regular files of at most a given size; anything else is an error at once that names the file.

A name in a downloaded folder can be a named pipe, whose reader waits for ever, or a link to a device that never ends.
So a file is opened without blocking, and the opened file is checked, not its name, before anything is read. Never more
than the limit is read, even if the file grows.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from io import BufferedReader

from tinygpt.files.one_line import shown

MEGABYTE = 1 << 20
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)


@contextlib.contextmanager
def open_input(path: str | os.PathLike[str], who: str = "", remedy: str = "check the name") -> Iterator[BufferedReader]:
    """
    Open an ordinary file for reading; never wait for one that is not.

    Parameters
    ----------
    path : path
        Symbolic links are followed: the cache of the Hugging Face hub is made of them.
    who : str
        The function that errors name.
    remedy : str
        What to do if the file is not there.

    Yields
    ------
    file : binary file

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is a folder, a named pipe, a device or a socket.
    OSError
        If it cannot be opened or read, with the file's name.

    Examples
    --------
    >>> with open_input("/dev/zero", who="example") as file:
    ...     file.read()
    Traceback (most recent call last):
    ValueError: example: /dev/zero must be an ordinary file, got a device; check the name
    """
    start = f"{who}: " if who else ""
    require_ordinary(path, who, remedy)
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOCTTY", 0)
    try:
        with open(os.open(path, flags), "rb") as file:
            _refuse_others(os.fstat(file.fileno()).st_mode, path, start, remedy)
            yield file
    except FileNotFoundError as error:
        raise _in_words(error, path, start, remedy) from None
    except OSError as error:
        if error.errno is None or (error.filename is not None and str(error.filename) != os.fspath(path)):
            raise  # of the caller's own making
        raise _in_words(error, path, start, remedy) from error


def require_ordinary(path: str | os.PathLike[str], who: str = "", remedy: str = "check the name") -> None:
    """
    Raise what `open_input` raises if a path is not that of an ordinary file; a device is not even opened.

    Examples
    --------
    >>> require_ordinary("no-such-file", who="example")
    Traceback (most recent call last):
    FileNotFoundError: example: no-such-file must be a file, and is not there; check the name
    """
    start = f"{who}: " if who else ""
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        raise _in_words(error, path, start, remedy) from None
    except ValueError:  # a NUL in the name
        raise FileNotFoundError(f"{start}{shown(path)} must be a file, and is not there; {remedy}") from None
    _refuse_others(mode, path, start, remedy)


def _refuse_others(mode: int, path: str | os.PathLike[str], start: str, remedy: str) -> None:
    if not stat.S_ISREG(mode):
        kind = next((name for is_kind, name in _KINDS if is_kind(mode)), "something else")
        raise ValueError(f"{start}{shown(path)} must be an ordinary file, got {kind}; {remedy}")


def _in_words(error: OSError, path: str | os.PathLike[str], start: str, remedy: str) -> OSError:
    """The same error, with the file, the state of the data and the remedy."""
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return FileNotFoundError(f"{start}{shown(path)} must be a file, and is not there; {remedy}")
    if error.errno in (errno.EACCES, errno.EPERM):
        clear: OSError = PermissionError(
            f"{start}cannot read {shown(path)}: permission denied; nothing was changed; make it readable (chmod +r)"
        )
    else:
        reason = os.strerror(error.errno) if error.errno else str(error)
        clear = type(error)(
            f"{start}cannot read {shown(path)}: {reason}; nothing was changed; check the disk, or use another copy"
        )
    clear.errno = error.errno
    return clear


def read_bytes(
    path: str | os.PathLike[str], limit: int, who: str = "", remedy: str = "check the name", what: str = "a file"
) -> bytes:
    """
    Read an ordinary file of at most `limit` bytes.

    Parameters
    ----------
    path : path
    limit : int
        No more bytes than this are ever read.
    who, remedy : str
        As `open_input` takes them.
    what : str
        What a file of this kind is, for the error that says that it is too large.

    Returns
    -------
    bytes

    Raises
    ------
    FileNotFoundError, ValueError, OSError
        As `open_input`; ValueError also if the file is larger.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder) / "a.txt"
    ...     _ = path.write_text("The fox slept.")
    ...     read_bytes(path, limit=100)
    b'The fox slept.'
    """
    with open_input(path, who, remedy) as file:
        size = os.fstat(file.fileno()).st_size
        if size <= limit:
            return file.read(size)  # without what it grows by meanwhile
    start = f"{who}: " if who else ""
    raise ValueError(f"{start}{shown(path)} must be {what} of at most {limit:,} bytes, got {size:,}; use another copy")

"""
The user's cache: the folder for compiled kernels, tokenizers and books, which tinygpt can make or fetch again.

    $XDG_CACHE_HOME/tinygpt     where XDG_CACHE_HOME is an absolute path; a relative one is ignored, as its
                                specification says: it would be another folder for each working directory
    ~/.cache/tinygpt            otherwise
    $NUMBA_CACHE_DIR/tinygpt    for compiled kernels only, where NUMBA_CACHE_DIR is an absolute path

The cache is optional. Without a home, or if the folder cannot be written, each process compiles its kernels, and a
download says which variable to set.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

MARK = ".compiled"  # ends the name of an empty file: all kernels of the stage that it is named after are in its folder


def cache_root() -> Path:
    """
    Name the folder of everything that tinygpt caches.

    Returns
    -------
    Path
        Absolute. It need not exist yet.

    Raises
    ------
    FileNotFoundError
        If ``XDG_CACHE_HOME`` is not set and this user has no home directory.

    Examples
    --------
    >>> cache_root().name
    'tinygpt'
    """
    given = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(given):
        return Path(given) / "tinygpt"
    home = _home()
    if home is None:
        raise FileNotFoundError(
            "cache: needs a home directory to keep files in, and this user has none; set XDG_CACHE_HOME to an "
            "absolute path"
        )
    return home / ".cache" / "tinygpt"


def cache_folder(name: str) -> Path:
    """
    Name a folder for downloads: `name` in `cache_root`.

    Parameters
    ----------
    name : str
        What is kept there.

    Returns
    -------
    Path
        It need not exist yet.

    Examples
    --------
    >>> cache_folder("gutenberg").parts[-2:]
    ('tinygpt', 'gutenberg')
    """
    return cache_root() / name


def kernel_root(given: str | None = None) -> Path:
    """
    Name the folder of all compiled kernels: `tinygpt` in an absolute ``NUMBA_CACHE_DIR``, else `cache_root`.

    Parameters
    ----------
    given : str, optional
        What Numba takes ``NUMBA_CACHE_DIR`` for; by default the environment variable.

    Examples
    --------
    >>> kernel_root(os.path.abspath("kept")).relative_to(os.getcwd()).as_posix()
    'kept/tinygpt'
    >>> kernel_root("kept") == cache_root()
    True
    """
    given = os.environ.get("NUMBA_CACHE_DIR", "") if given is None else given
    return Path(given) / "tinygpt" if os.path.isabs(given) else cache_root()


def was_compiled(group: str, stage: str) -> bool:
    """
    Whether kernels of a group, of this version or another, were compiled for a stage; needs no import of Numba.

    Examples
    --------
    >>> was_compiled("tokenizer", "nosuch")
    False
    """
    try:
        return any(kernel_root().glob(f"{group}-*/{stage}{MARK}"))
    except OSError:  # no home, or no permission
        return False


def make_folder(folder: Path) -> Path:
    """
    Make a folder of the cache, and those above it, unless they exist; returns it.

    Raises
    ------
    OSError
        If that fails, naming the folder and the variable that moves it.
    """
    try:
        for missing in reversed([path for path in (folder, *folder.parents) if not path.exists()]):
            missing.mkdir(mode=0o700, exist_ok=True)  # for this user alone, as the XDG specification says
        if not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    except OSError as error:
        raise type(error)(
            f"cache: cannot make the folder {folder} ({error.strerror or error}); set XDG_CACHE_HOME to a folder that "
            "can be written"
        ) from None
    return folder


def distrust(folder: Path) -> str:
    """
    Why code must not be loaded from a folder: others could have put it there. Empty where nothing is wrong.

    Parameters
    ----------
    folder : Path
        Must be a folder itself, not a symbolic link to one, that belongs to this user and that no other user may write.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     distrust(Path(folder))
    ''
    >>> distrust(Path(__file__))
    'is not a folder'
    """
    status = os.lstat(folder)
    if stat.S_ISLNK(status.st_mode):
        return "is a symbolic link"
    if not stat.S_ISDIR(status.st_mode):
        return "is not a folder"
    if hasattr(os, "geteuid"):
        if status.st_uid != os.geteuid():
            return "belongs to another user"
        if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            return "can be written by other users"
    return ""


def _home() -> Path | None:
    """The user's home: HOME if it is an absolute path, else the entry in the system's list of users."""
    try:
        if os.name == "posix" and not os.path.isabs(os.environ.get("HOME", "")):
            import pwd

            home = Path(pwd.getpwuid(os.getuid()).pw_dir)
        else:
            home = Path.home()
    except (ImportError, KeyError, RuntimeError):
        return None
    return home if home.is_absolute() else None

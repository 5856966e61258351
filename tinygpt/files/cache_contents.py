"""
The contents of the user's cache, and their removal: only files that tinygpt made, and never through a link.

A file is tinygpt's if both its folder and its name have the form that tinygpt gives. Other files stay, and so do the
folders above them.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from tinygpt.files.user_cache import cache_root, kernel_root

KINDS = ("old", "kernels", "downloads", "all")
_KERNELS = re.compile(r"(kernels|tokenizer)-[0-9a-f]{16}")
# Former versions kept Numba's own cache, with an index and a subfolder for each folder of sources, and empty marks.
_FILES = {
    "kernels": re.compile(
        r".*\.nb[ci]|.*\.nb[ci]\.tmp\.[0-9a-f]+|\..*\.partial|[a-z0-9-]+\.compiled|kernels|encoding|decoding|training"
    ),
    "tokenizers": re.compile(r"\.?(encoder\.json|vocab\.bpe)(\..*)?"),
    "gutenberg": re.compile(r"\.?pg\d+\.txt(\..*)?"),
    "texts": re.compile(r"\.?(input|TinyStoriesV2-GPT4-(train|valid))\.txt(\..*)?"),
}


class Entry(NamedTuple):
    """
    A folder of the cache.

    Attributes
    ----------
    path : Path
    kind : {"kernels", "tokenizers", "gutenberg", "texts"}
    current : bool
        Whether this version on this machine uses it: False for kernels of another version, or another processor.
    files, bytes : int
        How many files of tinygpt are in it, and how large they are.
    """

    path: Path
    kind: str
    current: bool
    files: int
    bytes: int


class Removed(NamedTuple):
    """The bytes that were removed, and the files that were left: not made by tinygpt, or removal failed."""

    files: int
    bytes: int
    left: list[Path]


def contents(current: Collection[str]) -> list[Entry]:
    """
    The folders of the cache, kernels first.

    Parameters
    ----------
    current : collection of str
        The names of the folders of kernels that are in use.

    Raises
    ------
    FileNotFoundError
        If this user has no home and no cache.
    """
    found = []
    for root in dict.fromkeys((kernel_root(), cache_root())):
        with contextlib.suppress(OSError):
            for path in sorted(root.iterdir()):
                kind = "kernels" if _KERNELS.fullmatch(path.name) else path.name
                if kind not in _FILES or path.is_symlink() or not path.is_dir():
                    continue
                sizes = [size for _, size in _files(path, kind)]
                found.append(Entry(path, kind, kind != "kernels" or path.name in current, len(sizes), sum(sizes)))
    return sorted(found, key=lambda entry: (entry.kind != "kernels", entry.kind, not entry.current))


def chosen(entries: Iterable[Entry], what: str) -> list[Entry]:
    """
    Those that `what` names: "old" kernels (of other versions), all "kernels", "downloads", or "all".

    Examples
    --------
    >>> entries = [Entry(Path("kernels-0"), "kernels", False, 1, 9), Entry(Path("gutenberg"), "gutenberg", True, 1, 9)]
    >>> [entry.path.name for entry in chosen(entries, "old")]
    ['kernels-0']
    """
    wanted = {
        "old": lambda entry: not entry.current,
        "kernels": lambda entry: entry.kind == "kernels",
        "downloads": lambda entry: entry.kind != "kernels",
        "all": lambda entry: True,
    }
    return [entry for entry in entries if wanted[what](entry)]


def clear(entries: Iterable[Entry]) -> Removed:
    """Remove the files of tinygpt from some folders of the cache, and folders that become empty."""
    files, size, left = 0, 0, []
    for entry in entries:
        for path, length in _files(entry.path, entry.kind):
            try:
                path.unlink()
            except OSError:
                continue  # it is named below
            files, size = files + 1, size + length
        for folder, folders, names in os.walk(entry.path, topdown=False):
            left += [Path(folder, name) for name in names]
            left += [Path(folder, name) for name in folders if Path(folder, name).is_symlink()]
            with contextlib.suppress(OSError):  # not empty
                os.rmdir(folder)
        with contextlib.suppress(OSError):
            entry.path.parent.rmdir()
    return Removed(files, size, left)


def _files(folder: Path, kind: str) -> Iterator[tuple[Path, int]]:
    """The files of tinygpt in a folder and those below it, with their sizes. `os.walk` follows no links."""
    for below, _, names in os.walk(folder):
        for name in names:
            path = Path(below, name)
            with contextlib.suppress(OSError):
                status = path.lstat()
                if stat.S_ISREG(status.st_mode) and _FILES[kind].fullmatch(name):
                    yield path, status.st_size

"""Memory from the system in whole pages: zeroed, and private to this process."""

from __future__ import annotations

import mmap

# By default Python's mmap is shared with the children of a fork: each would see the writes of the other.
_PRIVATE: dict[str, int] = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
_HUGE_PAGES = getattr(mmap, "MADV_HUGEPAGE", None)


def new_pages(size: int) -> mmap.mmap:
    """
    Ask the system for memory, in huge pages where it has them.

    Parameters
    ----------
    size : int
        In bytes.

    Examples
    --------
    >>> bytes(new_pages(4096)[:3])
    b'\\x00\\x00\\x00'
    """
    pages = mmap.mmap(-1, size, **_PRIVATE)
    if _HUGE_PAGES is not None:
        pages.madvise(_HUGE_PAGES)
    return pages

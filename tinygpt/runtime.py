"""
The settings that every part of tinygpt reads: which implementation runs, and whether to look for mistakes.

Settings are per thread, so that one thread can race the kernels while another steps through the reference.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator

IMPLEMENTATIONS = ("kernels", "numpy", "check")

# Read once: with TINYGPT_DEBUG=1 the engine checksums what it saves for backward, and so finds in-place edits.
DEBUG = os.environ.get("TINYGPT_DEBUG", "0") not in ("", "0")


def _checked(name: str, who: str) -> str:
    if name not in IMPLEMENTATIONS:
        raise ValueError(f"{who}: must be one of {', '.join(IMPLEMENTATIONS)}, got {name!r}")
    return name


class _Settings(threading.local):
    def __init__(self) -> None:
        self.implementation = _checked(os.environ.get("TINYGPT_IMPLEMENTATION", "kernels"), "TINYGPT_IMPLEMENTATION")


_settings = _Settings()


def current_implementation() -> str:
    """The implementation that this thread uses now: "kernels", "numpy" or "check"."""
    return _settings.implementation


@contextlib.contextmanager
def implementation(name: str) -> Iterator[None]:
    """
    Choose, for this thread and this block, which implementation of every op runs.

    Parameters
    ----------
    name : {"kernels", "numpy", "check"}
        "kernels": an op's kernel where it has one, else its NumPy reference (the default).
        "numpy": the reference, for every op.
        "check": both, and an error at the first op, forward or backward, where they disagree.

    Raises
    ------
    ValueError
        If `name` is none of these.

    Notes
    -----
    The environment variable ``TINYGPT_IMPLEMENTATION`` sets what a program starts with.

    Examples
    --------
    >>> with implementation("numpy"):
    ...     print(current_implementation())
    numpy
    """
    before = _settings.implementation
    _settings.implementation = _checked(name, "implementation")
    try:
        yield
    finally:
        _settings.implementation = before

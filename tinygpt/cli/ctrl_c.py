"""
Ctrl-C ends a command with one line and exit status 130, whatever it is doing; a second one ends it at once.

Python turns Ctrl-C into an exception that can be raised anywhere. In an import or in the compiler it may be taken for
another error, in a callback it is printed and lost, and while the first one is handled, or the interpreter shuts down,
it becomes a traceback. So a command sets a handler of its own.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

from tinygpt.runtime.streams import say

_STATUS = 130  # as shells have it: 128 and the number of the signal
_SWALLOWING = ("importlib._bootstrap", "numba", "llvmlite")  # modules that lose the exception, or turn it into another


@contextlib.contextmanager
def take_over() -> Iterator[None]:
    """
    Handle Ctrl-C until the process ends; not where it is ignored, or has another handler.

    Notes
    -----
    After the block the next Ctrl-C ends the process without a word: only the interpreter is left to shut down.
    """
    usual = (signal.default_int_handler, signal.SIG_DFL)
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) not in usual:
        yield
        return
    sys.unraisablehook = _unraisable
    signal.signal(signal.SIGINT, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def _interrupt(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    while frame is not None:
        if frame.f_globals.get("__name__", "").startswith(_SWALLOWING):
            _end()
        frame = frame.f_back
    raise KeyboardInterrupt


def _unraisable(details: Any) -> None:
    if issubclass(details.exc_type, KeyboardInterrupt):
        _end()
    sys.__unraisablehook__(details)


def _end() -> None:
    """End the process here. Loading and compiling leave nothing but an owner file, which is seen to be stale."""
    say("tinygpt: interrupted", below=True)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(_STATUS)

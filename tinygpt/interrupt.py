"""Ctrl-C as a request: the loop finishes its step and saves, instead of dying in the middle of one."""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType
from typing import Any


class Interrupt:
    """
    While entered, the first Ctrl-C (or SIGTERM) sets `requested`; the second one ends the program as usual.

    Examples
    --------
    >>> with Interrupt() as interrupt:
    ...     for step in range(3):
    ...         if interrupt.requested:
    ...             break
    >>> interrupt.requested
    False
    """

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():  # only there can handlers be set
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._request)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        print("\nstopping after this step; once more to stop at once", file=sys.stderr)
        self.__exit__()

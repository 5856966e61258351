"""
Ctrl-C as a request: the loop finishes its step and saves, instead of ending in the middle of one. So are SIGTERM, and
SIGHUP, which a closing terminal sends, unless it is ignored, as under `nohup`.

A closing terminal may send SIGHUP twice, and a service manager SIGTERM twice, or both: only a second Ctrl-C stops at
once.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

from tinygpt.runtime.streams import say


class Interrupt:
    """
    While entered, Ctrl-C, SIGTERM and SIGHUP set `requested`; Ctrl-C after that ends the program as usual.

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
            for name in ("SIGINT", "SIGTERM", "SIGHUP"):
                number = getattr(signal, name, None)  # Windows has no SIGHUP
                if number is not None and not (name == "SIGHUP" and signal.getsignal(number) == signal.SIG_IGN):
                    self._before[number] = signal.signal(number, self._request)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _request(self, number: int, frame: FrameType | None) -> None:
        if not self.requested:
            self.requested = True
            say("stopping after this step; Ctrl-C once more to stop at once", below=True)
        if signal.SIGINT in self._before:
            signal.signal(signal.SIGINT, self._before.pop(signal.SIGINT))

"""
The notice that kernels are being compiled, which takes seconds: whenever it happens, with how many and which.

Numba tells when it begins to compile a function, and when it has ended or was interrupted. The first function of ours
brings up the notice. Inside `shown` it is a line of its own, with progress, which ends when the block does:

    compiling kernels, once: 7 done, now attention backward, 00:14

Elsewhere it is a line that says so. Nothing marks the notice as shown before the work is done: after an interrupted
compilation, in this process or the next, it comes again for the kernels that are left. How many are needed is known
when they are reached, so no total is promised.

Time estimates of bars that are open do not count the seconds of a compilation.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from numba.core import event

from tinygpt.runtime.streams import bar, say

if TYPE_CHECKING:
    from tinygpt.runtime.progress_bar import ProgressBar


class Notice(event.Listener):
    """Listens to Numba's compiler; of functions with a `subject`, such as "kernels", it says that they are compiled."""

    def __init__(self) -> None:
        self._depth = 0  # of functions that are compiled for one another: the outermost is the kernel
        self._start = 0.0
        self._progress: _Progress | None = None
        self._said = set[str]()

    def on_start(self, found: event.Event) -> None:
        """A function is about to be compiled."""
        function = found.data["dispatcher"]
        subject = getattr(function, "subject", "")
        if not self._depth and not subject:
            return  # none of ours
        self._depth += 1
        if self._depth > 1:
            return
        self._start = time.perf_counter()
        if self._progress is not None:
            self._progress.begin(_name_of(function.py_func))
        elif subject not in self._said:
            self._said.add(subject)
            say(f"tinygpt: compiling {subject} as they are needed, once; this takes some seconds")

    def on_end(self, found: event.Event) -> None:
        """It is compiled, or was interrupted."""
        if not self._depth:
            return
        self._depth -= 1
        if self._depth:
            return
        if (getattr(found, "_exc_details", None) or (None,))[0] is not None:
            self._said.clear()
        elif self._progress is not None:
            self._progress.end()
        if "tqdm" in sys.modules:
            from tinygpt.runtime.progress_bar import exclude

            exclude(time.perf_counter() - self._start, but=self._progress.bar if self._progress else None)

    @contextlib.contextmanager
    def shown(self, subject: str, progress: bool = True) -> Iterator[None]:
        """
        Inside, whatever is compiled is shown in one line; nothing is shown if nothing is compiled.

        Parameters
        ----------
        subject : str
            Such as "kernels".
        progress : bool
            Show which kernel is compiled; otherwise only that it begins, and how long it took.
        """
        if self._progress is not None:  # a part of more work
            yield
            return
        self._progress = progress_line = _Progress(subject, progress)
        try:
            yield
            self._progress = None
            progress_line.finish()
        finally:
            self._progress = None
            progress_line.close()


class _Progress:
    """The line of one block; nothing until a kernel is compiled."""

    def __init__(self, subject: str, progress: bool) -> None:
        self._subject, self._wanted = subject, progress
        self._start, self._count = 0.0, 0
        self.bar: ProgressBar | None = None

    def begin(self, name: str) -> None:
        if self.bar is None:
            from tinygpt.runtime.progress_bar import another_is_drawn

            self._start = time.perf_counter()
            alone = self._wanted and not another_is_drawn()
            self.bar = bar(desc=f"compiling {self._subject}, once:", unit=" done", leave=False, disable=not alone)
            if self.bar.disable or self.bar.plain:
                say(f"tinygpt: compiling {self._subject}, once; this takes some seconds")
        self.bar.set_fields([f"now {name}"])
        self.bar.refresh()

    def end(self) -> None:
        self._count += 1
        if self.bar is not None:
            self.bar.update()

    def finish(self) -> None:
        self.close()
        if self.bar is not None:
            seconds = time.perf_counter() - self._start
            say(f"tinygpt: compiled {self._subject} ({self._count}) in {seconds:.0f} s")

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


def _name_of(function: Callable) -> str:
    """Such as "attention backward"."""
    return f"{function.__module__.rpartition('.')[2]} {function.__qualname__.strip('_')}".replace("_", " ")

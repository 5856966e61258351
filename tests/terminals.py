"""A pseudo-terminal of a certain width, and what a program draws on it; shared by tests of what a user sees."""

from __future__ import annotations

import codecs
import contextlib
import os
import select
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


class Terminal:
    """
    A program on a pseudo-terminal.

    Parameters
    ----------
    columns : int
        How wide the window is.
    *command : str
        Arguments of the Python interpreter.
    **environment
        Variables that are set besides; None: not set.

    Attributes
    ----------
    text : str
        All that it has written so far.
    """

    def __init__(self, columns: int, *command: str, cwd: Path | None = None, **environment: str | None) -> None:
        import fcntl
        import pty

        self.text = ""
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._fd, inner = pty.openpty()
        self.resize(columns)
        variables = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", **environment}
        variables = {name: value for name, value in variables.items() if value is not None and name != "COLUMNS"}

        def own_the_terminal() -> None:
            import termios

            os.setsid()
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # Ctrl-C goes to the program that this is the terminal of

        self.process = subprocess.Popen([sys.executable, *command], stdin=inner, stdout=inner, stderr=inner,
                                        env=variables, cwd=cwd, preexec_fn=own_the_terminal)  # fmt: skip
        os.close(inner)

    def resize(self, columns: int) -> None:
        """Make the window so wide."""
        import fcntl
        import struct
        import termios

        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    def press(self, keys: str) -> None:
        """Type something, such as Ctrl-C, "\\x03"."""
        os.write(self._fd, keys.encode())

    def read(self, until: str | None = None, seconds: float = 600) -> str:
        """Read until a text was written, or to the end; returns what is new."""
        start, deadline = len(self.text), time.monotonic() + seconds
        while (until is None or until not in self.text[start:]) and time.monotonic() < deadline:
            if select.select([self._fd], [], [], 0.5)[0]:
                try:
                    data = os.read(self._fd, 1 << 16)
                except OSError:  # Linux's way to say that nobody has the terminal open any more
                    data = b""
                if not data:
                    break
                self.text += self._decode(data)
        return self.text[start:]

    def finish(self, seconds: float = 600) -> int:
        """Read to the end; returns the exit status."""
        try:
            self.read(seconds=seconds)
            return self.process.wait(seconds)
        finally:
            self.process.kill()
            with contextlib.suppress(OSError):
                os.close(self._fd)

    def frames(self) -> list[str]:
        """Everything that was ever drawn on a line, line by line, without what was only erased."""
        found = [frame for line in self.text.split("\n") for frame in line.split("\r")]
        return [frame for frame in found if frame.strip()]


def screen_of(text: str) -> list[str]:
    """The lines that stay, if the window is wide enough for each."""
    lines = []
    for line in text.split("\n"):
        shown = ""
        for part in line.split("\r"):
            shown = part + shown[len(part) :]
        lines.append(shown.rstrip())
    return lines

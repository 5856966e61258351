"""
A submission as its grader sees it: a function that is called in a process of its own, within limits.

`submission_process.py` is the other side, and says what a submission may do. Whatever it does, ends or sends, here it
is a result, or a `Stopped` with the reason. The process leads a group of its own, which is killed as a whole at the
end, with all that the submission has started.
"""

from __future__ import annotations

import contextlib
import os
import queue
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import tinygpt
from tinygpt.files.one_line import one_line
from tinygpt.study import submission_process
from tinygpt.study.submission_process import TOKEN, Channel, ChannelError, Ended

_START = 120.0  # seconds for the import of NumPy, on a slow disk
_MOST_NOTES = 20
# Isolated, Python knows neither PYTHONPATH nor the user's packages, where NumPy may be.
_RUN = "import runpy, sys; sys.path.append(sys.argv[2]); runpy.run_path(sys.argv[1], run_name='__main__')"


class Stopped(Exception):
    """Why there is no answer: an exception of the submission, a limit, or the end of its process."""


class TooLong(Stopped):
    """The time is up."""


class Limits(NamedTuple):
    """
    What one submission may use.

    Attributes
    ----------
    seconds : float
        That the grader waits for it, from the moment at which its file is run.
    megabytes : float
        Memory above the level after the import of NumPy.
    """

    seconds: float = 60
    megabytes: float = 1024


class Submission:
    """
    A function of a file, in a process of its own.

    Parameters
    ----------
    source : bytes
        The file.
    asked : str
        The name of the function.
    modules : mapping of str to (str, list of str)
        For each module that may be imported beside NumPy and the standard library, its source and the names it gives.
    limits : Limits
    file : str
        What the messages call the file.

    Attributes
    ----------
    refused : list of str
        What it tried and may not do.
    copied : list of str
        Where it tried to have its answer from.
    limited : bool
        Whether the system limits the memory.

    Raises
    ------
    Stopped
        By `load`, `call`, `hold`, `run` and `fetch`.

    Examples
    --------
    >>> source = b"def double(x):\\n    return 2 * x\\n"
    >>> with Submission(source, "double", {}, Limits(seconds=30)) as submission:
    ...     submission.load()
    ...     first, later, args, errors = submission.call([(np.arange(3),), ()])
    >>> first, args[0]
    ([array([0, 2, 4]), None], (array([0, 1, 2]),))
    >>> errors
    {1: "TypeError: double() missing 1 required positional argument: 'x'"}
    """

    def __init__(
        self,
        source: bytes,
        asked: str,
        modules: Mapping[str, tuple[str, list[str]]],
        limits: Limits,
        file: str = "submission.py",
    ) -> None:
        self.refused: list[str] = []
        self.copied: list[str] = []
        self._asked = asked
        self._limits, self._left, self._late = limits, np.inf, f"not done after {limits.seconds:g} seconds"
        self._folder = tempfile.mkdtemp(prefix="tinygpt-exercise-")
        script = shutil.copy(submission_process.__file__, self._folder)
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-X", "utf8", "-c", _RUN, script, os.path.dirname(np.__path__[0])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=self._folder,
            env=_environment(self._folder),
            start_new_session=True,
        )
        token = secrets.token_bytes(TOKEN)
        assert self._process.stdin is not None and self._process.stdout is not None
        self._writer = self._process.stdin
        self._channel = Channel(self._process.stdout, self._writer, token)  # type: ignore[arg-type]
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._replies: queue.SimpleQueue[Any] = queue.SimpleQueue()
        threading.Thread(target=self._talk, daemon=True).start()
        start = {
            "file": file,
            "asked": asked,
            "modules": dict(modules),
            "package": os.path.dirname(os.path.realpath(tinygpt.__file__)),
            **limits._asdict(),
        }
        try:
            with contextlib.suppress(OSError):  # the request tells why it is gone
                self._writer.write(token)
            reply, _ = self._request(start, np.frombuffer(source, np.uint8), _START)
            self.limited: bool = reply["limited"]
        except BaseException:
            self.close()
            raise

    def load(self) -> None:
        """Run the file. The time limit counts from here, but for what the grader does between two requests."""
        self._left = self._limits.seconds
        reply, _ = self._request({})
        if not reply.get("defined"):
            raise Stopped(f"the file must define the function {self._asked}; it does not")

    def call(self, calls: Sequence[tuple[Any, ...]]) -> tuple[list[Any], list[Any], list[Any], dict[int, str]]:
        """
        What each call returned, the same results after the last call, the arguments after it, and the exceptions.

        The exceptions are texts by the number of the call; what such a call returned is None.
        """
        reply, value = self._request({"do": "call"}, (list(calls),))
        try:
            first, later, args = value
            errors = {int(number): self._in_words(text) for number, text in reply["errors"].items()}
            complete = all(len(given) == len(after) for given, after in zip(calls, args, strict=True))
        except (AttributeError, KeyError, TypeError, ValueError):
            complete = False
        if not complete or not len(first) == len(later) == len(calls):
            raise Stopped("the submission has changed what its process sends")
        return first, later, args, errors

    def hold(self, args: tuple[Any, ...]) -> None:
        """Send the arguments of `run`."""
        self._request({"do": "hold"}, (args,))

    def run(self, most: float = np.inf) -> float:
        """Call the function once, for at most `most` seconds of a clock; returns seconds of processor time."""
        start = self._processor_seconds()
        self._request({"do": "run"}, (), most)
        return self._processor_seconds() - start

    def _processor_seconds(self) -> float:
        """Other programs do not count. Where the system does not tell it of another process, those of the clock."""
        try:
            return time.clock_gettime((~self._process.pid << 3) | 2)  # Linux: what clock_getcpuclockid(3) returns
        except (AttributeError, OSError, OverflowError):
            return time.perf_counter()

    def fetch(self) -> tuple[Any, Any]:
        """The result of `run`, and the arguments after it."""
        return self._request({"do": "fetch"}, ())[1]

    def _request(self, message: dict[str, Any], value: Any = None, seconds: float = np.inf) -> tuple[Any, Any]:
        start = time.monotonic()
        self._requests.put((message, value))
        left = min(seconds, self._left)
        try:
            answer = self._replies.get(timeout=max(left, 0) if left < threading.TIMEOUT_MAX else None)
            self._left -= time.monotonic() - start
        except queue.Empty:
            self.close()
            raise TooLong(f"{self._late}: is there an endless loop?") from None
        if isinstance(answer, BaseException):
            reason = self._end(answer)
            self.close()
            raise Stopped(reason)
        reply = answer[0]
        if "error" in reply:
            raise Stopped(self._in_words(reply["error"]))
        return answer

    def _in_words(self, error: Any) -> str:
        text = one_line(str(error))[:400]
        return f"{text}; the limit is {self._limits.megabytes:g} MB" if "MemoryError" in text[:20] else text

    def _talk(self) -> None:
        """Send requests and put the answers into the queue: the thread may wait forever, the grader does not."""
        assert self._process.stdout is not None
        with self._process.stdout:
            while (request := self._requests.get()) is not None:
                try:
                    self._channel.send(*request)
                    answer = self._channel.receive()
                    while "note" in answer[0]:
                        noted = self.refused if answer[0].get("own") else self.copied
                        text = one_line(str(answer[0]["note"]))[:200]
                        if len(noted) < _MOST_NOTES and text not in noted:
                            noted.append(text)
                        answer = self._channel.receive()
                except BaseException as error:  # also ChannelError; whatever it is, the submission has no answer
                    self._replies.put(error)
                    return
                self._replies.put(answer)

    def _end(self, error: BaseException) -> str:
        """How the process has ended, in words; or what it has sent, whose end is only that nobody listened any more."""
        if isinstance(error, ChannelError) and not isinstance(error, Ended):
            return f"no answer: {error}"
        try:
            status = self._process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            return f"no answer: {error or 'the channel to the grader is closed'}"
        if status < 0:
            with contextlib.suppress(ValueError):
                return f"its process ended by {signal.Signals(-status).name} before the function returned"
        return f"its process ended with status {status} before the function returned"

    def close(self) -> None:
        """Kill the process with all it has started, and delete its folder. May be called again."""
        self._requests.put(None)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if hasattr(os, "killpg"):
                os.killpg(self._process.pid, signal.SIGKILL)
            else:
                self._process.kill()
        self._process.wait()
        with contextlib.suppress(OSError, ValueError):
            self._writer.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Submission:
        return self

    def __exit__(self, *details: object) -> None:
        self.close()


def _environment(folder: str) -> dict[str, str]:
    """What Python and NumPy need to start, and no secret of the teacher's; one thread, for timings that can be held."""
    kept = ("PATH", "SYSTEMROOT", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "LANG", "LC_ALL")
    names = ("OPENBLAS_NUM", "OMP_NUM", "MKL_NUM", "VECLIB_MAXIMUM")
    return {
        **{name: os.environ[name] for name in kept if name in os.environ},
        **dict.fromkeys(("HOME", "TMPDIR", "TEMP", "TMP", "USERPROFILE"), folder),
        **{f"{name}_THREADS": "1" for name in names},
    }


def source_of(path: Path, most: int = 2**20) -> bytes:
    """
    A submission's text.

    Raises
    ------
    Stopped
        If it cannot be read, or is larger than a program that anyone has written.
    """
    try:
        with open(path, "rb") as file:
            source = file.read(most + 1)
    except OSError as error:
        raise Stopped(f"the file cannot be read: {error.strerror}") from None
    if len(source) > most:
        raise Stopped(f"the file must have at most {most >> 20} MB")
    return source

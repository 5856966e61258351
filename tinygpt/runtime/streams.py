"""
Standard output and standard error that cannot stop the work: where writing fails, text that is only shown is dropped.

A stream can be missing (`>&-`, a service, pythonw: `sys.stdout` is None), closed, full (`/dev/full`), narrow (ASCII,
Latin-1), or its reader can go away (`| head -1`, a closed terminal). What that means depends on who writes:

    writer                                       stream missing   full, or an I/O error     reader gone
    `tell`, `say`, a bar, a warning              dropped          dropped                   dropped
    `print` of a command that only prints        dropped          one line, status 2        silence, status 141

Commands that compute and save use `tell`; they go on and save. Characters that a stream cannot encode are written as
escapes (``\\u2603``) by all of them. SIGPIPE keeps Python's handler, so a reader that goes away is an error, never a
signal.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import sys
import textwrap
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tinygpt.runtime.progress_bar import ProgressBar

_READER_GONE = 141  # as shells have it: 128 and the number of SIGPIPE
_CLOSED = {errno.EPIPE, errno.EBADF, getattr(errno, "ESHUTDOWN", errno.EPIPE), errno.EINVAL}  # Windows: EINVAL

_commands: list[Stream] = []  # standard output of each command that runs in this process


class OutputError(Exception):
    """Standard output cannot be written, in a command that only prints; not an OSError, which would point to a file."""

    def __init__(self, reason: str, reader_gone: bool) -> None:
        super().__init__(f"standard output cannot be written: {reason}; nothing else is wrong")
        self.reader_gone = reader_gone


class Stream:
    """
    A text stream, or None, that is safe to write to.

    Parameters
    ----------
    stream : text stream or None
        Where the text goes. None takes everything and keeps nothing.
    required : bool
        Whether text that cannot be written is an error; otherwise it is dropped.

    Raises
    ------
    OutputError
        By `write` and `flush`, if `required`.

    Examples
    --------
    >>> import io
    >>> screen = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    >>> _ = Stream(screen).write("snow: \\u2603")
    >>> screen.flush(), screen.buffer.getvalue()
    (None, b'snow: \\\\u2603')
    >>> screen.close()
    >>> Stream(screen).write("dropped"), Stream(None).write("dropped")
    (7, 7)
    """

    def __init__(self, stream: Any, required: bool = False) -> None:
        self.stream: Any = stream.stream if isinstance(stream, Stream) else stream
        self.required = required
        self._pending = False  # whether required text may still be buffered

    def write(self, text: str) -> int:
        """Write text, with escapes for what the stream cannot encode."""
        if self.stream is not None:
            self._pending = self.required
            with self._failures(self.required):
                try:
                    self.stream.write(text)
                except UnicodeEncodeError:
                    encoding = self.stream.encoding or "ascii"
                    self.stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def write_bytes(self, data: bytes) -> None:
        """Write bytes unchanged; through a text-only stream, as UTF-8."""
        buffer = getattr(self.stream, "buffer", None)
        if buffer is None:
            self.write(data.decode("utf-8", errors="replace"))
            return
        self.flush()  # what was written as text comes first
        with self._failures(self.required):
            buffer.write(data)
            buffer.flush()

    def flush(self) -> None:
        """Write what is buffered."""
        if self.stream is not None:
            with self._failures(self._pending):
                self.stream.flush()
            self._pending = False

    @contextlib.contextmanager
    def _failures(self, required: bool) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, RuntimeError) as error:  # ValueError: closed; RuntimeError: in a signal handler
            gone = not isinstance(error, OSError) or error.errno in _CLOSED
            if required:
                raise OutputError(getattr(error, "strerror", None) or str(error), gone) from None
            if _commands:  # without a tinygpt command, the streams belong to the caller
                self.discard(gone)

    def discard(self, forever: bool) -> None:
        """Redirect the stream's buffer, and all later text, to the null device: else Python complains at exit."""
        with contextlib.suppress(OSError, ValueError, RuntimeError, AttributeError), contextlib.ExitStack() as closing:
            descriptor = self.stream.fileno()
            null, before = os.open(os.devnull, os.O_WRONLY), os.dup(descriptor)
            closing.callback(os.close, null)
            closing.callback(os.close, before)
            os.dup2(null, descriptor)
            try:
                self.stream.flush()
            finally:
                if not forever:
                    os.dup2(before, descriptor)

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        with contextlib.suppress(OSError, ValueError, AttributeError):
            return bool(self.stream.isatty())
        return False

    def __eq__(self, other: object) -> bool:  # tqdm asks whether a bar and a line share a stream
        same = self.stream is (other.stream if isinstance(other, Stream) else other)
        return same or NotImplemented  # then tqdm's own wrapper around a stream is asked

    def __hash__(self) -> int:
        return id(self.stream)

    def __getattr__(self, name: str) -> Any:
        if name == "stream" or self.stream is None:
            raise AttributeError(name)
        return getattr(self.stream, name)


def say(text: str, below: bool = False) -> None:
    """
    Print a line on standard error, above any bar, if that is possible.

    Parameters
    ----------
    text : str
    below : bool
        After Ctrl-C, within its handler too: on a terminal the line goes below the current one, which may hold a bar or
        the `^C` that the terminal shows.
    """
    stream = Stream(sys.stderr)
    if below:
        stream.write(f"\n{text}\n" if stream.isatty() else f"{text}\n")
        stream.flush()
    else:
        _write_line(stream, text)


def tell(text: str, wrap: bool = False) -> None:
    """
    Print lines on standard output, above any bar, if that is possible.

    Parameters
    ----------
    text : str
    wrap : bool
        On a terminal, break lines between words where they are too long for it: for sentences, not for tables, nor for
        commands that are copied.
    """
    stream = Stream(sys.stdout)
    if wrap:
        text = "\n".join(_wrapped(line, stream) for line in text.split("\n"))
    _write_line(stream, text)


def _wrapped(line: str, stream: Stream) -> str:
    from tinygpt.runtime.progress_bar import columns, is_terminal  # late: it imports tqdm

    if not is_terminal(stream) or len(line) <= (width := columns(stream)):
        return line
    indent = line[: len(line) - len(line.lstrip())] or "  "
    return textwrap.fill(line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _write_line(stream: Stream, text: str) -> None:
    tqdm = getattr(sys.modules.get("tqdm"), "tqdm", None)
    if tqdm is None:  # then there is no bar either
        stream.write(text + "\n")
    else:
        with contextlib.suppress(OSError, ValueError):  # of a bar that is not ours
            tqdm.write(text, file=stream)
    stream.flush()


def bar(**options: Any) -> ProgressBar:
    """A progress bar on standard error, which stops nothing; options are those of tqdm. TQDM_DISABLE=1 hides it."""
    from tinygpt.runtime.progress_bar import ProgressBar  # late: a command without a bar starts sooner

    stream = Stream(sys.stderr)
    hidden = os.environ.get("TQDM_DISABLE", "") not in ("", "0")
    options["disable"] = options.get("disable", False) or hidden or stream.stream is None
    return ProgressBar(file=stream, **options)


def to_json(value: Any, **options: Any) -> str:
    """
    Write a value as JSON, which has no NaN and no infinity: they become null.

    Parameters
    ----------
    value : object
        What `json.dumps` takes.
    **options
        Those of `json.dumps`.

    Returns
    -------
    str

    Examples
    --------
    >>> to_json({"loss": math.nan, "losses": [math.inf, 2.5]})
    '{"loss": null, "losses": [null, 2.5]}'
    """
    return json.dumps(_finite(value), allow_nan=False, **options)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _finite(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(entry) for entry in value]
    return value


def print_json(value: Any, indent: int | None = None) -> None:
    """Print a value as JSON: see `to_json`. Where the stream is not UTF-8, other characters than ASCII are escaped."""
    encoding = (getattr(sys.stdout, "encoding", None) or "utf-8").lower().replace("_", "-")
    print(to_json(value, indent=indent, ensure_ascii=encoding not in ("utf-8", "utf8", "utf-8-sig")))


def run_command(command: Callable[[], int]) -> int:
    """
    Run a command with standard streams that are safe to write to, and say what became of its output.

    Parameters
    ----------
    command : callable
        Returns the exit status, or raises SystemExit.

    Returns
    -------
    int
        Its exit status; 141 if a command that only prints has lost its reader, 2 if it could not print.

    Examples
    --------
    >>> run_command(lambda: print("done") or 0)
    done
    0
    """
    before = sys.stdout, sys.stderr
    _occupy_descriptors()
    out, err = Stream(sys.stdout, required=True), Stream(sys.stderr)
    _commands.append(out)
    sys.stdout, sys.stderr = out, err  # type: ignore[assignment]
    try:
        try:
            return command()
        finally:
            out.flush()  # an error here takes the place of what the command returned or raised
    except OutputError as error:
        out.discard(forever=True)
        if error.reader_gone:
            return _READER_GONE
        say(f"tinygpt: {error}")
        return 2
    finally:
        err.flush()
        sys.stdout, sys.stderr = before
        _commands.pop()


def _occupy_descriptors() -> None:
    """Open the null device in place of closed standard streams, or the next file to be opened gets their number."""
    if sys.stdin is not None and sys.stdout is not None and sys.stderr is not None:
        return
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            with contextlib.suppress(OSError):
                os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)

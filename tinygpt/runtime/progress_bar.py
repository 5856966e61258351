"""
A progress bar of whole fields: those that matter first are shown, those that do not fit are left out; nothing is cut.

On a terminal it is one line, drawn over and over, as wide as the window is at that moment:

    training  45% |####    | 90/200, 07:41 left, loss 5.124, val 5.601, 1,234 tok/s

Without a terminal, in a log file or a pipe, or where TERM=dumb says that a line cannot be drawn again, it is a plain
line now and then, without carriage returns:

    training 90/200 (45%), loss 5.124, val 5.601, 1,234 tok/s, 06:17 elapsed, 07:41 left

Such a line comes every N steps (or bytes, or tokens). N is one of 1, 2, 5, 10, 20, 50, ...: the smallest for which N
steps take five seconds and a fiftieth of the time so far, but it need not take more than ten minutes. So the first
minutes have a line every few seconds, a day has at most 400, and what is done within five seconds has none.

Nothing here is in colour, and no escape sequence is written. TQDM_DISABLE=1 hides all bars and their lines, as it does
in other programs; tqdm's other variables are not looked at.
"""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any


@contextlib.contextmanager
def _hidden(prefix: str) -> Iterator[None]:
    """Inside, the environment has no variables with these first letters."""
    variables = {name: value for name, value in os.environ.items() if name.startswith(prefix)}
    for name in variables:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(variables)


# When it is imported, tqdm takes TQDM_MININTERVAL=abc and others as defaults of its options, which can stop the work.
with _hidden("TQDM_"):
    from tqdm import tqdm
    from tqdm.std import Bar

_SHORTEST = 5.0  # seconds between two plain lines, at least
_SHARE = 50  # of the time so far: this many lines have the same distance
_LONGEST = 600.0
_NARROWEST_BAR = 8
_BEFORE_BAR = 3  # that many of a run's own fields matter more than the drawn bar


class ProgressBar(tqdm):
    """
    A `tqdm` with the layout that the module's first lines describe; the options are those of tqdm.

    Attributes
    ----------
    plain : bool
        Whether lines are written, not a bar.

    Examples
    --------
    >>> import io
    >>> log = io.StringIO()
    >>> with ProgressBar(total=4, desc="training", file=log) as bar:
    ...     bar.set_fields(["loss 5.124"])
    ...     bar.update(1)
    ...     bar.write_line()
    >>> log.getvalue()[:33]
    'training 1/4 (25%), loss 5.124, 0'
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        stream = options.get("file") or sys.stderr
        self.plain = not is_terminal(stream)
        self._own: Sequence[str] | None = None  # a run's own fields, in place of the rate
        self._next_line = 0.0  # the count at which the next plain line is due; 0 if that has to be found out
        self._written, self._written_at = -1, 0.0  # the count of the last plain line, and the seconds until then
        super().__init__(*arguments, **options)

    def set_fields(self, fields: Sequence[str]) -> None:
        """Set the texts that follow the time that is left, the most important first; shown with the next update."""
        self._own = fields

    def exclude(self, seconds: float) -> None:
        """Take seconds out of the elapsed time, so that estimates do not count them."""
        if not self.disable:
            self.start_t += seconds
            self.last_print_t += seconds

    def update(self, n: float | None = 1) -> bool | None:
        """Override tqdm's: without a terminal, write a line if one is due."""
        if self.disable or not self.plain:
            return super().update(n)
        self.n += n or 0
        self.last_print_n, self.last_print_t = self.n, self._time()  # where tqdm's own loop counts on
        if self.n >= self._next_line and self.elapsed >= _SHORTEST:
            if self._next_line and self.elapsed - self._written_at > 0.8 * _SHORTEST:  # else it became faster
                self.write_line()
            self._next_line = self._line_after()
        return None

    def _line_after(self) -> float:
        """The next count at which a line is due: a multiple of N."""
        elapsed = self.elapsed
        interval = min(max(_SHORTEST, elapsed / _SHARE), _LONGEST)
        step = round_up(interval * (self.n - self.initial) / elapsed)
        return (self.n // step + 1) * step

    def write_line(self) -> None:
        """Write a plain line, unless the last one was about the same count."""
        if self.disable or not self.plain or self._written == self.n:
            return
        self._written, self._written_at = self.n, self.elapsed
        name, percent, count, left = self._head()
        elapsed = f"{self.format_interval(self.elapsed)} elapsed"
        head = " ".join(filter(None, (name, count, f"({percent.strip()})" if percent else "")))
        goes_on = self.total and self.n < self.total
        self.fp.write(", ".join(filter(None, (head, *self._fields(), elapsed, left if goes_on else ""))) + "\n")
        self.fp.flush()

    def close(self) -> None:
        """Override tqdm's: the last line of a bar that stays, if it took so long that somebody may wait for it."""
        if getattr(self, "disable", True) or not self.plain:
            super().close()
            return
        if self.leave and self.elapsed >= _SHORTEST:
            self.write_line()
        self.disable = True
        self._decr_instances(self)

    def clear(self, nolock: bool = False) -> None:
        """Override tqdm's: lines are not cleared."""
        if not self.plain:
            super().clear(nolock)

    def display(self, msg: str | None = None, pos: int | None = None) -> Any:
        """Override tqdm's: lines are not drawn."""
        return True if self.plain else super().display(msg, pos)

    def status_printer(self, file: Any) -> Callable[[str], None]:  # type: ignore[override]
        """Override tqdm's: what the former text leaves behind is erased within the width that the window has now."""
        before = 0

        def draw(text: str) -> None:
            nonlocal before
            file.write("\r" + text + " " * (min(before, columns(file)) - len(text)))
            file.flush()
            before = len(text)

        return draw

    def __str__(self) -> str:
        """The line for a terminal."""
        name, percent, count, left = self._head()
        own = self._fields() if self.total else [*self._fields(), self.format_interval(self.elapsed)]
        texts = [name, percent, count, left, *own]  # as they are shown
        order = [1, 2, 0, 3, *range(4, len(texts))]  # as they matter
        room, chosen = columns(self.fp), set[int]()
        share = (self.n / self.total) if self.total else None

        def line(bar: str = "") -> str:
            shown = [text if number in chosen else "" for number, text in enumerate(texts)]
            head = " ".join(filter(None, (shown[0], shown[1], bar, shown[2])))
            return ", ".join(filter(None, (head, *shown[3:])))

        width = 0
        for number in order:
            if number == 4 + _BEFORE_BAR and share is not None:
                width = _NARROWEST_BAR if len(line("|" * _NARROWEST_BAR)) <= room else 0
            chosen.add(number)
            if len(line("|" * width)) > room:
                chosen.remove(number)
                break
        width = room - len(line()) - 1
        if share is None or width < _NARROWEST_BAR:
            return line()
        drawn = format(Bar(min(share, 1.0), width - 2, Bar.ASCII if self.ascii is True else Bar.UTF), "")
        return line(f"|{drawn}|")

    def _head(self) -> tuple[str, str, str, str]:
        """The name, the percentage, the count, and the time that is left; each empty if unknown."""
        size = _size if self.unit_scale else str
        n, total, elapsed = self.n, self.total, self.elapsed
        unit = self.unit if self.unit_scale or not total else ""
        count = f"{size(n)}/{size(total)}{unit}" if total else f"{size(n)}{unit}"
        percent = f"{int(100 * n / total):3}%" if total else ""
        rate = self.rate
        if not total:
            left = ""
        elif n >= total:
            left = f"in {self.format_interval(elapsed)}"
        else:
            left = f"{self.format_interval((total - n) / rate)} left" if rate else ""
        return self.desc.removesuffix(": "), percent, count, left

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return self._time() - self.start_t if hasattr(self, "start_t") else 0.0  # tqdm draws before it starts its clock

    @property
    def rate(self) -> float:
        """How many in a second; 0 if nothing is known yet."""
        recent = self.format_dict["rate"]
        return recent or ((self.n - self.initial) / self.elapsed if self.elapsed > 0 else 0.0)

    def _fields(self) -> list[str]:
        """What follows the time."""
        if self._own is not None:
            return list(self._own)
        rate, unit = self.rate, self.unit.strip()
        if not rate:
            speed = ""
        elif self.unit_scale:
            speed = f"{tqdm.format_sizeof(rate)}{self.unit}/s"
        else:
            speed = f"{rate:,.{1 if rate < 100 else 0}f} {unit}/s" if rate >= 1 else f"{1 / rate:.1f} s/{unit}"
        return [text for text in (self.postfix, speed) if text]


def _size(number: float) -> str:
    return tqdm.format_sizeof(number) if number else "0"


def is_terminal(stream: Any) -> bool:
    """Whether lines can be drawn again on a stream."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        return bool(stream.isatty()) and os.environ.get("TERM") != "dumb"
    return False


def columns(stream: Any) -> int:
    """How many characters fit on a line of a terminal now: one fewer than it has, lest the cursor go to the next."""
    width = 0
    with contextlib.suppress(OSError, ValueError, AttributeError):
        width = os.get_terminal_size(stream.fileno()).columns
    return max(1, (width or shutil.get_terminal_size().columns) - 1)  # without an answer: $COLUMNS, or 80


def round_up(value: float) -> int:
    """
    Return the smallest of 1, 2, 5, 10, 20, 50, ... that is not below a value.

    Examples
    --------
    >>> [round_up(value) for value in (0.3, 1, 1.2, 2.08, 5, 6, 4711)]
    [1, 1, 2, 5, 5, 10, 5000]
    """
    power = 10 ** max(math.floor(math.log10(value)), 0) if value > 0 else 1
    return int(next(power * factor for factor in (1, 2, 5, 10) if power * factor >= value))


def another_is_drawn() -> bool:
    """Whether a bar, perhaps of another package, is drawn now: a second one would need escape sequences."""
    return any(not getattr(bar, "plain", False) for bar in list(getattr(tqdm, "_instances", ())))


def exclude(seconds: float, but: ProgressBar | None = None) -> None:
    """Take seconds out of the elapsed time of all bars and lines that are open, except one."""
    for bar in list(getattr(tqdm, "_instances", ())):
        if isinstance(bar, ProgressBar) and bar is not but:
            bar.exclude(seconds)

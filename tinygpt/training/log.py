"""
The log of a run: metrics.jsonl, with one line per step and per evaluation; `plot.py` draws it.

An error in it does not stop training. If the disk is full, lines are kept in memory until they can be written.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from tinygpt.files.atomic import atomic_write
from tinygpt.files.input_file import open_input
from tinygpt.files.json_file import parse
from tinygpt.files.one_line import brief, shown
from tinygpt.runtime.streams import say, to_json

_LONGEST_LINE = 1 << 16  # bytes
_REMEDY = "the checkpoints are as they were: delete the line, or the file"


class MetricsLog:
    """
    Appends one JSON object per line; a resumed run removes the lines after its checkpoint.

    Lines have "step", how many steps were done, and either "loss", "lr", "grad_norm", "ms", "tokens_per_second" (of the
    last of them) or "validation_loss", "perplexity", "bits_per_byte" (after it). Losses are in nats per token. A number
    that is not finite is null, since JSON has no name for it. Every validation of a run is over the same tokens; where
    the validation text has more, the line after the last step has "final_validation_loss" and so on as well, over all.
    Where a run was extended, a line has "planned_steps" and "planned_before".

    Parameters
    ----------
    path : Path
        The file.
    after_step, validated : int
        The checkpoint's step, and the step of the last validation that it knows of (its own, unless given); -1 where
        there was none.
    waiting : sequence of str
        Lines that could not be written before the checkpoint was.

    Attributes
    ----------
    waiting : list of str
        Lines that could not be written yet.
    """

    def __init__(self, path: Path, after_step: int, validated: int | None = None, waiting: Sequence[str] = ()) -> None:
        validated = after_step if validated is None else validated
        kept, self._extensions = bytearray(), set[bytes]()
        for line, text in _records(path) if os.path.lexists(path) else ():
            if line["step"] <= (validated if "validation_loss" in line else after_step):
                kept += text + b"\n"
                if "planned_steps" in line:
                    self._extensions.add(text + b"\n")
        lines = [line.encode("ascii") for line in waiting]
        lines = [line for line in lines if line not in kept]  # they may have been written after all
        kept += b"".join(lines)
        self._extensions |= set(lines)
        if not path.exists() or path.read_bytes() != kept:
            atomic_write(path, bytes(kept))
        self._path, self.waiting, self._told = path, list[str](), False
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115 (closed by __exit__)
        self._size = os.fstat(self._file.fileno()).st_size

    def write(self, **values: Any) -> None:
        """Append a line."""
        self.waiting.append(to_json(values) + "\n")
        self.flush()

    def write_extension(self, step: int, planned_before: int, planned_steps: int) -> None:
        """Append the line of an extension, unless it is there."""
        values = {"step": step, "planned_before": planned_before, "planned_steps": planned_steps}
        text = (to_json(values) + "\n").encode("ascii")
        if text not in self._extensions:
            self._extensions.add(text)
            self.write(**values)

    def flush(self, to_disk: bool = False) -> None:
        """Append the waiting lines, all or none; with `to_disk`, force the file to the disk."""
        data = "".join(self.waiting).encode("ascii")
        try:
            if os.fstat(self._file.fileno()).st_size > self._size:  # half a line, which would hide those after it
                self._file.truncate(self._size)
            rest = memoryview(data)
            while rest:
                written = self._file.write(rest)
                if not written:
                    raise OSError("nothing was written")
                rest = rest[written:]
            self._size += len(data)
            self.waiting = []
            if to_disk:
                os.fsync(self._file.fileno())
        except OSError as error:
            with contextlib.suppress(OSError):
                self._file.truncate(self._size)
            if not self._told:
                reason = error.strerror or error
                say(f"tinygpt: warning: {self._path} cannot be written: {reason}; training goes on and saves; "
                    "free space, and the lines follow")  # fmt: skip
            self._told = True

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with contextlib.suppress(OSError):  # no buffer is left to write: errors were reported
            self._file.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """
    The lines of a metrics file, but for a last one that a kill or a copy cut short.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is no ordinary file, or a line is damaged: names the line.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "metrics.jsonl"
    ...     _ = path.write_text('{"step": 1, "loss": 2.0}\\n{"step": 2, "lo')
    ...     read_metrics(path)
    [{'step': 1, 'loss': 2.0}]
    """
    return [line for line, _ in _records(path)]


def _records(path: Path) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Each line of a metrics file, parsed and as text."""
    with open_input(path, "train") as file:
        for number in itertools.count(1):
            text = file.readline(_LONGEST_LINE + 1)
            if not text.endswith(b"\n") and len(text) <= _LONGEST_LINE:
                return  # the end, or a line that was cut short
            text = text.rstrip(b"\r\n")
            where = f"{shown(path)}, line {number},"
            if not text:
                continue
            if not text.strip(b"\0"):  # left by some file systems after a power failure during a write
                return
            if len(text) > _LONGEST_LINE:
                raise ValueError(f"{where} is damaged: more than {_LONGEST_LINE:,} bytes; {_REMEDY}")
            try:
                line = parse(text, "it", finite=False)
            except ValueError as error:
                raise ValueError(
                    f"{where} is damaged: {str(error).removesuffix('; use another copy')}; {_REMEDY}"
                ) from None
            if not isinstance(line, dict) or not _is_record(line):
                raise ValueError(f"{where} is damaged: it must be a record of a step, got {brief(line)}; {_REMEDY}")
            yield line, text


def _is_record(line: dict[str, Any]) -> bool:
    step, losses = line.get("step"), [line.get(name, 0.0) for name in ("loss", "validation_loss")]
    return type(step) is int and 0 <= step < 1 << 53 and all(map(_is_loss, losses))


def _is_loss(value: Any) -> bool:
    return value is None or type(value) is float or (type(value) is int and abs(value) < 1 << 53)

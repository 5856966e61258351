"""
The runs of a folder: what each is doing, how far it is, how good, how large. Nothing is written, and no weight is read.

A run may be damaged, or be trained while it is looked at, and other folders may lie beside it. So every file is read
within limits, a checkpoint that is replaced meanwhile is read again, and what cannot be read is said of that run.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tinygpt.files.input_file import open_input
from tinygpt.files.json_file import parse, read_object
from tinygpt.files.one_line import brief, one_line, shown
from tinygpt.files.owner_file import owner_of
from tinygpt.files.safetensors_file import read_header
from tinygpt.files.sealed_json import unseal

DEPTH = 2  # folders below the one that is named in which runs are looked for
_TAIL = 1 << 16  # bytes of the log's end that are read
_SWAPPED = ("last", "last.tinygpt-new", "last.tinygpt-old")  # where a directory swap that was killed leaves it
_PATIENCE = 5  # readings of a checkpoint that is being replaced


class Run(NamedTuple):
    """
    What can be seen of a run from outside.

    Attributes
    ----------
    path : Path
    state : {"training", "stopped", "finished", "not started", "damaged"}
        "not started" has saved nothing: training it again begins anew.
    process : int or None
        The process that trains it, and `host`, where it runs; `seen` is False where it is of another host or container
        and may have ended.
    steps, planned : int or None
        Steps done (of a run that is being trained, as its log says; else in its last checkpoint), and to do in all.
    best_loss : float or None
        The lowest validation loss, in nats per token.
    bytes : int
        Of all its files.
    changed : float
        When its newest file was changed, in seconds since 1970.
    problem : str
        What is damaged; empty otherwise.
    """

    path: Path
    state: str
    process: int | None
    host: str | None
    seen: bool
    steps: int | None
    planned: int | None
    best_loss: float | None
    bytes: int
    changed: float
    problem: str


def list_runs(folders: Iterable[str | os.PathLike[str]]) -> list[Run]:
    """
    The runs in some folders, the one that was changed last first.

    Parameters
    ----------
    folders : iterable of path
        Runs, or folders in which runs are looked for, and in the folders in them. Other folders are passed over.

    Returns
    -------
    list of Run
        Each once.

    Raises
    ------
    FileNotFoundError
        If one of `folders` is missing, or no folder.
    OSError
        If one cannot be read.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     (Path(folder) / "tiny").mkdir()
    ...     _ = (Path(folder) / "tiny" / "settings.json").write_text('{"preset": "tiny", "steps": 600}')
    ...     [(run.path.name, run.state, run.steps, run.planned) for run in list_runs([folder])]
    [('tiny', 'not started', 0, 600)]
    """
    paths: list[Path] = []
    for folder in map(Path, folders):
        if not folder.is_dir():
            reason = "is a file" if folder.exists() else "does not exist"
            raise FileNotFoundError(
                f"runs: {shown(folder)} must be a run, or a folder with runs, and {reason}; check the name"
            )
        os.listdir(folder)  # raises the error of one that may not be read
        paths += _find(folder, DEPTH)
    found: dict[str, Path] = {}
    for path in sorted(paths, key=lambda path: (path.is_symlink(), len(path.parts))):  # links have other names
        found.setdefault(os.path.realpath(path), path)
    return sorted(map(look_at, found.values()), key=lambda run: -run.changed)


def _find(folder: Path, depth: int) -> Iterator[Path]:
    if _is_run(folder):
        yield folder
    elif depth:
        inside: list[Path] = []
        with contextlib.suppress(OSError):
            inside = sorted(folder.iterdir())
        for path in inside:
            with contextlib.suppress(OSError):  # of one that may not be read: those beside it are found
                if path.is_dir() and not path.name.startswith("."):
                    yield from _find(path, depth - 1)


def _is_run(folder: Path) -> bool:
    """Whether a folder has what no other has: a checkpoint named `last`, or the settings of a training."""
    if any((folder / name / "training_state.json").exists() for name in _SWAPPED):
        return True
    try:
        return {"preset", "steps"} <= read_object(folder / "settings.json").keys()
    except OSError:
        return False
    except ValueError:  # damaged; other programs have files of that name, too, but no log beside them
        return any((folder / name).exists() for name in ("metrics.jsonl", "best", "last"))


def look_at(path: Path) -> Run:
    """
    What can be seen of one run.

    Parameters
    ----------
    path : Path
        A folder that is one.

    Returns
    -------
    Run
    """
    size, changed = _size_of(path)
    owner = owner_of(path)
    problem, planned, checkpoint = "", None, None
    try:
        planned = _planned(path)
        checkpoint = _checkpoint(path, attempts=_PATIENCE if owner else 1)
    except (OSError, ValueError) as error:
        problem = one_line(error).removeprefix("runs: ")
    steps = checkpoint["step"] if checkpoint else 0
    losses = [checkpoint["best_loss"]] if checkpoint else []
    if owner:
        lines = _end_of_log(path / "metrics.jsonl")
        steps = max([steps, *(line["step"] for line in lines if "loss" in line)])
        losses += [line["validation_loss"] for line in lines if "validation_loss" in line]
    best_loss = min((loss for loss in losses if isinstance(loss, (int, float)) and math.isfinite(loss)), default=None)
    if owner:
        state = "training"
    elif problem:
        state = "damaged"
    elif checkpoint is None:
        state = "not started"
    else:
        state = "finished" if steps == planned and checkpoint.get("final", True) else "stopped"
    process, host = (owner[0].process.pid, owner[0].process.host) if owner else (None, None)
    known = None if problem and not checkpoint and not owner else steps
    return Run(path, state, process, host, bool(owner and owner[1]), known, planned, best_loss, size, changed, problem)


def _planned(run: Path) -> int:
    where = run / "settings.json"
    settings = unseal(read_object(where, "runs", "restore it from a copy"), shown(where), "restore it from a copy")
    return _count(settings, "steps", where)


def _checkpoint(run: Path, attempts: int) -> dict[str, Any] | None:
    """The training state of the last checkpoint, whose files must be whole; None if nothing was saved."""
    for attempt in range(1, attempts + 1):
        last = next((run / name for name in _SWAPPED if (run / name).exists()), None)
        if last is None:
            return None
        try:
            return _read(last)
        except (OSError, ValueError):
            if attempt == attempts:
                raise
            time.sleep(0.01)  # it may be being replaced
    raise AssertionError("unreachable")


def _read(last: Path) -> dict[str, Any]:
    where = last / "training_state.json"
    info = unseal(read_object(where, "runs", "use a copy", finite=False), shown(where), "use a copy")
    _count(info, "step", where)
    info.setdefault("best_loss", None)
    for name in ("model.safetensors", "training_state.safetensors"):
        with open_input(last / name, "runs", "use a copy") as file:
            read_header("runs", last / name, file)  # and the size of the file
    return info


def _count(values: dict[str, Any], name: str, where: Path) -> int:
    value = values.get(name)
    if type(value) is not int or value < 0:
        raise ValueError(f"{shown(where)} is damaged: {name} must be an integer of at least 0, got {brief(value)}")
    return value


def _end_of_log(path: Path) -> list[dict[str, Any]]:
    """The last records of a log; those that are damaged are left out."""
    records = []
    with contextlib.suppress(OSError, ValueError), open_input(path, "runs") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
        for text in file.read(_TAIL).split(b"\n"):
            with contextlib.suppress(ValueError):
                record = parse(text, "it", finite=False)
                if isinstance(record, dict) and type(record.get("step")) is int:
                    records.append(record)
    return records


def _size_of(run: Path) -> tuple[int, float]:
    """The bytes of all files, and when the newest was changed; of what vanishes meanwhile, nothing."""
    size, changed = 0, 0.0
    for folder, _, names in os.walk(run):
        for name in names:
            with contextlib.suppress(OSError):
                status = os.lstat(os.path.join(folder, name))
                size, changed = size + status.st_size, max(changed, status.st_mtime)
    return size, changed

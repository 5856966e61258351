"""`tinygpt runs`: a table of the runs in some folders."""

from __future__ import annotations

import argparse
import sys
import time
from typing import TYPE_CHECKING

from tinygpt.cli.parser import Parser
from tinygpt.cli.shared_options import add_json, name

if TYPE_CHECKING:
    from tinygpt.training.runs import Run

_ABOUT = """\
  training      a process trains it now: its number, and the host if it is
                another one
  stopped       "tinygpt train --resume --out RUN" goes on
  finished      all steps are done
  not started   nothing is saved yet
  damaged       a file cannot be read; the reason is below the table

The loss is the lowest on the validation text, in nats per token.

examples:
  tinygpt runs
  tinygpt runs experiments /data/runs --json
"""
_UNITS = ("B", "kB", "MB", "GB", "TB")
_TIMES = ((60, "just now"), (3600, "{:.0f} min ago"), (86400 * 2, "{:.0f} h ago"), (86400 * 30, "{:.0f} days ago"))


def add_arguments(parser: Parser) -> None:
    """The arguments."""
    parser.describe(run, _ABOUT)
    parser.add_argument(
        "folders",
        type=name,
        nargs="*",
        metavar="FOLDER",
        help="runs, or folders with runs in them (default: runs)",
    )
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Print a row per run, and the problems of those that are damaged."""
    import shutil
    from pathlib import Path

    from tinygpt.files.locate import RUNS, named_run
    from tinygpt.runtime.streams import print_json
    from tinygpt.training.runs import list_runs

    folders = [named_run(Path(folder)) for folder in options.folders] or ([RUNS] if RUNS.is_dir() else [])
    found = list_runs(folders)
    if options.json:
        print_json([{**each._asdict(), "path": str(each.path), "changed": _moment(each.changed)} for each in found], 1)
        return 0
    if not found:
        print(f'no runs in {", ".join(map(str, folders)) or RUNS}; "tinygpt train" makes one')
        return 0
    columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for line in table(found, time.time(), columns):
        print(line)
    return 0


def table(runs: list[Run], now: float, columns: int | None) -> list[str]:
    """
    The lines to print.

    Parameters
    ----------
    runs : list of Run
    now : float
        Seconds since 1970.
    columns : int or None
        The width of the terminal: names are cut so that rows fit it. None leaves them whole.
    """
    from tinygpt.files.one_line import shown

    head = ("run", "state", "steps", "best loss", "size", "changed")
    rows = [head, *((shown(run.path), *_cells(run, now)) for run in runs)]
    widths = [max(len(row[place]) for row in rows) for place in range(len(head))]
    if columns is not None:
        widths[0] = max(8, min(widths[0], columns - 1 - sum(widths[1:]) - 2 * (len(head) - 1)))
    lines = []
    for first, state, *numbers, changed in rows:
        cut = first if len(first) <= widths[0] else f"\u2026{first[1 - widths[0] :]}"
        cells = [cut.ljust(widths[0]), state.ljust(widths[1])]
        cells += [cell.rjust(width) for cell, width in zip(numbers, widths[2:5], strict=True)]
        lines.append("  ".join([*cells, changed]))
    return lines + [run.problem for run in runs if run.problem]  # which begins with the name of the file


def _cells(run: Run, now: float) -> tuple[str, ...]:
    process = f"{run.process}" if run.seen else f"{run.process} on {run.host}?"
    state = f"training, {process}" if run.state == "training" else run.state
    done, planned = ("?" if number is None else f"{number:,}" for number in (run.steps, run.planned))
    loss = "-" if run.best_loss is None else f"{run.best_loss:.3f}"
    return state, f"{done}/{planned}", loss, _size(run.bytes), _age(now - run.changed, run.changed)


def _size(size: float) -> str:
    """Three digits and a unit."""
    unit = 0
    while size >= 999.5 and unit < len(_UNITS) - 1:
        size, unit = size / 1000, unit + 1
    return f"{size:.0f} {_UNITS[unit]}" if size >= 9.95 or unit == 0 else f"{size:.1f} {_UNITS[unit]}"


def _moment(changed: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(changed))


def _age(seconds: float, changed: float) -> str:
    """How long ago, or the date where that is long."""
    for (limit, text), unit in zip(_TIMES, (60, 60, 3600, 86400), strict=True):
        if seconds < limit:
            return text.format(seconds // unit)
    return time.strftime("%Y-%m-%d", time.localtime(changed))

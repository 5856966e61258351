"""`tinygpt bisect`: where trouble in a run began, or where two runs part."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from tinygpt.cli.parser import Parser
from tinygpt.cli.shared_options import add_json, add_quiet, add_threads, path

if TYPE_CHECKING:
    from tinygpt.study.bisection import Difference, Onset

_ABOUT = """\
One run: the first loss or gradient norm of its log that is not finite, or far
beyond the steps before it; then that step is computed again, and the batch and
the operation are named. Of a run that stopped, the step that it stopped at.

Two runs: the first line of their logs that differs; then that step of both is
computed again, and the first value that differs is named.

The exit status is 1 if something was found. Nothing of the runs is written.

examples:
  tinygpt bisect runs/tiny
  tinygpt bisect runs/before runs/after
"""


def add_arguments(parser: Parser) -> None:
    """The arguments."""
    parser.describe(run, _ABOUT)
    add = parser.add_argument
    add("run_folder", type=path, metavar="RUN", help="the folder of a run")
    add("other", type=path, nargs="?", metavar="OTHER", help="of another one (default: look at one run)")
    add_threads(parser)
    add_quiet(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Print what is found."""
    from tinygpt.files.locate import named_run
    from tinygpt.runtime.streams import print_json
    from tinygpt.study.bisection import bisect, bisect_runs, require_other
    from tinygpt.study.replay import Rerun

    folder, progress = named_run(options.run_folder), not options.quiet
    if options.other is None:
        onset = bisect(Rerun(folder, progress))
        if options.json:
            print_json(None if onset is None else _values(onset), indent=1)
        else:
            print(f"{folder}: nothing in its log is out of the ordinary" if onset is None else _onset(onset))
        return int(onset is not None)
    other = named_run(options.other)
    require_other(folder, other)
    found = bisect_runs(Rerun(folder, progress), Rerun(other, progress))
    if options.json:
        print_json(_values(found), indent=1)
    else:
        print(_difference(found, str(folder), str(other)))
    return int(found.step is not None)


def _values(found: Onset | Difference) -> dict[str, Any]:
    return {**found._asdict(), "place": None if found.place is None else found.place._asdict()}


def _onset(found: Onset) -> str:
    name = found.figure.replace("_", " ")
    usual = f"; the steps before had about {found.usual:.4g}" if found.usual == found.usual else ""
    lines = [f"step {found.step}: the {name} is {found.value:.4g}{usual}", found.row]
    return "\n".join([*lines, str(found.place)] if found.place else lines)


def _difference(found: Difference, a: str, b: str) -> str:
    from tinygpt.runtime.plural import counted

    lines = [f"settings: {name} is {mine!r} and {theirs!r}" for name, (mine, theirs) in found.settings.items()]
    if found.step is None:
        return "\n".join([*lines, f"{a} and {b} have the same figures in all {counted(found.equal, 'step')} of both"])
    lines.append(f"{a} and {b} have the same figures in {counted(found.equal, 'step')} before step {found.step}, where")
    figures = found.figures.items()
    lines += [f"  {name.replace('_', ' ')} is {mine!r} and {theirs!r}" for name, (mine, theirs) in figures]
    lines.append(f"first value of that step that differs: {found.place or 'none, computed again here and now'}")
    return "\n".join(lines)

"""`tinygpt exercise`: write a backward yourself, and have it graded; grade a class."""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path

from tinygpt.cli.parser import Parser
from tinygpt.cli.shared_options import add_json, file_to_write, name, number, path, seed

_EXAMPLES = """\
A grade has five marks, and points for each (see --points):
  right      6  the gradients are those of the reference in float64, and of
                finite differences, on known and on hidden samples
  general    1  also in float32, in another memory order, when called again
  inputs     1  no argument is changed
  own        1  it has not reached for our solution or for another library's
                gradients: imports tinygpt, reads its files, imports torch
  fast       1  at least 20 % of the speed of the NumPy reference, on a sample
                of about a million numbers: one thread, processor time, median
                of five calls each (see --fast)
There are points only where the answer is right. Exit status of "check": 0 if
all files passed, whatever their speed; 1 if one did not; 2 for a mistake, such
as a folder that does not exist.

A folder has the files, or a folder for each student with their files. Each
file runs in a process of its own, which may use NumPy and the standard
library, write into a temporary folder, and use limited time and memory.
Network, other processes and other files are refused. This keeps accidents and
simple tricks away. It is no sandbox: Python code that wants to can get around
it. Run the code of strangers in a container or a virtual machine.

examples:
  tinygpt exercise                        list the exercises
  tinygpt exercise layernorm              write layernorm_exercise.py, in which
                                          the backward is missing
  tinygpt exercise check layernorm_exercise.py
  tinygpt exercise check homework --exercise gelu --csv grades.csv
  tinygpt exercise check homework --time-limit 10 --points fast=0,right=10
"""
_POINTS = "right=6,general=1,inputs=1,own=1,fast=1"


def add_arguments(parser: Parser) -> None:
    """The arguments."""
    parser.describe(run, _EXAMPLES)
    add = parser.add_argument
    add("what", nargs="?", type=name, metavar="NAME|check", help="an exercise, or check (default: list them)")
    add(
        "files",
        nargs="*",
        type=path,
        metavar="FILE",
        help="the file to write (default: NAME_exercise.py); files or folders to grade (default: this folder)",
    )
    add(
        "--exercise",
        action="append",
        type=name,
        metavar="NAME",
        help='grade this exercise only, and give students without it a row "missing"; may be repeated '
        "(default: all exercises that there are)",
    )
    add("--seed", type=seed, default=1, metavar="N", help="of the hidden samples, from 0 on (default: 1)")
    add("--time-limit", type=number, default=60, metavar="S", help="seconds that grading a file may take (default: 60)")
    add(
        "--memory-limit",
        type=number,
        default=1024,
        metavar="MB",
        help="memory that a file may use beyond that of Python and NumPy (default: 1024)",
    )
    add(
        "--points",
        type=_points,
        default=_POINTS,
        metavar="MARK=N,...",
        help=f"other points; with fast=0 no speed is measured (default: {_POINTS})",
    )
    add(
        "--fast",
        type=number,
        default=20,
        metavar="PERCENT",
        help="the speed from which a file counts as fast, of the reference's (default: 20)",
    )
    add("--csv", type=file_to_write, metavar="FILE", help="also write the grades for a spreadsheet (default: do not)")
    add_json(parser, "print the grades as JSON")


def _points(text: str) -> dict[str, float]:
    """Points by mark."""
    points = {}
    for part in text.split(","):
        mark, equals, value = part.partition("=")
        if not equals or mark not in ("right", "general", "inputs", "own", "fast"):
            raise argparse.ArgumentTypeError(f"must be such as right=10,fast=0, got {text[:40]!r}")
        try:
            points[mark] = number(value)
        except argparse.ArgumentTypeError as error:
            raise argparse.ArgumentTypeError(f"{mark}: {error}") from None
        if not 0 <= points[mark] < 1e6:
            raise argparse.ArgumentTypeError(f"must have at least 0 for {mark}, got {value[:20]}")
    return points


def run(options: argparse.Namespace) -> int:
    """List the exercises, write one, or grade files."""
    from tinygpt.files.atomic import atomic_write
    from tinygpt.runtime.streams import tell
    from tinygpt.study import exercises

    if options.what is None:
        listed = textwrap.fill(", ".join(exercises.ORDER), 79, initial_indent="  ", subsequent_indent="  ")
        print(f"exercises, in a course's order:\n{listed}")
        return 0
    if options.what == "check":
        return _check(options)
    given = exercises.exercise(options.what)
    if len(options.files) > 1:
        raise ValueError(f"an exercise is one file, got {' '.join(map(str, options.files))[:80]}")
    file = options.files[0] if options.files else Path(f"{given.name}_exercise.py")
    if file.exists():
        raise ValueError(f"{file} is there already, and would be lost; name another file")
    if file.suffix != ".py":  # "exercise gelu check" means something else
        raise ValueError(f"the file to write must end with .py, got {file}; to grade: tinygpt exercise check FILE")
    atomic_write(file, given.text)
    tell(f"{file}: write {given.asked}, then tinygpt exercise check {file}")
    return 0


def _check(options: argparse.Namespace) -> int:
    from tinygpt.files.atomic import atomic_write
    from tinygpt.files.one_line import one_line
    from tinygpt.runtime.streams import bar, print_json, say
    from tinygpt.study import submissions
    from tinygpt.study.grade import Grader
    from tinygpt.study.submission import Limits

    if not 0 < options.time_limit < 1e6:
        raise ValueError(f"--time-limit must be above 0, got {options.time_limit:g}")
    if not 0 < options.fast < 1e6:
        raise ValueError(f"--fast must be above 0, got {options.fast:g}")
    if not 256 <= options.memory_limit < 1e9:
        raise ValueError(f"--memory-limit must be at least 256, for the large samples, got {options.memory_limit:g}")
    tasks = submissions.find(options.files or [Path(".")], options.exercise or ())
    limits, points = Limits(options.time_limit, options.memory_limit), {**submissions.POINTS, **options.points}
    results = []
    with (
        Grader(options.seed, limits, timed=points["fast"] > 0, fast_from=options.fast) as grader,
        bar(total=len(tasks), desc="grading", unit="file", leave=False, disable=len(tasks) == 1) as shown,
    ):
        for result in submissions.grade_all(tasks, grader, points):
            results.append(result)
            shown.set_postfix_str(one_line(result["student"])[:20], refresh=False)
            shown.update()
    try:
        if options.csv is not None:
            atomic_write(options.csv, submissions.as_csv(results))
    finally:  # a full disk does not hide the grades
        if options.json:
            print_json(results, indent=1)
        else:
            print(submissions.table(results))
    if not grader.memory_is_limited:
        say("tinygpt: warning: this system cannot limit the memory of a process; --memory-limit had no effect")
    return 0 if all(map(submissions.passed, results)) else 1

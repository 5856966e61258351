"""`tinygpt exercise`: write a backward yourself, and have it graded."""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path

from tinygpt.cli.parser import Parser
from tinygpt.cli.shared_options import add_json, name, number, path

_EXAMPLES = """\
A grade says whether the gradients are right, whether they are general (dtype,
shapes, inputs left alone), and how fast the function is. The exit status of
"check" is 1 if a file fails.

examples:
  tinygpt exercise                        list the exercises
  tinygpt exercise layernorm              write layernorm_exercise.py, in which
                                          the backward is missing
  tinygpt exercise check layernorm_exercise.py
  tinygpt exercise check homework --time-limit 10      all files of a folder
"""


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
    add("--time-limit", type=number, default=60, metavar="S", help="seconds that grading a file may take (default: 60)")
    add_json(parser, "print the grades as JSON")


def run(options: argparse.Namespace) -> int:
    """List the exercises, write one, or grade files."""
    from tinygpt.files.atomic import atomic_write
    from tinygpt.runtime.streams import tell
    from tinygpt.study import exercises

    if options.what is None:
        listed = textwrap.fill(", ".join(exercises.ORDER), 100, initial_indent="  ", subsequent_indent="  ")
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
    atomic_write(file, given.text)
    tell(f"{file}: write {given.asked}, then tinygpt exercise check {file}")
    return 0


def _check(options: argparse.Namespace) -> int:
    from tinygpt.runtime.streams import print_json
    from tinygpt.study import submissions

    if not options.time_limit > 0:
        raise ValueError(f"--time-limit must be above 0, got {options.time_limit:g}")
    results = submissions.grade_all(options.files or [Path(".")], options.time_limit)
    if options.json:
        print_json(results, indent=1)
    else:
        print(submissions.table(results))
    return 0 if all(map(submissions.passed, results)) else 1

"""`tinygpt museum`: plausible wrong gradients, to be found by reading."""

from __future__ import annotations

import argparse
import textwrap

from tinygpt.cli.parser import Parser
from tinygpt.cli.shared_options import integer

_EXAMPLES = """\
examples:
  tinygpt museum 7
  tinygpt museum 7 --hint
  tinygpt museum 7 --answer
"""


def add_arguments(parser: Parser) -> None:
    """The arguments."""
    parser.describe(run, _EXAMPLES)
    parser.add_argument("number", nargs="?", type=integer, metavar="NUMBER", help="an exhibit (default: list them)")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--hint", action="store_true", help="print a hint")
    what.add_argument("--answer", action="store_true", help="print what is wrong, and why")


def run(options: argparse.Namespace) -> int:
    """Print the list of exhibits, or one of them."""
    from tinygpt.study.bugs import BUGS
    from tinygpt.study.museum import complaint, function_of, source_with

    if options.number is None:
        print("Each of these has one wrong line: tinygpt museum NUMBER shows it.\n")
        for number, bug in enumerate(BUGS, 1):
            print(f"{number:4}  {bug.op}")
        return 0
    if not 1 <= options.number <= len(BUGS):
        raise ValueError(f"there are exhibits 1 to {len(BUGS)}, got {options.number}")
    bug = BUGS[options.number - 1]
    if options.hint:
        print(textwrap.fill(bug.hint, 100))
    elif options.answer:
        print(f"wrong:  {bug.wrong}\nright:  {bug.right}\n\n{textwrap.fill(bug.answer, 100)}")
    else:
        print(f"Exhibit {options.number}: {bug.op}. One line is wrong.\n\n{source_with(bug)}")
        print(f"The check says:\n{textwrap.fill(complaint(bug), 100, subsequent_indent='    ')}\n")
        where = function_of(bug).__module__.replace(".", "/")
        print(f"The right one, and why: {where}.py; --hint, --answer")
    return 0

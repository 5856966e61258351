"""`tinygpt museum`: plausible wrong gradients, to be found by reading."""

from __future__ import annotations

import argparse

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
    from tinygpt.study.museum import page

    print(page(options.number, options.hint, options.answer))
    return 0

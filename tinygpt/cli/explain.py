"""`tinygpt explain`: one operation on one page."""

from __future__ import annotations

import argparse

from tinygpt.cli.parser import Parser

_EXAMPLES = """\
The page has the derivation, the reference beside the kernel by step number, an
example with every intermediate, its check and its speed.

examples:
  tinygpt explain                         list all operations
  tinygpt explain layernorm
  tinygpt explain attention --step
  tinygpt explain mymodule:MY_OP          an Op of your own
"""


def add_arguments(parser: Parser) -> None:
    """The arguments."""
    parser.describe(run, _EXAMPLES)
    parser.add_argument(
        "op", nargs="?", metavar="OP", help="an operation, module:name or file.py:name (default: list them)"
    )
    parser.add_argument("--step", action="store_true", help="wait for Enter after each section")


def run(options: argparse.Namespace) -> int:
    """Print the page."""
    from tinygpt.study.explain import show

    show(options.op, options.step)
    return 0

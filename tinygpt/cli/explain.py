"""`tinygpt explain`: one operation on one page."""

from __future__ import annotations

import argparse
import contextlib

from tinygpt.cli.parser import Parser

_EXAMPLES = """\
The page has the derivation, the reference beside the kernel by step number, an
example with every intermediate, its check and its speed.

examples:
  tinygpt explain layernorm
  tinygpt explain attention --step
"""


def add_arguments(parser: Parser) -> None:
    """The arguments."""
    parser.describe(run, _EXAMPLES)
    parser.add_argument("op", metavar="OP", help="an operation, such as layernorm, or module:name")
    parser.add_argument("--step", action="store_true", help="stop after each section, until Enter is pressed")


def run(options: argparse.Namespace) -> int:
    """Print the page."""
    from tinygpt.study.explain import page
    from tinygpt.study.user_ops import find_op

    op, _ = find_op(options.op)
    for section in page(op):
        print(section + "\n")
        if options.step:
            with contextlib.suppress(EOFError, RuntimeError):  # no input, or none any more: nobody to wait for
                input("Enter goes on ")
    return 0

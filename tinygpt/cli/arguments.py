"""What the arguments of several commands have in common."""

from __future__ import annotations

import argparse


def add_command(commands, name: str, command: str, summary: str, epilog: str = "") -> argparse.ArgumentParser:
    """A subcommand, run by the function that `command` names: of commands.py, or "module.function"."""
    parser = commands.add_parser(
        name, help=summary, description=summary, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.set_defaults(command=command)
    return parser


def add_threads(parser: argparse.ArgumentParser) -> None:
    """--threads"""
    parser.add_argument("--threads", type=positive, metavar="N", help="threads to compute with (default: all cores)")


def positive(text: str) -> int:
    """A whole number above 0."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {number}")
    return number


def add_quiet(parser: argparse.ArgumentParser) -> None:
    """--quiet"""
    parser.add_argument("--quiet", action="store_true", help="no progress bar")

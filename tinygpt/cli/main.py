"""
The `tinygpt` command: its parser, and what becomes of what a command returns or raises.

Each command is a file beside this one, which COMMANDS lists: its `register` describes the command and its arguments,
its `run` does what it is for and returns the exit status. What a command needs is imported by its `run`, so that
`tinygpt --help` waits for nothing and `--threads` is set before NumPy starts its threads.

    status 0      done                                 130   interrupted by Ctrl-C
           1      a check has found something          141   whoever reads the output has gone away
           2      the user's mistake, or a machine's: one line on standard error
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import sys
import warnings
from collections.abc import Sequence

from tinygpt.cli.ctrl_c import take_over
from tinygpt.cli.messages import in_users_terms
from tinygpt.cli.parser import Parser
from tinygpt.runtime.streams import run_command, say

COMMANDS = {
    "models": ("train", "generate", "evaluate", "inspect"),
    "texts": ("data", "tokenizer"),
    "gradients": ("gradcheck", "explain", "museum", "exercise", "diff"),
    "this machine": ("doctor", "warmup", "cache"),
}
# A user's mistake (or a machine's: a full disk, no network) is one line and exit status 2; anything else is our bug.
MISTAKES = (ValueError, TypeError, OSError, FloatingPointError, MemoryError)
_LAST_LINES = """
"tinygpt COMMAND --help" describes a command. Options may stand anywhere.
Exit status: 0 done, 1 a check has found something, 2 a mistake, 130 Ctrl-C.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status. Without `arguments` the process is the command's, Ctrl-C included."""
    try:
        with take_over() if arguments is None else contextlib.nullcontext():
            return run_command(lambda: _run(sys.argv[1:] if arguments is None else arguments))
    except KeyboardInterrupt:
        say("tinygpt: interrupted")
        return 130


def _run(arguments: Sequence[str]) -> int:
    options = build_parser(arguments[0] if arguments else "").parse_args(arguments)
    command: argparse.ArgumentParser = options.parser
    try:
        _check_threads(getattr(options, "threads", None))
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *details: say(
                f"tinygpt: warning: {in_users_terms(message, command, options)}"
            )
            return options.run(options)
    except MISTAKES as error:
        if os.environ.get("TINYGPT_TRACEBACK"):
            raise
        name = command.prog.removeprefix("tinygpt ")
        say(f"tinygpt: {name}: {in_users_terms(error, command, options) or 'no memory is left'}")
        return 2
    except KeyboardInterrupt:
        say("tinygpt: interrupted")
        return 130


def _check_threads(threads: int | None) -> None:
    """Refuse numbers beyond reason before anything is loaded; then hand on what was asked for."""
    from tinygpt.runtime import settings

    if threads is None:
        settings.threads_from_environment()
    else:
        set_thread_variables(settings.checked_threads("--threads", threads))


def set_thread_variables(threads: int) -> None:
    """Tell Numba, and every BLAS that NumPy may be built with, how many threads to use; read when they are imported."""
    for name in ("OPENBLAS_NUM", "OMP_NUM", "MKL_NUM", "VECLIB_MAXIMUM", "NUMBA_NUM"):
        os.environ[f"{name}_THREADS"] = str(threads)


def build_parser(first: str = "") -> Parser:
    """The command line as a whole, or with the one command alone that the first argument names: that is quicker."""
    from tinygpt import __version__

    parser = Parser(prog="tinygpt", description="GPT-2 in pure Python, with the gradients written by hand.")
    parser.add_argument("--version", action="version", version=f"tinygpt {__version__}", help="print it and exit")
    named = any(first in names for names in COMMANDS.values())
    for title, names in COMMANDS.items():
        parser.add_heading(title)
        for name in [first] if first in names else names if not named else ():
            importlib.import_module(f"tinygpt.cli.{name}").register(parser)
    parser.epilog = f"{parser.epilog}{_LAST_LINES}"
    return parser

"""
The `tinygpt` command: its parser, and the exit status and message of each result or error.

Each command is a file beside this one and a line of COMMANDS: its `add_arguments` describes it, its `run` runs it and
returns the exit status. Imports are inside of `run`, so that `tinygpt --help` is quick and `--threads` is set before
NumPy starts its threads.

    status 0      done                                 130   interrupted by Ctrl-C
           1      a check has found something          141   the reader of the output has gone away
           2      the user's mistake, or a machine's: one line on standard error
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import shlex
import sys
import warnings
from collections.abc import Iterable, Sequence

from tinygpt.cli.ctrl_c import take_over
from tinygpt.cli.messages import in_users_terms
from tinygpt.cli.parser import Parser
from tinygpt.runtime.streams import run_command, say

COMMANDS = {
    "models": {
        "train": "Train a GPT-2 on the bundled bedtime stories, or on your text.",
        "runs": "List runs: state, steps, loss, size.",
        "generate": "Continue a text, token by token.",
        "evaluate": "Loss, perplexity and bits per byte of a model on a text.",
        "plot": "Draw the losses of a run, or compare several runs.",
        "inspect": "Draw attention maps, and the predictions after each layer.",
        "replay": "Compute a step of a run again, to the last bit.",
        "bisect": "Find where trouble in a run began, or two runs part.",
    },
    "texts": {
        "data": "Get texts to train on: Shakespeare, stories, books.",
        "tokenizer": "Train a tokenizer, use it, or see what it does.",
    },
    "gradients": {
        "gradcheck": "Check gradients, those of your own operations too.",
        "explain": "One operation on one page, from derivation to speed.",
        "museum": "Plausible wrong gradients: find the wrong line.",
        "exercise": "Write a backward yourself, and have it graded.",
        "diff": "Run a batch through two implementations: where do they differ?",
    },
    "this machine": {
        "doctor": "Say what this machine can do, and what to change.",
        "warmup": "Compile all kernels now, so that no run has to wait.",
        "cache": "Show or clear compiled kernels and downloads.",
        "completion": "Complete commands, options and files with the Tab key.",
    },
}
_SUMMARIES = {name: summary for group in COMMANDS.values() for name, summary in group.items()}
# A user's mistake (or a machine's: a full disk, no network) is one line and exit status 2; anything else is our bug.
MISTAKES = (ValueError, TypeError, OSError, FloatingPointError, MemoryError)
_LAST_LINES = """\
"tinygpt COMMAND --help" describes a command. Options may stand anywhere.
Exit status: 0 done, 1 a check has found something, 2 a mistake, 130 Ctrl-C.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status. Without `arguments` the process is the command's, Ctrl-C included."""
    try:
        with take_over() if arguments is None else contextlib.nullcontext():
            return run_command(lambda: _run(sys.argv[1:] if arguments is None else arguments))
    except KeyboardInterrupt:
        say("tinygpt: interrupted", below=True)
        return 130


def _run(arguments: Sequence[str]) -> int:
    if not arguments:
        build_parser([]).print_help(sys.stderr)
        return 2
    options = build_parser(_needed(arguments[0])).parse_args(arguments)
    options.typed = shlex.join(["tinygpt", *arguments])
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
        said = in_users_terms(error, command, options)
        reason = said or ("no memory is left" if isinstance(error, MemoryError) else type(error).__name__)
        say(f"tinygpt: {command.prog.removeprefix('tinygpt ')}: {reason}")
        return 2
    except KeyboardInterrupt:
        say("tinygpt: interrupted", below=True)
        return 130


def _check_threads(threads: int | None) -> None:
    """Refuse impossible numbers before anything is loaded; then return the parsed options."""
    from tinygpt.runtime import settings

    if threads is None:
        settings.threads_from_environment()
    else:
        set_thread_variables(settings.checked_threads("--threads", threads))


def set_thread_variables(threads: int) -> None:
    """Tell Numba, and every BLAS that NumPy may be built with, how many threads to use; read when they are imported."""
    for name in ("OPENBLAS_NUM", "OMP_NUM", "MKL_NUM", "VECLIB_MAXIMUM", "NUMBA_NUM"):
        os.environ[f"{name}_THREADS"] = str(threads)


def build_parser(names: Iterable[str] = _SUMMARIES) -> Parser:
    """The command line as a whole, or with these commands alone."""
    from tinygpt import __version__

    parser = Parser(prog="tinygpt", description="GPT-2 in pure Python, with the gradients written by hand.")
    parser.add_argument(
        "--version", action="version", version=f"tinygpt {__version__}", help="print the version and exit"
    )
    for name in names:
        importlib.import_module(f"tinygpt.cli.{name}").add_arguments(parser.add_command(name, _SUMMARIES[name]))
    pages = [
        f"{title}:\n" + "".join(f"  {name:10} {summary}\n" for name, summary in group.items())
        for title, group in COMMANDS.items()
    ]
    parser.usage = "tinygpt COMMAND ..."
    parser.epilog = "\n".join([*pages, _LAST_LINES])
    return parser


def _needed(first: str) -> Iterable[str]:
    """The candidate commands for the first argument: importing one file is quicker than importing all."""
    return [first] if first in _SUMMARIES else [] if first in ("-h", "--help", "--version") else _SUMMARIES

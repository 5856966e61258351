"""`tinygpt completion`: a script with which a shell completes commands, options, choices and files."""

from __future__ import annotations

import argparse
from typing import Any

from tinygpt.cli import shared_options
from tinygpt.cli.parser import Parser

SHELLS = ("bash", "zsh", "fish", "tcsh", "powershell")
_ABOUT = """\
The script is printed. Put it where the shell looks for it, then start a new
shell; after an update of tinygpt, do it again.

  bash   ~/.local/share/bash-completion/completions/tinygpt
         or, without the package bash-completion, in ~/.bashrc:
         eval "$(tinygpt completion bash)"
  zsh    a file _tinygpt in a folder of $fpath, such as ~/.zfunc; ~/.zshrc has
         fpath+=~/.zfunc; autoload -Uz compinit; compinit
  fish   ~/.config/fish/completions/tinygpt.fish

example:
  tinygpt completion bash
"""


def add_arguments(parser: Parser) -> None:
    """The arguments."""
    parser.describe(run, _ABOUT)
    parser.add_argument("shell", choices=SHELLS, metavar="SHELL", help=", ".join(SHELLS))


def run(options: argparse.Namespace) -> int:
    """Print the script."""
    import shtab

    from tinygpt.cli.main import build_parser

    parser = build_parser()
    for each in (parser, *parser.below()):
        _prepare(each)
    print(shtab.complete(parser, options.shell))
    return 0


def _prepare(parser: Parser) -> None:
    """Say in shtab's terms how each argument of a parser is completed."""
    import shtab

    files = (shared_options.path, shared_options.name, shared_options.file_to_write, shared_options.picture_to_write)
    kinds: dict[Any, Any] = {shared_options.folder_to_write: shtab.DIRECTORY} | dict.fromkeys(files, shtab.FILE)
    for action in parser._actions:
        if action is parser.commands_action:
            action.help = "a command"  # shtab leaves out what has no line in the help page
        elif action.metavar in ("OP", "NAME|check"):
            action.choices = _operations(action.metavar)
        elif action.type in kinds and not action.choices and action.metavar not in ("URL", "PATTERN"):
            action.complete = kinds[action.type]  # type: ignore[attr-defined]


def _operations(metavar: str) -> list[str]:
    from tinygpt.study.exercises import ORDER
    from tinygpt.study.samples import every_op

    return sorted(every_op()) if metavar == "OP" else [*ORDER, "check"]

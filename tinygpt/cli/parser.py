"""
A parser that accepts options anywhere: before, between or after the other arguments.

argparse consumes positional arguments as soon as they match, so that `decode 72 --tokenizer gpt2 73` fails: 72 is
complete as the list of ids when the option comes. So each command's arguments are sorted before argparse sees them,
options with their values first. The same is done for the commands themselves: `tinygpt --threads 1 train` is
`tinygpt train --threads 1`. As in other commands, `--` ends the options.

Errors are one line, in the form of all other errors of tinygpt.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

from tinygpt.files.one_line import one_line

Run = Callable[[argparse.Namespace], int]
_NUMBER = re.compile(r"-(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


class Parser(argparse.ArgumentParser):
    """
    An `argparse.ArgumentParser`, as the module's first lines describe it.

    Examples
    --------
    >>> parser = Parser(prog="decode")
    >>> _ = parser.add_argument("ids", nargs="+")
    >>> _ = parser.add_argument("--tokenizer")
    >>> parser.parse_args(["72", "--tokenizer", "gpt2", "73"])
    Namespace(ids=['72', '73'], tokenizer='gpt2')
    """

    def __init__(self, **options: Any) -> None:
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(add_help=False, **options)
        self.add_argument("-h", "--help", action="help", help="print this page and exit")
        self.commands: dict[str, Parser] = {}  # the parsers of the commands below this one, by name
        self.commands_action: argparse._SubParsersAction[Parser] | None = None

    def add_command(self, name: str, summary: str, run: Run | None = None, epilog: str = "") -> Parser:
        """
        Give this parser a command of its own, which the user must name.

        Parameters
        ----------
        name, summary : str
            What is typed, and the first line of its help page.
        run, epilog
            As `describe` takes them; a command that has commands of its own has none.

        Returns
        -------
        Parser
            Of the command: its arguments are to be added.
        """
        if self.commands_action is None:
            self.usage = "%(prog)s COMMAND ..."
            self.epilog = "commands:\n"
            self.commands_action = self.add_subparsers(
                required=True, prog=self.prog, metavar="COMMAND", help=argparse.SUPPRESS
            )
            self.commands = self.commands_action.choices
        self.epilog = f"{self.epilog}  {name:12} {summary}\n"
        command = self.commands_action.add_parser(name, description=summary, help=summary)
        if run is not None:
            command.describe(run, epilog)
        return command

    def describe(self, run: Run, epilog: str) -> None:
        """
        Set the text and the function of this command.

        Parameters
        ----------
        run : callable
            Is given the options, among them `parser`, which is this one; returns the exit status.
        epilog : str
            The last lines of the help page, such as examples.
        """
        self.epilog = epilog
        self.set_defaults(run=run, parser=self)

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """Override argparse's, which is called for each parser up to the command's."""
        given = sys.argv[1:] if args is None else list(args)
        if self.commands and not given:
            self.print_help(sys.stderr)
            self.exit(2)
        in_order = self._command_first(given) if self.commands else self._options_first(given)
        parsed, unknown = super().parse_known_args(in_order, namespace)
        if unknown:
            self.error(f"unexpected argument {next(word for word in unknown if word != '--')!r}")
        return parsed, unknown

    def _options_first(self, arguments: list[str]) -> list[str]:
        """The arguments of a command: options and their values, then the words."""
        options, words, rest = list[str](), list[str](), deque(arguments)
        while rest:
            argument = rest.popleft()
            if argument == "--":
                words += rest
                break
            action = self.option(argument)
            if action is not None:
                options += self._with_value(argument, [action], rest)
            elif _is_option(argument):
                near = _did_you_mean(argument.partition("=")[0], self._option_string_actions)
                self.error(f"there is no option {argument}{near}")
            else:
                words.append(argument)
        return [*options, "--", *words] if words else options

    def _get_values(self, action: argparse.Action, arg_strings: list[str]) -> Any:
        """Override argparse's, which takes the value of `--stop=--` for the end of the options."""
        if arg_strings != ["--"] or not action.option_strings:
            return super()._get_values(action, arg_strings)
        value = self._get_value(action, "--")
        self._check_value(action, value)
        return value

    def _command_first(self, arguments: list[str]) -> list[str]:
        """Where a command must be named: this parser's own options, the command, then all that is the command's."""
        own, passed_on, rest = list[str](), list[str](), deque(arguments)
        while rest and _is_option(rest[0]):
            argument = rest.popleft()
            if argument == "--":
                break
            if self.option(argument) is not None:
                own.append(argument)
                continue
            meant = [action for each in self.below() if (action := each.option(argument)) is not None]
            if not meant:
                known = {name for each in self.below() for name in each._option_string_actions}
                near = _did_you_mean(argument.partition("=")[0], sorted(known))
                self.error(f"there is no option {argument}{near}")
            passed_on += self._with_value(argument, meant, rest)
        if rest and rest[0] not in self.commands:
            self.error(f"there is no command {rest[0]!r}{_did_you_mean(rest[0], self.commands)}")
        command, *others = rest or [""]
        return [*own, *([command] if command else []), *passed_on, *others]

    def _with_value(self, option: str, actions: list[argparse.Action], rest: deque[str]) -> list[str]:
        """An option, with the value that is next if it takes one; `actions` is what commands understand by it."""
        has_value = "=" in option or (len(option) > 2 and not option.startswith("--"))
        if has_value or not rest or rest[0] == "--" or self._is_exact(rest[0]):
            return [option]
        takes = [action.nargs is None or (action.nargs == "?" and not _is_option(rest[0])) for action in actions]
        if not any(takes) or (not all(takes) and rest[0] in self.commands):
            return [option]
        value = rest.popleft()
        if not value.startswith("-"):
            return [option, value]
        return [f"{option}={value}" if option.startswith("--") else f"{option}{value}"]  # in one, lest it be an option

    def _is_exact(self, argument: str) -> bool:
        """Whether an argument is the whole name of an option of this parser, or of a command below it."""
        name = argument.partition("=")[0]
        return any(name in each._option_string_actions for each in (self, *self.below()))

    def option(self, argument: str) -> argparse.Action | None:
        """The option of an argument such as `--seed`, `--seed=3`, `--se` or `-ofile`; None if it is none."""
        known, name = self._option_string_actions, argument.partition("=")[0]
        if name in known:
            return known[name]
        if name.startswith("--"):
            return next((known[each] for each in known if name != "--" and each.startswith(name)), None)
        action = known.get(argument[:2]) if _is_option(argument) else None
        return None if action is not None and action.nargs == 0 and len(argument) > 2 else action  # -help is no -h

    def below(self) -> Iterable[Parser]:
        """The parsers of all commands, of commands of commands too."""
        for parser in self.commands.values():
            yield parser
            yield from parser.below()

    def error(self, message: str) -> NoReturn:
        """One line on standard error, exit status 2."""
        who = self.prog.removeprefix("python -m ").replace(" ", ": ", 1)  # tinygpt: tokenizer train
        said = one_line(_as_we_say_it(message))
        self.exit(2, f"{who}: {said}{'' if said.endswith('?') else ';'} see {self.prog} --help\n")


def _is_option(argument: str) -> bool:
    """Whether an argument looks like an option: no number below zero, no sentence after a dash, not three dashes."""
    if not argument.startswith("-") or " " in argument.partition("=")[0] or _NUMBER.fullmatch(argument):
        return False
    return argument == "--" or argument.strip("-") != ""


def _did_you_mean(name: str, names: Iterable[str]) -> str:
    import difflib  # late: few commands are typed wrongly

    words = {each.lstrip("-"): each for each in names if len(each) > 2}  # -h is no guess, and dashes are no likeness
    near = difflib.get_close_matches(name.lstrip("-"), words, n=1, cutoff=0.5)
    return f"; did you mean {words[near[0]]}?" if near else ""


def _as_we_say_it(message: str) -> str:
    """
    A message of argparse's: "argument --seed: must be 3" is "--seed must be 3".

    Examples
    --------
    >>> _as_we_say_it("argument --byte-order: invalid choice: 'x' (choose from 'gpt2', 'raw')")
    "--byte-order must be one of gpt2, raw, got 'x'"
    >>> _as_we_say_it("the following arguments are required: MODEL, --data")
    'needs MODEL, --data'
    """
    message = message.removeprefix("argument ")
    message = message.replace("the following arguments are required:", "needs")
    if found := re.fullmatch(r"(\S+): invalid choice: (.*) \(choose from (.*)\)", message, re.DOTALL):
        return f"{found[1]} must be one of {found[3].replace(chr(39), '')}, got {found[2]}"
    message = re.sub(r"^(\S+): ignored explicit argument ", r"\1 takes no value, got ", message)
    message = re.sub(r"^(\S+): must ", r"\1 must ", message)
    message = message.replace(": not allowed with argument", " is not allowed with")
    return message.replace(": expected one argument", " needs a value")

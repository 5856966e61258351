"""
Errors and warnings in the user's terms.

The library's errors begin with the function that raises them, `generate: top_p must be ...`. A user of the command line
has called no function: there, the error names the command and the option,
`tinygpt: generate: --top-p must be ...`.
"""

from __future__ import annotations

import argparse
import re
import sys

from tinygpt.files.one_line import one_line, shown

_WHO = re.compile(r"([^\s:]+): (?=\S)")  # the function, or the value, that an error names


def in_users_terms(message: object, parser: argparse.ArgumentParser, options: argparse.Namespace) -> str:
    """
    One line without leading names of tinygpt's functions, and with options in place of their arguments.

    Parameters
    ----------
    message : object
        An error, a warning or a text.
    parser, options
        Of the command that was given: a name among the options' values is the user's own, and stays.

    Examples
    --------
    >>> import tinygpt.training.settings
    >>> parser = argparse.ArgumentParser()
    >>> _ = parser.add_argument("--batch-size"), parser.add_argument("--data")
    >>> options = parser.parse_args(["--data", "hens.txt"])
    >>> in_users_terms("TrainingSettings: batch_size must be at least 1, got 0", parser, options)
    '--batch-size must be at least 1, got 0'
    >>> in_users_terms("hens.txt: must be UTF-8 text", parser, options)
    'hens.txt: must be UTF-8 text'
    """
    if isinstance(message, OSError) and message.filename is not None and message.strerror:
        message = f"{shown(message.filename)}: {message.strerror}"  # in the words of other programs
    kept, rest = "", one_line(message).removeprefix("tinygpt: ")
    given = [each for value in vars(options).values() for each in (value if isinstance(value, list) else [value])]
    ours = _names_of_ours() - {str(each) for each in given}
    while found := _WHO.match(rest):  # "cross_entropy: ...", "pg5.txt: clean_book: ..."
        kept += "" if found[1] in ours else found[0]
        rest = rest[found.end() :]
    names = {action.dest: action.option_strings[-1] for action in parser._actions if action.option_strings}
    argument = rest.partition(" ")[0]
    if not kept and argument in names and re.match(r"\w+ (must|is) ", rest):
        rest = rest.replace(argument, names[argument], 1)
    return kept + rest


def _names_of_ours() -> set[str]:
    """The names of this package's modules, functions, classes and methods, if they are loaded."""
    names = set()
    for module_name, module in list(sys.modules.items()):
        if module_name.startswith("tinygpt."):
            names.add(module_name.rpartition(".")[2])
            own = [value for value in vars(module).values() if getattr(value, "__module__", None) == module_name]
            names |= {value.__name__ for value in own if hasattr(value, "__name__")}
            for each in own:
                if isinstance(each, type):
                    names |= {*dir(each), *(f"{each.__name__}.{method}" for method in dir(each))}
    return names

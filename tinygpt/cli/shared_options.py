"""Options and kinds of values that several commands have, each described once."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TypeAlias

from tinygpt.files.locate import MODEL, TOKENIZER
from tinygpt.files.one_line import brief, shown
from tinygpt.runtime.seeds import REMEDY as SEEDS

Options: TypeAlias = argparse._ActionsContainer  # a parser, or one of its groups
DATA = "a .txt file, a folder of them, or a token file"
WEIGHTS = ("float32", "bfloat16", "int8", "int4")
_DIGITS = 1000  # of a whole number; Python reads some more
PICTURES = (".png", ".svg", ".pdf")


def integer(text: str) -> int:
    """A whole number."""
    if len(text) > _DIGITS and text.strip("+- ").isdecimal():
        raise argparse.ArgumentTypeError(f"must have at most {_DIGITS} digits, got {len(text):,}")
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a whole number, got {text[:40]!r}") from None


def positive(text: str) -> int:
    """A whole number above 0."""
    value = integer(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    if value >= 2**32:
        raise argparse.ArgumentTypeError(f"must be below 2**32, got {brief(value)}")
    return value


def number(text: str) -> float:
    """A number; the commands say which numbers they take."""
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number, got {text[:40]!r}") from None


def name(text: str) -> str:
    """A path, or another name. An empty one, as of a variable that is not set, would be the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("must not be empty")
    return text


def not_negative(text: str) -> int:
    """A whole number, 0 or above."""
    value = integer(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"must be at least 0, got {value}")
    return value


def seed(text: str) -> int:
    """A seed: a whole number, 0 or above."""
    value = integer(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"must be at least 0, got {value}; {SEEDS}")
    return value


def path(text: str) -> Path:
    """A path."""
    return Path(name(text))


def folder_to_write(text: str) -> Path:
    """The path of a folder, which may be missing."""
    if os.path.exists(text) and not os.path.isdir(text):
        raise argparse.ArgumentTypeError(f"must be a folder, got the file {shown(text)}")
    return path(text)


def file_to_write(text: str) -> Path:
    """The path of a file that may be missing, in a folder that must not: work for nothing would be lost."""
    target = path(text)
    if os.path.isdir(text):
        raise argparse.ArgumentTypeError(f"must be a file, got the folder {shown(text)}")
    if not os.path.isdir(os.path.dirname(os.path.realpath(text))):
        raise argparse.ArgumentTypeError(f"must be in a folder that exists, got {shown(text)}; create it first")
    return target


def picture_to_write(text: str) -> Path:
    """The path of a picture; the ending of its name says of which kind it is."""
    target = file_to_write(text)
    if target.suffix.lower() not in PICTURES:
        raise argparse.ArgumentTypeError(f"must end in {', '.join(PICTURES[:-1])} or {PICTURES[-1]}, got {shown(text)}")
    return target


def add_model(parser: Options) -> None:
    """MODEL"""
    parser.add_argument("model", type=name, metavar="MODEL", help=MODEL)


def add_tokenizer(parser: Options, default: str = "") -> None:
    """--tokenizer, required unless it is said what is used by default."""
    shown = f"{TOKENIZER} (default: {default})" if default else f"required: {TOKENIZER}"
    parser.add_argument("--tokenizer", type=name, required=not default, metavar="NAME", help=shown)


def add_models_tokenizer(parser: Options) -> None:
    """--tokenizer, for a model that has none in its folder."""
    parser.add_argument(
        "--tokenizer",
        type=name,
        metavar="NAME",
        help="the tokenizer of a model that has none in its folder (default: the model's own)",
    )


def add_weights(parser: Options, what: str) -> None:
    """--weights"""
    parser.add_argument("--weights", choices=WEIGHTS, default=WEIGHTS[0], help=f"{what} (default: {WEIGHTS[0]})")


def add_threads(parser: Options) -> None:
    """--threads"""
    parser.add_argument("--threads", type=positive, metavar="N", help="threads to compute with (default: one per core)")


def add_escape(parser: Options, where: str) -> None:
    """--escape"""
    known = r"\n, \t, \u00e9, \U0001f600 and \\"
    parser.add_argument("--escape", action="store_true", help=f"in {where}, read {known} as in a Python string")


def add_allow_special(parser: Options, otherwise: str) -> None:
    """--allow-special"""
    what = "the names of special tokens in the text, such as <|endoftext|>, become their ids"
    parser.add_argument("--allow-special", action="store_true", help=f"{what}; otherwise {otherwise}")


def add_quiet(parser: Options, what: str = "show no progress bar") -> None:
    """--quiet"""
    parser.add_argument("--quiet", action="store_true", help=what)


def add_json(parser: Options, what: str = "print as JSON") -> None:
    """--json"""
    parser.add_argument("--json", action="store_true", help=what)

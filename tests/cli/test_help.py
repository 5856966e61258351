"""Help pages: complete, within 80 columns, in the field's words, with examples that parse, and printed at once."""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import tinygpt.cli
from tinygpt.cli.diff import SIDES
from tinygpt.cli.main import COMMANDS, build_parser
from tinygpt.cli.shared_options import WEIGHTS
from tinygpt.files import cache_contents
from tinygpt.quantization import KINDS
from tinygpt.study import divergence
from tinygpt.training.settings import TrainingSettings

PARSER = build_parser()
PAGES = {parser.prog: parser for parser in (PARSER, *PARSER.below())}
COMMAND_PAGES = [name for name, parser in PAGES.items() if not parser.commands]
EXAMPLE = re.compile(r"^  .*?\b(tinygpt .*)$", re.MULTILINE)


def examples_of(name: str) -> list[str]:
    """The commands on a page, without the remark that two blanks set apart."""
    page = PAGES[name].format_help()
    found = EXAMPLE.findall(page[page.index("\nexample") :]) if "\nexample" in page else []
    return [re.split(r"  +", line)[0] for line in found]


@pytest.fixture(autouse=True)
def eighty_columns(monkeypatch, tmp_path):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", PAGES)
def test_each_page_fits_80_columns_and_breaks_no_address(name):
    page = PAGES[name].format_help()
    assert max(map(len, page.splitlines())) <= 80
    assert "://" not in page or re.search(r"https?://\S+", page)
    assert page.startswith(f"usage: {name} ")


@pytest.mark.parametrize("name", COMMAND_PAGES)
def test_every_argument_is_described_with_its_default(name):
    for action in PAGES[name]._actions:
        assert action.help and action.help[0] not in " ." and not action.help.endswith("."), action.dest
        takes_value = action.nargs != 0 and action.option_strings
        if takes_value and not action.required and not isinstance(action, argparse._HelpAction):
            optional = action.dest in ("stop_after", "sweep", "against", "file")  # what is not asked for is not done
            assert optional or "(default: " in action.help or "default: " in action.help, action.dest
        if action.default not in (None, False, []) and action.dest != "help":
            assert f"default: {str(action.default).removesuffix('.0')}" in action.help, action.dest
        if action.required and action.option_strings:
            assert action.help.startswith("required: ") or action.dest == "tokenizer"


@pytest.mark.parametrize("name", COMMAND_PAGES)
def test_every_command_has_examples_that_parse(name):
    examples = examples_of(name)
    assert examples
    for example in examples:
        options = build_parser().parse_args(shlex.split(example)[1:])
        assert options.parser.prog == name


@pytest.mark.parametrize("name", PAGES)
def test_pages_use_the_words_of_the_field(name):
    page = PAGES[name].format_help()
    for word in ("likeliest", "for programs", "shall", "a nudge", "tokens a ", "batches a step", "nats a token"):
        assert word not in page


def test_the_first_page_lists_every_command_once_with_its_summary():
    page = PARSER.format_help()
    names = [name for group in COMMANDS.values() for name in group]
    assert len(set(names)) == len(names)
    for name in names:
        assert re.findall(rf"^  {name}\s+(.*)$", page, re.MULTILINE) == [PAGES[f"tinygpt {name}"].description]


def test_a_command_is_a_file_and_a_line_in_the_table():
    folder = Path(tinygpt.cli.__file__).parent
    files = {path.stem for path in folder.glob("*.py") if "\ndef add_arguments(" in path.read_text(encoding="utf-8")}
    assert files == {name for group in COMMANDS.values() for name in group}


def test_no_page_waits_for_numpy_or_the_compiler():
    code = """
import sys
from tinygpt.cli.main import build_parser
parser = build_parser()
pages = [each.format_help() for each in (parser, *parser.below())]
print(len(pages), [name for name in ("numpy", "numba", "regex", "tqdm", "matplotlib") if name in sys.modules])
"""
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == f"{len(PAGES)} []\n"


def test_help_is_printed_for_a_command_and_for_no_command():
    def run(*arguments):
        return subprocess.run([sys.executable, "-m", "tinygpt", *arguments], capture_output=True, text=True)

    assert run("tokenizer", "decode", "--help").stdout == PAGES["tinygpt tokenizer decode"].format_help()
    for arguments in ((), ("tokenizer",)):
        done = run(*arguments)
        page = PAGES[" ".join(("tinygpt", *arguments))].format_help()
        assert (done.returncode, done.stdout, done.stderr) == (2, "", page)


def test_choices_that_the_pages_show_are_those_of_the_library():
    """They are written twice where the library's own place imports NumPy."""
    assert WEIGHTS == KINDS and SIDES == divergence.SIDES
    clear = next(action for action in PAGES["tinygpt cache"]._actions if action.dest == "clear")
    assert clear.choices == cache_contents.KINDS


def test_every_training_setting_has_an_option_whose_default_is_the_settings():
    train = PAGES["tinygpt train"]
    options = {action.dest: action for action in train._actions}
    settings = vars(TrainingSettings.from_preset("tiny"))
    del settings["extended"]  # what happened to a run
    for name, value in settings.items():
        assert name in options
        shown = re.search(r"\(default: (.*)\)", options[name].help)
        if shown and shown[1] != "the preset's" and not isinstance(value, (str, type(None))) and name != "min_lr":
            assert float(shown[1]) == value

"""Options may stand anywhere, and whatever is typed wrongly is one line that names it."""

from __future__ import annotations

import random

import pytest

from tinygpt.cli.main import build_parser
from tinygpt.cli.parser import Parser

# Each command line in parts that belong together, then the words in their order.
LINES = [
    ("generate", [["--prompt", "once upon"], ["--seed", "1"], ["--json"], ["--threads", "2"]], ["runs/tiny"]),
    (
        "generate",
        [["--stop", "---"], ["--temperature", "-1e-3"], ["--escape"], ["--allow-special"]],
        ["runs/tiny"],
    ),
    ("evaluate", [["--data", "a.txt"], ["--weights", "int8"]], ["model"]),
    ("inspect", [["--prompt=x"], ["--top", "3"]], ["model"]),
    ("gradcheck", [["--json"], ["--sweep", "a.png"], ["--model"]], ["gelu", "relu", "mymodule:OP"]),
    ("gradcheck", [["--model"]], []),
    ("museum", [["--hint"]], ["7"]),
    ("museum", [], ["-7"]),
    ("explain", [["--step"]], ["layernorm"]),
    ("exercise", [["--time-limit", "5"], ["--json"]], ["check", "a.py", "b.py"]),
    ("exercise", [["--exercise", "gelu"], ["--csv", "a.csv"], ["--points", "fast=0"]], ["check", "homework"]),
    ("exercise", [["--json"]], []),
    ("diff", [["--model", "m"], ["--context", "8"], ["--tolerance", "1e-3"]], ["kernels", "numpy"]),
    ("data gutenberg", [["-o", "x.txt"], ["--base-url", "http://x"], ["--cache", "kept"]], ["2591", "1597"]),
    ("tokenizer train", [["-ofolder"], ["--vocab-size", "300"], ["--quiet"]], ["text.txt"]),
    ("tokenizer encode", [["--tokenizer", "t"], ["-o", "x.bin"], ["--quiet"]], ["text.txt"]),
    ("tokenizer decode", [["--tokenizer", "t"], ["--out", "x.txt"]], ["72", "73", "74"]),
    ("tokenizer explain", [["--tokenizer", "t"]], ["the hens"]),
    ("tokenizer fetch", [["--quiet"]], ["gpt2"]),
    ("train", [["--data", "x"], ["--resume"], ["--lr", "1e-3"]], []),
    ("cache", [["--clear", "old"], ["--json"]], []),
    ("cache", [["--clear"], ["--json"]], []),
]


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def parse(arguments: list[str]) -> dict:
    values = dict(vars(build_parser().parse_args(arguments)))
    return {**values, "parser": values["parser"].prog}


@pytest.mark.parametrize(("command", "options", "words"), LINES, ids=[line[0] for line in LINES])
def test_options_may_stand_anywhere(command, options, words):
    """In any order, before, between and after the words; before the command, too, where none of them ends in a word."""
    rng = random.Random(command)
    flat = [part for option in options for part in option]
    expected = parse([*command.split(), *flat, *words])
    assert expected["parser"] == f"tinygpt {command}"
    for number in range(30):
        fixed = [[word] for word in (words if number % 2 else [*command.split(), *words])]
        parts = [*options]
        rng.shuffle(parts)
        for place, word in zip(sorted(rng.choices(range(len(parts) + 1), k=len(fixed)), reverse=True), fixed[::-1],
                               strict=True):  # fmt: skip
            parts.insert(place, word)
        line = [part for each in parts for part in each]
        if ["--clear"] in options and number % 2 == 0:
            continue  # what follows --clear is its value
        assert parse([*command.split(), *line] if number % 2 else line) == expected, line


def test_options_of_several_forms_are_the_same():
    expected = parse(["tokenizer", "decode", "72", "--tokenizer", "t", "--out", "x.txt"])
    for line in ("tokenizer decode --tok t -o x.txt 72", "tokenizer decode --tokenizer=t -ox.txt 72",
                 "tokenizer decode -o x.txt --tokenizer t -- 72", "--tok t tokenizer -o x.txt decode 72",
                 "--tok=t tokenizer -o x.txt decode 72"):  # fmt: skip
        assert parse(line.split()) == expected


def test_a_value_may_begin_with_a_dash_and_words_follow_two_dashes():
    assert parse(["generate", "m", "--prompt", "-5 degrees"])["prompt"] == "-5 degrees"
    assert parse(["generate", "m", "--prompt", "-hen"])["prompt"] == "-hen"
    assert parse(["generate", "m", "--prompt", "--prompter"])["prompt"] == "--prompter"
    assert parse(["generate", "m", "--temperature", "-1"])["temperature"] == -1
    assert parse(["tokenizer", "train", "x", "-o", "-out"])["out"].name == "-out"
    assert parse(["tokenizer", "explain", "--tokenizer", "t", "--", "--step"])["text"] == "--step"
    assert parse(["tokenizer", "explain", "- a list"])["text"] == "- a list"
    for text in ("-1e5", "-.5", "-3.", "---", "-"):
        assert parse(["tokenizer", "explain", text])["text"] == text
    assert parse(["--", "tokenizer", "explain", "hens"])["text"] == "hens"
    assert parse(["generate", "--seed", "3", "--", "-m"])["model"] == "-m"


@pytest.mark.parametrize("text", ["---", "--", "-", "-1", "--json", "- the end -", r"\n", "-\n", "=", ""])
def test_a_stop_text_is_whatever_is_typed(text):
    assert parse(["generate", "m", f"--stop={text}"])["stop"] == [text]
    assert parse([f"--stop={text}", "generate", "m"])["stop"] == [text]
    if text not in ("--", "--json"):  # which end the options, and are one
        assert parse(["generate", "m", "--stop", text, "--stop", "b"])["stop"] == [text, "b"]
        assert parse(["--stop", text, "generate", "--seed", "1", "m"])["stop"] == [text]


SEEDS = "any whole number from 0 on is a seed, such as 1"
WRONG = {
    "trian": "there is no command 'trian'; did you mean train?",
    "--threads 2 wramup": "there is no command 'wramup'; did you mean warmup?",
    "tokenizer decod": "tokenizer: there is no command 'decod'; did you mean decode?",
    "train --stesp 3": "train: there is no option --stesp; did you mean --steps?",
    "train extra": "train: unexpected argument 'extra';",
    "train --steps": "train: --steps needs a value;",
    "train --out --quiet": "train: --out needs a value;",
    "train --steps x": "train: --steps must be a whole number, got 'x';",
    "train --lr x": "train: --lr must be a number, got 'x';",
    "generate": "generate: needs MODEL;",
    "generate m --weights int4": "generate: --weights must be one of float32, bfloat16, int8, got 'int4';",
    "generate m --prompt a --file b": "generate: --file is not allowed with --prompt;",
    "generate m --lookup --no-cache": "generate: --no-cache is not allowed with --lookup;",
    **{
        f"{line} -1": f"{line.split()[0]}: --seed must be at least 0, got -1; {SEEDS};"
        for line in ("generate m --seed", "generate --seed", "train --steps 3 --seed", "exercise check a.py --seed")
    },
    "train --seed=-1 --steps 3": f"train: --seed must be at least 0, got -1; {SEEDS};",
    "generate m --seed --json": "generate: --seed needs a value;",
    "generate m --stop --": "generate: --stop needs a value;",
    "generate m --stop --json": "generate: --stop needs a value;",
    "data gutenberg 0 -o o": "data gutenberg: BOOK must be at least 1, got 0;",
    "data gutenberg 1 -o a/b": "data gutenberg: -o/--out must be in a folder that exists, got a/b; create it first;",
    "tokenizer train a -o file": "tokenizer train: -o/--out must be a folder, got the file file;",
    "tokenizer decode 1 -o folder --tokenizer t": "tokenizer decode: -o/--out must be a file, got the folder folder;",
    "cache --clear x": "cache: --clear must be one of old, kernels, downloads, all, got 'x';",
    "tokenizer --quiet": "tokenizer: needs COMMAND;",
    "cache --json=3": "cache: --json takes no value, got '3';",
    "tokenizer explain -hens": "tokenizer explain: there is no option -hens; did you mean --help?",
    "--thraeds 1 doctor": "there is no option --thraeds; did you mean --threads?",
    "--zzz 3 doctor": "there is no option --zzz;",
}


@pytest.mark.parametrize("line", WRONG)
def test_what_is_typed_wrongly_is_one_line_that_ends_with_the_page_to_read(line, tmp_path, capsys):
    (tmp_path / "file").touch(), (tmp_path / "folder").mkdir()
    with pytest.raises(SystemExit) as end:
        build_parser().parse_args(line.split())
    assert end.value.code == 2
    said, _, page = capsys.readouterr().err.removeprefix("tinygpt: ").rpartition(" see ")
    assert said == WRONG[line]
    command = said.partition(": ")[0] if ": " in said and not said.startswith("there is") else ""
    assert page == f"{' '.join(filter(None, ('tinygpt', command)))} --help\n"


def test_an_empty_name_is_refused_and_a_line_end_in_an_argument_adds_no_line(capsys):
    for line in (["train", "--data", ""], ["generate", ""], ["tokenizer", "train", "x", "-o", ""],
                 ["train", "a\nb"], ["train", "--seed", "1\n2"], ["a\nb"]):  # fmt: skip
        with pytest.raises(SystemExit):
            build_parser().parse_args(line)
        assert capsys.readouterr().err.count("\n") == 1


def test_the_parser_of_one_command_is_that_of_all():
    line = ["generate", "m", "--seed", "3"]
    assert list(build_parser(["generate"]).commands) == ["generate"]
    first = {
        name: value for name, value in vars(build_parser(["generate"]).parse_args(line)).items() if name != "parser"
    }
    second = {name: value for name, value in vars(build_parser().parse_args(line)).items() if name != "parser"}
    assert first == second


def test_commands_below_commands_to_any_depth():
    top = Parser(prog="a")
    below = top.add_command("b", "B.").add_command("c", "C.").add_command("d", "D.", len)
    below.add_argument("--x", type=int)
    below.add_argument("words", nargs="*")
    options = top.parse_args(["--x", "3", "b", "c", "d", "w", "v"])
    assert (options.x, options.words, options.run, options.parser) == (3, ["w", "v"], len, below)

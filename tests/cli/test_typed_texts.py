"""Escapes and special tokens in texts that are typed: prompts, stop texts, words to explain, texts to encode."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tinygpt import GPT, GPTConfig, Tokenizer, implementation
from tinygpt.cli.escapes import unescape
from tinygpt.cli.main import main
from tinygpt.generation.generate import Token
from tinygpt.text import streaming
from tinygpt.text.token_file import open_token_file
from tinygpt.tokenizer.special_tokens import Flags

END = "<|endoftext|>"
BYTES = [bytes([byte]) for byte in range(256)]
OPTIONS = ["--max-tokens", "3", "--seed", "3"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """With a model of bytes that sees two tokens, and a text."""
    monkeypatch.chdir(tmp_path)
    model = GPT(GPTConfig(257, 2, 8, 1, 2), seed=1)
    model.save_pretrained("model", Tokenizer(BYTES, [], {END: 256}))
    (tmp_path / "hens.txt").write_text(f"a {END} b\n{END}\nc {END}\n", encoding="utf-8")
    with implementation("numpy"):  # nothing is compiled
        yield tmp_path


def answered(capsys, *arguments: str) -> dict:
    """What `generate --json` says."""
    assert main(["generate", "model", *OPTIONS, "--json", *arguments]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys, *arguments: str) -> str:
    assert main(arguments) == 2
    line = capsys.readouterr().err
    assert line.startswith("tinygpt: ") and line.count("\n") == 1
    return line.removeprefix("tinygpt: ").rstrip("\n")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("hen", "hen"),
        (r"\n\t\\", "\n\t\\"),
        (r"\\n", r"\n"),
        (r"caf\u00e9\u00E9", "caféé"),
        (r"\U0001f600\u6c49", "😀汉"),
        ("\n'\"", "\n'\""),
    ],
)
def test_escapes_are_those_of_a_python_string(text, expected):
    assert unescape("--stop", text) == expected
    if "\n" not in text and "'" not in text:
        assert eval(f"'{text}'") == expected


@pytest.mark.parametrize(
    ("text", "got"),
    [
        (r"a\q", r"\q at character 1"),
        ("\\", "\\ at character 0"),
        (r"\u12", r"\u12 at character 0"),
        (r"\u00zz\n", r"\u00zz\n at character 0"),
        (r"\ud83d\ude00", r"\ud83d at character 0"),
        (r"\U00110000", r"\U00110000 at character 0"),
        (r"\x41", r"\x at character 0"),
        (r"\101", r"\1 at character 0"),
        (r"\N{BULLET}", r"\N at character 0"),
        (r"\r", r"\r at character 0"),
    ],
)
def test_what_is_no_escape_is_named_with_its_place_and_the_remedy(text, got):
    with pytest.raises(ValueError) as raised:
        unescape("--stop", text)
    known = r"--stop must hold no other escapes than \n, \t, \\, \u00e9 and \U0001f600, got "
    assert str(raised.value) == rf"{known}{got}; write \\ for a backslash, or leave out --escape"


def test_prompts_and_stop_texts_are_taken_as_typed_unless_escapes_count(folder, capsys):
    typed = r"a\n\u00e9"
    assert answered(capsys, "--prompt", typed)["prompt"] == typed
    assert answered(capsys, "--prompt", typed, "--escape")["prompt"] == "a\né"
    assert answered(capsys, "--escape", f"--prompt={typed}", "--stop", r"\\", "--stop=---")["prompt"] == "a\né"


@pytest.mark.parametrize(("typed", "stop"), [(r"\n\n", "\n\n"), ("---", "---"), (r"\u00e9", "é"), (r"\\", "\\")])
@pytest.mark.parametrize("form", ["--stop={}", "--stop {}"])
def test_the_text_that_ends_a_continuation_is_the_one_that_is_meant(folder, monkeypatch, capsys, typed, stop, form):
    def generated(model, prompts, finished, **options):
        for byte in f"ab{stop}c".encode():
            if 0 not in finished:
                yield 0, Token(byte, None)

    monkeypatch.setattr("tinygpt.generation.completion.generate_batch", generated)
    assert main(["generate", "model", "--prompt", "x", "--escape", *form.format(typed).split(), *OPTIONS]) == 0
    assert capsys.readouterr().out == "xab\n"


def test_a_bad_escape_is_said_before_anything_is_generated(folder, capsys):
    assert refused(capsys, "generate", "model", "--prompt", "a", "--stop", r"\q", "--escape").startswith(
        r"generate: --stop must hold no other escapes than")  # fmt: skip
    for command in (["generate", "model"], ["inspect", "model"]):
        assert f"{command[0]}: --prompt must hold no other" in refused(capsys, *command, "--prompt", "\\", "--escape")
    assert "tokenizer explain: TEXT must hold no other escapes" in refused(
        capsys, "tokenizer", "explain", r"\q", "--tokenizer", "model", "--escape")  # fmt: skip


def test_words_to_explain_may_have_escapes(folder, capsys):
    assert main(["tokenizer", "explain", r"a\n", "--tokenizer", "model", "--escape"]) == 0
    assert "2 pieces, 2 tokens" in capsys.readouterr().out
    assert main(["tokenizer", "explain", r"a\n", "--tokenizer", "model"]) == 0
    assert "3 pieces, 3 tokens" in capsys.readouterr().out


@pytest.mark.parametrize("source", ["option", "file"])
def test_a_special_token_in_a_prompt_is_refused_unless_it_is_allowed(folder, capsys, source):
    (folder / "prompt.txt").write_text(f"ab{END}", encoding="utf-8")
    given = ["--prompt", f"ab{END}"] if source == "option" else ["--file", "prompt.txt"]
    assert refused(capsys, "generate", "model", *given) == (
        f"generate: the prompt must not hold the special token {END!r}, got it at character 2; with --allow-special it "
        "becomes its id"
    )
    assert main(["generate", "model", *OPTIONS, *given, "--allow-special"]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith(f"ab{END}")
    assert "the prompt has 3 tokens; the model sees its last 2" in captured.err  # two bytes and the id
    with pytest.raises(SystemExit):
        main(["generate", "model", "--allow-special=yes"])


def test_inspect_takes_special_tokens_alike(folder, capsys):
    assert "with --allow-special it becomes its id" in refused(capsys, "inspect", "model", "--prompt", f"a{END}")
    assert main(["inspect", "model", "--prompt", f"a{END}", "--allow-special"]) == 0  # two tokens: they fit


def test_a_text_is_encoded_with_its_special_tokens_where_they_are_allowed(folder, capsys):
    encode = ["tokenizer", "encode", "hens.txt", "--tokenizer", "model", "--quiet", "-o"]
    assert main([*encode, "text.bin"]) == 0
    assert main([*encode, "special.bin", "--allow-special"]) == 0
    as_text, as_ids = (np.array(open_token_file(name).tokens) for name in ("text.bin", "special.bin"))
    assert as_text.tolist() == [*f"a {END} b\n".encode(), 256, *f"c {END}\n".encode(), 256]
    assert as_ids.tolist() == [*b"a ", 256, *b" b\n", 256, *b"c ", 256, *b"\n", 256]


@pytest.mark.parametrize("name", ["<|im end|>", "<mask>"])
def test_a_special_token_is_found_wherever_a_long_text_is_read_in_parts(folder, monkeypatch, name):
    """One with a blank in it, and one that takes the white space next to it, in a text of several blocks."""
    monkeypatch.setattr(streaming.stream_documents, "__kwdefaults__", {
        **streaming.stream_documents.__kwdefaults__, "block": 16})  # fmt: skip
    flags = {name: Flags(lstrip=True)} if name == "<mask>" else {}
    tokenizer = Tokenizer(BYTES, [], {END: 256, name: 257}, special_flags=flags)
    tokenizer.to_tokenizer_json("tokenizer.json")
    text = f"some hens \n {name} and some more hens" * 20
    (folder / "long.txt").write_text(text, encoding="utf-8")
    assert main(["tokenizer", "encode", "long.txt", "--tokenizer", "tokenizer.json", "--quiet", "-o", "x.bin",
                 "--allow-special"]) == 0  # fmt: skip
    assert open_token_file("x.bin").tokens.tolist() == [*tokenizer.encode(text, allowed_special="all"), 256]

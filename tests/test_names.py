"""Every way to name a model or a tokenizer, in every command and function that takes one: the same folder is meant."""

from __future__ import annotations

import io
import json
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

import pytest

import tinygpt
from tinygpt import GPT, GPTConfig, Tokenizer, implementation
from tinygpt.cli.main import main
from tinygpt.files import hub
from tinygpt.files.locate import locate
from tinygpt.gpt2 import checkpoint

MODEL_COMMANDS = """
generate NAME --tokenizer pieces --prompt "hen" --max-tokens 3 --seed 1
evaluate NAME --tokenizer pieces --data hens.txt
inspect NAME --tokenizer pieces --prompt "hen" --out seen
diff numpy float64 --model NAME --context 4
train --init-from NAME --data hens.txt --dry-run
"""
TOKENIZER_COMMANDS = """
generate bare --tokenizer NAME --prompt "hen" --max-tokens 3 --seed 1
evaluate bare --data hens.txt --tokenizer NAME
inspect bare --prompt "hen" --tokenizer NAME --out seen
train --tokenizer NAME --data hens.txt --dry-run
tokenizer encode hens.txt --tokenizer NAME -o hens.bin --quiet
tokenizer decode 104 101 --tokenizer NAME
tokenizer info NAME
tokenizer explain "hen" --tokenizer NAME
"""
TRAIN = "--data hens.txt --out trained --steps 1 --context 4 --batch-size 1 --dropout 0 --quiet"
MODEL_FUNCTIONS: dict[str, Callable] = {
    "GPT.from_pretrained": lambda name: GPT.from_pretrained(name).wte.weight.data[0, 0],
    "GPTConfig.from_pretrained": lambda name: GPTConfig.from_pretrained(name).n_inner,
    "load": lambda name: tinygpt.load(name, "pieces")[0].wte.weight.data[0, 0],
    "load_model": lambda name: checkpoint.load_model(name)[1]["wte.weight"][0, 0],
}
TOKENIZER_FUNCTIONS: dict[str, Callable] = {
    "Tokenizer.from_pretrained": lambda name: Tokenizer.from_pretrained(name).fingerprint,
    "load": lambda name: tinygpt.load("bare", name)[1].fingerprint,
}


class Kind(NamedTuple):
    """A kind of name: the folder that it means for a model, and for a tokenizer; else the error."""

    name: str
    model: str
    tokenizer: str


KINDS = {
    "a run": Kind("runs/tiny", "runs/tiny/best", "runs/tiny/best"),
    "a run, with a slash": Kind("runs/tiny/", "runs/tiny/best", "runs/tiny/best"),
    "a run by its bare name": Kind("tiny", "runs/tiny/best", "runs/tiny/best"),
    "a run from elsewhere": Kind("elsewhere/../runs/tiny", "runs/tiny/best", "runs/tiny/best"),
    "a link to a run": Kind("link", "runs/tiny/best", "runs/tiny/best"),
    "a run that was stopped early": Kind("runs/early", "runs/early/last", "runs/early/last"),
    "a run's best checkpoint": Kind("runs/tiny/best", "runs/tiny/best", "runs/tiny/best"),
    "a run's last checkpoint": Kind("runs/tiny/last", "runs/tiny/last", "runs/tiny/last"),
    "a checkpoint that was kept": Kind("runs/tiny/checkpoints/step-2", *2 * ["runs/tiny/checkpoints/step-2"]),
    "a run's settings": Kind("runs/tiny/settings.json", "runs/tiny/best", "runs/tiny/best"),
    "a Hugging Face folder": Kind("theirs", "theirs", "theirs"),
    "its configuration": Kind("theirs/config.json", "theirs", "theirs"),
    "its weights": Kind("theirs/model.safetensors", "theirs", "theirs"),
    "its tokenizer.json": Kind("theirs/tokenizer.json", "theirs", "theirs"),
    "a tokenizer": Kind("pieces", "pieces must be .* and holds a tokenizer, and no weights", "pieces"),
    "its vocabulary": Kind("pieces/vocab.json", "pieces must be .* and holds a tokenizer, and no weights", "pieces"),
    "a model without tokenizer": Kind("bare", "bare", "bare must hold vocab.json and merges.txt"),
    "a name of the hub": Kind("someone/small", "theirs", "theirs"),
    "the published name": Kind("gpt2", "theirs", "cache/tinygpt/tokenizers/gpt2"),
    "another published name": Kind("gpt2-medium", "theirs", "theirs"),
    "a typing error": Kind("runs/tinny", *2 * [r"runs/tinny must be .* and does not exist; did you mean runs/tiny\?"]),
}


def words(text: str) -> Tokenizer:
    """A tokenizer that differs from others of this test in one token."""
    merge = text.encode()
    tokens = [bytes([byte]) for byte in range(256)]
    return Tokenizer([*tokens, merge], [(merge[:1], merge[1:])], {"<|endoftext|>": 257})


def model(number: int, **sizes: int) -> GPT:
    config = GPTConfig(**{"vocab_size": 258, "n_positions": 8, "n_embd": 4, "n_layer": 1, "n_head": 2} | sizes)
    return GPT(config, seed=number)


def make(folder: Path) -> None:
    """All that the names of KINDS mean, apart from the hub's."""
    for number, (name, text) in enumerate({"best": "he", "last": "en", "checkpoints/step-2": "th"}.items()):
        model(number, n_inner=11 + number).save_pretrained(folder / "runs/tiny" / name, words(text))
    (folder / "runs/tiny/settings.json").write_text("{}")
    model(5, n_inner=5).save_pretrained(folder / "runs/early/last", words("hu"))
    model(6, n_inner=6).save_pretrained(folder / "theirs")
    words("ha").to_tokenizer_json(folder / "theirs/tokenizer.json")
    model(7, n_inner=7).save_pretrained(folder / "bare")
    words("ho").save_pretrained(folder / "pieces")
    (folder / "elsewhere").mkdir()
    (folder / "link").symlink_to("runs/tiny")
    (folder / "hens.txt").write_text("the hen and the other hens. " * 9)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("names")
    make(folder)
    cached = folder / "cache/tinygpt/tokenizers/gpt2"
    words("hi").save_pretrained(cached)
    (cached / "vocab.json").rename(cached / "encoder.json")
    (cached / "merges.txt").rename(cached / "vocab.bpe")
    return folder


@pytest.fixture
def here(folder, monkeypatch) -> Iterator[Path]:
    """The folder of all names, a hub that gives `theirs`, and nothing compiled for such small models."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    monkeypatch.setattr(hub, "fetch", lambda name, repository, files: folder / "theirs")
    with implementation("numpy"):
        yield folder


def said(line: str, name: str) -> tuple[int, str, str]:
    """What a command answers to a name, which is taken out of the answer."""
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        status = main([word.replace("NAME", name) for word in shlex.split(line)])
    return status, out.getvalue().replace(name, "NAME"), err.getvalue()


def check_that_both_mean_the_same(name: str, meant: str, what: str) -> None:
    """In all commands and functions; for a folder `meant`."""
    for line in (MODEL_COMMANDS if what == "model" else TOKENIZER_COMMANDS).strip().splitlines():
        answer = said(line, name)
        assert answer[0] == 0 and answer[:2] == said(line, meant)[:2], (line, answer)
    for function in (MODEL_FUNCTIONS if what == "model" else TOKENIZER_FUNCTIONS).values():
        assert function(name) == function(meant)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("what", ["model", "tokenizer"])
def test_a_name_means_one_folder_in_every_command_and_function(here, what, kind):
    name, meant = KINDS[kind].name, getattr(KINDS[kind], what)
    if Path(meant).is_dir():
        assert locate(name, what).resolve() == Path(meant).resolve()
        check_that_both_mean_the_same(name, meant, what)
        if meant == KINDS[kind].model == KINDS[kind].tokenizer:
            assert tinygpt.load(name)[1].fingerprint == checkpoint.load_tokenizer(meant).fingerprint
        return
    for line in (MODEL_COMMANDS if what == "model" else TOKENIZER_COMMANDS).strip().splitlines():
        status, out, err = said(line, name)
        assert (status, out, err.count("\n")) == (2, "", 1) and re.search(meant, err), line
    for function in (MODEL_FUNCTIONS if what == "model" else TOKENIZER_FUNCTIONS).values():
        with pytest.raises(FileNotFoundError, match=meant):
            function(name)


@pytest.mark.parametrize("kind", ["a run", "a run by its bare name", "a Hugging Face folder", "a name of the hub"])
def test_a_run_starts_from_any_name(here, kind):
    name, meant, tokenizer = KINDS[kind]
    shutil.rmtree("trained", ignore_errors=True)
    assert main(["train", "--init-from", name, *shlex.split(TRAIN)]) == 0
    assert Tokenizer.from_pretrained("trained").fingerprint == Tokenizer.from_pretrained(tokenizer).fingerprint
    assert GPTConfig.from_pretrained("trained").n_inner == GPTConfig.from_pretrained(meant).n_inner
    settings = json.loads(Path("trained/settings.json").read_text())
    assert settings["init_from"] == ("runs/tiny" if name == "tiny" else name)

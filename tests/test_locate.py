"""Which folder a name means, what is looked at first, and what the error says; test_names.py tries all commands."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from tinygpt import GPT, GPTConfig, Tokenizer, load
from tinygpt.files import hub
from tinygpt.files.directory_swap import swap_in
from tinygpt.files.locate import locate
from tinygpt.files.state_file import save_state
from tinygpt.gpt2 import checkpoint
from tinygpt.gpt2.checkpoint import load_model, save_model

CONFIG = {"n_layer": 1, "n_head": 2, "n_embd": 4, "n_positions": 6, "vocab_size": 5}


def save(folder: Path) -> None:
    save_model(folder, CONFIG, {"wte.weight": np.ones((5, 4), np.float32)}, None)


@pytest.fixture
def asked(monkeypatch) -> list:
    """What the hub is asked for; it gives nothing."""
    calls = []

    def fetch(name, repository, files):
        calls.append((name, repository, files))
        raise OSError("no hub here")

    monkeypatch.setattr(hub, "fetch", fetch)
    return calls


def test_the_checkpoint_that_is_meant_is_found(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text('{"settings": "of the run"}')
    save(run / "last")
    assert locate(run) == run / "last"
    save(run / "best")
    assert locate(run) == run / "best"
    for name in ("best", "last"):
        os.rename(run / name, run / f"{name}.tinygpt-new")  # killed between the renames
    assert (locate(run), locate(run / "last")) == (run / "best", run / "last")
    assert load_model(run / "best")[0].items() >= CONFIG.items()


def test_a_tokenizer_is_read_from_a_run_or_from_its_own_folder(tmp_path):
    tokenizer = Tokenizer([bytes([byte]) for byte in range(256)], [], {"<|endoftext|>": 256})
    model = GPT(GPTConfig(257, 8, 4, 1, 2), seed=1)
    model.save_pretrained(tmp_path / "run" / "last", tokenizer)
    assert locate(tmp_path / "run", "tokenizer") == tmp_path / "run" / "last"
    assert Tokenizer.from_pretrained(tmp_path / "run").fingerprint == tokenizer.fingerprint
    tokenizer.save_pretrained(tmp_path / "run")
    assert locate(tmp_path / "run", "tokenizer") == tmp_path / "run"
    assert locate(tmp_path / "run") == tmp_path / "run" / "last"  # which has the weights
    os.rename(tmp_path / "run" / "last", tmp_path / "run" / "last.tinygpt-new")  # killed between the renames
    assert Tokenizer.from_pretrained(tmp_path / "run" / "last").fingerprint == tokenizer.fingerprint


def test_a_model_without_a_tokenizer_is_named_by_the_reader(tmp_path):
    save(tmp_path)
    assert locate(tmp_path, "tokenizer") == tmp_path
    with pytest.raises(FileNotFoundError, match=r"must hold vocab\.json and merges\.txt"):
        Tokenizer.from_pretrained(tmp_path)


# What must be said of a wrong name, in a folder with runs/tiny, runs/book, runs/new (nothing saved), a tokenizer
# `pieces`, an empty folder `empty`, files `hens.txt` and
# `arrays.pt` (a state), and nanoGPT's folder, `out` with a `ckpt.pt`.
WRONG = [
    ("model", "none", r"none must be a run, a checkpoint, .* such as gpt2, and does not exist; check the name$"),
    ("tokenizer", "none", r"none must be a run, .* a folder with a tokenizer's files, .* and does not exist; check"),
    ("model", "empty", r"empty must be .* and is empty; check the name"),
    ("model", "empty/none", "does not exist; check the name"),
    ("model", "hens.txt", r"hens\.txt must be .* and is another file"),
    (
        "model",
        "out",
        r"out must be .* and holds ckpt\.pt, which is pickled and never opened; save its weights as model",
    ),
    ("model", "out/ckpt.pt", r"ckpt\.pt must be .* and is pickled and never opened; save its weights as model"),
    (
        "model",
        "arrays.pt",
        r"arrays\.pt must be .* and is a file of arrays; name the folder of a model \(in Python, tinygpt\.load_state",
    ),
    ("tokenizer", "out", r"out must be .* and holds no tokenizer; check the name"),
    ("model", "hens.txt/run", r"hens\.txt/run must be .* and does not exist"),
    ("model", "pieces", r"pieces must be .* and holds a tokenizer, and no weights; name the model's folder"),
    ("model", "runs", r"runs must be .* and is a folder with 2 of them; name one, such as runs/(tiny|book)$"),
    ("tokenizer", "runs", r"runs must be .* and is a folder with 2 of them; name one"),
    ("model", "runs/new", r"runs/new must be .* and is a run that has not saved a checkpoint yet"),
    ("model", "new", r"runs/new must be .* and is a run that has not saved a checkpoint yet"),
    ("model", "runs/tinny", r"did you mean runs/tiny\?$"),
    ("model", "tinny", r"did you mean runs/tiny\?$"),
    ("tokenizer", "tinny", r"did you mean runs/tiny\?$"),
    ("model", "run/tiny", r"did you mean runs/tiny\?$"),
    ("model", "./tiny/", r"^$"),  # that is a bare name too
    ("model", "elsewhere/runs/tiny", r"did you mean runs/tiny\?$"),
    ("model", "runs/tiny/bets", r"did you mean runs/tiny/best\?$"),
    ("tokenizer", "peices", r"did you mean pieces\?$"),
    ("model", "peices", "does not exist; check the name$"),  # which has no weights
    ("model", "gpt-2", r"did you mean gpt2\?$"),
    ("model", "gpt2_medium", r"did you mean gpt2-medium\?$"),
    ("model", "gpt2", r"no hub here$"),
    ("model", "book/best", r"no hub here; did you mean runs/book/best\?$"),  # a name of the hub as well
    ("model", "a\nb", r"'a\\nb' must be"),
]


@pytest.mark.parametrize(("what", "name", "expected"), WRONG)
def test_an_error_says_what_would_be_accepted_and_what_is_near(tmp_path, monkeypatch, asked, what, name, expected):
    monkeypatch.chdir(tmp_path)
    tokenizer = Tokenizer([bytes([byte]) for byte in range(256)], [], {})
    for run in ("tiny", "book"):
        GPT(GPTConfig(256, 8, 4, 1, 2)).save_pretrained(f"runs/{run}/best", tokenizer)
    for folder in ("runs/new", "empty", ".hidden"):
        Path(folder).mkdir()
    Path("runs/new/settings.json").write_text("{}")
    tokenizer.save_pretrained("pieces")
    Path("hens.txt").write_text("hens")
    save_state({"a": [1]}, "arrays.pt")
    Path("out").mkdir()
    Path("out/ckpt.pt").write_bytes(b"")
    if expected == "^$":
        assert locate(name, what) == Path("runs/tiny/best")
        return
    with pytest.raises(OSError, match=expected) as raised:
        locate(name, what)
    assert "\n" not in str(raised.value)


def test_the_root_folder_and_no_name_at_all_are_refused(asked):
    with pytest.raises(FileNotFoundError, match=r" must be a run.*(holds no model|is a folder with)"):
        locate(os.path.abspath(os.sep))
    with pytest.raises(ValueError, match="the name of a tokenizer must not be empty"):
        locate("", "tokenizer")
    with pytest.raises(TypeError, match="the name of a model must be a str or a path, got NoneType"):
        locate(None)
    assert not asked


@pytest.mark.parametrize("what", ["model", "config", "tokenizer"])
def test_a_name_that_no_file_can_have_is_refused(asked, what):
    with pytest.raises(ValueError, match=rf"the name of a {what} must not hold a NUL character, got 'a\\x00b'"):
        locate("a\0b", what)
    with pytest.raises(TypeError, match="bytes"):
        locate(b"run", what)
    assert not asked


def test_an_empty_folder_with_a_name_of_the_hub_is_not_taken_for_the_hubs(tmp_path, monkeypatch, asked):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gpt2").mkdir()
    for what in ("model", "tokenizer"):
        with pytest.raises(FileNotFoundError, match=r"^gpt2 must be .* and is empty; check the name$"):
            locate("gpt2", what)
    assert not asked


def test_a_folder_that_may_not_be_read_hides_none_beside_it(tmp_path, monkeypatch, asked):
    for name in ("locked", "open"):
        (tmp_path / name / "best").mkdir(parents=True)
        (tmp_path / name / "best/config.json").write_text("{}")
    exists = Path.exists

    def refuse(path, **options):
        if "locked" in path.parts:
            raise PermissionError(13, "Permission denied", str(path))
        return exists(path, **options)

    monkeypatch.setattr(Path, "exists", refuse)
    with pytest.raises(FileNotFoundError, match=r"is a folder with 1 of them; name one, such as .*open$"):
        locate(tmp_path)


def test_a_name_of_the_hub_is_asked_for_only_what_is_wanted(tmp_path, monkeypatch, asked):
    monkeypatch.chdir(tmp_path)
    for what in ("model", "config", "tokenizer"):
        with pytest.raises(OSError, match="no hub here"):
            locate("someone/small", what)
    assert {(name, repository) for name, repository, _ in asked} == {("someone/small", "someone/small")}
    of_model, of_config, of_tokenizer = (files for _, _, files in asked)
    assert "model.safetensors" in of_model and of_config == ("config.json",)
    assert not any("model" in name for name in of_tokenizer)
    assert "tokenizer.json" in of_model and "tokenizer.json" in of_tokenizer


def test_a_folder_comes_before_any_name_and_the_hub_before_a_bare_run(tmp_path, monkeypatch, asked):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("gpt2", "gpt2-xl", "someone/small"):
        folder = Path(name)
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
        (folder / "vocab.json").write_text("{}")
        assert locate(name) == locate(name, "tokenizer") == folder
    for name in ("someone/else", "./a/b", "a/b/c", "missing", "runs/missing"):  # no names, or of a folder that is here
        for what in ("model", "tokenizer"):
            with pytest.raises(FileNotFoundError, match="must be a run"):
                locate(name, what)
    assert not asked
    save(Path("runs/gpt2-medium/best"))
    with pytest.raises(OSError, match="no hub here; did you mean runs/gpt2-medium"):
        locate("gpt2-medium")
    assert len(asked) == 1


def test_a_model_and_its_tokenizer_are_of_one_moment(tmp_path, monkeypatch):
    """The run is deleted and trained anew, with another tokenizer, between the reading of one and of the other."""
    best = tmp_path / "run" / "best"

    def save_anew(number: int) -> None:
        with swap_in(best) as folder:
            merge = b"he" if number == 1 else b"en"
            tokens = [*(bytes([byte]) for byte in range(256)), merge]
            GPT(GPTConfig(257, 8, 4, 1, 2), seed=number).save_pretrained(
                folder, Tokenizer(tokens, [(merge[:1], merge[1:])], {})
            )

    save_anew(1)
    first, read_weights = GPT.from_pretrained(best), checkpoint.read_model
    meanwhile = [lambda: save_anew(2)]

    def read_model(*given):
        if meanwhile:
            meanwhile.pop()()
        return read_weights(*given)

    monkeypatch.setattr(checkpoint, "read_model", read_model)
    model, tokenizer = load(tmp_path / "run")
    assert not meanwhile and not np.array_equal(model.flat_parameters, first.flat_parameters)
    assert tokenizer.encode("hen") == [tokenizer.encode("h")[0], 256]  # the second run's merge


def test_a_tokenizer_is_read_again_where_a_checkpoint_is_replaced(tmp_path, monkeypatch):
    from tinygpt.tokenizer.files import folder

    tokenizer = Tokenizer([bytes([byte]) for byte in range(256)], [], {})
    GPT(GPTConfig(256, 8, 4, 1, 2)).save_pretrained(tmp_path / "best", tokenizer)
    reads, read = [], folder.load

    def load_while_it_is_replaced(directory):
        reads.append(directory)
        if len(reads) == 1:
            with swap_in(tmp_path / "best") as fresh:
                GPT(GPTConfig(256, 8, 4, 1, 2)).save_pretrained(fresh, tokenizer)
            raise FileNotFoundError("between two renames")
        return read(directory)

    monkeypatch.setattr(folder, "load", load_while_it_is_replaced)
    assert Tokenizer.from_pretrained(tmp_path).n_vocab == 256
    assert reads == 2 * [tmp_path / "best"]

"""Which folder a name means: a run, a checkpoint, a tokenizer; what exists here is never looked for elsewhere."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from tinygpt import GPT, GPTConfig, Tokenizer
from tinygpt.files import hub
from tinygpt.files.locate import locate, locate_tokenizer
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
    with pytest.raises(FileNotFoundError, match=r"run must be a checkpoint folder.*does not exist; check"):
        locate(run)
    run.mkdir()
    (run / "config.json").write_text('{"settings": "of the run"}')
    save(run / "last")
    assert locate(run, "best") == locate(run, "last") == run / "last"
    save(run / "best")
    assert (locate(run), locate(run, "best"), locate(run, "last")) == (run / "best", run / "best", run / "last")
    for name in ("best", "last"):
        os.rename(run / name, run / f"{name}.tinygpt-new")  # killed between the renames
    assert (locate(run), locate(run / "last")) == (run / "best", run / "last")
    assert load_model(run / "best")[0].items() >= CONFIG.items()


def test_the_error_says_what_is_there_instead(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    for name, found in (("empty", "has neither"), ("file", "is a file")):
        with pytest.raises(FileNotFoundError, match=f"{name} must be .*{found}"):
            locate(tmp_path / name)
    with pytest.raises(FileNotFoundError, match=r" must be a checkpoint folder.*has neither"):
        locate(os.path.abspath(os.sep))
    with pytest.raises(ValueError, match="prefer must be 'best' or 'last', got 'newest'"):
        locate(tmp_path, "newest")


def test_a_tokenizer_is_read_from_a_run_or_from_its_own_folder(tmp_path):
    tokenizer = Tokenizer([bytes([byte]) for byte in range(256)], [], {"<|endoftext|>": 256})
    model = GPT(GPTConfig(257, 8, 4, 1, 2), seed=1)
    model.save_pretrained(tmp_path / "run" / "last", tokenizer)
    assert locate_tokenizer(tmp_path / "run") == tmp_path / "run" / "last"
    assert Tokenizer.from_pretrained(tmp_path / "run").fingerprint == tokenizer.fingerprint
    tokenizer.save_pretrained(tmp_path / "run")
    assert locate_tokenizer(tmp_path / "run") == tmp_path / "run"
    assert locate(tmp_path / "run") == tmp_path / "run" / "last"  # which has the weights
    os.rename(tmp_path / "run" / "last", tmp_path / "run" / "last.tinygpt-new")  # killed between the renames
    assert Tokenizer.from_pretrained(tmp_path / "run" / "last").fingerprint == tokenizer.fingerprint


def test_what_has_no_tokenizer_is_named_by_the_reader(tmp_path, asked):
    for folder in (tmp_path, tmp_path / "missing"):
        assert locate_tokenizer(folder) == folder
        with pytest.raises(FileNotFoundError, match=r"must hold vocab\.json and merges\.txt"):
            Tokenizer.from_pretrained(folder)
    assert not asked


def test_a_name_of_the_hub_is_asked_for_only_what_is_wanted(tmp_path, monkeypatch, asked):
    monkeypatch.chdir(tmp_path)
    for find in (locate, locate_tokenizer):
        with pytest.raises(OSError, match="no hub here"):
            find("someone/small")
    (_, repository, of_model), (_, same, of_tokenizer) = asked
    assert repository == same == "someone/small"
    assert "model.safetensors" in of_model and not any("model" in name for name in of_tokenizer)
    assert "tokenizer.json" in of_model and "tokenizer.json" in of_tokenizer


def test_a_folder_comes_before_any_name(tmp_path, monkeypatch, asked):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("gpt2", "gpt2-xl", "someone/small"):
        folder = Path(name)
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
        (folder / "vocab.json").write_text("{}")
        assert locate(name) == locate_tokenizer(name) == folder
    for name in ("someone/else", "./a/b", "a/b/c", "missing"):  # no names, or of a folder that is here
        assert locate_tokenizer(name) == Path(name)
        with pytest.raises(FileNotFoundError, match="must be a checkpoint folder"):
            locate(name)
    assert not asked

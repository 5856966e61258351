"""The tokenizer for who names none: which it is, and that there always is one, without a network."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tinygpt import GPT, GPTConfig, Tokenizer
from tinygpt.cli.main import main
from tinygpt.files import hub
from tinygpt.text.default_tokenizer import default_tokenizer, story_tokenizer
from tinygpt.training.dataset import load_dataset
from tinygpt.training.settings import TrainingSettings


def tokenizer(merge: bytes) -> Tokenizer:
    tokens = [*(bytes([byte]) for byte in range(256)), merge]
    return Tokenizer(tokens, [(merge[:1], merge[1:])], {})


def save_run(name: str, merge: bytes, time: float) -> None:
    GPT(GPTConfig(257, 8, 4, 1, 2)).save_pretrained(Path("runs") / name / "last", tokenizer(merge))
    os.utime(Path("runs") / name / "last", (time, time))


@pytest.fixture(autouse=True)
def nothing_is_there(tmp_path, monkeypatch):
    """No cache, no runs, and a hub that must not be asked."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setattr(hub, "fetch", lambda *given: pytest.fail("the hub was asked"))


def first_line(capsys, *words: str) -> str:
    assert main(["tokenizer", *words]) == 0
    return capsys.readouterr().out.splitlines()[0]


def test_the_bundled_stories_are_always_there(capsys):
    assert first_line(capsys, "explain", "the hens") == "tokenizer: that of the bundled stories (2,048 tokens)"
    assert first_line(capsys, "info") == "tokenizer       that of the bundled stories"


def test_it_is_the_tokenizer_of_a_first_run():
    learned = load_dataset(TrainingSettings.from_preset("tiny"), progress=False).tokenizer
    assert story_tokenizer().fingerprint == learned.fingerprint


def test_the_newest_run_comes_before_it_and_one_that_cannot_be_read_is_passed_over(capsys):
    save_run("older", b"he", 1000.0)
    save_run("newer", b"en", 2000.0)
    Path("runs/empty").mkdir()
    Path("runs/notes.txt").write_text("hens")
    assert first_line(capsys, "explain", "the hens") == "tokenizer: runs/newer, the newest run (257 tokens)"
    assert default_tokenizer()[0].fingerprint == tokenizer(b"en").fingerprint
    Path("runs/newer/last/merges.txt").write_text("#version: 0.2\nx")
    assert default_tokenizer()[1].startswith("runs/older,")
    shutil.rmtree("runs")
    Path("runs").write_text("no folder at all")
    assert default_tokenizer()[1] == "that of the bundled stories"


def test_gpt2s_comes_first_once_it_is_there(capsys):
    save_run("newer", b"en", 2000.0)
    tokenizer(b"hi").save_pretrained("gpt2")
    assert first_line(capsys, "explain", "the hens") == "tokenizer: gpt2 (257 tokens)"
    assert default_tokenizer()[0].fingerprint == tokenizer(b"hi").fingerprint

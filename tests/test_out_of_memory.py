"""Too little memory, a run that diverged, `python -OO`: one line that says what to do, on the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tinygpt import GPT, GPTConfig, Tokenizer
from tinygpt.cli.main import main
from tinygpt.generation.sampling import sample
from tinygpt.runtime import memory_limit
from tinygpt.runtime.memory_limit import require_memory


def one_line_of(capsys, *arguments: str) -> str:
    assert main(list(arguments)) == 2
    line = capsys.readouterr().err.strip()
    assert line.isprintable() and line.startswith("tinygpt: ")
    return line


def test_a_run_that_can_never_fit_is_refused_before_it_begins(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(memory_limit, "_of_machine", lambda: 3 << 30)
    monkeypatch.setattr("tinygpt.training.dataset.bundled_stories", lambda: pytest.fail("the run has begun"))
    line = one_line_of(capsys, "train", "--preset", "gpt2-large", "--vocab-size", "300", "--out", str(tmp_path / "run"))
    for word in (
        "about 1",
        " GB at its peak",
        "--dry-run",
        "--recompute",
        "what was saved is unharmed",
        "can have 3.2",
    ):
        assert word in line
    assert not (tmp_path / "run").exists()
    line = one_line_of(
        capsys, "train", "--preset", "gpt2-xl", "--vocab-size", "300", "--recompute", "--out", str(tmp_path / "run")
    )
    assert "--recompute, or" not in line


@pytest.mark.parametrize(
    "error", [MemoryError(), MemoryError("Unable to allocate 9 GiB"), OSError(12, os.strerror(12))]
)
def test_memory_that_ends_while_training_is_one_line_with_the_size(tmp_path, capsys, monkeypatch, error):
    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr("tinygpt.training.train.train", fail)
    line = one_line_of(capsys, "train", "--out", str(tmp_path / "run"))
    assert "train: there is not enough memory: this run needs about 0." in line and "--dry-run" in line


def test_weights_that_do_not_fit_are_told_with_their_size(tmp_path, capsys, monkeypatch):
    tokenizer = Tokenizer.train("", vocab_size=257, progress=False)
    GPT(GPTConfig(vocab_size=257, n_positions=8, n_embd=8, n_layer=1, n_head=2)).save_pretrained(tmp_path, tokenizer)
    monkeypatch.setattr(memory_limit, "_of_process", lambda: 1000)
    line = one_line_of(capsys, "generate", str(tmp_path), "--prompt", "a")
    assert f"the weights in {tmp_path} take 0.0 GB" in line and "this process can have 0.0" in line


def test_any_command_without_memory_is_one_line(tmp_path, capsys, monkeypatch):
    def fail(options):
        raise MemoryError

    monkeypatch.setattr("tinygpt.cli.tokenizer.run_info", fail)
    assert one_line_of(capsys, "tokenizer", "info", str(tmp_path)) == "tinygpt: tokenizer info: no memory is left"


def test_the_limit_is_the_least_of_all(monkeypatch):
    for name, limit in (("_of_machine", 10**9), ("_of_process", None), ("_in_file", 10**8)):
        monkeypatch.setattr(memory_limit, name, lambda *path, limit=limit: limit)
    assert memory_limit.memory_limit() == 10**8
    require_memory(10**8, "test")
    with pytest.raises(MemoryError, match=r"^test \(of 0\.2 GB that are needed, this process can have 0\.1\)$"):
        require_memory(2 * 10**8, "test")


def test_scores_that_are_no_numbers_speak_of_training_that_diverged():
    for value in (np.nan, np.inf):
        with pytest.raises(ValueError, match=r"training of this model diverged, or its file is damaged; .* lower --lr"):
            sample(np.array([0.0, value]), np.random.default_rng(0))


def test_a_run_whose_last_step_diverged_says_so(tmp_path, capsys):
    (tmp_path / "text.txt").write_text("The hen said good night to the moon. " * 60)
    sizes = {"steps": 1, "warmup": 0, "batch-size": 1, "context": 8, "vocab-size": 257, "eval-tokens": 16, "lr": 1e30}
    options = [part for name, value in sizes.items() for part in (f"--{name}", str(value))]
    paths = ["--data", str(tmp_path / "text.txt"), "--out", str(tmp_path / "run")]
    line = one_line_of(capsys, "train", "--quiet", *paths, *options)
    assert "diverged" in line and "lower --lr (it is 1e+30)" in line
    assert "the checkpoint `last` holds the weights of this step" in line  # finite ones: they were saved before
    for text in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines():
        json.loads(text, parse_constant=lambda constant: pytest.fail(f"{constant} is no JSON"))


@pytest.mark.parametrize("option", ["-O", "-OO"])
@pytest.mark.parametrize(
    ("command", "expected"), [("explain gelu", "Forward"), ("museum 3", "Exhibit 3"), ("exercise", "gelu")]
)
def test_what_teaches_needs_neither_docstrings_nor_asserts(option, command, expected, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "TINYGPT_IMPLEMENTATION": "numpy"}
    done = subprocess.run([sys.executable, option, "-m", "tinygpt", *command.split()], capture_output=True, text=True,
                          cwd=tmp_path, env=environment, timeout=300)  # fmt: skip
    assert done.returncode == 0 and expected in done.stdout, done.stderr[-500:]

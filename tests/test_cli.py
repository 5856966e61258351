"""The command, as a user types it: what it prints, what it leaves, and one line for each mistake."""

from __future__ import annotations

import io
import json
import math
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from tinygpt import GPT, GPTConfig, Tokenizer
from tinygpt.cli.main import main
from tinygpt.gpt2 import checkpoint
from tinygpt.gpt2.config import PRESETS

SMALL = ["--steps", "4", "--batch-size", "2", "--context", "16", "--eval-every", "2", "--vocab-size", "300"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sentences = (f"The hen counts {n} eggs, and then {n + 1}." for n in range(120))
    (tmp_path / "hens.txt").write_text("\n".join(sentences), encoding="utf-8")
    return tmp_path


def run(*arguments: str, **options) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "tinygpt", *arguments]
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=300, **options)


def refused(capsys, *arguments: str) -> str:
    """Run a command that must fail as a user's mistake does; returns its one line (progress bars may precede it)."""
    assert main(arguments) == 2
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if line.startswith("tinygpt: ")]
    assert len(lines) == 1 and error.endswith(lines[0] + "\n") and "Traceback" not in error
    return lines[0]


def test_from_text_to_story_and_figures(folder):
    trained = run("train", "--data", "hens.txt", "--out", "run", *SMALL)
    assert trained.returncode == 0, trained.stderr
    for promised in ("final validation loss", "perplexity", "bits per byte", "curve: run/loss.png", "story: "):
        assert promised in trained.stdout
    for shown in ("loss ", "val ", "lr ", "norm ", "tok/s", " ms", " elapsed"):
        assert shown in trained.stderr  # the last line of the log
    told = run("generate", "run", "--prompt", "The hen", "--max-tokens", "9", "--seed", "3")
    assert told.returncode == 0 and told.stdout.startswith("The hen")
    assert run("generate", "run", "--prompt", "The hen", "--max-tokens", "9", "--seed", "3").stdout == told.stdout
    scored = run("evaluate", "run", "--data", "hens.txt")
    loss, perplexity, bits = map(float, re.match(
        r"loss ([\d.]+), perplexity ([\d.]+), ([\d.]+) bits per byte", scored.stdout).groups())  # fmt: skip
    assert perplexity == pytest.approx(math.exp(loss), rel=1e-3)
    tokenizer = checkpoint.load_tokenizer(folder / "run" / "best")
    text = (folder / "hens.txt").read_text(encoding="utf-8")
    tokens = len(tokenizer.encode(text))  # the end-of-text id is scored too, the first token is not
    assert bits == pytest.approx(loss * tokens / math.log(2) / len(text), rel=0.01)


def test_quiet_prints_the_final_lines_only(folder, capsys):
    assert main(["train", "--data", "hens.txt", "--out", "run", "--quiet", *SMALL]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert captured.out.startswith("final validation loss")


def test_stopping_and_resuming_from_the_command_line(folder, capsys):
    arguments = ["train", "--data", "hens.txt", "--quiet", *SMALL]
    assert main([*arguments, "--out", "whole"]) == 0
    assert main([*arguments, "--out", "parts", "--stop-after", "3"]) == 0
    assert "tinygpt train --resume --out parts" in capsys.readouterr().out
    assert main(["train", "--resume", "--out", "parts", "--quiet"]) == 0
    weights = [(folder / name / "last/model.safetensors").read_bytes() for name in ("whole", "parts")]
    assert weights[0] == weights[1]


@pytest.mark.slow
def test_ctrl_c_finishes_the_step_saves_and_says_how_to_go_on(folder):
    command = [sys.executable, "-m", "tinygpt", "train", "--data", "hens.txt", "--out", "run", *SMALL[2:]]
    process = subprocess.Popen([*command, "--steps", "100000"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                               text=True)  # fmt: skip
    metrics, deadline = folder / "run/metrics.jsonl", time.monotonic() + 120
    while not metrics.exists() or '"loss"' not in metrics.read_text(encoding="utf-8"):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "tinygpt train --resume --out run" in out
    step = json.loads((folder / "run/last/training_state.json").read_text(encoding="utf-8"))["step"]
    assert f"stopped after step {step} of 100000" in out


def test_every_mistake_in_training_is_one_line(folder, capsys):
    (folder / "empty.txt").write_text("", encoding="utf-8")
    (folder / "binary.txt").write_bytes(b"\x7fELF\0\1\2")
    (folder / "latin.txt").write_bytes("Ein Mädchen".encode("latin-1"))
    (folder / "short.txt").write_text("Too short.", encoding="utf-8")
    assert "no file or folder" in refused(capsys, "train", "--data", "nowhere.txt")
    assert "empty" in refused(capsys, "train", "--data", "empty.txt")
    assert "NUL byte" in refused(capsys, "train", "--data", "binary.txt")
    assert "byte 0xe4 at offset 5" in refused(capsys, "train", "--data", "latin.txt")
    assert "longer than the context" in refused(capsys, "train", "--data", "short.txt", "--vocab-size", "257")
    assert "--tokenizer FOLDER" in refused(capsys, "train", "--preset", "bedtime")
    assert "train: --steps must be at least 1" in refused(capsys, "train", "--steps", "0")
    assert "at least 257" in refused(capsys, "train", "--data", "hens.txt", "--vocab-size", "100")
    assert "must be positive" in refused(capsys, "train", "--lr", "nan")
    assert "not a run to resume" in refused(capsys, "train", "--resume", "--out", "nowhere")
    assert not (folder / "runs").exists()


def test_a_run_that_exists_and_changed_settings_are_refused(folder, capsys):
    assert main(["train", "--data", "hens.txt", "--out", "run", "--quiet", "--stop-after", "2", *SMALL]) == 0
    capsys.readouterr()
    before = (folder / "run/last/model.safetensors").read_bytes()
    assert "--resume" in refused(capsys, "train", "--data", "hens.txt", "--out", "run", *SMALL)
    assert "--lr is 0.002, not 0.1" in refused(capsys, "train", "--resume", "--out", "run", "--lr", "0.1")
    assert (folder / "run/last/model.safetensors").read_bytes() == before


def test_damaged_checkpoints_and_wrong_prompts_are_one_line(folder, capsys):
    config = GPTConfig.preset("tiny", vocab_size=300, n_layer=1, n_embd=8, n_head=2)
    tokenizer = Tokenizer.train((folder / "hens.txt").read_text(encoding="utf-8"), 300, progress=False)
    GPT(config).save_pretrained("model", tokenizer)
    assert "must not be empty" in refused(capsys, "generate", "model", "--prompt", "")
    assert "--temperature must" in refused(capsys, "generate", "model", "--temperature", "-1")
    assert "--top-p must" in refused(capsys, "generate", "model", "--top-p", "0")
    assert "<|endoftext|>" in refused(capsys, "generate", "model", "--prompt", "a <|endoftext|> b")
    assert "nowhere" in refused(capsys, "generate", "nowhere")
    Tokenizer([bytes([b]) for b in range(256)], [], {}).save_pretrained("bytes")
    assert main(["tokenizer", "encode", "hens.txt", "-o", "hens.bin", "--tokenizer", "bytes"]) == 0
    capsys.readouterr()
    assert "tokenizer" in refused(capsys, "evaluate", "model", "--data", "hens.bin")
    weights = folder / "model/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "model.safetensors" in refused(capsys, "generate", "model")
    os.remove(weights)
    assert "model.safetensors" in refused(capsys, "evaluate", "model", "--data", "hens.txt")


def test_a_warning_is_one_line_without_a_traceback_or_a_path(folder, capsys):
    (folder / "few.txt").write_text("the hen, the hen", encoding="utf-8")
    assert main(["tokenizer", "train", "few.txt", "-o", "tok", "--vocab-size", "300"]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "warning" in line.lower()]
    assert len(lines) == 1 and lines[0].startswith("tinygpt: warning: the corpus has pairs for")


def test_no_network_is_one_line(folder, capsys):
    line = refused(capsys, "data", "gutenberg", "2591", "-o", "out.txt", "--base-url", "http://127.0.0.1:9", "--cache",
                   str(folder / "cache"))  # fmt: skip
    assert "127.0.0.1:9" in line
    assert not (folder / "out.txt").exists()


def test_training_a_tokenizer_and_encoding_with_it(folder, capsys):
    assert main(["tokenizer", "train", "hens.txt", "-o", "tok", "--vocab-size", "300"]) == 0
    assert main(["tokenizer", "encode", "hens.txt", "-o", "hens.bin", "--tokenizer", "tok"]) == 0
    assert "tok: 300 tokens, 43 merges" in capsys.readouterr().out
    assert main(["train", "--data", "hens.bin", "--tokenizer", "tok", "--out", "run", "--quiet", *SMALL[:-2]]) == 0
    assert GPT.from_pretrained("run").config.vocab_size == 300


def test_help_names_every_command_and_every_preset():
    helped = run("--help")
    assert helped.returncode == 0
    for name in ("train", "generate", "evaluate", "inspect", "data", "tokenizer"):
        assert name in helped.stdout
    assert all(name in run("train", "--help").stdout for name in PRESETS)
    assert "(default: None)" not in run("train", "--help").stdout


def test_help_does_not_wait_for_numpy():
    code = "import sys; from tinygpt.cli.main import build_parser; build_parser(); print('numpy' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "False\n"


def test_threads_are_set_before_numpy_starts_them(folder):
    code = ("import os, sys; from tinygpt.cli.main import main; main(sys.argv[1:]); "
            "print({os.environ[n] for n in ('OPENBLAS_NUM_THREADS', 'OMP_NUM_THREADS')})")  # fmt: skip
    command = [sys.executable, "-c", code, "evaluate", "nowhere", "--data", "hens.txt", "--threads", "3"]
    assert subprocess.run(command, capture_output=True, text=True).stdout == "{'3'}\n"


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_has_the_sizes_that_the_help_says(preset):
    config = GPTConfig.preset(preset)
    shown = " ".join(run("train", "--help").stdout.split())
    sizes = [config.n_layer, config.n_head, config.n_embd, config.n_positions, config.vocab_size]
    row = re.search(rf" {preset} ([\d ]+)", shown[shown.index("presets layers heads features context") :]).group(1)
    assert list(map(int, row.split()))[:5] == sizes


def test_text_is_streamed_in_whole_characters(folder):
    """A byte model makes characters of several tokens: nothing that is printed is half of one."""
    tokenizer = Tokenizer([bytes([b]) for b in range(256)], [], {})
    GPT(GPTConfig(256, 32, 8, 1, 2), seed=1).save_pretrained("model", tokenizer)
    told = run("generate", "model", "--prompt", "é", "--max-tokens", "20", "--seed", "1", "--top-k", "0")
    assert told.returncode == 0 and told.stdout.startswith("é")
    ids = list(GPT.from_pretrained("model").generate(tokenizer.encode("é"), max_tokens=20, seed=1, temperature=0.8,
                                                     top_p=1.0))  # fmt: skip
    assert told.stdout == "é" + bytes(np.array(ids, np.uint8)).decode("utf-8", errors="replace") + "\n"


@pytest.fixture
def small_model(folder) -> Tokenizer:
    """A model of bytes in the folder `model`."""
    tokenizer = Tokenizer([bytes([b]) for b in range(256)], [], {})
    GPT(GPTConfig(256, 64, 8, 1, 2), seed=1).save_pretrained("model", tokenizer)
    return tokenizer


OPTIONS = ("--max-tokens", "12", "--seed", "3")


def test_the_prompt_comes_from_the_command_line_a_file_or_a_pipe(folder, small_model):
    told = run("generate", "model", "--prompt", "the hen", *OPTIONS)
    assert told.returncode == 0 and told.stdout.startswith("the hen")
    (folder / "prompt.txt").write_text("the hen\n", encoding="utf-8")
    assert run("generate", "model", "--file", "prompt.txt", *OPTIONS).stdout == told.stdout
    assert run("generate", "model", *OPTIONS, input="the hen\n").stdout == told.stdout
    (folder / "empty.txt").write_text("\n", encoding="utf-8")
    assert "empty.txt must hold a prompt" in run("generate", "model", "--file", "empty.txt").stderr
    both = run("generate", "model", "--file", "prompt.txt", "--prompt", "a")
    assert both.returncode == 2 and "not allowed with" in both.stderr


@pytest.mark.parametrize(
    ("raw", "prompt"),
    [
        (b"\xef\xbb\xbfthe hen", "the hen"),
        (b"the\r\nhen\r\n\r\n", "the\nhen\n"),
        (b"the\rhen\r", "the\nhen"),
        (b"\xef\xbb\xbf \xc3\xa9", " é"),
        (b"  ", "  "),
    ],
)
def test_a_prompt_is_read_alike_from_wherever_it_comes(folder, small_model, monkeypatch, capsys, raw, prompt):
    (folder / "prompt.txt").write_bytes(raw)
    argument = os.fsdecode(raw.removesuffix(b"\r\n").removesuffix(b"\r"))  # what is not meant in a file's last line
    answers = []
    for source in (["--file", "prompt.txt"], [], ["--prompt", argument]):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(raw), encoding="latin-1"))
        assert main(["generate", "model", *source, *OPTIONS, "--json"]) == 0
        answers.append(json.loads(capsys.readouterr().out))
    assert answers[0]["prompt"] == prompt
    assert answers[0] == answers[1] == answers[2]


def test_a_prompt_that_is_not_utf8_is_an_error_that_names_where_it_came_from(folder, small_model, monkeypatch, capsys):
    raw = b"caf\xe9"
    (folder / "prompt.txt").write_bytes(raw)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(raw), encoding="latin-1"))
    argument = ["--prompt", os.fsdecode(raw)]
    for source, name in ((["--file", "prompt.txt"], "prompt.txt"), ([], "standard input"), (argument, "--prompt")):
        expected = f"generate: {name}: must be UTF-8 text, got byte 0xe9 at offset 3"
        assert expected in refused(capsys, "generate", "model", *source)
    assert "inspect: --prompt: must be UTF-8 text" in refused(capsys, "inspect", "model", *argument)


def test_json_says_what_was_made_and_why_it_ends(folder, small_model):
    told = run("generate", "model", "--prompt", "the hen", *OPTIONS, "--json", "--samples", "3")
    assert told.returncode == 0, told.stderr
    answers = [json.loads(line) for line in told.stdout.splitlines()]
    assert [answer["prompt"] for answer in answers] == ["the hen"] * 3
    assert [answer["reason"] for answer in answers] == ["length"] * 3
    assert len({answer["text"] for answer in answers}) == 3
    plain = run("generate", "model", "--prompt", "the hen", *OPTIONS)
    assert plain.stdout == "the hen" + answers[0]["text"] + "\n"
    model, ids = GPT.from_pretrained("model").eval(), small_model.encode("the hen")
    for token in answers[0]["tokens"]:
        scores = model(np.array([ids])).data[0, -1].astype(np.float64)
        assert token["logprob"] == pytest.approx(scores[token["id"]] - np.log(np.exp(scores).sum()), abs=1e-5)
        ids.append(token["id"])


def test_rounded_weights_no_cache_and_a_prompt_beyond_the_context(folder, small_model):
    plain = run("generate", "model", "--prompt", "the hen", *OPTIONS).stdout
    assert run("generate", "model", "--prompt", "the hen", *OPTIONS, "--no-cache").stdout == plain
    for kind in ("bfloat16", "int8", "int4"):
        assert run("generate", "model", "--prompt", "the hen", *OPTIONS, "--weights", kind).returncode == 0
    long = run("generate", "model", "--prompt", "hen " * 20, *OPTIONS)
    assert long.returncode == 0 and "the prompt has 80 tokens; the model sees its last 64" in long.stderr


def test_evaluation_by_a_stride_and_with_rounded_weights(folder, small_model):
    told = run("evaluate", "model", "--data", "hens.txt", "--stride", "16", "--weights", "int8", "--json")
    assert told.returncode == 0, told.stderr
    figures = json.loads(told.stdout)
    assert (figures["stride"], figures["context"]) == (16, 64)
    text = (folder / "hens.txt").read_text(encoding="utf-8")
    assert figures["int8"]["words"] == len(text[1:].split())
    assert figures["int8"]["loss"] == pytest.approx(figures["float32"]["loss"], rel=0.02)
    assert figures["int8"]["loss"] != figures["float32"]["loss"]
    said = run("evaluate", "model", "--data", "hens.txt", "--weights", "bfloat16").stdout
    assert "word perplexity" in said and "bfloat16 weights: perplexity " in said
    assert "stride must be at most the context of 64" in run("evaluate", "model", "--data", "hens.txt", "--stride",
                                                             "65").stderr  # fmt: skip


def test_inspect_prints_predictions_and_draws(folder, small_model):
    told = run("inspect", "model", "--prompt", "hen", "--out", "seen", "--top", "2")
    assert told.returncode == 0, told.stderr
    assert told.stdout.splitlines()[0] == "after 'hen', the next token would be"
    assert {path.name for path in (folder / "seen").iterdir()} == {"attention.png", "predictions.png"}


def test_fine_tuning_has_a_recipe_of_its_own(folder, small_model):
    told = run("train", "--init-from", "model", "--data", "hens.txt", "--steps", "3", "--eval-every", "3", "--quiet")
    assert told.returncode == 0, told.stderr
    settings = json.loads((folder / "runs/fine-tuned/settings.json").read_text(encoding="utf-8"))
    assert (settings["preset"], settings["context"], settings["lr"]) == ("fine-tuning", 64, 5e-5)
    before, after = (GPT.from_pretrained(name).flat_parameters for name in ("model", "runs/fine-tuned"))
    assert 0 < np.abs(after - before).max() < 1e-3  # three steps from where it was

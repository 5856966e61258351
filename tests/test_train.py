"""Training runs: they learn, they resume to the last bit, and whatever ends them leaves a checkpoint that opens."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from small_runs import TEXT, Killed, files_of, killed, settings, without_times

import tinygpt.training.train
from tinygpt import GPT, Tokenizer
from tinygpt.files.sealed_json import unseal
from tinygpt.gpt2 import checkpoint
from tinygpt.runtime.interrupt import Interrupt
from tinygpt.text import corpus
from tinygpt.text.token_file import write_token_file
from tinygpt.training.dataset import Dataset
from tinygpt.training.evaluate import evaluate
from tinygpt.training.log import MetricsLog, read_metrics
from tinygpt.training.plot import plot_losses
from tinygpt.training.settings import TrainingSettings
from tinygpt.training.train import Trainer, load_settings, train


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


def test_a_run_learns_and_leaves_everything_it_promises(text, tmp_path):
    run = tmp_path / "run"
    result = train(settings(text, steps=40, lr=3e-3, eval_every=20), run, progress=False)
    assert result.first.loss == pytest.approx(math.log(300), abs=0.2)  # an untrained model knows nothing
    assert result.final.loss < result.first.loss - 1
    assert result.final.perplexity == pytest.approx(math.exp(result.final.loss))
    assert result.story
    hugging_face = {"config.json", "model.safetensors", "vocab.json", "merges.txt", "tokenizer_config.json"}
    assert set(os.listdir(run / "best")) == hugging_face
    assert set(os.listdir(run / "last")) == hugging_face | {"training_state.safetensors", "training_state.json"}
    assert (run / "loss.png").read_bytes().startswith(b"\x89PNG")
    lines = read_metrics(run / "metrics.jsonl")
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 41))
    assert [line["step"] for line in lines if "validation_loss" in line] == [0, 20, 40]
    best = min(line["validation_loss"] for line in lines if "validation_loss" in line)
    assert result.best_loss == best


@pytest.mark.parametrize("stop", [1, 3, 4])
def test_resuming_is_exact_to_the_last_bit(text, tmp_path, stop):
    """With dropout, gradient accumulation and stops on and off the evaluation's rhythm."""
    s = settings(text, dropout=0.1, grad_accumulation=2)
    train(s, tmp_path / "whole", progress=False)
    train(s, tmp_path / "parts", progress=False, stop_after=stop)
    assert json.loads((tmp_path / "parts/last/training_state.json").read_text())["step"] == stop
    train(load_settings(tmp_path / "parts"), tmp_path / "parts", resume=True, progress=False)
    for name in ("last", "best"):
        assert files_of(tmp_path / "parts" / name) == files_of(tmp_path / "whole" / name)
    steps = [[(line["step"], line.get("loss"), line.get("validation_loss")) for line in
              read_metrics(tmp_path / name / "metrics.jsonl")] for name in ("whole", "parts")]  # fmt: skip
    assert steps[0] == steps[1]


def test_other_seeds_give_other_weights(text, tmp_path):
    for seed in (1, 2):
        train(settings(text, seed=seed, steps=1), tmp_path / str(seed), progress=False)
    assert files_of(tmp_path / "1/last")["model.safetensors"] != files_of(tmp_path / "2/last")["model.safetensors"]


def test_gradient_accumulation_equals_a_larger_batch(text, tmp_path):
    """The mean over two batches of 2 is the mean over one of 4; the batches are put together by hand here."""
    trainers = [Trainer(settings(text, dropout=0.0, batch_size=b, grad_accumulation=n), tmp_path / f"{b}", False, False)
                for b, n in ((2, 2), (4, 1))]  # fmt: skip
    parts = [corpus.sample_batch(trainers[0].data.train, 2, 16, 1337, number) for number in (0, 1)]
    whole = [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]
    losses = []
    for inputs, targets in parts:
        loss = trainers[0].model.loss(inputs, targets) / 2
        loss.backward()
        losses.append(loss.item())
    loss = trainers[1].model.loss(*whole)
    loss.backward()
    assert sum(losses) == pytest.approx(loss.item(), rel=1e-6)
    flat = [trainer.model.flat_gradients for trainer in trainers]
    np.testing.assert_allclose(flat[0], flat[1], atol=1e-6 * np.abs(flat[1]).max())  # float32 sums in another order


def test_an_existing_run_is_never_overwritten(text, tmp_path):
    train(settings(text, steps=1), tmp_path / "run", progress=False)
    before = files_of(tmp_path / "run/last")
    with pytest.raises(FileExistsError, match="--resume"):
        train(settings(text, steps=1), tmp_path / "run", progress=False)
    assert files_of(tmp_path / "run/last") == before


def test_resuming_a_finished_run_gives_its_result_and_draws_what_is_missing(text, tmp_path):
    run = tmp_path / "run"
    finished = train(settings(text, steps=2), run, progress=False)
    kept = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    (run / "loss.png").unlink()
    again = train(load_settings(run), run, resume=True, progress=False)
    assert again == finished._replace(new_steps=0) and finished.new_steps == 2
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == kept


@pytest.mark.parametrize("moment", ["_validate", "_take_step", "_save", "_draw", "story", "first save", "last save"])
def test_a_run_that_is_killed_at_any_moment_ends_like_an_undisturbed_one(text, tmp_path, monkeypatch, moment):
    s, calls = settings(text, dropout=0.1), []
    train(s, tmp_path / "whole", progress=False)
    with monkeypatch.context() as patched:
        if moment.endswith(" save"):
            save, number = Trainer._save, {"first save": 1, "last save": 4}[moment]

            def save_and_die(self, log):
                save(self, log)
                calls.append(self.step)
                if len(calls) == number:
                    raise Killed

            patched.setattr(Trainer, "_save", save_and_die)
        else:
            patched.setattr(Trainer, moment, killed)
        with pytest.raises(Killed):
            train(s, tmp_path / "killed", progress=False)
    train(load_settings(tmp_path / "killed"), tmp_path / "killed", resume=True, progress=False)
    for name in ("last", "best"):
        assert files_of(tmp_path / "killed" / name) == files_of(tmp_path / "whole" / name)
    assert without_times(tmp_path / "killed") == without_times(tmp_path / "whole")
    assert (tmp_path / "killed/loss.png").exists()


def test_an_interrupt_before_the_final_validation_leaves_it_to_the_resumed_run(text, tmp_path, monkeypatch):
    s, take_step = settings(text), Trainer._take_step

    def interrupted(self, log):
        told = take_step(self, log)
        if self.step == 6:
            os.kill(os.getpid(), signal.SIGTERM)
        return told

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_take_step", interrupted)
        stopped = train(s, tmp_path / "run", progress=False)
    assert (stopped.step, stopped.final, stopped.story) == (6, None, "")
    train(s, tmp_path / "whole", progress=False)
    assert train(s, tmp_path / "run", resume=True, progress=False).final is not None
    assert files_of(tmp_path / "run/last") == files_of(tmp_path / "whole/last")
    assert without_times(tmp_path / "run") == without_times(tmp_path / "whole")


@pytest.mark.parametrize("leftovers", [(), ("owner.json",), ("settings.json.0123456789abcdef.tinygpt-partial",)])
def test_a_run_that_was_killed_before_its_settings_were_written_can_be_begun(text, tmp_path, leftovers):
    run = tmp_path / "run"
    run.mkdir()
    for name in leftovers:
        (run / name).write_text("{")
    assert train(settings(text, steps=1), run, progress=False).step == 1
    assert not set(leftovers) & set(os.listdir(run))


@pytest.mark.parametrize("tokens", [5, 48, 60])
def test_losses_before_and_after_are_over_the_same_tokens(text, tmp_path, tokens):
    """Also where the beginning of the validation text ends within a window of 16 tokens, or within the first."""
    run = tmp_path / "run"
    result = train(settings(text, eval_tokens=tokens), run, progress=False)
    model, tokenizer = GPT.from_pretrained(run / "last"), checkpoint.load_tokenizer(run / "last")
    validation = Trainer(load_settings(run), run, True, False).data.validation
    assert result.first.tokens == result.final_beginning.tokens == tokens < result.final.tokens == len(validation) - 1
    assert result.final_beginning == evaluate(model, validation[: tokens + 1], tokenizer)  # to the last bit
    assert result.final.loss == pytest.approx(evaluate(model, validation, tokenizer).loss, rel=1e-6)  # other batches
    line = read_metrics(run / "metrics.jsonl")[-1]
    assert (line["validation_loss"], line["final_validation_loss"]) == (result.final_beginning.loss, result.final.loss)
    assert result.best_loss == min(line.get("validation_loss", 9) for line in read_metrics(run / "metrics.jsonl"))
    assert train(load_settings(run), run, resume=True, progress=False) == result._replace(new_steps=0)


def test_of_a_short_validation_text_there_is_one_final_loss(text, tmp_path):
    result = train(settings(text, eval_tokens=9999), tmp_path / "run", progress=False)
    assert result.final is result.final_beginning and result.first.tokens == result.final.tokens
    assert "final_validation_loss" not in read_metrics(tmp_path / "run/metrics.jsonl")[-1]


@pytest.mark.parametrize("error", [MemoryError(), ValueError("wrong"), OSError(errno.ENOSPC, "full")])
@pytest.mark.parametrize("exists", [False, True])
def test_a_run_that_fails_before_it_has_saved_anything_leaves_its_name_free(text, tmp_path, monkeypatch, error, exists):
    run = tmp_path / "runs/tiny"
    if exists:  # an empty folder that the user has made
        run.mkdir(parents=True)

    def fail(*arguments, **options):
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_take_step", fail)
        with pytest.raises(type(error)):
            train(settings(text), run, progress=False)
    assert (list(run.iterdir()) == []) if exists else not run.parent.exists()
    assert train(settings(text), run, progress=False, stop_after=2).step == 2
    monkeypatch.setattr(Trainer, "_take_step", fail)
    with pytest.raises(type(error)):
        train(load_settings(run), run, resume=True, progress=False)
    assert {"settings.json", "config.toml", "metrics.jsonl", "last"} <= set(os.listdir(run))


def test_a_failure_deletes_nothing_of_a_run_that_another_process_owns_by_now(text, tmp_path, monkeypatch):
    run, other = tmp_path / "run", tmp_path / "other"
    train(settings(text, steps=1), other, progress=False)
    shutil.rmtree(other / "last"), shutil.rmtree(other / "best")

    def replaced(*arguments, **options):
        run.rename(tmp_path / "moved")
        other.rename(run)
        raise MemoryError

    monkeypatch.setattr(Trainer, "_take_step", replaced)
    with pytest.raises(MemoryError):
        train(settings(text), run, progress=False)
    assert {"settings.json", "config.toml", "metrics.jsonl"} <= set(os.listdir(run))


def test_everything_is_saved_and_said_before_the_story_is_told(text, tmp_path, monkeypatch):
    run, seen = tmp_path / "run", []
    monkeypatch.setattr(Trainer, "story", lambda self, interrupt=None: seen.append("story") or "Once")

    def summary(result):
        info = json.loads((run / "last/training_state.json").read_text())
        seen.append((result.final.loss == info["final"]["loss"], result.plot == run / "loss.png", result.story))

    assert train(settings(text), run, progress=False, summary=summary).story == "Once"
    assert seen == [(True, True, ""), "story"]


@pytest.mark.parametrize("error", [ValueError("the scores\nmust be finite"), MemoryError(), OSError(5, "bad disk")])
def test_a_story_or_a_picture_that_fails_is_one_line(text, tmp_path, monkeypatch, capsys, error):
    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr(GPT, "generate", fail)
    monkeypatch.setattr("tinygpt.training.train.plot_losses", fail)
    result = train(settings(text), tmp_path / "run", progress=True)
    assert (result.story, result.plot, result.step) == ("", None, 6)
    lines = [line for line in capsys.readouterr().err.splitlines() if "tinygpt: warning: " in line]
    assert [("no story" in line, "was not drawn" in line) for line in lines] == [(True, False)] * 2 + [
        (False, True), (True, False)]  # fmt: skip


def test_the_corpus_is_read_for_its_fingerprint_once(text, tmp_path, monkeypatch):
    asked, fingerprint = [], Dataset.fingerprint.fget
    monkeypatch.setattr(Dataset, "fingerprint", property(lambda data: asked.append(1) or fingerprint(data)))
    train(settings(text), tmp_path / "run", progress=False, stop_after=4)
    assert len(asked) == 1
    train(settings(text), tmp_path / "run", resume=True, progress=False)
    assert len(asked) == 2


def test_relative_paths_mean_what_they_meant_where_they_were_written(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "run"
    train(settings("text.txt"), run, progress=False, stop_after=2)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/text.txt").write_text("another text of the same name. " * 99, encoding="utf-8")
    monkeypatch.chdir(tmp_path / "elsewhere")
    found = load_settings(run)
    assert found.data == str(tmp_path / "text.txt")
    assert found.changed({"data": "../text.txt", "seed": 1337}) == []
    assert found.changed({"data": "text.txt"}) == [f"data is {found.data!r}, not 'text.txt'"]
    assert train(found, run, resume=True, progress=False).step == 6


def test_a_project_that_moved_as_a_whole_goes_on(text, tmp_path, monkeypatch):
    (tmp_path / "project").mkdir()
    text.rename(tmp_path / "project/text.txt")
    monkeypatch.chdir(tmp_path / "project")
    train(settings("text.txt"), "run", progress=False, stop_after=2)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "project").rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path / "moved")
    assert train(load_settings("run"), "run", resume=True, progress=False).step == 6


def test_a_name_that_is_no_path_stays_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    s = settings("text.txt", tokenizer="gpt2")
    assert TrainingSettings.from_json_values(s.to_json_values()) == s


@pytest.mark.parametrize("name", ["settings.json", "last/training_state.json"])
def test_a_flipped_bit_of_the_runs_json_is_found_or_changes_nothing(text, tmp_path, name):
    run = tmp_path / "run"
    train(settings(text, clip=math.inf), run, progress=False, stop_after=2)
    path, expected = run / name, load_settings(run)
    good, told = path.read_bytes(), 0
    where = range(len(good)) if name == "settings.json" else range(0, len(good), 29)
    for byte in where:
        path.write_bytes(good[:byte] + bytes([good[byte] ^ (1 << byte % 7)]) + good[byte + 1 :])
        try:
            if name == "settings.json":
                assert load_settings(run) == expected
            else:
                values = json.loads(path.read_text(encoding="utf-8"))
                assert unseal(values, name, "") == unseal(json.loads(good), name, "")
        except ValueError:
            told += 1
    assert told > 0.7 * len(where)  # all but blanks, and the name of the checksum
    digit = good.index(b'"step": 2') + 8 if b'"step": 2' in good else good.index(b'"steps": 6') + 9
    path.write_bytes(good[:digit] + b"4" + good[digit + 1 :])
    with pytest.raises(ValueError, match=f"{os.path.basename(name)} is damaged: its checksum"):
        train(load_settings(run), run, resume=True, progress=False)


def test_weights_that_diverge_in_the_last_step_do_not_replace_the_last_checkpoint(text, tmp_path, monkeypatch):
    run, step = tmp_path / "run", tinygpt.training.train.AdamW.step
    train(settings(text), run, progress=False, stop_after=4)
    before = files_of(run / "last")

    def diverge(self, **options):
        step(self, **options)
        calls.append(1)
        if len(calls) == 2:
            self.param_groups[0]["params"][0].data[:] = np.nan

    calls: list[int] = []
    monkeypatch.setattr(tinygpt.training.train.AdamW, "step", diverge)
    with pytest.raises(FloatingPointError, match="the last checkpoint is unharmed"):
        train(settings(text), run, resume=True, progress=False)
    assert files_of(run / "last") == before


def test_what_a_run_writes_is_json_even_if_its_numbers_are_not_finite(text, tmp_path, monkeypatch):
    real, run = tinygpt.training.train.evaluate, tmp_path / "run"
    monkeypatch.setattr(
        "tinygpt.training.train.evaluate", lambda *a, **b: real(*a, **b)._replace(loss=1e4, text_bytes=0)
    )
    train(settings(text, clip=math.inf), run, progress=False, stop_after=4)
    texts = [path.read_text() for path in (run / "settings.json", run / "last/training_state.json")]
    lines = (run / "metrics.jsonl").read_text().splitlines()
    for text_of in (*texts, *lines):
        json.loads(text_of, parse_constant=lambda name: pytest.fail(name))
    assert json.loads(lines[0])["perplexity"] is json.loads(lines[0])["bits_per_byte"] is None
    monkeypatch.undo()
    assert load_settings(run).clip == math.inf
    again = train(load_settings(run), run, resume=True, progress=False)
    assert again.first.loss == 1e4 and again.best_loss == again.final.loss


class Flaky:
    """A file that takes half of what it is given, and then fails, while the disk is full."""

    def __init__(self, file):
        self.file, self.full = file, False

    def write(self, data):
        if self.full:
            self.file.write(data[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        return self.file.write(data)

    def __getattr__(self, name):
        return getattr(self.file, name)


def test_metrics_wait_while_the_disk_is_full_and_follow(tmp_path, capsys):
    path = tmp_path / "metrics.jsonl"
    with MetricsLog(path, -1) as log:
        log._file = Flaky(log._file)
        for step in range(1, 7):
            log._file.full = step in (2, 3, 5)
            log.write(step=step, loss=1 / step)
            shown = [line["step"] for line in map(json.loads, path.read_text().splitlines())]  # never half a line
            assert shown == list(range(1, {2: 1, 3: 1, 5: 4}.get(step, step) + 1))
    assert capsys.readouterr().err.count("metrics.jsonl cannot be written: No space left on device") == 1
    assert read_metrics(path) == [{"step": step, "loss": 1 / step} for step in range(1, 7)]


def test_metrics_that_were_never_written_come_with_the_checkpoint(text, tmp_path, monkeypatch):
    write = MetricsLog.flush
    with monkeypatch.context() as patched:
        patched.setattr(MetricsLog, "flush", lambda self, to_disk=False: None)
        train(settings(text), tmp_path / "run", progress=False, stop_after=3)
    assert read_metrics(tmp_path / "run/metrics.jsonl") == [] and write is MetricsLog.flush
    train(settings(text), tmp_path / "run", resume=True, progress=False)
    train(settings(text), tmp_path / "whole", progress=False)
    assert without_times(tmp_path / "run") == without_times(tmp_path / "whole")


def test_resuming_on_changed_data_is_refused(text, tmp_path):
    train(settings(text), tmp_path / "run", progress=False, stop_after=2)
    text.write_text(text.read_text(encoding="utf-8").replace("hen", "cow"), encoding="utf-8")
    with pytest.raises(ValueError, match="other data"):
        train(load_settings(tmp_path / "run"), tmp_path / "run", resume=True, progress=False)


def test_resuming_before_anything_was_saved_starts_over(text, tmp_path):
    s = settings(text)
    Trainer(s, tmp_path / "killed", False, False)  # writes the settings, and is killed before its first step
    train(load_settings(tmp_path / "killed"), tmp_path / "killed", resume=True, progress=False)
    train(s, tmp_path / "whole", progress=False)
    assert files_of(tmp_path / "killed/last") == files_of(tmp_path / "whole/last")


def test_a_nan_loss_stops_the_run_and_keeps_the_last_checkpoint(text, tmp_path, monkeypatch):
    s, run = settings(text), tmp_path / "run"
    train(s, run, progress=False, stop_after=2)
    before = files_of(run / "last")
    trainer = Trainer(s, run, True, False)
    trainer.model.ln_f.weight.data[0] = np.nan
    with pytest.raises(FloatingPointError, match=r"step 3 gave loss nan.*lower --lr"):
        trainer.run_until(6, Interrupt())
    assert files_of(run / "last") == before


def test_a_full_disk_keeps_the_last_checkpoint(text, tmp_path, monkeypatch):
    s, run = settings(text), tmp_path / "run"
    train(s, run, progress=False, stop_after=2)
    before = files_of(run / "last")

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left|full"):
        train(s, run, resume=True, progress=False)
    monkeypatch.undo()
    assert files_of(run / "last") == before
    train(s, run, resume=True, progress=False)
    assert GPT.from_pretrained(run).config.n_positions == 16


def test_starting_from_a_checkpoint_takes_its_weights_sizes_and_tokenizer(text, tmp_path):
    train(settings(text, steps=2), tmp_path / "first", progress=False)
    s = settings(text, init_from=str(tmp_path / "first"), steps=1, dropout=0.2, vocab_size=None)
    trainer = Trainer(s, tmp_path / "second", False, False)
    first = GPT.from_pretrained(tmp_path / "first")
    np.testing.assert_array_equal(trainer.model.flat_parameters, first.flat_parameters)
    assert trainer.data.tokenizer.fingerprint == checkpoint.load_tokenizer(tmp_path / "first/best").fingerprint
    assert (trainer.model.config.attn_pdrop, trainer.model.config.n_positions) == (0.2, 16)


def test_data_and_models_that_do_not_belong_together_are_refused(text, tmp_path):
    train(settings(text, steps=1), tmp_path / "small", progress=False)
    Tokenizer.train(text.read_text(encoding="utf-8"), 350, progress=False).save_pretrained(tmp_path / "bigger")
    wrong = settings(text, init_from=str(tmp_path / "small"), tokenizer=str(tmp_path / "bigger"))
    with pytest.raises(ValueError, match="tokenizer has 350 tokens"):
        train(wrong, tmp_path / "out", progress=False)
    with pytest.raises(ValueError, match=r"at most the 16 positions"):
        train(settings(text, init_from=str(tmp_path / "small"), context=32), tmp_path / "out", progress=False)
    with pytest.raises(ValueError, match=r"longer than the context of 9999"):
        train(settings(text, context=9999), tmp_path / "out", progress=False)
    with pytest.raises(ValueError, match="GPT-2's own tokenizer"):
        train(TrainingSettings.from_preset("bedtime", data=str(text)), tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def test_a_token_file_trains_like_the_text_it_was_made_from(text, tmp_path):
    tokenizer = Tokenizer.train(text.read_text(encoding="utf-8"), 300, progress=False)
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    tokens = corpus.encode_documents(corpus.read_documents(text), tokenizer)
    write_token_file(tmp_path / "text.bin", tokens, tokenizer.fingerprint)
    s = settings(tmp_path / "text.bin", tokenizer=str(tmp_path / "tokenizer"))
    trainer = Trainer(s, tmp_path / "run", False, False)
    np.testing.assert_array_equal(np.concatenate([trainer.data.train, trainer.data.validation]), tokens)
    assert train(s, tmp_path / "run2", progress=False).step == 6
    with pytest.raises(ValueError, match="--tokenizer"):
        train(settings(tmp_path / "text.bin"), tmp_path / "run3", progress=False)


@pytest.mark.parametrize(("changes", "message"), [
    ({"steps": 0}, "steps must be at least 1"), ({"lr": 0.0}, "lr must be positive"), ({"clip": -1.0}, "clip"),
    ({"dropout": 1.0}, "dropout must be"), ({"min_lr": 1.0}, "min_lr must be at most"), ({"seed": -1}, "seed"),
    ({"lr": math.inf}, "lr must be finite"), ({"weight_decay": math.inf}, "weight_decay must be finite"),
    ({"lr": math.nan}, "lr must be positive"), ({"context": 0}, "context must be at least 1"),
])  # fmt: skip
def test_impossible_settings_are_refused(text, changes, message):
    with pytest.raises(ValueError, match=message):
        settings(text, **changes)


SAVING_RUN = """
import sys
from tinygpt.files.sealed_json import unseal
from tinygpt.training.settings import TrainingSettings
from tinygpt.training.train import train
s = TrainingSettings.from_preset("tiny", data=sys.argv[1], steps=100000, batch_size=1, context=16, eval_every=1,
                                 vocab_size=300, eval_tokens=20)
train(s, sys.argv[2], resume=sys.argv[3] == "resume", progress=False)
"""


@pytest.mark.slow
def test_a_kill_at_any_moment_leaves_a_run_that_opens_and_goes_on(text, tmp_path):
    """kill -9 twenty times, at random moments of a run that saves after every step; each time it resumes further."""
    run, rng, done = tmp_path / "run", np.random.default_rng(0), 0
    for _ in range(20):
        process = subprocess.Popen([sys.executable, "-c", SAVING_RUN, text, run, "resume" if done else "new"])
        deadline = time.monotonic() + 60
        while len(read_metrics(run / "metrics.jsonl") if (run / "metrics.jsonl").exists() else []) < done + 6:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(rng.random() * 0.2)
        process.send_signal(signal.SIGKILL)
        process.wait()
        model = GPT.from_pretrained(run)
        assert np.isfinite(model.flat_parameters).all()
        checkpoint.recover(run / "last")
        tensors, info = checkpoint.load_training_state(run / "last")
        assert tensors["0.step"] == info["step"] > 0  # both files are of the same moment
        done = len(read_metrics(run / "metrics.jsonl"))


def test_an_interrupt_is_a_request_and_the_second_one_is_not():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        with Interrupt() as interrupt:
            os.kill(os.getpid(), signal.SIGINT)
            assert interrupt.requested
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(1)
    finally:
        signal.signal(signal.SIGINT, before)


def test_metrics_survive_a_line_that_was_cut_short(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo', encoding="utf-8")
    assert read_metrics(path) == [{"step": 1, "loss": 2.0}]
    assert plot_losses(path, tmp_path / "loss.png")

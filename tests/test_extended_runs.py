"""Runs that go on beyond their planned end: what the learning rate does then, and that every bit is as it must be."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import shutil

import pytest
from small_runs import TEXT, Killed, checkpoints_of, killed, settings, without_times

import tinygpt.training.train
from tinygpt.cli.main import main
from tinygpt.training.log import read_metrics
from tinygpt.training.plot import plot_losses
from tinygpt.training.settings import TrainingSettings
from tinygpt.training.train import Trainer, load_settings, train


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


@pytest.fixture
def quick(monkeypatch):
    """No stories and no pictures, which take longer than a few steps."""
    monkeypatch.setattr(Trainer, "story", lambda self, interrupt=None: "")
    monkeypatch.setattr(Trainer, "_draw", lambda self: None)


def cosine(step, lr, min_lr, warmup, steps):
    """Written out once more."""
    if step < warmup:
        return lr * (step + 1) / (warmup + 1)
    return min_lr + (lr - min_lr) * (1 + math.cos(math.pi * min(1, (step - warmup) / (steps - warmup)))) / 2


def extend(run, steps, **options):
    return train(dataclasses.replace(load_settings(run), steps=steps), run, resume=True, progress=False, **options)


def test_the_rate_of_each_step_is_the_new_schedule_less_a_gap_that_closes():
    s = TrainingSettings.from_preset("tiny", steps=600, lr=1e-3, min_lr=1e-4, warmup=20).extend(600, 900)
    rates = [s.learning_rate(step) for step in range(900)]
    assert rates[:600] == [cosine(step, 1e-3, 1e-4, 20, 600) for step in range(600)]  # as before
    gap = cosine(600, 1e-3, 1e-4, 20, 900) - 1e-4
    for step in range(600, 620):  # as many steps as the warm-up
        expected = cosine(step, 1e-3, 1e-4, 20, 900) - gap * (1 - (step - 599) / 21)
        assert rates[step] == pytest.approx(expected, rel=1e-12)
    assert rates[620:] == pytest.approx([cosine(step, 1e-3, 1e-4, 20, 900) for step in range(620, 900)], rel=1e-12)
    jumps = [abs(after / before - 1) for before, after in itertools.pairwise(rates[590:])]
    assert max(jumps) < 0.2  # without the gap, the first of them would be 1.9


def test_few_new_steps_rise_for_a_tenth_of_them():
    s = TrainingSettings.from_preset("tiny", steps=600, warmup=50).extend(600, 640)
    rises = [s.learning_rate(step) < s.learning_rate(step + 1) for step in range(599, 639)]
    assert rises == [True] * 5 + [False] * 35  # the cosine of all steps is reached at the fifth


def test_a_run_that_is_extended_during_its_warm_up_is_as_if_planned_so():
    extended, planned = (TrainingSettings.from_preset("tiny", steps=steps, warmup=50) for steps in (600, 900))
    extended = extended.extend(30, 900)
    rates = [[s.learning_rate(step) for step in range(900)] for s in (extended, planned)]
    assert rates[0] == rates[1]


def test_a_second_extension_begins_where_the_first_has_led():
    once = TrainingSettings.from_preset("tiny", steps=600).extend(600, 900)
    twice = once.extend(610, 2000)  # while the rate still rises
    assert [twice.learning_rate(step) for step in range(610)] == [once.learning_rate(step) for step in range(610)]
    rates = [twice.learning_rate(step) for step in range(600, 2000)]
    assert all(abs(after - before) < 1e-4 for before, after in itertools.pairwise(rates))
    assert min(rates) >= twice.min_lr and max(rates) < twice.lr
    assert twice.extended == ((600, 600), (610, 900))


@pytest.mark.parametrize("step", [0, 200, 600])
def test_more_steps_before_an_extension_has_begun_change_its_end_alone(step):
    """As of a run that repeats an extended one from its config.toml, or goes on from a kept checkpoint."""
    once = TrainingSettings.from_preset("tiny", steps=600).extend(600, 900)
    later, planned = once.extend(step, 1500), TrainingSettings.from_preset("tiny", steps=600).extend(600, 1500)
    assert later == planned and later.extended == ((600, 600),)


@pytest.mark.parametrize("source", ["config.toml", "kept checkpoint"])
def test_a_run_whose_extension_lies_ahead_can_be_extended(text, tmp_path, quick, source):
    train(settings(text, steps=4, keep_every=2), tmp_path / "run", progress=False)
    extend(tmp_path / "run", 6)
    expected = tmp_path / "expected"
    train(settings(text, steps=4, keep_every=2).extend(4, 8), expected, progress=False)
    if source == "config.toml":
        again = tmp_path / "again"
        train(load_settings(tmp_path / "run"), again, progress=False, stop_after=3)
    else:
        again = tmp_path / "run"
        shutil.rmtree(again / "last")
        shutil.copytree(again / "checkpoints/step-000002", again / "last")
    extend(again, 8)
    assert load_settings(again).extended == ((4, 4),)
    assert checkpoints_of(again)["last"] == checkpoints_of(expected)["last"]
    assert without_times(again) == without_times(expected)


@pytest.mark.parametrize(("first", "stops"), [(None, (7, 8)), (3, (4, 10))], ids=["finished", "interrupted"])
def test_an_extended_run_that_is_stopped_ends_like_one_that_is_not(text, tmp_path, quick, first, stops):
    """Both equal a run that is begun with the extended run's settings. Its planned end, 5, is off the rhythm."""
    begun, whole = settings(text, steps=5, dropout=0.1, keep_every=5), tmp_path / "whole"
    train(begun, whole, progress=False, stop_after=first)
    for stop in stops:
        shutil.copytree(whole, tmp_path / str(stop))
    result, expected = extend(whole, 11), checkpoints_of(whole)
    assert result.step == 11 and load_settings(whole).extended == ((first or 5, 5),)
    assert set(expected) == {"best", "last", "checkpoints/step-000005", "checkpoints/step-000010"}
    for stop in stops:
        parts = tmp_path / str(stop)
        extend(parts, 11, stop_after=stop)
        assert train(load_settings(parts), parts, resume=True, progress=False).final == result.final
        assert checkpoints_of(parts) == expected
        assert without_times(parts) == without_times(whole)
    train(load_settings(whole), tmp_path / "anew", progress=False)
    assert checkpoints_of(tmp_path / "anew") == expected


@pytest.mark.parametrize("moment", ["_take_step", "_save", "_log_extension", "_restore", "_write_settings"])
def test_an_extension_that_is_killed_can_be_repeated(text, tmp_path, quick, monkeypatch, moment):
    for name in ("whole", "killed"):
        train(settings(text, steps=4), tmp_path / name, progress=False)
    extend(tmp_path / "whole", 7)
    with monkeypatch.context() as patched:
        patched.setattr(Trainer, moment, killed)
        with pytest.raises(Killed):
            extend(tmp_path / "killed", 7)
    extend(tmp_path / "killed", 7)
    assert checkpoints_of(tmp_path / "killed") == checkpoints_of(tmp_path / "whole")
    assert without_times(tmp_path / "killed") == without_times(tmp_path / "whole")


def test_an_end_without_its_validation_is_validated_before_the_run_goes_on(text, tmp_path, quick, monkeypatch):
    """Killed after the last step was saved, and then extended."""
    s = settings(text, steps=5, eval_every=10)
    train(s, tmp_path / "whole", progress=False)
    with monkeypatch.context() as patched:
        patched.setattr("tinygpt.training.train.evaluate_with_beginning", killed)
        with pytest.raises(Killed):
            train(s, tmp_path / "killed", progress=False)
    assert json.loads((tmp_path / "killed/last/training_state.json").read_text())["step"] == 5
    for name in ("whole", "killed"):
        extend(tmp_path / name, 8)
    assert checkpoints_of(tmp_path / "killed") == checkpoints_of(tmp_path / "whole")
    steps = [line["step"] for line in read_metrics(tmp_path / "killed/metrics.jsonl") if "validation_loss" in line]
    assert steps == [0, 5, 8]


def test_the_log_and_the_settings_say_where_a_run_was_extended(text, tmp_path):
    run = tmp_path / "run"
    train(settings(text, steps=4), run, progress=False)
    extend(run, 6)
    extend(run, 9)
    lines = read_metrics(run / "metrics.jsonl")
    assert [line for line in lines if "planned_steps" in line] == [
        {"step": 4, "planned_before": 4, "planned_steps": 6},
        {"step": 6, "planned_before": 6, "planned_steps": 9},
    ]
    assert json.loads((run / "settings.json").read_text())["extended"] == [[4, 4], [6, 6]]
    s = load_settings(run)
    assert [line["lr"] for line in lines if "lr" in line] == [s.learning_rate(step) for step in range(9)]
    assert plot_losses(run / "metrics.jsonl", run / "again.png")


def test_a_run_of_an_older_version_is_shown_and_extended(text, tmp_path, monkeypatch, quick, capsys):
    """Its settings and its state lack what is new, and its final loss is over all of the validation text."""
    run, real = tmp_path / "run", tinygpt.training.train.seal
    new = ("final_beginning", "keep_every", "extended")
    with monkeypatch.context() as patched:
        older = lambda values: real({name: value for name, value in values.items() if name not in new})  # noqa: E731
        patched.setattr("tinygpt.training.train.seal", older)
        train(settings(text, steps=4), run, progress=False)
    assert not set(new) & {*json.loads((run / "settings.json").read_text())}
    assert not set(new) & {*json.loads((run / "last/training_state.json").read_text())}
    assert main(["train", "--resume", "--out", str(run), "--quiet"]) == 0
    assert "final validation loss" in capsys.readouterr().out
    assert main(["train", "--resume", "--out", str(run), "--quiet", "--steps", "6"]) == 0
    train(settings(text, steps=4), tmp_path / "whole", progress=False)
    extend(tmp_path / "whole", 6)
    assert checkpoints_of(run) == checkpoints_of(tmp_path / "whole")


def test_before_its_first_step_a_run_takes_the_new_number(text, tmp_path, quick):
    Trainer(settings(text), tmp_path / "run", False, False)  # killed before its first step
    extend(tmp_path / "run", 8)
    train(settings(text, steps=8), tmp_path / "whole", progress=False)
    assert checkpoints_of(tmp_path / "run") == checkpoints_of(tmp_path / "whole")
    assert load_settings(tmp_path / "run").extended == ()


def test_a_resumed_run_keeps_the_settings_that_decide_what_it_computes(text, tmp_path, quick):
    run = tmp_path / "run"
    train(settings(text, steps=4), run, progress=False, stop_after=2)
    for name, value in {"lr": 0.1, "eval_every": 3, "seed": 2, "data": "other.txt"}.items():
        with pytest.raises(ValueError, match=f"where {name} is .*, not {value!r}; leave them out"):
            train(dataclasses.replace(load_settings(run), **{name: value}), run, resume=True)
    with pytest.raises(ValueError, match=r"steps must be at least the 4 .* got 3; to stop sooner, use --stop-after 3"):
        train(settings(text, steps=3), run, resume=True)
    train(settings(text, steps=4, recompute=True, keep_every=2), run, resume=True, progress=False)
    assert (run / "checkpoints/step-000004").is_dir() and load_settings(run).recompute
    train(settings(text, steps=4), tmp_path / "whole", progress=False)
    expected = checkpoints_of(tmp_path / "whole")
    assert {name: files for name, files in checkpoints_of(run).items() if name in expected} == expected


@pytest.mark.parametrize("extended", [[[7, 6]], [[0, 6]], [[2, 6], [2, 8]], [[3, 9]], [[6, 6], [8, 6]], [[-1, 6]]])
def test_extensions_that_cannot_have_been_are_refused(extended):
    with pytest.raises(ValueError, match=r"extended must name a step, the steps planned until then and more"):
        TrainingSettings.from_preset("tiny", steps=9, extended=extended)


@pytest.mark.parametrize("extended", [5, [5], [[5]], [["5", 6]], [[True, 6]], {"5": 6}, [[5.0, 6]]])
def test_extensions_of_another_kind_are_refused(extended):
    with pytest.raises(TypeError, match="extended must be pairs of integers"):
        TrainingSettings.from_preset("tiny", steps=9, extended=extended)


def test_the_command_says_how_the_rate_goes_on(text, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    small = "--batch-size 1 --context 8 --vocab-size 300 --eval-tokens 99 --warmup 1 --lr 1e-3 --steps 4"
    assert main(["train", "--data", "text.txt", "--out", "run", "--quiet", *small.split()]) == 0
    capsys.readouterr()
    assert main(["train", "--resume", "--out", "run", "--quiet"]) == 0
    assert "to go on: tinygpt train --resume --out run --steps 8" in capsys.readouterr().out
    assert main(["train", "--resume", "--out", "run", "--steps", "30"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "extended from 4 to 30 steps after step 4; the learning rate goes from 3.3e-04 to 9.6e-04 at step 6, then " \
        "down to 1.0e-04 at step 30" in told  # fmt: skip
    assert "final validation loss" in told and "story: " in told
    assert main(["train", "--resume", "--out", "run", "--steps", "29"]) == 2
    assert "--steps must be at least the 30 that run was planned for" in capsys.readouterr().err
    assert main(["train", "--resume", "--out", "run", "--lr", "0.5"]) == 2
    assert "where --lr is 0.001, not 0.5; leave them out" in capsys.readouterr().err

"""Two trainers and one run: one trains, the other ends at once; and a copy of a run that is being trained goes on."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tinygpt import GPT
from tinygpt.cli.main import main
from tinygpt.files.ownership import own_run
from tinygpt.gpt2 import checkpoint
from tinygpt.training.log import read_metrics
from tinygpt.training.settings import TrainingSettings
from tinygpt.training.train import Trainer, load_settings, train

SMALL = {"steps": 12, "batch_size": 1, "context": 8, "eval_every": 4, "vocab_size": 270, "eval_tokens": 40}
ENDLESS = SMALL | {"steps": 100_000, "eval_every": 2}
STARTS = int(os.environ.get("TINYGPT_STARTS", "6"))

NO_LOG = SimpleNamespace(flush=lambda to_disk: None, waiting=[])  # of metrics, which are not asked about here


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("\n".join(f"The owl reads page {n}, then page {n + 1}." for n in range(90)), encoding="utf-8")
    return path


@pytest.fixture
def command(text, tmp_path):
    """Starts `tinygpt train` on the run of the test; ends it in the end."""
    started = []

    def run(*arguments: str) -> subprocess.Popen:
        words = [sys.executable, "-m", "tinygpt", "train", "--out", str(tmp_path / "run"), "--quiet", *arguments]
        started.append(subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.communicate()


def settings(text, **changes):
    return TrainingSettings.from_preset("tiny", data=str(text), **(SMALL | changes))


def options(text, sizes, seed=1):
    words = [f"--{name.replace('_', '-')}={value}" for name, value in sizes.items()]
    return ["--data", str(text), f"--seed={seed}", *words]


def files_of(run: Path) -> dict[str, bytes]:
    paths = [path for name in ("best", "last") for path in (run / name).iterdir()]
    return {str(path.relative_to(run)): path.read_bytes() for path in paths} | {
        "settings.json": (run / "settings.json").read_bytes()
    }


def losses_of(run: Path) -> list[tuple]:
    return [
        (line["step"], line.get("loss"), line.get("validation_loss")) for line in read_metrics(run / "metrics.jsonl")
    ]


def wait_for_a_save(run: Path, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    while not (run / "last" / "config.json").exists():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.01)


@pytest.mark.slow
def test_of_two_that_start_at_random_offsets_one_trains_a_whole_run(text, tmp_path, command):
    for seed in (1, 2):
        train(settings(text, seed=seed), tmp_path / f"alone-{seed}", progress=False)
    rng = random.Random(0)
    for attempt in range(STARTS):
        both = [command(*options(text, SMALL, seed=1))]
        time.sleep(rng.choice([0.0, 0.02, rng.random() * 0.3, rng.random() * 3]))
        both.append(command(*options(text, SMALL, seed=2)))
        said = [process.communicate(timeout=240)[1] for process in both]
        codes = [process.returncode for process in both]
        assert sorted(codes) == [0, 2], (attempt, said)
        refusal = said[codes.index(2)]
        assert refusal.count("\n") == 1, refusal
        assert "is owned by process" in refusal or "exists; add --resume" in refusal
        alone = tmp_path / f"alone-{1 + codes.index(0)}"
        assert files_of(tmp_path / "run") == files_of(alone)
        assert losses_of(tmp_path / "run") == losses_of(alone)
        assert sorted(os.listdir(tmp_path / "run")) == sorted(os.listdir(alone))
        shutil.rmtree(tmp_path / "run")


@pytest.mark.slow
def test_of_two_that_resume_one_goes_on_and_a_third_that_is_new_is_refused_too(text, tmp_path, command):
    train(settings(text), tmp_path / "alone", progress=False)
    train(settings(text), tmp_path / "run", progress=False, stop_after=5)
    both = [command("--resume"), command("--resume")]
    said = [process.communicate(timeout=240)[1] for process in both]
    codes = [process.returncode for process in both]
    assert sorted(codes) == [0, 2], said
    assert said[codes.index(2)].count("\n") == 1
    assert files_of(tmp_path / "run") == files_of(tmp_path / "alone")
    assert losses_of(tmp_path / "run") == losses_of(tmp_path / "alone")


@pytest.mark.slow
def test_a_run_that_is_trained_can_be_copied_and_its_copy_resumed(text, tmp_path, command):
    """The copies are made while it saves all the time, so some hold files of two saves, and leftovers."""
    first = command(*options(text, ENDLESS))
    wait_for_a_save(tmp_path / "run", first)
    resumed, rng = [], random.Random(0)
    for number in range(20):
        time.sleep(rng.random() * 0.1)
        copy = tmp_path / f"copy-{number}"
        try:
            shutil.copytree(tmp_path / "run", copy)
        except (shutil.Error, OSError):
            continue  # a file was gone when its turn came: the copying says so
        with open(copy / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write('{"step": 99999, "lo')
        _, info = checkpoint.load_training_state(copy / "last")
        stop = info["step"] + 6
        assert train(load_settings(copy), copy, resume=True, progress=False, stop_after=stop).step == stop
        assert not [name for name in os.listdir(copy) if "tinygpt-" in name or name == "owner.json"]
        resumed.append((copy, info["step"], stop))
        if len(resumed) == 2:
            break
    assert resumed
    assert first.poll() is None  # which noticed nothing
    with pytest.raises(BlockingIOError, match=f"process {first.pid}"):
        train(load_settings(tmp_path / "run"), tmp_path / "run", resume=True, progress=False)
    while max(step for step, *_ in losses_of(tmp_path / "run")) <= resumed[-1][2]:
        assert first.poll() is None
        time.sleep(0.05)
    for copy, start, stop in resumed:  # to the last bit what the run itself went on to do
        lines = [[line for line in losses_of(run) if start < line[0] <= stop and line[1] is not None]
                 for run in (copy, tmp_path / "run")]  # fmt: skip
        assert len(lines[0]) == 6
        assert lines[0] == lines[1]


def test_a_folder_with_files_of_two_saves_resumes_from_one_moment(text, tmp_path):
    """What a copy holds if a save came in the middle: here the older weights, beside the newer training state."""
    train(settings(text), tmp_path / "whole", progress=False)
    train(settings(text), tmp_path / "run", progress=False, stop_after=4)
    older = (tmp_path / "run/last/model.safetensors").read_bytes()
    info = (tmp_path / "run/last/training_state.json").read_bytes()
    train(settings(text), tmp_path / "run", resume=True, progress=False, stop_after=9)
    (tmp_path / "run/last/model.safetensors").write_bytes(older)
    (tmp_path / "run/last/training_state.json").write_bytes(info)
    train(settings(text), tmp_path / "run", resume=True, progress=False)
    assert files_of(tmp_path / "run") == files_of(tmp_path / "whole")


def test_two_threads_that_train_one_run(text, tmp_path):
    answers, begin = [], threading.Barrier(2)

    def one(seed):
        begin.wait(60)
        try:
            answers.append(train(settings(text, seed=seed), tmp_path / "run", progress=False).step)
        except (BlockingIOError, FileExistsError) as error:  # the latter if the first has ended already
            answers.append(str(error))

    with own_run(tmp_path / "run") as owner:  # compiled, and refused, while this thread owns it
        with pytest.raises(BlockingIOError, match=f"process {os.getpid()}"):
            train(settings(text), tmp_path / "run", progress=False)
        assert owner.is_new()
    threads = [threading.Thread(target=one, args=(seed,)) for seed in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(240)
    assert answers.count(12) == 1, answers
    assert len(answers) == 2
    assert [step for step, loss, _ in losses_of(tmp_path / "run") if loss is not None] == list(range(1, 13))


@pytest.mark.parametrize("error", [KeyboardInterrupt(), FloatingPointError("planted"), OSError(28, "full")], ids=repr)
def test_training_again_in_one_process_after_an_error(text, tmp_path, monkeypatch, error):
    take_step = Trainer._take_step

    def fail_in_step_3(trainer, log):
        if trainer.step == 2:
            raise error
        return take_step(trainer, log)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_take_step", fail_in_step_3)
        with pytest.raises(type(error)):
            train(settings(text), tmp_path / "run", progress=False)
    begun = isinstance(error, KeyboardInterrupt)  # a run that fails before its first save leaves nothing
    assert (tmp_path / "run").exists() == begun and not (tmp_path / "run/owner.json").exists()
    assert train(settings(text), tmp_path / "run", resume=begun, progress=False).step == 12


def test_a_run_is_owned_before_its_tokenizer_is_trained_and_until_its_story_is_told(text, tmp_path, monkeypatch):
    seen = []

    def second(*_):
        with pytest.raises(BlockingIOError):
            train(settings(text), tmp_path / "run", progress=False)
        seen.append(sorted(os.listdir(tmp_path / "run")))

    import tinygpt.training.train as module

    load, story = module.load_dataset, Trainer.story
    monkeypatch.setattr(module, "load_dataset", lambda *given: (second(), load(*given))[1])
    monkeypatch.setattr(Trainer, "story", lambda trainer, interrupt: (second(), story(trainer, interrupt))[1])
    train(settings(text), tmp_path / "run", progress=False)
    assert seen[0] == ["owner.json"]
    assert {"owner.json", "loss.png", "last", "best"} <= set(seen[-1])
    assert "owner.json" not in os.listdir(tmp_path / "run")


def test_readers_need_no_ownership_and_do_not_disturb_it(text, tmp_path):
    train(settings(text), tmp_path / "run", progress=False, stop_after=4)
    with own_run(tmp_path / "run"):
        before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()}
        model = GPT.from_pretrained(tmp_path / "run")
        checkpoint.load_training_state(tmp_path / "run" / "last")
        assert load_settings(tmp_path / "run") == settings(text)
        assert main(["generate", str(tmp_path / "run"), "--prompt", "The", "--max-tokens", "2"]) == 0
        assert before == {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()}
    assert np.isfinite(model.flat_parameters).all()


def test_the_command_line_refuses_with_one_line_and_status_2(text, tmp_path, capsys):
    train(settings(text), tmp_path / "run", progress=False, stop_after=4)
    for more in (["--resume"], options(text, SMALL)):
        with own_run(tmp_path / "run"):
            assert main(["train", "--out", str(tmp_path / "run"), "--quiet", *more]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert f"is owned by process {os.getpid()} on " in said
    assert main(["train", "--resume", "--out", str(tmp_path / "run"), "--quiet"]) == 0


def test_a_resume_before_the_first_has_written_its_settings_names_the_owner(text, tmp_path, capsys):
    with own_run(tmp_path / "run"):
        assert main(["train", "--resume", "--out", str(tmp_path / "run"), "--quiet"]) == 2
        assert "is owned by process" in capsys.readouterr().err
    assert main(["train", "--resume", "--out", str(tmp_path / "run"), "--quiet"]) == 2
    assert "not a run to resume" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_what_killed_writers_left_in_a_run_is_deleted_by_its_next_owner(text, tmp_path):
    train(settings(text), tmp_path / "run", progress=False, stop_after=4)
    for name in ("loss.png.0123456789abcdef.tinygpt-partial", "metrics.jsonl.00112233445566aa.tinygpt-partial"):
        (tmp_path / "run" / name).write_bytes(b"half")
    for name in ("best.tinygpt-partial", "last.tinygpt-partial"):
        (tmp_path / "run" / name).mkdir()
    train(load_settings(tmp_path / "run"), tmp_path / "run", resume=True, progress=False)
    assert sorted(os.listdir(tmp_path / "run")) == [
        "best",
        "config.toml",
        "last",
        "loss.png",
        "metrics.jsonl",
        "settings.json",
    ]


def test_a_run_whose_folder_is_deleted_saves_into_a_new_one_but_never_into_anothers(text, tmp_path):
    run = tmp_path / "run"
    with own_run(run) as owner:
        trainer = Trainer(settings(text), run, False, False, owner)
        run.rename(tmp_path / "moved")
        trainer._save(NO_LOG)
        assert sorted(os.listdir(run)) == ["config.toml", "last", "owner.json", "settings.json"]
        run.rename(tmp_path / "moved again")
        run.mkdir()
        (run / "thesis.txt").write_text("years of work")
        with pytest.raises(FileExistsError, match="another folder has its name now"):
            trainer._save(NO_LOG)
    assert os.listdir(run) == ["thesis.txt"]
    with own_run(tmp_path / "moved again"):
        pass


def test_a_run_that_another_took_over_is_not_written_any_more(text, tmp_path):
    """Its owner file was deleted by somebody who thought it dead, and another host began."""
    run = tmp_path / "run"
    with own_run(run) as owner:
        trainer = Trainer(settings(text), run, False, False, owner)
        mine = json.loads((run / "owner.json").read_text(encoding="utf-8"))
        (run / "owner.json").unlink()
        trainer._save(NO_LOG)  # nobody came: the file is written again
        assert json.loads((run / "owner.json").read_text(encoding="utf-8"))["pid"] == mine["pid"]
        saved = files = (run / "last" / "training_state.json").read_bytes()
        (run / "owner.json").write_text(json.dumps(mine | {"host": "quantum-7", "token": "f" * 32}), encoding="utf-8")
        with pytest.raises(BlockingIOError, match="quantum-7"):
            trainer._save(NO_LOG)
        files = (run / "last" / "training_state.json").read_bytes()
        assert files == saved
    assert "quantum-7" in (run / "owner.json").read_text(encoding="utf-8")

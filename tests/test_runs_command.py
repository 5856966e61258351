"""`tinygpt runs`: each state as a run gets into it, among damaged runs and folders of others."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tinygpt import implementation
from tinygpt.cli import runs as command
from tinygpt.cli.main import main
from tinygpt.files.ownership import own_run
from tinygpt.training.log import MetricsLog
from tinygpt.training.runs import list_runs, look_at
from tinygpt.training.settings import TrainingSettings
from tinygpt.training.train import train

SETTINGS = {"steps": 4, "batch_size": 1, "context": 8, "vocab_size": 270, "eval_every": 2, "eval_tokens": 20}


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A run that was stopped, and one that is finished."""
    folder = tmp_path_factory.mktemp("trained")
    text = folder / "hens.txt"
    text.write_text("The hen counts her eggs, and then the eggs count her. " * 40)
    settings = TrainingSettings.from_preset("tiny", data=str(text), **SETTINGS)
    with implementation("numpy"):
        train(settings, folder / "stopped", stop_after=2, progress=False)
        train(settings, folder / "finished", progress=False)
    return folder


@pytest.fixture
def folder(trained, tmp_path, monkeypatch) -> Path:
    """A copy of both in `runs`, which is looked at by default."""
    for name in ("stopped", "finished"):
        shutil.copytree(trained / name, tmp_path / "runs" / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs"


def state_of(run: Path) -> tuple:
    found = look_at(run)
    return found.state, found.steps, found.planned


def test_a_run_is_stopped_or_finished_as_its_checkpoint_says(folder):
    stopped, finished = look_at(folder / "stopped"), look_at(folder / "finished")
    assert (stopped.state, stopped.steps, stopped.planned) == ("stopped", 2, 4)
    assert (finished.state, finished.steps, finished.planned) == ("finished", 4, 4)
    for found in (stopped, finished):
        losses = [json.loads(line).get("validation_loss") for line in (found.path / "metrics.jsonl").open()]
        assert found.best_loss == pytest.approx(min(loss for loss in losses if loss is not None))
        files = [path for path in found.path.rglob("*") if path.is_file()]
        assert found.bytes == sum(path.stat().st_size for path in files)
        assert found.changed == max(path.stat().st_mtime for path in files)
        assert not found.problem and found.process is None


def test_a_run_that_did_all_its_steps_but_not_its_last_validation_is_not_finished(folder):
    path = folder / "finished/last/training_state.json"
    values = json.loads(path.read_text()) | {"final": None}
    del values["checksum"]  # as of a file that was edited on purpose
    path.write_text(json.dumps(values))
    assert state_of(folder / "finished") == ("stopped", 4, 4)


def test_a_run_that_is_trained_names_its_process_and_its_newest_step(folder):
    with own_run(folder / "stopped", create=False):
        assert state_of(folder / "stopped") == ("training", 2, 4)
        with MetricsLog(folder / "stopped/metrics.jsonl", 2) as log:
            log.write(step=3, loss=1.0)
            log.write(step=3, validation_loss=0.25)
        with (folder / "stopped/metrics.jsonl").open("a") as file:
            file.write('{"step": 4, "lo')  # in the middle of being written
        found = look_at(folder / "stopped")
        assert (found.state, found.steps, found.best_loss) == ("training", 3, 0.25)
        assert (found.process, found.seen) == (os.getpid(), True)
    assert state_of(folder / "stopped") == ("stopped", 2, 4)  # it goes on from its checkpoint


def test_a_run_whose_process_was_killed_is_stopped(folder):
    program = f"""
import os
from tinygpt.files.ownership import own_run
with own_run({str(folder / "stopped")!r}, create=False):
    os._exit(9)
"""
    assert subprocess.run([sys.executable, "-c", program], timeout=60).returncode == 9
    assert (folder / "stopped/owner.json").exists()
    assert state_of(folder / "stopped") == ("stopped", 2, 4)
    owner = json.loads((folder / "stopped/owner.json").read_text())
    (folder / "stopped/owner.json").write_text(json.dumps(owner | {"host": "elsewhere"}))
    found = look_at(folder / "stopped")
    assert (found.state, found.host, found.seen) == ("training", "elsewhere", False)


def test_a_run_that_has_saved_nothing_is_not_started(folder):
    shutil.rmtree(folder / "stopped/last")
    shutil.rmtree(folder / "stopped/best")
    assert state_of(folder / "stopped") == ("not started", 0, 4)


@pytest.mark.parametrize("name", ["last.tinygpt-new", "last.tinygpt-old"])
def test_a_checkpoint_in_the_middle_of_a_swap_that_was_killed_counts(folder, name):
    (folder / "stopped/last").rename(folder / "stopped" / name)
    assert state_of(folder / "stopped") == ("stopped", 2, 4)
    assert (folder / "stopped" / name).is_dir()  # nothing is touched


DAMAGE = {
    "settings.json": lambda data: data[:-9],
    "last/training_state.json": lambda data: data.replace(b'"step": 2', b'"step": 3'),
    "last/training_state.safetensors": lambda data: data[:-1],
    "last/model.safetensors": lambda data: data[: len(data) // 2],
}


@pytest.mark.parametrize("name", DAMAGE)
@pytest.mark.parametrize("missing", [False, True])
def test_a_damaged_run_is_named_with_the_file_and_hides_no_other(folder, capsys, name, missing):
    path = folder / "stopped" / name
    data = path.read_bytes()
    path.unlink()
    if not missing:
        path.write_bytes(DAMAGE[name](data))
        assert path.read_bytes() != data
    found = {run.path.name: run for run in list_runs([folder])}
    assert found["finished"].state == "finished"
    assert found["stopped"].state == "damaged" and name in found["stopped"].problem
    assert main(["runs"]) == 0
    out = capsys.readouterr().out
    assert " damaged " in out and out.splitlines()[-1].startswith(f"runs/stopped/{name} ")


def test_folders_of_others_are_passed_over_and_runs_below_are_found(folder, tmp_path):
    (folder / "notes").mkdir()
    (folder / "notes/settings.json").write_text('{"editor.tabSize": 4}')
    (folder / "broken").mkdir()
    (folder / "broken/settings.json").write_text("{")
    (folder / "empty").mkdir()
    (folder / "file").write_text("")
    (folder / ".hidden").mkdir()
    shutil.copytree(folder / "stopped", folder / ".hidden/run")
    shutil.copytree(folder / "stopped", folder / "experiments/one")
    (folder / "link").symlink_to("finished")
    (folder / "circle").symlink_to(".")
    names = [str(run.path.relative_to(tmp_path)) for run in list_runs([tmp_path / "runs", folder / "finished"])]
    assert sorted(names) == ["runs/experiments/one", "runs/finished", "runs/stopped"]


def test_the_newest_comes_first_and_a_run_can_be_named_itself(folder, capsys):
    for name, age in (("stopped", 50), ("finished", 7200)):
        for path in (folder / name).rglob("*"):
            os.utime(path, (time.time() - age, time.time() - age))
    assert main(["runs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["run", "runs/stopped", "runs/finished"]
    assert "2/4" in lines[1] and lines[1].endswith("just now") and lines[2].endswith("2 h ago")
    for run in ("runs/finished", "finished"):
        assert main(["runs", run]) == 0
        assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["run", "runs/finished"]


def test_a_name_of_the_hub_is_no_run(folder, capsys):
    shutil.copytree(folder / "finished", folder / "gpt2")
    assert main(["runs", "gpt2"]) == 2
    assert "gpt2 must be a run, or a folder with runs, and does not exist" in capsys.readouterr().err


def test_as_json_each_run_is_an_object(folder, capsys):
    assert main(["runs", "--json"]) == 0
    found = {each["path"]: each for each in json.loads(capsys.readouterr().out)}
    assert found.keys() == {"runs/stopped", "runs/finished"}
    assert found["runs/stopped"]["state"] == "stopped" and found["runs/stopped"]["steps"] == 2
    assert found["runs/stopped"]["changed"].endswith("Z")


def test_without_runs_it_says_how_to_make_one(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["runs"]) == 0
    assert capsys.readouterr().out == 'no runs in runs; "tinygpt train" makes one\n'
    assert main(["runs", "--json", "."]) == 0
    assert json.loads(capsys.readouterr().out) == []


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_a_row_fits_the_terminal_and_no_number_is_cut(folder, columns):
    found = look_at(folder / "stopped")._replace(steps=99_999, planned=100_000, bytes=1_234_567_890, state="training",
                                                 process=1234567, seen=True)  # fmt: skip
    long = found._replace(path=Path("runs/a-name-that-says-everything-about-the-experiment-and-its-settings"))
    lines = command.table([found, long], found.changed + 86400 * 3, columns)
    assert max(map(len, lines)) < columns or columns == 60  # which is too narrow for the numbers themselves
    for line in lines[1:]:
        for part in ("training, 1234567", "99,999/100,000", f"{found.best_loss:.3f}", "1.2 GB", "3 days ago"):
            assert part in line
    whole = command.table([found, long], found.changed, None)
    assert str(long.path) in whole[2]


@pytest.mark.parametrize(("size", "shown"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (9_960, "10 kB"),
                                             (999_499, "999 kB"), (999_600, "1.0 MB"), (21.9e6, "22 MB"),
                                             (5e15, "5000 TB")])  # fmt: skip
def test_a_size_has_at_most_three_digits(size, shown):
    assert command._size(size) == shown


AGES = [(-5, "just now"), (59, "just now"), (60, "1 min ago"), (3599, "59 min ago"), (3600, "1 h ago")]
AGES += [(86400, "24 h ago"), (86400 * 2, "2 days ago"), (86400 * 40, "1970-01-01")]


@pytest.mark.parametrize(("seconds", "shown"), AGES)
def test_an_age_is_in_the_largest_unit_and_later_a_date(seconds, shown):
    assert command._age(seconds, 86400 / 2) == shown


def test_a_folder_that_may_not_be_read_hides_none_beside_it(tmp_path, monkeypatch):
    for name in ("a", "locked", "z"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "settings.json").write_text('{"preset": "tiny", "steps": 3}')
    exists = Path.exists

    def refuse(path, **options):
        if "locked" in path.parts:
            raise PermissionError(13, "Permission denied", str(path))
        return exists(path, **options)

    monkeypatch.setattr(Path, "exists", refuse)
    assert {run.path.name for run in list_runs([tmp_path])} == {"a", "z"}

"""--keep-every: each kept step opens everywhere, and training goes on from it as it did, to the last bit."""

from __future__ import annotations

import errno
import json
import os
import shutil

import numpy as np
import pytest
from small_runs import TEXT, Killed, checkpoints_of, files_of, settings

import tinygpt.training.train
from tinygpt import GPT
from tinygpt.cli.main import main
from tinygpt.files.locate import locate
from tinygpt.training.train import Trainer, kept_checkpoint, load_settings, train


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The current folder; no stories and no pictures, which take longer than a few steps."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    monkeypatch.setattr(Trainer, "story", lambda self, interrupt=None: "")
    monkeypatch.setattr(Trainer, "_draw", lambda self: None)
    return tmp_path


def test_every_nth_step_is_kept_and_training_goes_on_from_it_bit_for_bit(folder):
    """The rhythm of 3 is not that of the validations, 2; the path of the run is relative, as one types it."""
    s = settings("text.txt", dropout=0.1, keep_every=3, steps=7)
    train(s, "run", progress=False)
    assert sorted(os.listdir("run/checkpoints")) == ["step-000003", "step-000006"]
    expected = checkpoints_of(folder / "run")
    for step in (3, 6):
        again = folder / f"from-{step}"
        again.mkdir()
        shutil.copy("run/settings.json", again)
        shutil.copytree(kept_checkpoint("run", step), again / "last")
        assert train(load_settings(again), again, resume=True, progress=False).new_steps == 7 - step
        assert files_of(again / "last") == expected["last"]
    assert checkpoints_of(folder / "from-3")["checkpoints/step-000006"] == expected["checkpoints/step-000006"]


def test_keeping_changes_nothing_else(folder):
    for name, every in (("kept", 1), ("plain", 0)):
        train(settings("text.txt", dropout=0.1, keep_every=every), name, progress=False)
    for name in ("best", "last"):
        assert files_of(folder / "kept" / name) == files_of(folder / "plain" / name)
    assert not (folder / "plain/checkpoints").exists()


def test_a_kept_checkpoint_is_a_model_for_tinygpt_and_for_transformers(folder, capsys):
    train(settings("text.txt", keep_every=2), "run", progress=False)
    kept = kept_checkpoint("run", 4)
    model = GPT.from_pretrained(str(kept)).eval()
    assert locate(kept) == kept
    assert main(["generate", str(kept), "--prompt", "The hen", "--max-tokens", "3", "--seed", "1"]) == 0
    assert capsys.readouterr().out.startswith("The hen")
    transformers = pytest.importorskip("transformers", reason="the extra `reference` is not installed")
    torch = pytest.importorskip("torch", reason="the extra `reference` is not installed")
    theirs = transformers.GPT2LMHeadModel.from_pretrained(kept).eval()
    ids = np.arange(10)[None]
    with torch.no_grad():
        logits = theirs(torch.from_numpy(ids)).logits.numpy()
    np.testing.assert_allclose(model(ids).data, logits, atol=1e-5)


@pytest.mark.parametrize("moment", ["first", "second", "after the first"])
def test_a_run_that_is_killed_while_it_keeps_a_step_keeps_it_when_resumed(folder, monkeypatch, moment):
    s, keep, calls = settings("text.txt", keep_every=3, steps=7), Trainer._keep, []
    train(s, "whole", progress=False)

    def keep_and_die(self):
        if self._to_keep() is not None:
            calls.append(self.step)
            if moment == "after the first":
                keep(self)
            if moment != "second" or len(calls) == 2:
                folder = kept_checkpoint(self.run, self.step)
                folder.with_name(folder.name + ".tinygpt-partial").mkdir(parents=True)  # as a kill leaves it
                raise Killed
        keep(self)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_keep", keep_and_die)
        with pytest.raises(Killed):
            train(s, "run", progress=False)
    train(load_settings("run"), "run", resume=True, progress=False)
    assert checkpoints_of(folder / "run") == checkpoints_of(folder / "whole")
    assert sorted(os.listdir("run/checkpoints")) == ["step-000003", "step-000006"]


def test_a_step_that_was_kept_and_is_reached_again_is_kept_again(folder):
    s = settings("text.txt", keep_every=3)
    train(s, "run", progress=False)
    expected = checkpoints_of(folder / "run")
    shutil.rmtree("run/last")
    shutil.copytree(kept_checkpoint("run", 3), "run/last")  # the user goes back
    other = kept_checkpoint("run", 6) / "config.json"
    other.write_text("{}", encoding="utf-8")
    train(load_settings("run"), "run", resume=True, progress=False)
    assert checkpoints_of(folder / "run") == expected


def test_a_full_disk_while_a_step_is_kept_leaves_a_run_that_goes_on(folder, monkeypatch):
    s, real = settings("text.txt", keep_every=3), tinygpt.training.train.swap_in

    def full(directory):
        if directory.name.startswith("step-"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(directory)

    with monkeypatch.context() as patched:
        patched.setattr("tinygpt.training.train.swap_in", full)
        with pytest.raises(OSError, match="No space left"):
            train(s, "run", progress=False)
    assert json.loads((folder / "run/last/training_state.json").read_text())["step"] == 3
    train(load_settings("run"), "run", resume=True, progress=False)
    train(s, "whole", progress=False)
    assert checkpoints_of(folder / "run") == checkpoints_of(folder / "whole")


def test_the_command_keeps_from_a_resumed_run_on_and_says_what_it_takes(folder, capsys):
    sizes = "--batch-size 1 --context 8 --vocab-size 300 --eval-tokens 99"
    small = f"{sizes} --steps 6 --eval-every 9".split()
    assert main(["train", "--data", "text.txt", "--out", "run", "--quiet", "--stop-after", "4", *small]) == 0
    assert main(["train", "--resume", "--out", "run", "--quiet", "--keep-every", "2"]) == 0
    assert sorted(os.listdir("run/checkpoints")) == ["step-000004", "step-000006"]
    parameters = GPT.from_pretrained("run").num_parameters()
    size = sum(path.stat().st_size for path in kept_checkpoint("run", 4).glob("*.safetensors"))
    assert size == pytest.approx(16 * parameters, rel=0.01)
    capsys.readouterr()
    assert main(["train", "--dry-run", "--keep-every", "2", *small]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == (
        "on disk: best 3 MB, last 13 MB; 3 kept checkpoints of 13 MB: 40 MB"
    )
    assert main(["train", "--keep-every", "-1"]) == 2
    assert "--keep-every must be at least 0, got -1" in capsys.readouterr().err

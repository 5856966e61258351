"""`tinygpt bisect`: planted troubles are found where they were planted, and healthy runs have none."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
from small_runs import TEXT, settings

from tinygpt.cli.main import main
from tinygpt.study.bisection import bisect, bisect_runs, first_difference, first_trouble
from tinygpt.study.replay import Rerun
from tinygpt.text.corpus import sample_batch
from tinygpt.training import train as training
from tinygpt.training.train import Trainer, train

LONG = {"steps": 60, "keep_every": 20, "eval_every": 60}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run on one text, one with another learning rate, one in bfloat16 or with another batch, and the same twice."""
    folder = tmp_path_factory.mktemp("bisect")
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "story", lambda self, interrupt=None: "")
        patch.setattr(Trainer, "_draw", lambda self: None)
        for name, changes in {"a": {}, "again": {}, "rate": {"lr": 2.1e-3}, "seed": {"seed": 5}}.items():
            train(settings(folder / "text.txt", **changes), folder / name, progress=False)
        healthy = settings(folder / "text.txt", **LONG)
        train(healthy, folder / "healthy", progress=False)
    return folder


def falling(**changes) -> list[dict]:
    """The log of a run whose loss falls from 6 to 2, with noise."""
    rng = np.random.default_rng(3)
    lines = [{"step": n, "loss": 2 + 4 * 0.97**n + 0.1 * rng.standard_normal(), "grad_norm": 1 + 0.2 * rng.random()}
             for n in range(1, 201)]  # fmt: skip
    for step, values in changes.items():
        lines[int(step[1:]) - 1] |= values
    return lines


def test_a_spike_and_what_is_not_finite_are_found_and_noise_is_not():
    assert first_trouble(falling()) is None
    assert first_trouble(falling(s120={"loss": 5.0}))[:3] == (120, "loss", 5.0)
    assert first_trouble(falling(s120={"grad_norm": 9.0}, s150={"loss": 7.0}))[:3] == (120, "grad_norm", 9.0)
    step, name, value, usual = first_trouble(falling(s90={"loss": None}))
    assert (step, name) == (90, "loss") and np.isnan(value) and 2 < usual < 3
    assert first_trouble(falling(s120={"loss": 2.3})) is None  # within the noise


@pytest.mark.parametrize("seed", range(12))
def test_healthy_logs_have_no_trouble(seed):
    """The first steps of a run fall fast, later ones wander; batches of few tokens are noisy, and so are norms."""
    rng = np.random.default_rng(seed)
    noise, tail = 0.02 + 0.2 * rng.random(), rng.random()
    lines = [{"step": n, "loss": 2 + 5 * np.exp(-n / (10 + 60 * tail)) + noise * rng.standard_normal(),
              "grad_norm": float(np.exp(0.25 * rng.standard_normal()))} for n in range(1, 401)]  # fmt: skip
    assert first_trouble(lines) is None


def test_a_healthy_run_has_no_onset(folder):
    assert bisect(Rerun(folder / "healthy")) is None


def test_a_batch_that_is_not_text_is_named_with_its_row(tmp_path, monkeypatch):
    monkeypatch.setattr(Trainer, "story", lambda self, interrupt=None: "")
    monkeypatch.setattr(Trainer, "_draw", lambda self: None)
    letters = random.Random(3)
    junk = "".join(chr(letters.randrange(33, 126)) for _ in range(150))
    text = TEXT * 8
    (tmp_path / "text.txt").write_text(f"{text[:9000]}\n{junk}\n{text[9000:]}", encoding="utf-8")
    s = settings(tmp_path / "text.txt", steps=160, keep_every=50, eval_every=160)
    train(s, tmp_path / "run", progress=False)
    rerun = Rerun(tmp_path / "run")
    found = bisect(rerun)
    odd = set()  # the rows of all batches with some of it
    for step in range(1, 161):
        rows, _ = sample_batch(rerun.data.train, s.batch_size, s.context, s.seed, step - 1)
        texts = map(rerun.data.tokenizer.decode, rows)
        odd |= {(step, row) for row, each in enumerate(texts) if not set(each) <= set(TEXT)}
    assert odd and found.value > 1.5 * found.usual
    assert any(step == found.step and found.row.startswith(f"row {row} ") for step, row in odd)
    assert found.place is not None and "backward." in found.place.name


def test_a_weight_that_is_not_finite_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(Trainer, "story", lambda self, interrupt=None: "")
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    plain = training.training_step

    def harmed(compute, optimizer, tokens, settings, step, lr):
        result = plain(compute, optimizer, tokens, settings, step, lr)
        if step == 3:
            compute.model.h[2].mlp.c_fc.weight.data[7, 11] = np.nan
        return result

    monkeypatch.setattr(training, "training_step", harmed)
    with pytest.raises(FloatingPointError, match="step 5 gave loss nan"):
        train(settings(tmp_path / "text.txt", steps=9, keep_every=4, eval_every=8), tmp_path / "run", progress=False)
    found = bisect(Rerun(tmp_path / "run"))
    assert found.step == 5 and np.isnan(found.value)
    assert found.place.name == "weight.h.2.mlp.c_fc.weight" and found.place.at == (7, 11)


def test_equal_runs_are_equal_and_others_part_where_they_must(folder):
    a = Rerun(folder / "a")
    found = bisect_runs(a, Rerun(folder / "again"))
    assert found.step is None and found.equal == 6 and not found.settings
    found = bisect_runs(a, Rerun(folder / "rate"))
    assert (found.step, found.equal) == (2, 1) and set(found.settings) == {"lr", "min_lr"}
    assert found.place.name == "weight.wte.weight"  # the first step had another rate
    found = bisect_runs(a, Rerun(folder / "seed"))
    assert (found.step, found.equal) == (1, 0) and found.place.name == "inputs"


def test_the_first_value_that_differs_is_found_in_the_order_of_the_step():
    x, y = np.zeros((2, 3, 4), np.float32), np.zeros(5, np.float32)
    first = {"inputs": y, "gradient.a": x, "forward.b": x}
    other = x.copy()
    other[1, 2, 3] = 1e-8
    found = first_difference(first, {"inputs": y, "gradient.a": other, "forward.b": other})
    assert (found.name, found.at) == ("forward.b", (1, 2, 3))
    assert str(found).startswith("forward.b (row 1, token 2, feature 3): 0.0 and 9.9")
    nan = np.full_like(x, np.nan)
    assert first_difference({"forward.b": nan}, {"forward.b": nan.copy()}) is None
    assert "shape" in first_difference({"forward.b": x}, {"forward.b": y}).note
    assert first_difference({"forward.b": x}, {}).note == "the other run has none"


def test_the_command_prints_one_answer(folder, capsys):
    a, rate = str(folder / "a"), str(folder / "rate")
    assert main(["bisect", str(folder / "healthy"), "--quiet"]) == 0
    assert "nothing in its log is out of the ordinary" in capsys.readouterr().out
    assert main(["bisect", a, str(folder / "again"), "--quiet"]) == 0
    assert "have the same figures in all 6 steps of both" in capsys.readouterr().out
    assert main(["bisect", a, rate, "--quiet"]) == 1
    out = capsys.readouterr().out
    assert "settings: lr is 0.002 and 0.0021" in out and "in 1 step before step 2, where" in out
    assert "first value of that step that differs: weight.wte.weight (row 0, column 0)" in out
    assert main(["bisect", a, rate, "--quiet", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["place"]["name"] == "weight.wte.weight"
    assert main(["bisect", a, a, "--quiet"]) == 2
    assert capsys.readouterr().err.count("\n") == 1

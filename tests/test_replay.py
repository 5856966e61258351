"""`tinygpt replay`: a step of a run again has the digits of its log, and values that fit together."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from kernel_checks import in_a_process, using_threads
from safetensors.numpy import load_file
from small_runs import TEXT, settings

from tinygpt.cli.main import main
from tinygpt.runtime.settings import implementation
from tinygpt.study.replay import Rerun, replay
from tinygpt.text.corpus import sample_batch
from tinygpt.training.log import read_metrics
from tinygpt.training.train import Trainer, load_settings, train

STEPS = 12
CHANGES = {"steps": STEPS, "keep_every": 5, "dropout": 0.1, "grad_accumulation": 2, "eval_every": 4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run with dropout, accumulation and kept checkpoints, and one without these."""
    folder = tmp_path_factory.mktemp("replay")
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "story", lambda self, interrupt=None: "")
        patch.setattr(Trainer, "_draw", lambda self: None)
        train(settings(folder / "text.txt", **CHANGES), folder / "kept", progress=False)
        train(settings(folder / "text.txt"), folder / "plain", progress=False)
    return folder


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder / "kept", tmp_path / "run")


def logged(run) -> dict[int, dict]:
    return {line["step"]: line for line in read_metrics(run / "metrics.jsonl") if "loss" in line}


def assert_is_the_logs(found, run):
    line = logged(run)[found.step]
    assert (found.loss, found.lr, found.grad_norm) == (line["loss"], line["lr"], line["grad_norm"])
    assert found.differing == []


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("step", "start"), [(1, 0), (3, 0), (5, 0), (6, 5), (9, 5), (11, 10), (STEPS, 10)])
def test_each_step_has_the_digits_of_the_log(folder, step, start, threads):
    with using_threads(threads):
        found = replay(folder / "kept", step)
    assert found.start == start
    assert_is_the_logs(found, folder / "kept")


def test_a_run_that_keeps_nothing_is_computed_from_its_beginning(folder):
    for step in (3, 6):
        found = replay(folder / "plain", step)
        assert found.start == 0
        assert_is_the_logs(found, folder / "plain")


def test_one_rerun_gives_any_steps_in_any_order(folder):
    rerun = Rerun(folder / "kept")
    for step in (9, 2, 10, 11, 1):
        assert_is_the_logs(rerun.replay(step), folder / "kept")


def test_values_fit_together_and_to_the_files_of_the_run(folder):
    run = folder / "kept"
    found = replay(run, 6, ["*"])
    values = found.values
    squares = sum(np.square(array, dtype=np.float64).sum() for name, array in values.items() if name[:9] == "gradient.")
    assert np.sqrt(squares) == pytest.approx(found.grad_norm, rel=1e-5)
    saved = load_file(run / "checkpoints" / "step-000005" / "model.safetensors")
    assert {f"weight.{name.removeprefix('transformer.')}" for name in saved} == {
        name for name in values if name.startswith("weight.")
    }
    for name, array in saved.items():
        np.testing.assert_array_equal(values[f"weight.{name.removeprefix('transformer.')}"], array)
    s, tokens = load_settings(run), Rerun(run).data.train
    for number in range(2):
        inputs, targets = sample_batch(tokens, s.batch_size, s.context, s.seed, 2 * 5 + number)
        np.testing.assert_array_equal(values["inputs"][number], inputs)
        np.testing.assert_array_equal(values["targets"][number], targets)
    losses = [values[f"micro-batch {n}.forward.linear_cross_entropy"] for n in (1, 2)]
    assert found.loss == pytest.approx(np.mean(losses), rel=1e-6)
    for n in (1, 2):  # the last addition of the residual stream passes on what the final norm gives it
        last, norm = (values[f"micro-batch {n}.backward.{name}.0"] for name in ("h.3.add(2)", "ln_f.layernorm"))
        np.testing.assert_array_equal(last, norm)
    parts = [values[f"micro-batch {n}.backward.h.1.mlp.c_fc.linear.2"] for n in (1, 2)]
    np.testing.assert_allclose(sum(parts), values["gradient.h.1.mlp.c_fc.bias"], rtol=1e-4, atol=1e-8)


def test_a_value_is_asked_for_by_name_and_recording_changes_no_figure(folder):
    run = folder / "kept"
    found = replay(run, 7, ["gradient.wte.weight", "forward.h.?.mlp.c_fc.*", "micro-batch 2.backward.h.0.add.0"])
    assert [*found.values] == [
        "gradient.wte.weight",
        *(f"micro-batch 1.forward.h.{i}.mlp.c_fc.linear" for i in range(4)),
        *(f"micro-batch 2.forward.h.{i}.mlp.c_fc.linear" for i in range(4)),
        "micro-batch 2.backward.h.0.add.0",
    ]
    assert_is_the_logs(found, run)
    with pytest.raises(ValueError, match=r"replay: no value of .*kept is named 'gradient\.head'"):
        replay(run, 7, ["gradient.head"])


def test_nothing_of_the_run_is_written(copy):
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in copy.rglob("*") if path.is_file()}
    replay(copy, 8, ["*"])
    assert before == {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in copy.rglob("*") if path.is_file()}


@pytest.mark.parametrize("step", [0, STEPS + 1])
def test_a_step_that_there_is_not_is_refused(folder, step):
    with pytest.raises(ValueError, match=rf"replay: step must be from 1 to {STEPS}, the steps of .*, got {step}"):
        replay(folder / "kept", step)


def test_what_is_no_run_or_has_other_data_is_refused(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"is not a run: it has no settings\.json"):
        replay(tmp_path, 1)
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    train(settings(tmp_path / "text.txt", steps=2), tmp_path / "run", progress=False)
    (tmp_path / "text.txt").write_text(TEXT.replace("hen", "fox"), encoding="utf-8")
    with pytest.raises(ValueError, match="was trained on other data than"):
        replay(tmp_path / "run", 1)


def test_a_damaged_checkpoint_is_named(copy):
    weights = copy / "checkpoints" / "step-000005" / "training_state.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ValueError, match="step-000005"):
        replay(copy, 7)
    assert_is_the_logs(replay(copy, 12), copy)  # from another one


def test_the_step_at_which_a_run_diverged_is_shown(tmp_path):
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    with pytest.raises(FloatingPointError) as error, np.errstate(all="ignore"):
        train(
            settings(tmp_path / "text.txt", lr=1e30, warmup=0, steps=9, keep_every=1), tmp_path / "run", progress=False
        )
    step = int(str(error.value).split("step ")[1].split()[0])
    with np.errstate(all="ignore"):
        found = replay(tmp_path / "run", step, ["gradient.*"])
    assert found.logged is None and not np.isfinite([found.loss, found.grad_norm]).all()
    assert any(not np.isfinite(array).all() for array in found.values.values())
    if step > 1:
        rerun = Rerun(tmp_path / "run")
        with np.errstate(all="ignore"), pytest.raises(ValueError, match=f"ends at step {step}, of loss"):
            rerun._go_to(step + 1)  # no error leaves half a step behind
        assert_is_the_logs(rerun.replay(step - 1), tmp_path / "run")


def test_the_reference_replays_what_the_reference_has_trained(tmp_path):
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    with implementation("numpy"):
        train(settings(tmp_path / "text.txt", steps=3), tmp_path / "run", progress=False)
        assert_is_the_logs(replay(tmp_path / "run", 3, ["*"]), tmp_path / "run")


@pytest.mark.slow
def test_so_does_plain_python(tmp_path):
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    program = f"""
from small_runs import settings
from tinygpt.study.replay import replay
from tinygpt.training.train import train
small = settings({str(tmp_path / "text.txt")!r}, steps=2, batch_size=1, context=4, eval_tokens=8)
train(small, {str(tmp_path / "run")!r}, progress=False)
print(replay({str(tmp_path / "run")!r}, 2).differing)
"""
    assert in_a_process(program, NUMBA_DISABLE_JIT="1").splitlines()[-1] == "[]"


def test_the_command_prints_figures_and_values_and_saves_them(folder, tmp_path, capsys):
    run, line = str(folder / "kept"), logged(folder / "kept")[7]
    assert main(["replay", run, "--step", "7", "--values", "gradient.h.0.ln_1.*"]) == 0
    out, err = capsys.readouterr()
    assert err.startswith("tinygpt: replay: 2 steps from the checkpoint after step 5, about ")
    assert out.count("equal") == 3 and out.count(repr(line["loss"])) == 2 and "gradient.h.0.ln_1.bias " in out
    target = tmp_path / "step.npz"
    assert main(["replay", run, "--step", "7", "--save", str(target), "--quiet"]) == 0
    out, err = capsys.readouterr()
    assert err == "" and out.endswith(f"{target}\n")
    expected = replay(folder / "kept", 7, ["gradient.wte.weight"]).values["gradient.wte.weight"]
    with np.load(target) as saved:
        np.testing.assert_array_equal(saved["gradient.wte.weight"], expected)
    assert main(["replay", run, "--step", "7", "--quiet", "--json", "--values", "inputs"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["loss"] == line["loss"] and told["differing"] == [] and told["values"]["inputs"]["shape"] == [2, 2, 16]


def test_a_log_of_other_digits_gives_status_1(copy, capsys):
    text = (copy / "metrics.jsonl").read_text()
    loss = logged(copy)[7]["loss"]
    (copy / "metrics.jsonl").write_text(text.replace(repr(loss), repr(float(np.nextafter(loss, 9)))))
    assert main(["replay", str(copy), "--step", "7", "--quiet"]) == 1
    assert "loss" in (out := capsys.readouterr().out) and out.count("differs") == 1 and out.count("equal") == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--step", "99"], "--step must be from 1 to 12"),
     (["--step", "1", "--save", "a.txt"], "--save must be a .npz file, got a.txt"),
     (["--step", "1", "--values", "gradient.x"], "is named 'gradient.x'")],
)  # fmt: skip
def test_mistakes_are_one_line_and_status_2(folder, capsys, arguments, message):
    assert main(["replay", str(folder / "kept"), *arguments, "--quiet"]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1

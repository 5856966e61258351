"""The pictures of runs: `loss.png` and `tinygpt plot`."""

from __future__ import annotations

import json
import math
import shutil
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from tests.pictures import drawn_texts, in_grey, require_readable
from tinygpt.cli.main import main
from tinygpt.cli.shared_options import PICTURES
from tinygpt.files import figures
from tinygpt.training import plot
from tinygpt.training.plot import Series, compare, draw_run, plot_losses, read_run, smooth, window

pytest.importorskip("matplotlib")


def write_run(folder: Path, steps: int, every: int = 100, seed: int = 0, **settings) -> Path:
    """A run's folder: metrics with a falling, noisy loss and a validation every so many steps, and settings."""
    folder.mkdir(parents=True)
    rng, lines = np.random.default_rng(seed), []
    for step in range(steps + 1):
        loss = 4 + seed / 8 + 4 * math.exp(-12 * step / steps)
        line = {"step": step, "loss": loss + 0.1 * rng.standard_normal(), "lr": 1e-3 * (1 - step / steps / 2)}
        line |= {"grad_norm": 1 + 9 * math.exp(-step / 9), "ms": 50.0, "tokens_per_second": 20480.0}
        lines += [line] if step else []
        if step % every == 0 or step == steps:
            lines.append({"step": step, "validation_loss": loss + 0.5 + step / steps, "perplexity": 9.0})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "settings.json").write_text(json.dumps({"clip": 1.0, **settings}))
    return folder


def drawn(folder: Path, scale: str = "steps", after: int = 0):
    figure = figures.new_figure("test")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_run(figure, read_run(folder, after), scale)
        figure.canvas.draw()
    return figure


def texts(figure) -> str:
    return "\n".join(text for text, _, _ in drawn_texts(figure))


def ticks(figure) -> list[str]:
    """The labels of the horizontal axis that are within it."""
    axes = figure.axes[1]
    low, high = axes.get_xlim()
    return [tick.get_text() for tick in axes.get_xticklabels() if low <= tick.get_position()[0] <= high]


@pytest.mark.parametrize("steps", [1, 2, 10, 130, 600, 5000])
def test_a_run_of_any_length_is_readable_and_its_axis_has_whole_steps(steps, tmp_path):
    figure = drawn(write_run(tmp_path / "run", steps, max(1, steps // 6)))
    require_readable(figure)
    assert len(figure.axes) == 3  # losses; gradient norm and, on the right of the same panel, learning rate
    assert ticks(figure) and all(float(label.replace(",", "")).is_integer() for label in ticks(figure))
    assert all(step == int(step) for step in figure.axes[1].get_xticks())
    for axes in figure.axes[:2]:
        assert axes.get_xlim() == figure.axes[0].get_xlim() and axes.get_xlim()[1] >= steps


def test_labels_say_what_each_curve_is_and_where_the_best_validation_was(tmp_path):
    run = write_run(tmp_path / "run", 600, 50)
    said = texts(drawn(run))
    for part in ("run", "training,\nmean of 20 steps\n(thin: each step)", "gradient norm (left)", "clipped to 1",
                 "learning rate (right)", "step", "loss (nats per token)"):  # fmt: skip
        assert part in said.split("\n") or part in said
    validation = read_run(run).validation
    best = int(np.argmin(validation.values))
    assert 0 < best < len(validation.steps) - 1
    lowest = validation.values[best]
    assert (
        f"best (circle)\n{lowest:.4g} at step {validation.steps[best]:.0f}\nperplexity {math.exp(lowest):,.1f}" in said
    )


def test_the_curves_of_a_run_differ_without_their_colors(tmp_path):
    figure = drawn(write_run(tmp_path / "run", 600))
    raw, mean, validation = figure.axes[0].get_lines()[:3]
    assert len({in_grey(line) for line in (raw, mean, validation)}) == 3
    assert raw.get_linewidth() < mean.get_linewidth() / 2
    norm, clip, rate = *figure.axes[1].get_lines()[:2], *figure.axes[2].get_lines()
    assert len({in_grey(line) for line in (norm, clip, rate)}) == 3


@pytest.mark.parametrize(("count", "size"), [(100, 1), (125, 5), (600, 20), (7, 7)])
def test_the_mean_is_that_of_so_many_steps_at_their_middle(count, size):
    rng = np.random.default_rng(0)
    steps, losses = np.arange(1.0, count + 1), rng.random(count)
    if count != size:
        assert window(count) == size
    found = smooth(Series(steps, losses), size)
    expected = [sum(losses[i : i + size]) / size for i in range(count - size + 1)]
    np.testing.assert_allclose(found.values, expected, rtol=1e-12)
    np.testing.assert_allclose(found.steps, [i + (size + 1) / 2 for i in range(count - size + 1)], rtol=1e-12)


def test_a_mean_lies_on_a_loss_that_falls_in_a_line():
    """A running mean lags above it, at the beginning most."""
    steps = np.arange(1.0, 601)
    found = smooth(Series(steps, 9 - steps / 100), 20)
    np.testing.assert_allclose(found.values, 9 - found.steps / 100, rtol=1e-12)


def test_a_run_of_few_steps_is_not_smoothed_and_shows_each(tmp_path):
    run = write_run(tmp_path / "run", 60)
    figure = drawn(run)
    assert "training,\neach step" in texts(figure) and "mean of" not in texts(figure)
    np.testing.assert_array_equal(figure.axes[0].get_lines()[0].get_ydata(), read_run(run).loss.values)


def test_a_long_run_has_a_band_that_reaches_to_its_extremes(tmp_path):
    run = write_run(tmp_path / "run", 5000, 500)
    lines = (run / "metrics.jsonl").read_text().splitlines()
    lines = [json.dumps(json.loads(line) | {"loss": 7.5}) if '"step": 3456, "loss"' in line else line for line in lines]
    (run / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    figure = drawn(run)
    (band,) = figure.axes[0].collections
    corners = band.get_paths()[0].vertices
    losses = read_run(run).loss.values
    assert corners[:, 1].max() == losses.max() and corners[:, 1].min() == losses.min()
    assert 7.5 in corners[:, 1] and len(corners) < 2000
    assert "(band: range of 7)" in texts(figure)


def test_what_is_not_a_number_is_left_out_and_what_comes_twice_counts_once(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    lines = ['{"step": 1, "loss": 3.0, "lr": null, "grad_norm": "x"}', '{"step": 2, "loss": null}',
             '{"step": 2, "validation_loss": null}', '{"step": 3, "extended": 900}', '{"step": 1, "loss": 2.5}',
             '{"step": 3, "loss": 2.0, "grad_norm": 1e40}', '{"step": 4, "lo']  # fmt: skip
    (run / "metrics.jsonl").write_text("\n".join(lines))
    found = read_run(run)
    np.testing.assert_array_equal(found.loss, [[1, 3], [2.5, 2.0]])
    assert not len(found.validation.steps) and not len(found.lr.steps) and not len(found.norm.steps)
    figure = drawn(run)
    require_readable(figure)
    assert len(figure.axes) == 1  # nothing is known of the learning rate, so it has no panel


@pytest.mark.parametrize("lines", ['{"step": 0, "validation_loss": 4.0}\n', ""])
def test_a_run_that_was_stopped_as_it_began_is_drawn(lines, tmp_path):
    (tmp_path / "metrics.jsonl").write_text(lines)
    assert plot_losses(tmp_path / "metrics.jsonl", tmp_path / "loss.png")
    figure = drawn(tmp_path)
    require_readable(figure)
    assert ("nothing is logged yet" in texts(figure)) == (not lines)
    if lines:
        axes = figure.axes[-1]
        low, high = axes.get_xlim()
        shown = [tick.get_text() for tick in axes.get_xticklabels() if low <= tick.get_position()[0] <= high]
        assert shown == ["0"]  # a whole step, and not three parts of one


def test_settings_that_cannot_be_read_cost_their_line_only(tmp_path):
    run = write_run(tmp_path / "run", 60)
    assert "clipped to 1" in texts(drawn(run))
    for damaged in ("{", '{"clip": null}', '{"clip": "1"}', "[]"):
        (run / "settings.json").write_text(damaged)
        assert "clipped" not in texts(drawn(run))
    (run / "last").mkdir()
    (run / "last/config.json").write_text('{"n_layer": "two"}')
    assert "layers" not in texts(drawn(run))


def test_a_run_that_was_extended_is_marked_where_it_was(tmp_path):
    run = write_run(tmp_path / "run", 60)
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"step": 20, "planned_before": 20, "planned_steps": 40}\n')
        file.write('{"step": 40, "planned_before": 40, "planned_steps": 60}\n')
    figure = drawn(run)
    require_readable(figure)
    assert "extended to 60 steps" in texts(figure)
    for axes in figure.axes[:2]:
        assert {20.0, 40.0} <= {line.get_xdata()[0] for line in axes.get_lines() if len(set(line.get_xdata())) == 1}


@pytest.mark.parametrize(
    ("clip", "norms", "scale"), [(1.0, (2.0, 3.0), "linear"), (1.0, (0.5, 60.0), "log"), (None, (0, 9), "linear")]
)
def test_the_gradient_norm_is_on_a_logarithmic_scale_where_it_varies_much(clip, norms, scale, tmp_path):
    run = write_run(tmp_path / "run", 2, clip=clip)
    lines = [{"step": step, "loss": 3.0, "lr": 0.1, "grad_norm": norm} for step, norm in enumerate(norms, 1)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    figure = drawn(run)
    require_readable(figure)
    assert figure.axes[1].get_yscale() == scale
    assert ("clipped to 1" in texts(figure)) == (clip is not None)


@pytest.mark.parametrize("count", [2, 8, 16])
def test_several_runs_are_told_apart_without_colors_and_labelled_beside_their_curves(count, tmp_path):
    names = ["$odd$ 日", *(f"run-{number}-with-a-name-that-is-much-too-long" for number in range(1, count))]
    runs = [
        read_run(write_run(tmp_path / name, 300 + 50 * (number % 3), 50, seed=number))
        for number, name in enumerate(names)
    ]
    figure = figures.new_figure("test")
    compare(figure, runs)
    require_readable(figure)
    assert len(figure.axes) == 2
    for axes in figure.axes:
        lines = axes.get_lines()[:count]
        assert len({in_grey(line)[:3] for line in lines}) == count  # by their patterns and markers alone
    said = texts(figure)
    assert said.count("run-1-with") == 2 and f"\\$odd\\$ \\u65e5, best {runs[0].validation.values.min():.4g}" in said
    assert "training loss, mean of 10 steps" in said


def test_tokens_and_time_are_those_of_the_log(tmp_path):
    run = write_run(tmp_path / "run", 100)  # 50 ms and 1,024 tokens per step
    figure = drawn(run, "tokens")
    np.testing.assert_allclose(figure.axes[0].get_lines()[0].get_xdata(), 1024 * np.arange(1, 101))
    assert "tokens" in texts(figure)
    figure = drawn(run, "time")
    np.testing.assert_allclose(figure.axes[0].get_lines()[0].get_xdata(), 0.05 * np.arange(1, 101))
    assert "seconds of training, without validation" in texts(figure)
    later = drawn(run, "time", after=51)
    np.testing.assert_allclose(later.axes[0].get_lines()[0].get_xdata(), 0.05 * np.arange(51, 101))


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(("a/wide", "b/wide", "c")):
        write_run(Path(name), 50 + number, 25)
    return tmp_path


def test_one_run_is_drawn_into_its_folder_and_several_into_this_one(here, capsys):
    assert main(["plot", "a/wide"]) == 0 and main(["plot", "c", "a/wide"]) == 0
    assert (
        main(["plot", "c", "-o", "c.svg"]) == 0
        and main(["plot", "c", "b/wide", "--out", "two.PDF", "--from", "9"]) == 0
    )
    assert capsys.readouterr().out.splitlines() == ["a/wide/loss.png", "comparison.png", "c.svg", "two.PDF"]
    assert Path("c.svg").read_text().startswith("<?xml") and Path("two.PDF").read_bytes().startswith(b"%PDF")
    assert PICTURES == figures.FORMATS


def test_runs_of_the_same_name_are_called_by_their_paths(here, monkeypatch):
    kept = []
    monkeypatch.setattr(figures, "save", lambda figure, path: kept.append(figure))
    assert main(["plot", "a/wide", "b/wide"]) == main(["plot", "a/wide", "c"]) == 0
    assert "a/wide, best" in texts(kept[0]) and "b/wide, best" in texts(kept[0])
    assert "\nwide, best" in texts(kept[1])


def test_a_run_in_runs_is_known_by_its_bare_name(here, capsys):
    shutil.copytree("c", "runs/bare")
    assert main(["plot", "bare"]) == 0 and Path("runs/bare/loss.png").exists()


def test_a_run_in_training_is_drawn_up_to_its_last_whole_line(here):
    path = Path("c/metrics.jsonl")
    path.write_bytes(path.read_bytes()[:-20])
    assert main(["plot", "c"]) == 0 and Path("c/loss.png").exists()


@pytest.mark.parametrize(("words", "said"), [
    ("none", "none must be the folder of a run, and has no metrics.jsonl; check the name"),
    ("c none", "none must be the folder of a run, and has no metrics.jsonl; check the name"),
    ("c/metrics.jsonl", "c/metrics.jsonl must be the folder of a run, and has no metrics.jsonl; check the name"),
    ("damaged", "damaged/metrics.jsonl, line 2, is damaged: "),
    ("c damaged", "damaged/metrics.jsonl, line 2, is damaged: "),
    ("empty", "empty/metrics.jsonl has no loss yet: there is nothing to draw"),
    ("c --from 99", "c/metrics.jsonl has no loss from step 99 on: there is nothing to draw"),
    ("plain --x time", "--x time needs ms for every step, which the log of plain lacks; use --x steps"),
    ("c plain --x tokens", "--x tokens needs ms and tokens_per_second for every step, which the log of plain lacks"),
    ("c " * 17, "one picture shows at most 16 runs, got 17"),
    ("c -o c.jpg", "-o/--out must end in .png, .svg or .pdf, got c.jpg"),
    ("c -o none/c.png", "-o/--out must be in a folder that exists, got none/c.png"),
    ("c -o a", "-o/--out must be a file, got the folder a"),
    ("c --from -1", "--from must be at least 0, got -1"),
])  # fmt: skip
def test_what_cannot_be_drawn_is_one_line(here, capsys, words, said):
    for name, lines in (
        ("damaged", '{"step": 1, "loss": 2.0}\n{"step": 2, "los\n'),
        ("empty", ""),
        ("plain", '{"step": 1, "loss": 2.0}\n'),
    ):
        Path(name).mkdir()
        Path(name, "metrics.jsonl").write_text(lines)
    before = sorted(here.rglob("*"))
    try:
        status = main(["plot", *words.split()])
    except SystemExit as error:
        status = error.code
    captured = capsys.readouterr()
    assert (status, captured.out, captured.err.count("\n")) == (2, "", 1)
    assert captured.err.startswith(f"tinygpt: plot: {said}")
    assert sorted(here.rglob("*")) == before


def test_without_matplotlib_it_says_what_to_install(here, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    assert main(["plot", "c"]) == 2
    assert capsys.readouterr().err == 'tinygpt: plot: drawing needs matplotlib: pip install "tinygpt[plot]"\n'
    assert not plot_losses(Path("c/metrics.jsonl"), Path("c/loss.png")) and not Path("c/loss.png").exists()


def test_the_choices_on_the_help_page_are_those_of_the_picture():
    from tinygpt.cli.plot import _SCALES

    assert plot.SCALES == _SCALES

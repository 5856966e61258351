"""The first command of all, on a terminal: kernels are compiled before the bar begins; Ctrl-C loses none of them."""

from __future__ import annotations

import re

import pytest
from terminals import Terminal, screen_of

pytest.importorskip("pty")

TRAIN = (
    "-m",
    "tinygpt",
    "train",
    "--steps",
    "12",
    "--batch-size",
    "2",
    "--context",
    "32",
    "--eval-every",
    "6",
    "--out",
)


@pytest.mark.parametrize("columns", [60, 80])
def test_a_training_run_fits_the_window_and_prints_no_escape_sequence(columns, tmp_path):
    terminal = Terminal(columns, *TRAIN, str(tmp_path / "run"), NO_COLOR="1")
    assert terminal.finish() == 0
    bars = [frame for frame in terminal.frames() if re.match(r"training|validating|learning|counting", frame)]
    assert len(bars) > 5 and max(map(len, bars)) < columns
    assert re.fullmatch(
        r"training 100%( \|.*\|)? 12/12, in \d\d:\d\d, loss [\d.]+, val [\d.]+(, .*)?", bars[-1].rstrip()
    )
    assert not re.search(r"[^\r\n](training +\d|step \d+: )", terminal.text)  # a bar and a line share none
    assert "\x1b" not in terminal.text
    told = [line for line in screen_of(terminal.text) if re.match(r"step \d+:|  \S", line)]
    assert len(told) >= 6 and max(map(len, told)) < columns  # a run and its validations are described within the window


@pytest.mark.parametrize("command", [["--help"], ["train", "--help"], ["cache"], ["train", "--lr", "x"]])
def test_no_color_means_no_escape_sequence(command):
    terminal = Terminal(80, "-m", "tinygpt", *command, NO_COLOR="1", FORCE_COLOR=None)
    assert terminal.finish() in (0, 2)
    assert len(terminal.text) > 20 and "\x1b" not in terminal.text


@pytest.mark.slow
def test_an_interrupted_compilation_is_shown_again_for_what_is_left(tmp_path):
    cache = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "NUMBA_CACHE_DIR": None}
    first = Terminal(60, *TRAIN, "run", cwd=tmp_path, **cache)
    first.read(until="once: 3 done")
    first.press("\x03")
    assert first.finish() == 130
    assert first.text.endswith("tinygpt: interrupted\r\n") and "Traceback" not in first.text
    kept = list((tmp_path / "cache").rglob("*.nbc"))
    assert kept and not list((tmp_path / "cache").rglob("*.compiled"))

    again = Terminal(60, *TRAIN, "run", cwd=tmp_path, **cache)  # without --resume: nothing of the run was written
    assert again.finish() == 0, again.text
    shown = [frame for frame in again.frames() if frame.startswith("compiling")]
    assert shown and max(map(len, again.frames()[: again.frames().index(shown[-1])])) < 60
    assert shown[0].startswith("compiling kernels, once: 0 done") and any(", now " in frame for frame in shown)
    count = int(re.search(r"\rtinygpt: compiled kernels \((\d+)\) in \d+ s\r\n", again.text)[1])
    assert 0 < count <= len(list((tmp_path / "cache").rglob("*.nbc"))) - len(kept)
    assert again.text.index("compiled kernels") < again.text.index("training")
    assert len(list((tmp_path / "cache").rglob("*.compiled"))) == 3

    warm = Terminal(60, "-m", "tinygpt", "evaluate", "run", "--data", "run/settings.json", cwd=tmp_path, **cache)
    warm.finish()
    assert "compil" not in warm.text

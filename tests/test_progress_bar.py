"""Progress as a user sees it: within the window, nothing cut; in a log a bounded number of plain lines."""

from __future__ import annotations

import io
import itertools
import re
import subprocess
import sys

import pytest
from terminals import Terminal, screen_of

from tinygpt.runtime import progress_bar
from tinygpt.runtime.progress_bar import ProgressBar
from tinygpt.training.progress import TrainingProgress

pytest.importorskip("pty")

PROGRAM = """
import sys, time
from tinygpt.runtime.streams import bar, say, tell, run_command
def work():
    with bar(total=1200, desc="training", unit="step", mininterval=0) as shown:
        for step in range(1200):
            if step % 100 == 0:
                tell(f"step {step}: validation")
            shown.set_fields(["loss 7.306", "val 7.647", "1,234 tok/s", "lr 4.0e-04", "norm 12.34", "2,430 ms"])
            shown.update()
    with bar(total=7_100_000, desc="vocab.bpe", unit="B", unit_scale=True, mininterval=0) as shown:
        for block in range(100):
            shown.update(71_000)
    with bar(desc="counting words", unit=" characters", unit_scale=True, mininterval=0) as shown:
        for block in range(100):
            shown.update(123_456)
    for _ in bar(iterable=range(40), desc="gradcheck", unit="op", leave=False, mininterval=0):
        pass
    return 0
run_command(work)
"""
# Whole fields, in the order in which they matter.
TRAINING = re.compile(
    r"training +\d+%( \|[^|]+\|)? \d+/1200(, (in )?\d+:\d\d( left)?(, loss 7\.306(, val 7\.647(, 1,234 tok/s"
    r"(, lr 4\.0e-04(, norm 12\.34(, 2,430 ms)?)?)?)?)?)?)?"
)
OTHERS = re.compile(
    r"vocab\.bpe +\d+%( \|[^|]+\|)? [\d.]+[kM]?/7\.10MB(, (in )?\d+:\d\d( left)?(, [\d.]+[kMG]?B/s)?)?|"
    r"counting words [\d.]+[kM]? characters(, [\d.]+[kMG]? characters/s)?(, \d+:\d\d)?|"
    r"gradcheck +\d+%( \|[^|]+\|)? \d+/40(, (in )?\d+:\d\d( left)?(, [\d,.]+ op/s)?)?|step \d+: validation"
)


@pytest.mark.parametrize("columns", [40, 60, 80, 120])
def test_every_line_fits_the_window_and_no_field_is_cut(columns):
    terminal = Terminal(columns, "-c", PROGRAM)
    assert terminal.finish() == 0
    frames = terminal.frames()
    assert len(frames) > 1000 and max(map(len, frames)) < columns
    for frame in frames:
        assert TRAINING.fullmatch(frame.rstrip()) or OTHERS.fullmatch(frame.rstrip()), frame
    assert "\x1b" not in terminal.text
    last = [frame for frame in frames if frame.startswith("training")][-1]
    assert ("loss 7.306, val 7.647" in last) == (columns >= 60) and ("1,234 tok/s" in last) == (columns >= 80)
    assert ("2,430 ms" in last) == (columns >= 120)
    assert screen_of(terminal.text)[:12] == [f"step {step}: validation" for step in range(0, 1200, 100)]


def test_a_window_that_becomes_narrower_is_filled_no_further():
    program = PROGRAM.replace("            shown.update()", "            shown.update(); time.sleep(0.002)")
    terminal = Terminal(100, "-c", program)
    terminal.read(until="10%")
    terminal.resize(60)
    terminal.read(until="20%")
    terminal.resize(110)
    terminal.read(until="40%")
    terminal.finish()
    widths = {percent: [len(frame) for frame in terminal.frames() if re.match(rf"training +{percent}%", frame)]
              for percent in (5, 19, 39)}  # fmt: skip
    assert max(widths[5]) == 99 and max(widths[19]) < 60 and max(widths[39]) == 109


@pytest.mark.parametrize("variables", [{"TERM": "dumb"}, {"TERM": "dumb", "NO_COLOR": "1"}])
def test_a_terminal_that_cannot_draw_a_line_again_has_lines_alone(variables):
    terminal = Terminal(80, "-c", PROGRAM, **variables)
    assert terminal.finish() == 0
    assert "\r" not in terminal.text.replace("\r\n", "\n") and "\x1b" not in terminal.text


def test_a_log_file_has_no_carriage_return_and_what_takes_no_time_has_no_line(tmp_path):
    with open(tmp_path / "log", "wb") as log:
        subprocess.run([sys.executable, "-c", PROGRAM], stdout=log, stderr=log, check=True)
    assert (tmp_path / "log").read_text() == "".join(f"step {step}: validation\n" for step in range(0, 1200, 100))


def test_tqdms_variables_neither_stop_nor_change_the_work_and_one_hides_bars(tmp_path):
    program = PROGRAM.replace("range(1200)", "range(12)").replace("for block in range(100)", "for block in range(2)")
    wrong = {"TQDM_MININTERVAL": "abc", "TQDM_WRITE_BYTES": "1", "TQDM_LOCK_ARGS": "3", "TQDM_UNIT_SCALE": "1",
             "TQDM_POSITION": "3", "TQDM_COLOUR": "red", "TQDM_GUI": "1"}  # fmt: skip
    terminal = Terminal(80, "-c", program, **wrong)
    assert terminal.finish() == 0
    assert "training   1% | " in terminal.text and " 12/1200, " in terminal.text and "\x1b" not in terminal.text
    terminal = Terminal(80, "-c", program, TQDM_DISABLE="1")
    assert terminal.finish() == 0
    assert terminal.frames() == ["step 0: validation"]
    terminal = Terminal(80, "-c", program, TQDM_DISABLE="0")
    assert terminal.finish() == 0
    assert " 12/1200, " in terminal.text


@pytest.mark.parametrize("columns", [1, 2, 3, 9])
def test_no_window_is_so_narrow_that_a_run_stops(columns):
    program = """
from tinygpt.training.progress import TrainingProgress
figures = {"loss": 7.0, "tokens_per_second": 1.0, "lr": 1.0, "grad_norm": 1.0, "ms": 1.0}
with TrainingProgress(0, 2, told=True, drawn=True) as progress:
    progress.tell("step 0: validation loss 5.0\\n    a story")
    progress.stepped(figures, 7.5)
    progress.stepped(figures, 7.5)
print("to the end")
"""
    terminal = Terminal(columns, "-c", program)
    assert terminal.finish() == 0
    assert terminal.text.endswith("to the end\r\n") and "5.0" in terminal.text


class Clock:
    """The seconds of a run that takes days."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def lines_of(steps: int, seconds_per_step: float, monkeypatch) -> list[tuple[float, str]]:
    """Each line of a log, with the second at which it was written."""
    clock, log = Clock(), io.StringIO()
    lines = []
    monkeypatch.setattr(progress_bar.tqdm, "monitor_interval", 0)
    with ProgressBar(total=steps, desc="training", unit="step", file=log, delay=0) as shown:
        shown._time, shown.start_t = clock, 0.0
        for _ in range(steps):
            clock.now += seconds_per_step
            shown.update()
            if log.getvalue():
                lines.append((clock.now, log.getvalue()))
                log.seek(0), log.truncate()
    return [*lines, (clock.now, log.getvalue())] if log.getvalue() else lines


@pytest.mark.parametrize(
    ("steps", "seconds_per_step", "fewest", "most"),
    [(50, 0.01, 0, 0), (1200, 0.05, 5, 12), (1200, 2.4, 50, 150), (200, 60, 30, 200), (100_000, 1.0, 150, 600)],
)
def test_a_log_has_neither_thousands_of_lines_nor_too_few(steps, seconds_per_step, fewest, most, monkeypatch):
    lines = lines_of(steps, seconds_per_step, monkeypatch)
    assert fewest <= len(lines) <= most
    between = [later - before for (before, _), (later, _) in itertools.pairwise(lines[:-1])]
    assert all(4 <= seconds <= 2000 for seconds in between)
    for _, line in lines[:-1]:
        count = int(re.match(r"training (\d+)/", line)[1])
        assert count % 10 ** (len(str(count)) - 1) == 0 or count % 5 == 0 or count < 10 or seconds_per_step > 5
        assert re.search(r"\), .*, [\d:]+ elapsed, [\d:]+ left\n$", line), line
    assert not lines or re.fullmatch(rf"training {steps}/{steps} \(100%\), .*, [\d:]+ elapsed\n", lines[-1][1])


def test_the_time_left_is_that_of_the_steps_done_here():
    """A resumed run: the steps of the run before took no time in this one."""
    log = io.StringIO()
    with ProgressBar(total=300, initial=100, desc="training", file=log, smoothing=0) as shown:
        shown._time, shown.start_t = lambda: 150.0, 0.0
        shown.update(50)
        shown.write_line()
    assert "training 150/300 (50%)" in log.getvalue() and "02:30 elapsed, 07:30 left" in log.getvalue()


@pytest.mark.parametrize("columns", [40, 80])
def test_sentences_are_broken_between_words_and_commands_are_left_whole(columns):
    sentence = "final validation loss 5.3512, perplexity 210.9, 2.602 bits per byte (it was 7.5958 before training)"
    command = "to continue: tinygpt train --resume --out runs/a-name-that-is-rather-long-for-a-terminal-of-80-columns"
    program = f"from tinygpt.runtime.streams import tell; tell({sentence!r}, wrap=True); tell({command!r})"
    terminal = Terminal(columns, "-c", program)
    assert terminal.finish() == 0
    *lines, last = terminal.text.replace("\r", "").rstrip("\n").split("\n")
    assert last == command and len(lines) > 1 and max(map(len, lines)) < columns
    assert " ".join(" ".join(lines).split()) == sentence
    assert not any(line.startswith(" ") for line in lines[:1]) and all(line.startswith("  ") for line in lines[1:])


def test_the_bar_of_a_finished_run_shows_the_validation_loss_of_its_end(as_on_a_terminal, capsys):
    figures = {"loss": 5.4, "lr": 1e-3, "grad_norm": 1.0, "ms": 30.0, "tokens_per_second": 1234.0}
    with TrainingProgress(0, 1, told=True, drawn=True) as shown:
        shown.stepped(figures, 7.596)
        shown.validated(5.351)
    last = capsys.readouterr().err.rstrip().split("\r")[-1]
    assert "1/1" in last and "val 5.351" in last

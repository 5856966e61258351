"""Standard streams that are missing, closed, full, narrow or without a reader: nothing that computes or saves stops."""

from __future__ import annotations

import errno
import io
import json
import math
import os
import re
import signal
import subprocess
import sys

import numpy as np
import pytest

from tinygpt import GPT, GPTConfig, Tokenizer
from tinygpt.cli.main import main
from tinygpt.runtime.interrupt import Interrupt
from tinygpt.runtime.streams import Stream, bar, say, tell, to_json

SMALL = ["--steps", "2", "--batch-size", "1", "--context", "8", "--vocab-size", "260", "--eval-every", "1"]


class Failing(io.StringIO):
    """A stream of which every write, or every flush, fails."""

    def __init__(self, number: int, at: str = "write") -> None:
        super().__init__()
        self.number, self.at = number, at

    def write(self, text):
        return self._fail("write") or super().write(text)

    def flush(self):
        self._fail("flush")

    def _fail(self, where):
        if where == self.at:
            raise OSError(self.number, os.strerror(self.number))


def closed() -> io.StringIO:
    stream = io.StringIO()
    stream.close()
    return stream


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hens.txt").write_text("The hen counts her eggs, and then the eggs count her. " * 40, encoding="utf-8")
    return tmp_path


@pytest.fixture
def model(folder):
    tokenizer = Tokenizer([bytes([byte]) for byte in range(256)], [], {})
    GPT(GPTConfig(256, 16, 8, 1, 2), seed=1).save_pretrained("model", tokenizer)
    return tokenizer


STREAMS = {
    "missing": lambda: None,
    "closed": closed,
    "full": lambda: Failing(errno.ENOSPC),
    "full when flushed": lambda: Failing(errno.ENOSPC, "flush"),
    "without a reader": lambda: Failing(errno.EPIPE),
    "of a terminal that is gone": lambda: Failing(errno.EIO),
    "narrow": lambda: io.TextIOWrapper(io.BytesIO(), encoding="ascii"),
}


@pytest.mark.parametrize("kind", STREAMS)
def test_training_goes_on_and_saves_whatever_its_streams_are(folder, monkeypatch, kind):
    monkeypatch.setattr(sys, "stdout", STREAMS[kind]())
    monkeypatch.setattr(sys, "stderr", STREAMS[kind]())
    assert main(["train", "--data", "hens.txt", "--out", "run", *SMALL]) == 0
    assert json.loads((folder / "run/last/training_state.json").read_text())["step"] == 2
    assert len((folder / "run/metrics.jsonl").read_text().splitlines()) == 5  # two steps, three validations


@pytest.mark.parametrize("kind", STREAMS)
def test_what_saves_without_training_does_too(folder, monkeypatch, kind):
    monkeypatch.setattr(sys, "stdout", STREAMS[kind]())
    monkeypatch.setattr(sys, "stderr", STREAMS[kind]())
    assert main(["tokenizer", "train", "hens.txt", "-o", "tok", "--vocab-size", "260"]) == 0
    assert main(["tokenizer", "encode", "hens.txt", "-o", "hens.bin", "--tokenizer", "tok"]) == 0
    assert main(["tokenizer", "decode", "hens.bin", "--tokenizer", "tok", "-o", "again.txt"]) == 0
    assert (folder / "again.txt").read_text() == (folder / "hens.txt").read_text() + "<|endoftext|>"
    assert main(["exercise", "gelu"]) == 0 and (folder / "gelu_exercise.py").exists()


PRINTING = [["museum"], ["museum", "1", "--hint"], ["explain", "layernorm"], ["exercise"], ["--help"], ["--version"],
            ["train", "--help"], ["tokenizer", "info", "model"], ["tokenizer", "decode", "65", "--tokenizer", "model"],
            ["generate", "model", "--prompt", "a", "--max-tokens", "3"],
            ["generate", "model", "--prompt", "a", "--max-tokens", "3", "--json"],
            ["evaluate", "model", "--data", "hens.txt", "--json"]]  # fmt: skip


def status_of(arguments: list[str]) -> int:
    try:
        return main(arguments)
    except SystemExit as end:  # of --help and --version
        return end.code or 0


@pytest.mark.parametrize("arguments", PRINTING, ids=" ".join)
def test_a_command_that_only_prints_ends_silently_when_its_reader_goes_away(model, monkeypatch, capsys, arguments):
    for kind, status in (("without a reader", 141), ("closed", 141), ("missing", 0), ("narrow", 0)):
        monkeypatch.setattr(sys, "stdout", STREAMS[kind]())
        assert status_of(arguments) == status, kind
        said = capsys.readouterr().err
        assert not re.search(r"Traceback|rror|ipe\b|written", said)  # first compilations are announced
    monkeypatch.setattr(sys, "stdout", Failing(errno.ENOSPC))
    assert status_of(arguments) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line == "tinygpt: standard output cannot be written: No space left on device; nothing else is wrong"


def test_streams_are_as_they_were_after_a_command(monkeypatch):
    before = sys.stdout, sys.stderr
    assert main(["museum"]) == 0
    assert (sys.stdout, sys.stderr) == before and sys.stdout is before[0]


def test_the_reader_of_a_real_pipe_goes_away(model):
    for arguments in (["museum"], ["generate", "model", "--prompt", "a", "--max-tokens", "100000"]):
        command = [sys.executable, "-m", "tinygpt", *arguments]
        reader, writer = os.pipe()
        process = subprocess.Popen(command, stdout=writer, stderr=subprocess.PIPE)
        os.close(writer)
        if arguments[0] == "generate":
            os.read(reader, 1)
        os.close(reader)  # a short text must find nobody: once it is all in the pipe, it was written
        assert not re.search(rb"Traceback|rror|ipe\b", process.stderr.read())  # first compilations are announced
        assert process.wait(timeout=120) == 141


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_device(folder):
    def shell(command: str) -> subprocess.CompletedProcess:
        environment = os.environ | {"PYTHON": sys.executable}
        return subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=300, env=environment)

    printed = shell('"$PYTHON" -m tinygpt museum > /dev/full')
    assert (printed.returncode, printed.stderr.count("\n")) == (2, 1) and "No space left" in printed.stderr
    options = " ".join(SMALL)
    assert shell(f'"$PYTHON" -m tinygpt train --data hens.txt --out a {options} > /dev/full').returncode == 0
    assert shell(f'"$PYTHON" -m tinygpt train --data hens.txt --out b {options} >&- 2>/dev/full').returncode == 0
    for run in ("a", "b"):
        assert json.loads((folder / run / "last/training_state.json").read_text())["final"]


def test_files_do_not_get_the_numbers_of_closed_streams(folder):
    """What C code writes to standard error would end up in a checkpoint."""
    code = """
import os, sys
from tinygpt.runtime.streams import run_command
def command():
    with open("work.bin", "wb") as file:
        file.write(b"work")
        file.flush()
        os.write(1, b"from C"), os.write(2, b"from C")
    return 0
sys.exit(run_command(command))
"""
    done = subprocess.run(["sh", "-c", '"$0" -c "$1" <&- >&- 2>&-', sys.executable, code], timeout=120)
    assert done.returncode == 0
    assert (folder / "work.bin").read_bytes() == b"work"


def test_json_in_a_narrow_stream_is_still_json(model, monkeypatch):
    screen = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    monkeypatch.setattr(sys, "stdout", screen)
    prompt = "é \u2603 \U0001f600"
    assert main(["generate", "model", "--prompt", prompt, "--max-tokens", "2", "--json"]) == 0
    assert json.loads(screen.buffer.getvalue().decode("latin-1"))["prompt"] == prompt


def test_a_narrow_stream_gets_escapes_and_the_rest_as_it_is(model, monkeypatch):
    screen = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    monkeypatch.setattr(sys, "stdout", screen)
    assert main(["generate", "model", "--prompt", "é \u2603", "--max-tokens", "1"]) == 0
    assert screen.buffer.getvalue().startswith(b"\xe9 \\u2603")


def test_json_has_no_numbers_that_json_lacks():
    values = {"a": math.nan, "b": [math.inf, -math.inf, (1.5, np.float64("nan"))], "c": {"d": 1, "e": None, "f": True}}
    told = json.loads(to_json(values), parse_constant=lambda name: pytest.fail(name))
    assert told == {"a": None, "b": [None, None, [1.5, None]], "c": {"d": 1, "e": None, "f": True}}


def test_a_library_call_needs_no_streams(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    say("nobody hears"), tell("nobody sees")
    with bar(total=2) as shown:
        shown.update()
    assert Tokenizer.train("the hen, the hen", 258, progress=True).n_vocab == 258


def test_a_line_that_interrupts_a_line_is_dropped(monkeypatch):
    """A signal handler may come while the same stream is being written: that is a RuntimeError."""

    class Reentrant(io.StringIO):
        def write(self, text):
            raise RuntimeError("reentrant call inside <_io.BufferedWriter name='<stderr>'>")

    monkeypatch.setattr(sys, "stderr", Reentrant())
    with Interrupt() as interrupt:
        os.kill(os.getpid(), signal.SIGTERM)
        assert interrupt.requested


def test_writing_bytes_keeps_them_and_their_order():
    screen = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    stream = Stream(screen)
    stream.write("a")
    stream.write_bytes(b"\xff\r\n")
    assert screen.buffer.getvalue() == b"a\xff\r\n"


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="needs SIGHUP")
def test_a_hangup_is_a_request_twice_and_not_at_all_where_it_is_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        with Interrupt() as interrupt:
            for number in (signal.SIGHUP, signal.SIGHUP, signal.SIGTERM):
                os.kill(os.getpid(), number)
            assert interrupt.requested
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_DFL
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        with Interrupt() as interrupt:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not interrupt.requested
    finally:
        signal.signal(signal.SIGHUP, before)


def test_ctrl_c_after_a_hangup_ends_at_once():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with Interrupt() as interrupt:
            os.kill(os.getpid(), signal.SIGTERM)
            assert interrupt.requested
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
                signal.sigtimedwait([], 1)
    finally:
        signal.signal(signal.SIGINT, before)

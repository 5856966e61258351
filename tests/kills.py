"""
Runs that are killed, stopped or refused their writes, and what is left of them: a table.

    python tests/kills.py --kills 100 --signals 20 --faults 0     (0: a fault at every write; N: at N of them)

Every run is resumed (or begun again, if it had not begun), and what it leaves must equal, in every byte, what a run
leaves that nobody disturbed: settings, all checkpoints, and all fields of the metrics but the times.

Faults are injected without help of the system: `open`, `os.fsync`, `os.rename`, `os.replace` and `os.mkdir` are
replaced by functions that count the operations that change the disk, and raise ENOSPC or EIO at the n-th one, once or
ever after; a write that fails has written half of its bytes by then.
"""

from __future__ import annotations

import argparse
import builtins
import contextlib
import errno
import io
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib.figure  # noqa: F401 (now, so that a run, which is a fork of this process, need not)

from tinygpt import GPT, GPTConfig, Tokenizer
from tinygpt.cli.main import main
from tinygpt.files.atomic import atomic_write
from tinygpt.gpt2 import memory_estimate  # noqa: F401 (as matplotlib: each run asks for it)
from tinygpt.training import train

TEXT = "\n".join(f"The hen counts {n} eggs, and then {n + 1}." for n in range(120))
OPTIONS = ["--steps", "4", "--eval-every", "2", "--batch-size", "2", "--context", "16", "--vocab-size", "270",
           "--eval-tokens", "100", "--dropout", "0.1", "--keep-every", "3", "--quiet"]  # fmt: skip
TIMES = ("ms", "tokens_per_second")
SIGNALS = ("SIGTERM", "SIGHUP", "SIGINT", "SIGSTOP and SIGCONT", "SIGTERM twice")
LONGEST = 300.0  # seconds until a run counts as hanging


def begin(folder: Path, run: Path, small: bool = False) -> list[str]:
    start = ["--preset", "tiny", "--init-from", str(folder / "model")] if small else []
    return ["train", "--data", str(folder / "hens.txt"), "--out", str(run), *OPTIONS, *start]


def go_on(folder: Path, run: Path, small: bool = False) -> list[str]:
    """As a user would: resume what has begun, else begin."""
    if (run / "settings.json").exists():
        return ["train", "--resume", "--out", str(run), "--quiet"]
    return begin(folder, run, small)


def write_model(folder: Path) -> None:
    """A model of few arrays to begin with: each is an operation that may fail."""
    tokenizer = Tokenizer.train(TEXT, 270, progress=False)
    GPT(GPTConfig(270, 16, 8, 1, 2), seed=1).save_pretrained(folder / "model", tokenizer)


def contents(run: Path) -> dict[str, Any]:
    """All that a run leaves, without the times."""
    found: dict[str, Any] = {}
    for path in sorted(run.rglob("*")):
        name = str(path.relative_to(run))
        if name == "metrics.jsonl":
            lines = [json.loads(line) for line in path.read_text(encoding="ascii").splitlines()]
            found[name] = [{key: value for key, value in line.items() if key not in TIMES} for line in lines]
        elif name == "config.toml":  # its comments have the command, which names the run
            found[name] = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
        elif path.is_file():
            found[name] = path.read_bytes()
    found["loss.png"] = found.get("loss.png", b"")[:4]  # its title is the name of the run
    return found


def differences(run: Path, expected: dict[str, Any]) -> list[str]:
    found = contents(run)
    return sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))


# Runs in a process of their own, which begins with everything imported


def start(arguments: list[str]) -> int:
    """Fork a run; returns its process."""
    sys.stdout.flush()
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 1)
        os.dup2(null, 2)
        status = main(arguments)
    finally:
        os._exit(status)


def ended(process: int, seconds: float = LONGEST) -> int | None:
    """The exit status of a process (negative: of the signal that ended it), or None if it runs on."""
    deadline = time.monotonic() + seconds
    while True:
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            return None
        time.sleep(0.005)


def finished(process: int) -> str:
    status = ended(process)
    if status is None:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
    return "" if status == 0 else f"status {status}"


def disturb(process: int, how: str) -> str:
    """Send what `how` names to a process; says what is wrong with what became of it."""
    if how == "SIGKILL":
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
        return "" if ended(process) in (0, -signal.SIGKILL) else "not killed"
    if how == "SIGSTOP and SIGCONT":
        os.kill(process, signal.SIGSTOP)
        time.sleep(0.05)
        os.kill(process, signal.SIGCONT)
        return finished(process)
    name, _, twice = how.partition(" ")
    number = getattr(signal, name)
    for _ in range(2 if twice else 1):
        os.kill(process, number)
    status = ended(process)
    # Before the training has begun there is nothing to save, and the signal ends the process as usual.
    return "" if status in (0, -number, 130) else f"status {status}"


def place(run: Path) -> str:
    """How far a run had come."""
    if not (run / "settings.json").exists():
        return "before settings.json"
    if not (run / "last").is_dir():
        return "before the first save"
    state = json.loads((run / "last" / "training_state.json").read_text(encoding="utf-8"))
    if state["final"] is None:
        return "between saves"
    return "after the last save"


def disturbed(folder: Path, expected: dict[str, Any], how: str, times: int, seconds: float, rng: random.Random):
    """Disturb so many runs, each at a random moment, and yield for each where that was and what is wrong."""
    for number in range(times):
        run = folder / f"{how.replace(' ', '-')}-{number}"
        process = start(begin(folder, run))
        waiting = ended(process, rng.random() * seconds)
        trouble = ["status of an undisturbed run"] if waiting else []
        if waiting is None:
            trouble += filter(None, [disturb(process, how)])
        where = place(run)
        trouble += filter(None, [finished(start(go_on(folder, run)))])
        trouble += differences(run, expected)
        yield where, trouble
        shutil.rmtree(run, ignore_errors=True)


# Faults in the operations that change the disk


class Disk:
    """Counts the operations that change the disk, and lets the n-th fail, or all from then on."""

    def __init__(self, fail_at: int = 0, number: int = 0, for_ever: bool = False) -> None:
        self.count, self.fail_at, self.number, self.for_ever = 0, fail_at, number, for_ever

    def operation(self) -> None:
        self.count += 1
        if self.fail_at and (self.count == self.fail_at or (self.for_ever and self.count > self.fail_at)):
            raise OSError(self.number, os.strerror(self.number))


class Faulty:
    """A file of which writing may fail, half of it done."""

    def __init__(self, file: Any, disk: Disk) -> None:
        self._file, self._disk = file, disk

    def write(self, data: Any) -> int:
        try:
            self._disk.operation()
        except OSError:
            self._file.write(data[: len(data) // 2])
            raise
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()

    def __enter__(self) -> Faulty:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def __iter__(self) -> Iterator[Any]:
        return iter(self._file)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


@contextlib.contextmanager
def failing(disk: Disk, below: Path) -> Iterator[None]:
    """Inside, what changes files below a folder goes through the disk."""
    real = {(module, name): getattr(module, name) for module, name in
            ((builtins, "open"), (os, "fsync"), (os, "rename"), (os, "replace"), (os, "mkdir"))}  # fmt: skip

    def concerns(path: Any) -> bool:
        if isinstance(path, int):
            path = os.readlink(f"/proc/self/fd/{path}")
        return str(path).startswith(str(below))

    def opened(path: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        writes = any(letter in mode for letter in "wax+") and concerns(path)
        file = real[builtins, "open"](path, mode, *arguments, **options)
        return Faulty(file, disk) if writes else file

    def counted(function: Callable) -> Callable:
        def operation(first: Any, *arguments: Any, **options: Any) -> Any:
            if concerns(first):
                disk.operation()
            return function(first, *arguments, **options)

        return operation

    try:
        for (module, name), function in real.items():
            setattr(module, name, opened if name == "open" else counted(function))
        yield
    finally:
        for (module, name), function in real.items():
            setattr(module, name, function)


def run_here(arguments: list[str]) -> tuple[int, str]:
    """Run the command in this process; its status and what it said."""
    said, draw = io.StringIO(), train.plot_losses
    train.plot_losses = _draw_quickly
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        try:
            status = main(arguments)
        except BaseException:
            traceback.print_exc()
            status = 1
    train.plot_losses = draw
    return status, said.getvalue()


def _draw_quickly(metrics: Path, picture: Path) -> bool:
    """Write a picture as matplotlib's is written, in a hundredth of the time."""
    atomic_write(picture, b"\x89PNG")
    return True


def faulted(folder: Path, expected: dict[str, Any], code: int, for_ever: bool, places: list[int]):
    """Let runs fail at each of some operations, and yield for each what became of it and what is wrong."""
    for n in places:
        run = folder / "fault"
        disk = Disk(n, code, for_ever)
        with failing(disk, run):
            status, said = run_here(begin(folder, run, small=True))
        trouble = [said] if "Traceback" in said else []
        if status not in (0, 2) or (status == 2 and not said.startswith("tinygpt: ")):
            trouble.append(f"operation {n}: status {status}: {said}")
        again, said = run_here(go_on(folder, run, small=True))
        trouble += [f"operation {n}: resuming: status {again}: {said}"] if again else []
        trouble += [f"operation {n}: {name}" for name in differences(run, expected)]
        yield "went on" if status == 0 else "one line, status 2", trouble
        shutil.rmtree(run, ignore_errors=True)


def count_operations(folder: Path) -> tuple[int, dict[str, Any]]:
    """How many operations a run has that nothing disturbs, and what it leaves."""
    write_model(folder)
    disk = Disk()
    with failing(disk, folder / "counted"):
        status, said = run_here(begin(folder, folder / "counted", small=True))
    assert status == 0, said
    return disk.count, contents(folder / "counted")


def table(kills: int, signals: int, faults: int, seed: int = 0) -> tuple[str, int]:
    """The table, and how many of its rows have something wrong."""
    rng, rows, wrong = random.Random(seed), [], 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(os.path.realpath(name))
        (folder / "hens.txt").write_text(TEXT, encoding="utf-8")

        def add(what: str, results: Iterator[tuple[str, list[str]]]) -> None:
            nonlocal wrong
            where, troubles, count = Counter[str](), [], 0
            for kind, trouble in results:
                count, where = count + 1, where + Counter([kind])
                troubles += trouble
            wrong += bool(troubles)
            places = ", ".join(f"{number} {kind}" for kind, number in sorted(where.items()))
            rows.append(f"{what:22} {count:5}  {'all equal' if not troubles else f'{len(troubles)} WRONG'}  {places}")
            rows.extend(f"    {line}" for trouble in troubles[:5] for line in trouble.splitlines()[-3:])
            print(*rows[-6:] if troubles else rows[-1:], sep="\n", flush=True)

        if kills or signals:
            finished(start(begin(folder, folder / "warm")))  # what is compiled now need not be in the time of the next
            began = time.monotonic()
            assert not finished(start(begin(folder, folder / "whole")))
            seconds = time.monotonic() - began
            expected = contents(folder / "whole")
        if kills:
            add("SIGKILL", disturbed(folder, expected, "SIGKILL", kills, seconds, rng))
        for how in SIGNALS if signals else ():
            add(how, disturbed(folder, expected, how, signals, seconds, rng))
        if faults < 0:
            return "\n".join(rows), wrong
        operations, expected = count_operations(folder)
        places = list(range(1, operations + 1))
        print(f"{operations} operations of a run change the disk, of which faults are injected at {faults or 'all'}")
        chosen = sorted(rng.sample(places, min(faults, operations))) if faults else places
        for code in (errno.ENOSPC, errno.EIO):
            for for_ever in (False, True):
                what = f"{errno.errorcode[code]} {'from then on' if for_ever else 'once'}"
                add(what, faulted(folder, expected, code, for_ever, chosen))
    return "\n".join(rows), wrong


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--signals", type=int, default=20, help="of each of " + ", ".join(SIGNALS))
    parser.add_argument("--faults", type=int, default=0, help="operations to fail at; 0: every one, -1: none")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    raise SystemExit(bool(table(options.kills, options.signals, options.faults, options.seed)[1]))

"""The benchmarks of steps beside busy processes and of Python's share: processes end, and what is counted is right."""

from __future__ import annotations

import doctest
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numba
import pytest

from benchmarks import bench_python_share, bench_shared, bench_train_step, worker
from benchmarks.kernel_race import WrongResult

ROOT = Path(__file__).resolve().parents[1]
needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")


def ticks(pid: int) -> int:
    """The processor time that a process has used, in the system's ticks."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition, seconds: float = 30.0) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


@needs_proc
def test_busy_processes_are_busy_until_the_block_ends():
    with bench_shared.busy_processes(2) as processes:
        pids = [process.pid for process in processes]
        before = [ticks(pid) for pid in pids]
        assert wait_until(lambda: all(ticks(pid) > start + 5 for pid, start in zip(pids, before, strict=True)))
    assert not any(runs(pid) for pid in pids)


@needs_proc
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_busy_processes_end_with_an_error_and_with_ctrl_c(error):
    pids = []
    with pytest.raises(error), bench_shared.busy_processes(2) as processes:
        pids += [process.pid for process in processes]
        raise error
    assert len(pids) == 2 and not any(runs(pid) for pid in pids)


@needs_proc
@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGKILL])
def test_busy_processes_end_with_a_parent_that_is_killed(ending):
    code = """
        import time
        from benchmarks.bench_shared import busy_processes
        with busy_processes(2) as processes:
            print(*(process.pid for process in processes), flush=True)
            time.sleep(600)
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True, env=environment
    )
    pids = [int(word) for word in parent.stdout.readline().split()]
    assert len(pids) == 2 and all(map(runs, pids))
    parent.send_signal(ending)
    parent.communicate(timeout=60)
    assert wait_until(lambda: not any(map(runs, pids)))


def test_a_process_that_does_not_start_is_told_and_the_others_end(monkeypatch):
    monkeypatch.setattr(bench_shared, "_LOOP", "raise SystemExit")
    with pytest.raises(worker.WorkerError, match="a busy process did not start"), bench_shared.busy_processes(1):
        pass


def test_the_examples_are_right():
    for module, least in ((bench_shared, 3), (bench_python_share, 5)):
        failed, attempted = doctest.testmod(module)
        assert attempted >= least and not failed


class Side:
    """Stands for the worker of a side: answers from a script, and notes beside how many busy processes."""

    def __init__(self, log, name):
        self.log, self.name = log, name

    def ask(self, module, function, **given):
        self.log.append((self.name, self.busy(), given))
        return 10.0 / (1 + self.busy())


def test_sides_take_turns_beside_each_number_of_busy_processes(monkeypatch):
    import contextlib

    log, now = [], [0]

    @contextlib.contextmanager
    def busy_processes(count):
        now[0] = count
        yield
        now[0] = 0

    monkeypatch.setattr(Side, "busy", lambda self: now[0], raising=False)
    sides = {name: Side(log, name) for name in ("tinygpt float32", "torch float32")}
    monkeypatch.setattr(bench_shared, "busy_processes", busy_processes)
    monkeypatch.setattr(bench_shared, "PAUSE", 0)
    monkeypatch.setattr(bench_train_step, "started", lambda *given: contextlib.nullcontext((sides, {})))
    (row,) = bench_shared.race(2, ["tiny"], [*sides], seconds=3, busy=[2])
    assert [(name, busy) for name, busy, _ in log] == [(name, busy) for busy in (0, 2) for name in sides] * 2
    assert all(given == {"seconds": 3} for _, _, given in log)
    assert row["readings"]["torch float32"] == {"0": [10.0, 10.0], "2": [10 / 3, 10 / 3]}
    assert row["fair"]["0"] == 1.0


def test_steps_are_counted_until_the_time_is_over_and_one_at_least(monkeypatch):
    clock = iter(range(100))  # each reading of the clock is a second later
    monkeypatch.setattr(bench_train_step.time, "perf_counter", lambda: next(clock))
    taken = []
    monkeypatch.setitem(bench_train_step._step, "run", lambda: taken.append(1))
    assert bench_train_step.steps_per_second(3) == 1.0 and len(taken) == 3
    assert bench_train_step.steps_per_second(0) == 1.0 and len(taken) == 4


@numba.njit
def inner(x):
    return x + 1


@numba.njit
def outer(x):
    return inner(x)


@numba.njit(parallel=True)
def total(n):
    result = 0.0
    for i in numba.prange(n):
        result += i
    return result


def test_calls_from_python_are_counted_and_those_inside_compiled_code_are_not():
    outer(1), total(4)
    with bench_python_share.watched(__name__) as counts:
        assert outer(2) == 3 and inner(2) == 3 and total(10) == 45
        with pytest.raises(numba.TypingError):
            inner("text")
    expected = (4, numba.get_num_threads() > 1)
    assert (counts.calls, counts.launches) == expected and counts.ns > 0
    assert outer(5) == 6 and counts.calls == 4  # no longer watched


@pytest.mark.slow
def test_a_watched_step_has_the_same_losses_and_fewer_seconds_in_kernels_than_it_takes():
    bench_train_step.prepare("tinygpt float32", "tiny")
    plain, seen = bench_python_share.losses("tinygpt float32", "tiny")
    assert plain == seen and len(plain) == 4
    found = bench_python_share.measure(3)
    assert 0 < found["launches"] <= found["calls"] or numba.get_num_threads() == 1
    assert 0 < found["kernels"] < found["watched"]


def test_losses_that_differ_when_watched_are_refused(monkeypatch):
    import contextlib

    class Wrong:
        def ask(self, module, function, **given):
            return [[4.0], [4.5]]

    started = contextlib.nullcontext(({"tinygpt float32": Wrong()}, {}))
    monkeypatch.setattr(bench_train_step, "started", lambda *given: started)
    with pytest.raises(WrongResult, match=r"tiny: tinygpt float32 has losses \[4.0\], and \[4.5\] when it is watched"):
        list(bench_python_share.race(1, ["tiny"]))

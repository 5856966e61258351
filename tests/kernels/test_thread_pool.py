"""The thread pool under parallel loops: each entry is done exactly once, whoever launches, sleeps, forks or ends."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import numba
import numpy as np
import pytest
from numba import prange

from tinygpt.kernels import thread_pool
from tinygpt.kernels.jit import parallel
from tinygpt.kernels.thread_pool import ALONE, ENTRIES, LIMIT, SHARED_UNTIL, WORKER, WORKERS, pool
from tinygpt.runtime import launch

pytestmark = [
    pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="nothing is compiled"),
    pytest.mark.skipif(bool(launch.numbas_layer), reason=f"loops run on Numba's layer: {launch.numbas_layer}"),
]
MOST = numba.config.NUMBA_NUM_THREADS


@parallel
def count(visits):
    for i in prange(len(visits)):
        visits[i] += 1


@parallel
def count_plane(visits):
    visits[:, :] = visits + 1


@parallel
def total(numbers):
    result = 0
    for i in prange(len(numbers)):
        result += numbers[i]
    return result


@parallel
def nested(visits):
    for i in prange(visits.shape[0]):
        for j in prange(visits.shape[1]):
            visits[i, j] += 1


@parallel
def work_long(out, rounds):
    """As much work for each of the entries as `rounds` says, which the compiler cannot shorten."""
    for i in prange(len(out)):
        x = np.int64(i)
        for _ in range(rounds):
            x = x * 6364136223846793005 + 1442695040888963407
        out[i] = x


@pytest.fixture(autouse=True)
def _all_threads():
    """Whatever the kernel before set: each sets how many threads it runs on."""
    before = numba.get_num_threads()
    numba.set_num_threads(MOST)
    yield
    numba.set_num_threads(before)


def in_a_process(code: str, *options: str, seconds: float = 120, **environment: str) -> subprocess.CompletedProcess:
    program = "import os, sys, threading, time\nimport numpy as np\nimport test_thread_pool as t\n" + code
    here = os.path.dirname(__file__)
    path = os.pathsep.join([here, *sys.path])
    return subprocess.run([sys.executable, *options, "-c", program], capture_output=True, text=True, timeout=seconds,
                          env={**os.environ, "PYTHONPATH": path, **environment})  # fmt: skip


@pytest.mark.parametrize("length", [0, 1, 2, 3, 7, 64, 1000])
def test_each_iteration_runs_once_for_each_number_of_threads(length):
    for threads in range(1, MOST + 1):
        numba.set_num_threads(threads)
        visits = np.zeros(length, np.int64)
        for _ in range(50):
            count(visits)
        assert (visits == 50).all()


def test_many_launches_in_a_row_lose_no_entry():
    visits = np.zeros(64, np.int64)
    for _ in range(20_000):
        count(visits)
    assert (visits == 20_000).all()


def test_loops_that_numba_makes_itself_and_nested_ones_are_complete():
    plane, square = np.zeros((37, 41), np.int64), np.zeros((19, 23), np.int64)
    for _ in range(20):
        count_plane(plane)
        nested(square)
    assert (plane == 20).all() and (square == 20).all()


def test_a_sum_over_a_loop_counts_each_thread_once():
    numbers = np.arange(100_000)
    for _ in range(200):
        assert total(numbers) == 99_999 * 50_000


def test_launches_of_several_threads_at_once_are_each_complete():
    visits = np.zeros((6, 500), np.int64)

    def run(own):
        for _ in range(2000):
            count(own)

    threads = [threading.Thread(target=run, args=(own,)) for own in visits]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (visits == 2000).all()


def test_workers_that_slept_are_woken_and_work():
    """A loop that one thread could not end so soon: both have claimed entries of it."""
    count(np.zeros(10, np.int64))
    for _ in range(20):
        deadline = time.monotonic() + 10
        while not _all_sleep() and time.monotonic() < deadline:
            time.sleep(ALONE / 1e9)
        assert _all_sleep()
        visits = np.zeros(64, np.int64)
        count(visits)
        assert (visits == 1).all()


def _all_sleep() -> bool:
    places = [WORKER + number * thread_pool.LINE for number in range(pool.workers)]
    return all(pool._words[place] == 1 for place in places)


def test_the_result_has_the_same_bits_for_each_number_of_threads():
    results = []
    for threads in range(1, MOST + 1):
        numba.set_num_threads(threads)
        out = np.zeros(97, np.int64)
        work_long(out, 1000)
        results.append(out)
    assert all((result == results[0]).all() for result in results)


def test_more_threads_than_cores_and_changes_between_launches():
    code = """
import numba, random
assert numba.config.NUMBA_NUM_THREADS == 13
visits, choose = np.zeros(1000, np.int64), random.Random(1)
for _ in range(3000):
    numba.set_num_threads(choose.randint(1, 13))
    t.count(visits)
print((visits == 3000).all(), t.pool.workers)
"""
    done = in_a_process(code, NUMBA_NUM_THREADS="13")
    assert (done.returncode, done.stdout) == (0, "True 12\n"), done.stderr


def test_only_as_many_threads_are_started_as_a_launch_wants():
    code = """
import numba
numba.set_num_threads(1)
t.count(np.zeros(100, np.int64))
print(t.pool.workers)
numba.set_num_threads(3)
t.count(np.zeros(100, np.int64))
print(t.pool.workers, len(os.listdir("/proc/self/task")))
"""
    done = in_a_process(code, NUMBA_NUM_THREADS="8", OPENBLAS_NUM_THREADS="1")
    assert done.stdout.split() == ["0", "2", "3"], done.stderr


def test_without_workers_a_launch_does_all_itself():
    before = pool._words[LIMIT], pool._words[WORKERS]
    pool._words[LIMIT] = 0
    try:
        visits = np.zeros(100, np.int64)
        count(visits)
        assert (visits == 1).all()
    finally:
        pool._words[LIMIT], pool._words[WORKERS] = before


def test_beside_other_programs_a_step_of_work_ends_and_the_others_are_noticed():
    count(np.zeros(10, np.int64))
    command = [sys.executable, "-c", "while True: pass"]
    others = [subprocess.Popen(command) for _ in range(2 * (os.cpu_count() or 1))]
    try:
        start, noticed, out = time.monotonic_ns(), False, np.zeros(64, np.int64)
        while not noticed and time.monotonic_ns() < start + 60e9:
            work_long(out, 2000)
            noticed = pool._words[SHARED_UNTIL] > start  # it may be over again
        assert noticed or MOST == 1
    finally:
        for other in others:
            other.kill()
            other.wait()


def test_the_names_that_other_code_of_numba_calls_stay_numbas():
    """A user's own compiled loops run on the layer that Numba chose, in one process with ours."""
    code = """
import numba
@numba.njit(parallel=True)
def of_the_user(visits):
    for i in numba.prange(len(visits)):
        visits[i] += 1
visits = np.zeros(1000, np.int64)
t.count(visits)
launches = t.pool._words[t.thread_pool.CLAIMS] >> 32
of_the_user(visits)
t.count(visits)
print((visits == 3).all(), launches, t.pool._words[t.thread_pool.CLAIMS] >> 32)
"""
    done = in_a_process(code, NUMBA_NUM_THREADS="2", GOMP_SPINCOUNT="0")
    assert done.stdout.split() == ["True", "1", "2"], done.stderr


@pytest.mark.parametrize("end", ["pass", "sys.exit(3)", "raise SystemExit(3)", "1 / 0", "os._exit(3)"])
@pytest.mark.parametrize("options", [[], ["-X", "dev"]])
def test_a_process_that_has_workers_ends_as_it_wants(end, options):
    done = in_a_process(f"t.count(np.zeros(100, np.int64))\nassert t.pool.workers\n{end}", *options,
                        NUMBA_NUM_THREADS="4")  # fmt: skip
    assert done.returncode == (0 if end == "pass" else 1 if end == "1 / 0" else 3)
    assert done.stderr.count("Traceback") == (end == "1 / 0") and "Fatal" not in done.stderr


def test_a_process_ends_while_other_threads_launch():
    """Daemon threads that launch on and on, and a thread that calls sys.exit."""
    code = """
def run():
    visits = np.zeros(1000, np.int64)
    while True:
        t.count(visits)
for _ in range(3):
    threading.Thread(target=run, daemon=True).start()
thread = threading.Thread(target=lambda: (time.sleep(0.3), sys.exit(5)))
thread.start()
thread.join()
print("end")
"""
    for _ in range(5):
        done = in_a_process(code, NUMBA_NUM_THREADS="4")
        assert (done.returncode, done.stdout, done.stderr) == (0, "end\n", "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_has_threads_of_its_own_while_its_parent_launches():
    code = """
import signal, warnings
warnings.simplefilter("ignore")
stop, own = threading.Event(), np.zeros(1000, np.int64)
def run():
    while not stop.is_set():
        t.count(own)
t.count(np.zeros(10, np.int64))
thread = threading.Thread(target=run)
thread.start()
ends = []
for _ in range(20):
    child = os.fork()
    if child == 0:
        signal.alarm(30)
        visits = np.zeros(1000, np.int64)
        for _ in range(100):
            t.count(visits)
        os._exit(0 if (visits == 100).all() and t.pool.workers == 3 else 1)
    ends.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
stop.set()
thread.join()
print(set(ends), len(set(own.tolist())))
"""
    done = in_a_process(code, NUMBA_NUM_THREADS="4")
    assert done.stdout == "{0} 1\n", done.stderr


def test_ctrl_c_reaches_python_and_the_pool_goes_on():
    code = """
import _thread
out = np.zeros(64, np.int64)
t.work_long(out, 10)
threading.Timer(0.3, _thread.interrupt_main).start()
try:
    while True:
        t.work_long(out, 10_000)
except KeyboardInterrupt:
    visits = np.zeros(100, np.int64)
    t.count(visits)
    print((visits == 1).all())
"""
    assert in_a_process(code, NUMBA_NUM_THREADS="3").stdout == "True\n"


def test_numbas_layer_runs_the_same_compiled_code():
    code = """
visits = np.zeros(1000, np.int64)
for _ in range(50):
    t.count(visits)
print((visits == 50).all(), t.total(np.arange(1000)), t.pool.workers, t.launch.numbas_layer)
"""
    done = in_a_process(code, TINYGPT_THREAD_POOL="numba")
    assert done.stdout == "True 499500 0 TINYGPT_THREAD_POOL=numba\n", done.stderr
    done = in_a_process(code, NUMBA_THREADING_LAYER="workqueue")
    assert done.stdout == "True 499500 0 NUMBA_THREADING_LAYER=workqueue\n", done.stderr


def test_loops_are_cut_into_more_entries_than_threads_but_not_into_empty_ones():
    numba.set_num_threads(MOST)
    for length in (1, 2, 5, 1000):
        count(np.zeros(length, np.int64))
        entries = pool._words[thread_pool.ALL]
        if min(length, MOST) > 1:
            assert entries == min(length, ENTRIES * MOST)

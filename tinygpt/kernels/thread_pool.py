"""
The threads that parallel loops run on: a pool of our own, which is fast alone and fair beside other work.

A parallel loop is cut into *entries*, parts of its range. Numba calls the compiled body for each. Here

    launch      (1) write down the job: the body, its arguments, how many entries
                (2) publish it: CLAIMS = (generation, entries left), one word; wake workers that sleep
                (3) claim entries and do them, until none is left
                (4) wait until those that workers claimed are done
    worker      spin, then sleep, until entries are left; (3); report how many it did

To claim an entry is to count CLAIMS down by compare-and-swap. A job's words are read before that, and are right if it
succeeds: they do not change while an entry is left, and 2^32 launches would have to happen between the two for a word
of another generation to be equal to this one. The thread
that launches claims like all others. So a worker that does not run, because another program has its core, delays nobody
unless it was stopped amid an entry.

A launch while the pool is busy, from inside a loop or by another thread, does its entries one after the other. So no
kernel may rely on two entries running at once. Which thread does an entry never changes a result.

**Waiting.** A worker that spins answers within a tenth of a microsecond, one that sleeps within tens of microseconds.
It spins for ALONE, longer than what Python does between two kernels, so it is awake during a whole training step. That
is right only while cores are free. Beside other programs a spinning thread uses up its share of the time, and is then
stopped when there is work. Linux counts for each thread how often it was stopped for another (`preemptions`), which a
worker reads whenever it begins to wait; a thread that waits for workers notices a GAP between two readings of the
clock. From then on all spin for SHARED only, so that the other program gets the core soon and returns it when it is
wanted. After a while they try again, each time after twice as long.

Measured on two cores of an AMD EPYC (Zen 3), Linux 6.18, a virtual machine that was noisy. Two threads that read the
clock for 3 s found a gap above a millisecond one to four times per second and thread alone, and ninety times, of 3 to
7 ms, beside one or two busy processes. Steps per second of nanoGPT's recipe beside 0, 1 and 2 busy processes, medians
of two or three turns of 2.5 s: Numba's OpenMP with its threads spinning for milliseconds 10.6, 3.0, 1.8; this pool with
a SHARED of 5 microseconds 10.2, 6.7, 5.5; of 20 10.0, 7.4, 4.7; of 50 9.2, 7.2, 4.2; of 200 10.5, 6.6, 4.9.

Where there is no futex, where the environment chooses one of Numba's layers (NUMBA_THREADING_LAYER), or where
TINYGPT_THREAD_POOL=numba, the loops run on Numba's layer.
"""

from __future__ import annotations

import _thread
import atexit
import ctypes
import os
import signal
import threading

import llvmlite.binding
import numba
import numpy as np
from numba.core import types
from numba.core.compiler_lock import global_compiler_lock

from tinygpt.kernels.compiler import Compiler
from tinygpt.kernels.simd import atomic
from tinygpt.kernels.simd.atomic import (
    add,
    address_of,
    call,
    compare_and_swap,
    load,
    nanoseconds,
    pause,
    preemptions,
    read,
    sleep,
    stack,
    store,
    wake,
    write,
)
from tinygpt.runtime import launch, settings

# In nanoseconds. How long a thread spins before it sleeps, alone and beside other programs; a gap in which it did not
# run, which tells of others; and after how long being alone is tried again, at first and at most.
ALONE, SHARED, GAP, FIRST, LONGEST = 2_000_000, 20_000, 700_000, 10_000_000, 1_000_000_000
ENTRIES = 4  # per thread: a thread that is slower for a while leaves some of its own to others
_CHECKS = 16  # looks at a word between two readings of the clock, which take longer than a look

# The words of the pool, in lines of 16: processors fetch cache lines of 8 in pairs.
LINE = 16
CLAIMS = 0  # generation << 32 | entries left
FUNCTION, ARGUMENTS, DIMENSIONS, STEPS, DATA, INNER, ARRAYS, ALL, TEAM = range(LINE, LINE + 9)  # the job
DONE, LAUNCHER_SLEEPS = 2 * LINE, 2 * LINE + 1  # entries done by workers
BUSY = 3 * LINE
WORKERS, LIMIT, START, STOP, KEY = range(4 * LINE, 4 * LINE + 5)
SHARED_UNTIL, BACK_OFF = 5 * LINE, 5 * LINE + 1
WORKER = 6 * LINE  # of each worker a line, whose first word is 1 while it sleeps

# What a thread itself causes; blocked, it ends the process without the message of `faulthandler`.
_FAULTS = {getattr(signal, name, None) for name in ("SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGABRT")}

_LEFT = 2**32 - 1
_STATE = "tinygpt_thread_pool"
_NUMBAS = ("numba_parallel_for", "get_sched_size", "do_scheduling_signed", "do_scheduling_unsigned", "get_thread_id")

_inner = numba.njit(nogil=True, error_model="numpy", _nrt=False)  # a part of the functions that `ThreadPool` compiles
_i = types.int64
_numbas_divisions = types.ExternalFunction("get_sched_size", _i(_i, _i, _i, _i))
_numbas_schedule = types.ExternalFunction("do_scheduling_unsigned", _i(_i, _i, _i, _i, _i, _i))
_chunk_size = types.ExternalFunction("get_parallel_chunksize", _i())
_value_of_thread = types.ExternalFunction("pthread_getspecific", _i(_i))


def _launch(function, arguments, dimensions, steps, data, inner, arrays, threads):
    """What Numba's `parallel_for` does, in its place: `function` for each of the entries, `read(dimensions, 0)`."""
    pool = address_of(_STATE)
    entries = read(dimensions, 0)
    helpers = min(threads, entries, load(pool, LIMIT) + 1) - 1
    if helpers > load(pool, WORKERS):
        call(read(pool, START), helpers, 0, 0, 0)
        helpers = min(helpers, load(pool, WORKERS))
    if helpers < 1 or entries > _LEFT or not compare_and_swap(pool, BUSY, 0, 1):
        call(function, arguments, dimensions, steps, data)
        return
    write(pool, FUNCTION, function)  # (1)
    write(pool, ARGUMENTS, arguments)
    write(pool, DIMENSIONS, dimensions)
    write(pool, STEPS, steps)
    write(pool, DATA, data)
    write(pool, INNER, inner)
    write(pool, ARRAYS, arrays)
    write(pool, ALL, entries)
    write(pool, TEAM, helpers)
    write(pool, DONE, 0)
    store(pool, CLAIMS, ((read(pool, CLAIMS) >> 32) + 1 << 32) + entries)  # (2)
    for worker in range(helpers):
        place = WORKER + worker * LINE
        if load(pool, place) == 1 and compare_and_swap(pool, place, 1, 0):
            wake(pool, place)
    own = _do_entries(pool, -1)  # (3)
    _wait_for_workers(pool, entries - own)  # (4)
    store(pool, BUSY, 0)


@_inner
def _do_entries(pool, worker):
    """(3) Claim entries of the job and do them, until none is left; returns how many. The launcher is worker -1."""
    claims, done = load(pool, CLAIMS), 0
    generation = claims >> 32
    function, arguments, dimensions = read(pool, FUNCTION), read(pool, ARGUMENTS), read(pool, DIMENSIONS)
    steps, data, inner, arrays = read(pool, STEPS), read(pool, DATA), read(pool, INNER), read(pool, ARRAYS)
    entries = read(pool, ALL) if worker < read(pool, TEAM) else 0
    own = stack(arrays + inner + 1)  # this thread's arguments, then its dimensions
    own_dimensions = own + 8 * arrays
    while entries > 0 and claims & _LEFT > 0 and claims >> 32 == generation:
        if compare_and_swap(pool, CLAIMS, claims, claims - 1):
            if done == 0:
                write(own_dimensions, 0, 1)
                for i in range(1, inner + 1):
                    write(own_dimensions, i, read(dimensions, i))
            entry = entries - (claims & _LEFT)
            for i in range(arrays):
                write(own, i, read(arguments, i) + entry * read(steps, i))
            call(function, own, own_dimensions, steps, data)
            done += 1
        claims = load(pool, CLAIMS)
    return done


@_inner
def _wait_for_workers(pool, entries):
    """(4) Until workers have done so many entries."""
    if load(pool, DONE) == entries:
        return
    start = last = nanoseconds()
    while True:
        for _ in range(_CHECKS):
            if load(pool, DONE) == entries:
                return
            pause()
        now = nanoseconds()
        if now - last > GAP:
            _note_others(pool, now)
        if now - start > _patience(pool, now):
            store(pool, LAUNCHER_SLEEPS, 1)
            done = load(pool, DONE)
            while done != entries:
                sleep(pool, DONE, done)
                done = load(pool, DONE)
            store(pool, LAUNCHER_SLEEPS, 0)
            return
        last = now


@_inner
def _patience(pool, now):
    """How long to spin."""
    return SHARED if now < load(pool, SHARED_UNTIL) else ALONE


@_inner
def _note_others(pool, now):
    """Other programs run on these cores: spin for SHARED only, for a while."""
    until, back_off = load(pool, SHARED_UNTIL), load(pool, BACK_OFF)
    if now >= until:
        back_off = FIRST if now - until > 2 * back_off else min(2 * back_off, LONGEST)
        store(pool, BACK_OFF, back_off)
        store(pool, SHARED_UNTIL, now + back_off)


def _work(worker):
    """What a worker does as long as the process lives."""
    pool = address_of(_STATE)
    while _wait_for_entries(pool, worker):
        done = _do_entries(pool, worker)
        if done > 0:
            add(pool, DONE, done)
            if load(pool, LAUNCHER_SLEEPS) == 1:
                wake(pool, DONE)


@_inner
def _wait_for_entries(pool, worker):
    """Until there are entries for this worker, when it is 1; 0 when the pool ends."""
    place = WORKER + worker * LINE
    start = 0
    while load(pool, STOP) == 0:
        for _ in range(_CHECKS):
            if _has_entries(pool, worker):
                return 1
            pause()
        now = nanoseconds()
        if start == 0:
            start = now
            stops = preemptions()
            if stops != read(pool, place + 1):
                write(pool, place + 1, stops)
                _note_others(pool, now)
        if now - start > _patience(pool, now):
            store(pool, place, 1)
            while load(pool, place) == 1 and not _has_entries(pool, worker) and load(pool, STOP) == 0:
                sleep(pool, place, 1)
            store(pool, place, 0)
            start = 0
    return 0


@_inner
def _has_entries(pool, worker):
    return load(pool, CLAIMS) & _LEFT > 0 and worker < read(pool, TEAM)


def _divisions(threads, loops, starts, stops):
    """Into how many entries to cut a loop whose first and last numbers are given; Numba's `get_sched_size`."""
    if loops != 1 or _chunk_size() > 0:
        return _numbas_divisions(threads, loops, starts, stops)
    most = ENTRIES * threads if threads > 1 else 1
    return max(1, min(read(stops, 0) - read(starts, 0) + 1, most))


def _schedule(loops, starts, stops, entries, schedule, debug):
    """Write the first and last number of each entry; Numba's `do_scheduling`."""
    if loops != 1:
        return _numbas_schedule(loops, starts, stops, entries, schedule, debug)
    first = read(starts, 0)
    length = read(stops, 0) - first + 1
    for entry in range(entries):
        write(schedule, 2 * entry, first + entry * length // entries)
        write(schedule, 2 * entry + 1, first + (entry + 1) * length // entries - 1)
    return schedule


def _thread_id():
    """The number of this thread among those of a loop; Numba's `get_thread_id`."""
    return _value_of_thread(read(address_of(_STATE), KEY))


class ThreadPool:
    """
    The pool of this process.

    Attributes
    ----------
    compiler : Compiler
        What compiles it: that of the kernels, which sets it.
    """

    compiler: Compiler

    def __init__(self) -> None:
        self._installed = False
        self._threads: list[threading.Thread] = []
        self._starting = threading.Lock()
        self._most = settings.max_threads()
        memory = np.zeros(WORKER + (self._most + 1) * LINE, np.int64)
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(memory))  # a thread may look at it when Python has ended
        self._words = memory[-memory.ctypes.data // 8 % LINE :]

    @property
    def workers(self) -> int:
        """How many threads it has started."""
        return len(self._threads)

    def install(self) -> None:
        """Give the names that parallel loops call their addresses, before the first of them is compiled or loaded."""
        with global_compiler_lock:
            if self._installed:
                return
            numba.get_num_threads()  # starts Numba's layer, whose names kernels call too
            addresses = {name: llvmlite.binding.address_of_symbol(name) for name in _NUMBAS}
            if not launch.numbas_layer:
                try:
                    addresses.update(self._addresses())
                except Exception as error:  # a version of Numba that is built in another way
                    launch.numbas_layer = f"{type(error).__name__}: {error}"
            for name, address in addresses.items():
                llvmlite.binding.add_symbol(f"tinygpt_{name}", address)
            self._installed = True

    def _addresses(self) -> dict[str, int]:
        if not atomic.SUPPORTED:
            raise OSError("there is no futex for this kind of processor")
        llvmlite.binding.add_symbol(_STATE, self._words.ctypes.data)
        callback, nothing = self.compiler.callback, types.void
        work = callback(_work, nothing(_i))
        schedule = callback(_schedule, _i(_i, _i, _i, _i, _i, _i))
        found = {
            "numba_parallel_for": callback(_launch, nothing(_i, _i, _i, _i, _i, _i, _i, _i)),
            "get_sched_size": callback(_divisions, _i(_i, _i, _i, _i)),
            "do_scheduling_signed": schedule,
            "do_scheduling_unsigned": schedule,
            "get_thread_id": callback(_thread_id, _i()),
        }
        libc = ctypes.CDLL(None)
        key = ctypes.c_uint()
        if libc.pthread_key_create(ctypes.byref(key), None):
            raise OSError("pthread_key_create failed")
        self._key, self._libc = key.value, libc
        self._work = ctypes.CFUNCTYPE(None, ctypes.c_int64)(work)  # ctypes calls it without the interpreter's lock
        self._start = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 4)(self._grow)
        self._reset()
        atexit.register(self._end)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forget)
        return found

    def _reset(self) -> None:
        self._words[:] = 0
        self._words[LIMIT] = self._most
        self._words[START] = ctypes.cast(self._start, ctypes.c_void_p).value or 0
        self._words[KEY], self._words[BACK_OFF] = self._key, FIRST

    def _forget(self) -> None:
        """In a forked child: no thread of the parent's pool is in it, and a job that one launched is not its own."""
        self._threads, self._starting = [], threading.Lock()
        self._reset()

    def _grow(self, wanted: int, *_: int) -> None:
        """Start workers until there are so many."""
        try:
            # Another thread may be here, or a signal may have come while this one was: do with those that there are.
            if not self._starting.acquire(blocking=False):
                return
            try:
                while len(self._threads) < min(wanted, self._words[LIMIT]):
                    number = len(self._threads)
                    thread = threading.Thread(target=self._run, args=(number,), name=f"tinygpt-{number}", daemon=True)
                    self._threads.append(thread)  # before it starts: Ctrl-C may come between, and its number is taken
                    try:
                        thread.start()
                    except RuntimeError:  # the process may have no more, or ends
                        self._threads.remove(thread)
                        self._words[LIMIT] = number
                        return
                    self._words[WORKERS] = len(self._threads)
            finally:
                self._starting.release()
        except KeyboardInterrupt:  # an exception cannot leave a callback
            _thread.interrupt_main()

    def _run(self, number: int) -> None:
        if hasattr(signal, "pthread_sigmask"):
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals() - _FAULTS)
        self._libc.pthread_setspecific(self._key, ctypes.c_void_p(number + 1))
        self._work(number)

    def _end(self) -> None:
        """At exit: loops of threads that still run use no workers, and those return to Python, which ends them."""
        self._words[LIMIT] = 0
        self._words[STOP] = 1
        for number in range(len(self._threads)):
            atomic.wake_from_python(self._words[WORKER + number * LINE :].ctypes.data)
        for thread in self._threads:
            thread.join(timeout=1)


pool = ThreadPool()


def install() -> None:
    """Install the pool of this process; a kernel's file in the cache names this function."""
    pool.install()

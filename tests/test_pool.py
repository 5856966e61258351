"""The pool of memory: a piece is used again once nobody can see it any more, and never before."""

from __future__ import annotations

import gc
import itertools
import sys
import threading
import weakref

import numpy as np
import pytest

from tinygpt.autograd.gradients import RefCount, SharedGradient
from tinygpt.runtime import memory, settings
from tinygpt.runtime.memory import Pool, copied, empty

pytestmark = pytest.mark.pool
SHAPE = (100, 1000)  # 400 kB: from the pool, of a size that it rounds up

VIEWS = {
    "a row": lambda array: array[3],
    "reversed columns": lambda array: array[:, ::-2],
    "flat": lambda array: array.reshape(-1),
    "transposed": lambda array: array.T,
    "a view of a view": lambda array: array[1:].T.reshape(1000, 99)[5:],
    "as strided": lambda array: np.lib.stride_tricks.as_strided(array, (5,), (400,)),
    "other numbers": lambda array: array.view(np.int32),
    "a subclass": lambda array: array.view(np.matrix),
    "broadcast": lambda array: np.broadcast_to(array, (2, *SHAPE)),
    "a memoryview": memoryview,
    "an array over a memoryview": lambda array: np.asarray(memoryview(array)),
    "an array from a buffer": lambda array: np.frombuffer(array, np.float32),
    "a flat iterator": lambda array: array.flat,
}


def address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


@pytest.mark.parametrize("view_of", VIEWS.values(), ids=VIEWS)
def test_a_piece_is_used_again_when_the_array_and_its_views_are_gone_and_not_before(view_of):
    pool = Pool()
    array = pool.empty(SHAPE)
    place = address(array)
    view = view_of(array)
    del array
    gc.collect()
    other = pool.empty(SHAPE)
    assert address(other) != place and pool.allocated == 2
    del view
    assert address(pool.empty(SHAPE)) == place
    assert pool.allocated == 2


def test_an_array_of_the_pool_is_like_any_other():
    of_numpy = (np.int64(70_000), 2)  # a shape that was computed with NumPy's integers
    kinds = (
        (SHAPE, "f4"),
        (100_000, "f8"),
        ((3, 5, 7000), "f4"),
        ((70_000,), "u2"),
        (of_numpy, "?"),
        (of_numpy[0], "f4"),
    )
    for shape, dtype in kinds:
        array = Pool().empty(shape, dtype)
        expected = np.zeros(shape, dtype)
        assert array.shape == expected.shape and array.dtype == expected.dtype and array.strides == expected.strides
        assert array.flags.carray and address(array) % 4096 == 0
        array[...] = expected
        np.testing.assert_array_equal(array, expected)


def test_the_counts_of_bytes_follow_what_lives():
    pool = Pool()
    first, second = pool.empty(SHAPE), pool.empty(SHAPE)
    size = pool.in_use // 2
    assert size >= first.nbytes and (pool.in_use, pool.kept) == (2 * size, 0)
    assert size <= first.nbytes * 9 / 8
    del first
    assert (pool.in_use, pool.kept) == (size, size)
    pool.clear()
    assert (pool.in_use, pool.kept) == (size, 0)
    del second
    assert (pool.in_use, pool.kept) == (0, size)


def test_arrays_lie_in_parts_of_a_large_piece_which_is_whole_again_when_all_are_gone():
    pool = Pool()
    place = address(pool.empty(2**24, np.uint8))  # gone at once
    for order in itertools.permutations(range(4)):
        parts = [pool.empty(2**22, np.uint8) for _ in range(4)]
        assert sorted(map(address, parts)) == [place + k * 2**22 for k in range(4)]
        for index in order:
            parts[index] = None
        assert address(pool.empty(2**24, np.uint8)) == place
    assert pool.allocated == 1 and (pool.in_use, pool.kept) == (0, 2**24)


def test_an_array_takes_the_smallest_piece_that_it_fits_into_and_the_latest_of_these():
    pool = Pool()
    pieces = {size: pool.empty(size * 2**20, np.uint8) for size in (16, 4, 8)}
    places = {size: address(array) for size, array in pieces.items()}
    twin = pool.empty(4 * 2**20, np.uint8)
    latest = address(twin)
    pieces.clear()
    del twin
    kept = [pool.empty(size, np.uint8) for size in (5 * 2**20, 4 * 2**20, 2**20, 9 * 2**20)]
    assert [address(array) for array in kept] == [places[8], latest, places[8] + 5 * 2**20, places[16]]


def test_arrays_of_any_sizes_in_any_order_never_share_memory_and_leave_nothing_behind():
    pool, rng = Pool(), np.random.default_rng(0)
    live = []
    for turn in range(3000):
        if live and rng.random() < 0.5:
            array, number = live.pop(rng.integers(len(live)))
            assert (array == number).all()  # nobody else has written there
            del array
        else:
            array = pool.empty(int(2 ** rng.uniform(16, 20)), np.uint8)
            array[:] = number = turn % 251
            live.append((array, number))
        spans = sorted((address(array), array.nbytes) for array, _ in live)
        assert all(start + size <= after for (start, size), (after, _) in itertools.pairwise(spans))
        assert pool.in_use >= sum(array.nbytes for array, _ in live)
    given = pool.in_use + pool.kept
    live.clear()
    array = None
    assert (pool.in_use, pool.kept) == (0, given)
    pool.clear()
    assert pool.kept == 0  # all pieces were whole again


def test_a_piece_that_is_not_asked_for_goes_back_to_the_system():
    pool = Pool(patience=4)
    both = [pool.empty(2**24, np.uint8), pool.empty(2**23, np.uint8)]
    both.clear()
    assert pool.kept == 2**24 + 2**23
    for _ in range(40):  # 2^23 bytes each: some times what there is
        pool.empty(2**23, np.uint8)
    assert pool.kept == 2**23 and pool.allocated == 2


def test_what_is_free_beside_an_array_goes_back_with_it():
    pool = Pool(patience=1)
    pool.empty(2**24, np.uint8)  # gone at once
    held = pool.empty(2**22, np.uint8)
    pool.clear()
    assert (pool.in_use, pool.kept) == (2**22, 2**24 - 2**22)
    del held
    pool.clear()
    assert (pool.in_use, pool.kept) == (0, 0)


def test_a_piece_that_is_asked_for_each_time_stays():
    pool = Pool(patience=1)
    for _ in range(100):
        both = [pool.empty(2**22, np.uint8), pool.empty(2**23, np.uint8)]
        both.clear()
    assert pool.allocated == 2


def test_in_debug_mode_each_array_begins_with_nan(monkeypatch):
    monkeypatch.setattr(settings, "DEBUG", True)
    pool = Pool()
    for _ in range(2):
        array = pool.empty(SHAPE)
        assert np.isnan(array).all()
        array[...] = 1.0


def test_threads_never_share_a_piece():
    pool, failures = Pool(), []

    def work(number: int) -> None:
        for turn in range(300):
            arrays = [pool.empty((k + 1, 20_000), np.float32) for k in range(4)]
            for array in arrays:
                array[:, ::997] = number
            views = [array[-1] for array in arrays]
            del arrays, array
            if any((view[::997] != number).any() for view in views):
                failures.append((number, turn))

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert not failures and pool.in_use == 0


def test_the_collector_may_free_an_array_while_the_pool_hands_one_out():
    pool = Pool()
    cycle = [pool.empty(SHAPE)]
    cycle.append(cycle)
    with pool._lock:  # this thread holds it, as in `empty`
        del cycle
        gc.collect()
    assert pool.in_use == 0


def test_an_array_that_ends_in_the_middle_of_empty_is_free_afterwards(monkeypatch):
    """The collector may run between any two steps; here it does when the system is asked for memory."""
    pool = Pool()
    pool.empty(2**20, np.uint8)  # gone at once: a free piece to search among
    cycle = [pool.empty(2**22, np.uint8)]
    cycle.append(cycle)

    def new_pages_then_collect(size, new_pages=memory.new_pages):
        nonlocal cycle
        cycle = None
        gc.collect()
        return new_pages(size)

    monkeypatch.setattr(memory, "new_pages", new_pages_then_collect)
    array = pool.empty(2**23, np.uint8)
    assert (pool.in_use, pool.kept) == (2**23, 2**20 + 2**22) and len(array) == 2**23


def test_no_memory_from_the_system_leaves_the_pool_as_it_was(monkeypatch):
    pool = Pool()

    def none_left(size):
        raise MemoryError

    with monkeypatch.context() as patched, pytest.raises(MemoryError):
        patched.setattr(memory, "new_pages", none_left)
        pool.empty(SHAPE)
    assert (pool.in_use, pool.kept, pool.allocated) == (0, 0, 0)
    assert pool.empty(SHAPE).shape == SHAPE


def test_memory_that_outlives_its_pool_stays_valid():
    pool = Pool()
    array = pool.empty(SHAPE)
    array[...] = 7.0
    gone = weakref.ref(pool)
    del pool
    gc.collect()
    assert (array == 7.0).all()
    del array
    gc.collect()
    assert gone() is None


def test_a_gradient_in_the_pool_becomes_that_of_a_leaf_without_a_copy_unless_it_is_a_small_part():
    array = empty(SHAPE)
    for share, whole in ((array, True), (array.reshape(-1), True), (array[:95], True), (array[:80], False)):
        taken = SharedGradient(share, RefCount(1)).take()
        assert np.shares_memory(taken, array) == whole
    assert not np.shares_memory(copied(array), array)


def in_the_middle(run, step, at):
    """Call `run`, and `step` before the instruction `at` of memory.py; returns whether there was such a one."""
    count = itertools.count()
    came = False

    def trace(frame, event, argument):
        nonlocal came
        if frame.f_code.co_filename != memory.__file__:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode" and next(count) == at:
            came = True
            sys.settrace(None)  # as the system does, too: what `step` runs is not traced
            step()
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        run()
    finally:
        sys.settrace(before)
    return came


def some_arrays_end_and_others_begin(pool: Pool) -> list[np.ndarray]:
    """Pieces are split, joined and handed out again; each array holds one number."""
    live = [pool.empty(size, np.uint8) for size in (2**20, 2**17, 2**18)]
    del live[1]
    live += [pool.empty(size, np.uint8) for size in (2**16, 2**19)]
    del live[0]
    live += [pool.empty(size, np.uint8) for size in (2**18, 2**17, 2**16)]
    return live


def assert_sound(pool: Pool, others: list[np.ndarray]) -> None:
    for _ in range(2):
        live = others + some_arrays_end_and_others_begin(pool)
        spans = sorted((address(array), array.nbytes) for array in live)
        assert all(start + size <= after for (start, size), (after, _) in itertools.pairwise(spans))


def test_ctrl_c_at_any_instruction_leaves_a_pool_that_works():
    def interrupt():
        raise KeyboardInterrupt

    for at in itertools.count():
        pool = Pool()
        held = [pool.empty(2**18, np.uint8)]
        try:
            if not in_the_middle(lambda pool=pool: some_arrays_end_and_others_begin(pool), interrupt, at):
                break
        except KeyboardInterrupt:
            pass
        assert_sound(pool, held)
    assert at > 500


def test_a_finalizer_or_signal_handler_may_use_the_pool_at_any_instruction_of_it():
    for at in itertools.count():
        pool, held = Pool(), []
        if not in_the_middle(
            lambda pool=pool, held=held: held.extend(some_arrays_end_and_others_begin(pool)),
            lambda pool=pool, held=held: held.extend(some_arrays_end_and_others_begin(pool)),
            at,
        ):
            break
        assert_sound(pool, held)
    assert at > 500


def test_free_memory_goes_back_where_the_system_has_too_little(monkeypatch):
    pool = Pool()
    pool.empty(2**20, np.uint8)  # gone at once

    def limited(size, new_pages=memory.new_pages):
        if pool._kept + size > 2**22:
            raise OSError(12, "Cannot allocate memory")
        return new_pages(size)

    monkeypatch.setattr(memory, "new_pages", limited)
    assert pool.empty(2**22, np.uint8).nbytes == 2**22
    with pytest.raises(OSError, match="Cannot allocate"):
        pool.empty(2**23, np.uint8)
    assert_sound(pool, [])

"""The pool of memory: a piece is used again once nobody can see it any more, and never before."""

from __future__ import annotations

import gc
import sys
import threading
import weakref

import numpy as np
import pytest

from tinygpt.autograd.gradients import RefCount, SharedGradient
from tinygpt.runtime import settings
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
    for shape, dtype in ((SHAPE, np.float32), (100_000, np.float64), ((3, 5, 7000), "f4"), ((70_000,), np.uint16)):
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


def test_a_piece_that_is_not_asked_for_goes_back_to_the_system():
    pool = Pool(patience=4)
    pool.empty(2**24, np.uint8)  # gone at once
    rare = pool.kept
    for _ in range(3):
        pool.empty(2**23, np.uint8)
    assert pool.kept > rare
    for _ in range(40):  # 2^23 bytes each: some times what there is
        pool.empty(2**23, np.uint8)
    assert pool.kept == 2**23 and pool.allocated == 2


def test_a_piece_that_is_asked_for_each_time_stays():
    pool = Pool(patience=1)
    for _ in range(100):
        pool.empty(2**22, np.uint8)
        pool.empty(2**23, np.uint8)
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

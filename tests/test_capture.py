"""A capture replays what changed arrays, in the memory of the run that was captured, and refuses what it cannot."""

from __future__ import annotations

import numpy as np
import pytest

from tinygpt.runtime.capture import Recorder, constant, current_recorder, known, run
from tinygpt.runtime.memory import PrivatePool, copied, empty, zeros
from tinygpt.runtime.seeds import dropout_keys, splitmix64

GENERATOR = np.random.default_rng(0)


def test_memory_that_is_used_twice_in_a_step_is_so_in_a_replay():
    x, out, addresses = np.arange(1000.0), np.zeros(2), []
    with Recorder(PrivatePool(), [x, out]) as recorder:
        for place, factor in enumerate((2.0, 3.0)):
            scaled = empty(1000, np.float64)
            addresses.append(scaled.ctypes.data)
            run(np.multiply, x, factor, scaled)
            run(np.add.reduce, scaled, 0, None, out[place : place + 1], True)
            del scaled
    assert addresses[0] == addresses[1]
    x[:] = 1
    recorder.finish().replay(GENERATOR)
    np.testing.assert_array_equal(out, [2000, 3000])


def test_zeros_are_zeros_again():
    total = np.zeros(3)
    with Recorder(PrivatePool(), [total]) as recorder:
        for _ in range(2):
            count = zeros(3, np.float64)
            run(np.add, count, 1.0, count)
            run(np.add, total, count, total)
    capture = recorder.finish()
    capture.replay(GENERATOR)
    np.testing.assert_array_equal(total, 4)


def test_many_zeros_lie_apart():
    with Recorder(PrivatePool(), []) as recorder:
        arrays = [zeros((50, 7), np.float64) for _ in range(100)]
        for number, array in enumerate(arrays):
            run(np.ndarray.fill, array, number)
    assert [array.min() == array.max() == number for number, array in enumerate(arrays)] == [True] * 100
    recorder.finish().replay(GENERATOR)


@pytest.mark.parametrize("make", [lambda x: x + 1, lambda x: x.copy(), lambda x: np.zeros(3)])
def test_an_array_of_unknown_content_ends_the_capture_and_not_the_run(make):
    x, out = np.ones(3), np.zeros(3)
    with Recorder(PrivatePool(), [x, out]) as recorder:
        unknown = make(x)
        run(np.add, unknown, x, out)
        assert zeros(2, np.int64).sum() == 0 and empty(3).shape == (3,)
    assert "add takes float64 (3,) that was computed in a way" in recorder.failure
    np.testing.assert_array_equal(out, unknown + x)


def test_arrays_that_reach_beyond_known_memory_are_not_known():
    x = np.zeros(10)
    with Recorder(PrivatePool(), [x[2:5]]) as recorder:
        run(np.ndarray.fill, x[3:5], 1)
        assert not recorder.failure
        run(np.ndarray.fill, x[3:6], 1)
    assert recorder.failure


def test_constants_and_known_arrays_may_be_read():
    of_module = constant(np.ones(3))
    with Recorder(PrivatePool(), []) as recorder:
        out = copied(known(np.arange(3.0)))
        run(np.add, out, of_module, out)
        shown = recorder.kept(out)
    out[:] = 0
    recorder.finish().replay(GENERATOR)
    np.testing.assert_array_equal(shown, [1, 2, 3])


def test_a_call_inside_a_call_is_part_of_it():
    out = np.zeros(3)

    def twice():
        run(np.add, out, 1.0, out)
        run(np.add, out, 1.0, out)

    with Recorder(PrivatePool(), [out]) as recorder:
        run(twice)
    recorder.finish().replay(GENERATOR)
    np.testing.assert_array_equal(out, 4)


def test_an_error_in_the_block_ends_the_capture():
    with pytest.raises(ZeroDivisionError), Recorder(PrivatePool(), []) as recorder:
        1 / 0  # noqa: B018
    assert recorder.failure and current_recorder() is None


def test_more_memory_than_the_limit_ends_the_capture():
    with Recorder(PrivatePool(), [], limit=2**22) as recorder:
        arrays = [empty(2**18) for _ in range(10)]
    assert "more than 4 MB" in recorder.failure and len(arrays) == 10


def test_keys_of_seeds_are_those_of_each_seed():
    seeds = [0, 1, 2**62, 2**63 - 1]
    keys = dropout_keys(np.array(seeds))
    assert [(int(high) << 32) + int(low) for low, high in keys] == [splitmix64(seed) for seed in seeds]
    first, second = np.random.default_rng(4), np.random.default_rng(4)
    assert first.integers(2**63, size=9).tolist() == [int(second.integers(2**63)) for _ in range(9)]

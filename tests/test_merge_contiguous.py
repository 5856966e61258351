"""Arrays that are contiguous in memory become one."""

from __future__ import annotations

import weakref

import numpy as np

from tinygpt.optim.merge_contiguous import merge_contiguous


def test_contiguous_arrays_become_one_over_the_same_memory():
    data, moment = np.arange(10.0), np.arange(10.0) + 100
    pieces = [slice(0, 4), slice(4, 6), slice(6, 10)]
    ((a, b),) = merge_contiguous([data[here].reshape(-1, 2), moment[here]] for here in pieces)
    np.testing.assert_array_equal(a, data)
    np.testing.assert_array_equal(b, moment)
    a *= 2
    assert data[9] == 18


def test_a_gap_in_any_of_the_arrays_ends_a_merge():
    data, moment = np.arange(10.0), np.arange(20.0)
    result = merge_contiguous([[data[:4], moment[:4]], [data[4:6], moment[5:7]], [data[6:], moment[7:11]]])
    assert [[len(array) for array in arrays] for arrays in result] == [[4, 4], [6, 6]]
    assert [array[0] for array in result[1]] == [4, 5]


def test_what_is_not_contiguous_stays_as_it_is():
    data = np.arange(12.0).reshape(3, 4)
    across = data.T
    result = merge_contiguous([[data[0]], [across], [data[1]], [data[2]]])
    assert [array.shape for (array,) in result] == [(4,), (4, 3), (8,)]
    assert result[1][0] is across


def test_no_rows_give_no_rows():
    assert merge_contiguous([]) == []


def test_the_same_arrays_merge_again_over_the_same_memory():
    data = np.arange(6.0)
    rows = [[data[:2]], [data[2:4]], [data[4:]]]
    for _ in range(3):
        ((merged,),) = merge_contiguous(rows)
        merged += 1
    np.testing.assert_array_equal(data, np.arange(6.0) + 3)


def test_an_array_that_took_the_place_of_another_is_looked_at_again():
    data, other = np.arange(6.0), np.zeros(2)
    rows = [[data[:2]], [data[2:4]], [data[4:]]]
    assert [len(array) for (array,) in merge_contiguous(rows)] == [6]
    rows[1] = [other]
    assert [len(array) for (array,) in merge_contiguous(rows)] == [2, 2, 2]
    assert merge_contiguous(rows)[1][0].ctypes.data == other.ctypes.data


def test_no_array_is_kept():
    data = np.arange(6.0)
    rows = [[data[:2]], [data[2:]]]
    merge_contiguous(rows)
    died = weakref.ref(data)
    del data, rows
    assert died() is None

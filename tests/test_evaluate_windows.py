"""Windows: every token but the first is predicted once, whatever their length and distance."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygpt.training.evaluate import windows


@given(st.integers(2, 200), st.integers(1, 40), st.integers(1, 9))
def test_windows_predict_every_token_but_the_first_exactly_once(length, context, batch_size):
    tokens = np.random.default_rng(length).permutation(length).astype(np.uint16)
    batches = list(windows(tokens, context, batch_size))
    assert np.concatenate([targets.ravel() for _, targets in batches]).tolist() == tokens[1:].tolist()
    assert np.concatenate([inputs.ravel() for inputs, _ in batches]).tolist() == tokens[:-1].tolist()
    sizes = [inputs.shape for inputs, _ in batches]
    assert sizes == [targets.shape for _, targets in batches]
    assert all(rows <= batch_size and columns <= context for rows, columns in sizes)
    assert all(columns == context for _, columns in sizes[:-1]) and len(sizes) <= length // (context * batch_size) + 2
    assert {array.dtype for batch in batches for array in batch} == {np.dtype(np.int64)}


def test_windows_complain_when_called_not_when_used():
    with pytest.raises(ValueError, match="windows: needs at least 2 tokens, got 1"):
        windows(np.arange(1), 4, 2)
    with pytest.raises(ValueError, match="windows: context must be at least 1, got context = 0"):
        windows(np.arange(9), 0, 2)
    with pytest.raises(ValueError, match="windows: batch_size must be at least 1"):
        windows(np.arange(9), 2, 0)
    with pytest.raises(ValueError, match="windows: stride must be at least 1, got stride = 0"):
        windows(np.arange(9), 2, 1, stride=0)
    with pytest.raises(ValueError, match="windows: stride must be at most the context of 2 tokens, or some would be"):
        windows(np.arange(9), 2, 1, stride=3)


@given(st.integers(2, 60), st.integers(1, 12), st.integers(1, 12), st.integers(1, 4))
def test_windows_that_overlap_score_each_token_once_with_what_their_definition_shows(length, context, stride, batch):
    stride = min(stride, context)
    expected, done, start = [], 0, 0
    while done < length - 1:  # a window at a time: [start, start + context], of which what is new is scored
        end = min(start + context, length - 1)
        expected += [(target, target - start) for target in range(done + 1, end + 1)]  # and how many it sees
        done, start = end, start + stride
    found = []
    for inputs, targets in windows(np.arange(length), context, batch, stride):
        for row, wanted in zip(inputs, targets, strict=True):
            np.testing.assert_array_equal(row, np.arange(row[0], row[0] + len(row)))
            found += [(int(target), t + 1) for t, target in enumerate(wanted) if target != -100]
            assert all(target in (-100, token + 1) for token, target in zip(row, wanted, strict=True))
    assert found == expected

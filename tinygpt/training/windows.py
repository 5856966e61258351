"""Windows over a text, for scoring all of it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np


def windows(
    tokens: np.ndarray, context: int, batch_size: int, stride: int | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """
    Lay windows over the whole text: every token but the first is predicted exactly once.

    Parameters
    ----------
    tokens : integer array, shape (N,), N >= 2
    context, batch_size : int
        T tokens a row, at most B rows a batch. What is left at the end comes last as one row of its own.
    stride : int, optional
        How far one window begins after the one before: at most `context`, which is the default, side by side.

    Returns
    -------
    iterator of (inputs, targets) : ndarray, shape (<= B, <= T), int64
        `targets` is one token ahead of `inputs`; -100 where an earlier window has predicted it.

    Raises
    ------
    ValueError
        If there is nothing to predict, or a size is below 1, or the stride is longer than a window.

    Examples
    --------
    >>> [targets.tolist() for inputs, targets in windows(np.arange(8), context=3, batch_size=2)]
    [[[1, 2, 3], [4, 5, 6]], [[7]]]
    >>> [targets.tolist() for inputs, targets in windows(np.arange(8), context=3, batch_size=2, stride=2)]
    [[[1, 2, 3], [-100, 4, 5]], [[-100, 6, 7]]]
    """
    stride = context if stride is None else stride
    for name, size in (("context", context), ("batch_size", batch_size), ("stride", stride)):
        if size < 1:
            raise ValueError(f"windows: {name} must be at least 1, got {name} = {size}; choose a larger one")
    if stride > context:
        raise ValueError(f"windows: stride must be at most the context of {context} tokens, or some would be left out, "
                         f"got {stride}")  # fmt: skip
    if len(tokens) < 2:
        raise ValueError(f"windows: needs at least 2 tokens, got {len(tokens)}; use a longer text")
    return _windows(np.asarray(tokens), context, batch_size, stride)


def _windows(tokens: np.ndarray, context: int, batch_size: int, stride: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    last = len(tokens) - 1  # how many are to be predicted
    starts = np.arange(0, last - context + 1, stride)  # of whole windows
    for first in range(0, len(starts), batch_size):
        rows = tokens[starts[first : first + batch_size, None] + np.arange(context + 1)].astype(np.int64)
        inputs, targets = rows[:, :-1], rows[:, 1:].copy()
        targets[(1 if first == 0 else 0) :, : context - stride] = -100
        yield inputs, targets
    start = len(starts) * stride
    done = start - stride + context if len(starts) else 0
    if done < last:
        rest = tokens[None, start:].astype(np.int64)
        targets = rest[:, 1:].copy()
        targets[:, : max(0, done - start)] = -100
        yield rest[:, :-1], targets

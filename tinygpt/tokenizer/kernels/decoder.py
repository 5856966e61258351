"""Decoding: the bytes of all tokens are in one array, and a table says where those of each id begin."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tinygpt.tokenizer.kernels import compiler, kernel
from tinygpt.tokenizer.kernels.hashing import PADDING, padded


class CompiledDecoder:
    """
    The tokens of one vocabulary, joined by the kernels. Several threads may use it at once.

    Parameters
    ----------
    tokens : mapping of int to bytes
        By id, from 0 on, perhaps with holes. No token is empty.
    """

    def __init__(self, tokens: Mapping[int, bytes]) -> None:
        ids = np.array(list(tokens), np.int64)
        lengths = np.array([len(token) for token in tokens.values()], np.int64)
        self._lengths = np.zeros(ids.max() + 1, np.int64)
        self._starts = np.zeros(ids.max() + 1, np.int64)
        self._lengths[ids] = lengths
        self._starts[ids] = np.cumsum(lengths) - lengths
        self._data = padded(b"".join(tokens.values()))
        with compiler.compiling("decoding", progress=False):
            self.decode(ids[:1])

    def decode(self, ids: np.ndarray) -> bytes | None:
        """Return the bytes of ids, an array of integers of shape (N,); None if one of them is not in the vocabulary."""
        if len(ids) == 0:
            return b""
        if ids.min() < 0 or ids.max() >= len(self._lengths):
            return None
        ids = np.ascontiguousarray(ids, np.uint32)
        size = decoded_size(ids, self._lengths)
        if size < 0:
            return None
        out = np.empty(size + PADDING, np.uint8)
        copy_tokens(ids, self._data, self._starts, self._lengths, out)
        return out[:size].tobytes()


@kernel
def decoded_size(ids, lengths):
    """How many bytes the ids stand for; -1 if one of them is of no token."""
    size = 0
    for id in ids:
        if lengths[id] == 0:
            return -1
        size += lengths[id]
    return size


@kernel
def copy_tokens(ids, data, starts, lengths, out):
    """
    Write the bytes of the ids one after another.

    Always copies `PADDING` bytes, one instruction, and more only of a longer token. What is too much is overwritten by
    the next token, or stands behind the end, where `out` has room for it.
    """
    at = 0
    for id in ids:
        start, length = starts[id], lengths[id]
        for offset in range(PADDING):
            out[at + offset] = data[start + offset]
        for offset in range(PADDING, length):
            out[at + offset] = data[start + offset]
        at += length

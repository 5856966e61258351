"""Decoding by kernels gives the bytes of the reference, and its errors."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygpt import implementation
from tinygpt.tokenizer import Tokenizer
from tinygpt.tokenizer.kernels.decoder import CompiledDecoder

BYTES = [bytes([byte]) for byte in range(256)]
LONG = [b"x" * length for length in (15, 16, 17, 31, 32, 33, 1000)]
VOCAB = dict(enumerate(BYTES)) | {300 + number: token for number, token in enumerate(LONG)}
TOKENIZER = Tokenizer(VOCAB, [], {"<|endoftext|>": 400})
DECODER = CompiledDecoder(TOKENIZER._decoder._tokens)


@given(st.lists(st.sampled_from([*VOCAB, 400])))
def test_bytes_are_the_tokens_joined(ids):
    expected = b"".join((VOCAB | {400: b"<|endoftext|>"})[id] for id in ids)
    for dtype in (np.uint16, np.int32, np.uint32, np.int64, np.uint64):
        assert DECODER.decode(np.array(ids, dtype)) == expected
    assert DECODER.decode(np.repeat(np.array(ids, np.int64), 2)[::2]) == expected
    with implementation("check"):
        for given_ids in (ids, tuple(ids), iter(ids), np.array(ids, np.uint16), np.array(ids, ">i4")):
            assert TOKENIZER.decode_bytes(given_ids) == expected


@pytest.mark.parametrize("wrong", [-1, 256, 299, 307, 399, 401, 1 << 16, (1 << 32) - 1, 1 << 32, -(1 << 40)])
def test_an_id_that_is_none_is_named(wrong):
    ids = [0] * 1000 + [wrong] + [0] * 1000
    for make in (list, tuple, iter, lambda ids: np.array(ids, np.int64)):
        with implementation("check"), pytest.raises(ValueError, match=rf"\(n_vocab = 401\), got {wrong};"):
            TOKENIZER.decode_bytes(make(ids))


@pytest.mark.parametrize(
    "ids", [["a"] * 100, [1.0] * 100, [None] * 100, np.ones(100), 5, "5" * 100, b""[:0], np.bool_(1)]
)
def test_what_are_no_integers_is_refused_as_by_the_reference(ids):
    results = []
    for name in ("numpy", "check"):
        with implementation(name):
            try:
                results.append(TOKENIZER.decode_bytes(ids))
            except (TypeError, ValueError) as error:
                results.append(repr(error))
    assert results[0] == results[1]


def test_a_vocabulary_with_a_very_high_id_has_no_table():
    tokenizer = Tokenizer(BYTES, [], {"<|endoftext|>": (1 << 32) - 1})
    with implementation("check"):
        assert tokenizer.decode_bytes([104, (1 << 32) - 1] * 100) == b"h<|endoftext|>" * 100


def test_a_planted_error_is_found_by_check():
    tokenizer = Tokenizer(BYTES, [], {})
    tokenizer._decoder._compiled = CompiledDecoder(dict(enumerate([*BYTES[1:], BYTES[0]])))
    with implementation("check"), pytest.raises(ValueError, match=r"Tokenizer\.decode: kernels and reference"):
        tokenizer.decode_bytes([1, 2, 3])


def test_real_texts_come_back_by_kernels(gpt2, texts):
    text = "".join(texts.values())
    with implementation("check"):
        assert gpt2.decode(gpt2.encode_to_numpy(text)) == text

"""The public tokenizer: what goes in comes out, whole characters are streamed, wrong arguments are named."""

from __future__ import annotations

import re
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygpt.tokenizer import StreamDecoder, Tokenizer, encoder
from tinygpt.tokenizer.reference import BYTE_ORDERS

BYTES = [bytes([byte]) for byte in range(256)]
END = "<|endoftext|>"
CORPUS = "the hen and the fox and the other hen, den, then: 'tis the end. " * 3


TRAINED = Tokenizer.train(CORPUS, 275, progress=False)

# Text to ids and back


def test_published_ids(gpt2):
    assert gpt2.encode("Hello world") == [15496, 995]
    assert gpt2.encode("hello world") == [31373, 995]
    assert gpt2.n_vocab == 50257
    assert gpt2.eot_token == 50256


def test_a_merge_by_hand():
    tokenizer = Tokenizer([*BYTES, b"he", b"the"], [(b"h", b"e"), (b"t", b"he")], {})
    assert tokenizer.encode("the hen") == [257, 32, 256, ord("n")]
    assert tokenizer.decode([257, 32, 256, 110]) == "the hen"


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_every_text_comes_back(text):
    ids = TRAINED.encode(text)
    assert TRAINED.decode(ids) == text
    assert TRAINED.decode_bytes(ids) == text.encode("utf-8")


@given(st.binary())
def test_every_byte_string_has_ids(data):
    assert TRAINED.decode_bytes([BYTE_ORDERS["gpt2"].index(byte) for byte in data]) == data


def test_the_shared_texts_come_back(gpt2, texts):
    for text in texts.values():
        assert gpt2.decode(gpt2.encode_to_numpy(text)) == text


def test_pitfall_5_encoding_parts_is_not_encoding_the_whole(gpt2):
    assert gpt2.encode("the end\n") + gpt2.encode("\n") != gpt2.encode("the end\n\n")
    assert gpt2.encode("  'the") + gpt2.encode("re") != gpt2.encode("  'there")


def test_pitfall_8_surrogates_are_joined_or_replaced():
    assert TRAINED.encode("\ud83d\ude00") == TRAINED.encode("😀")
    assert TRAINED.decode(TRAINED.encode("a\ud83db")) == "a\ufffdb"


def test_pitfall_9_long_runs_take_no_quadratic_time(gpt2):
    start = time.perf_counter()
    for text in ("a" * 100_000, "^" * 100_000, " " * 100_000, "abcdefghij" * 10_000, "汉字" * 50_000):
        assert gpt2.decode(gpt2.encode(text)) == text
    assert time.perf_counter() - start < 30


def test_pitfall_10_empty_text():
    assert TRAINED.encode("") == []
    assert TRAINED.decode([]) == ""
    assert TRAINED.encode_to_numpy("").shape == (0,)
    assert TRAINED.decode(np.array([])) == ""


def test_pitfall_15_no_space_is_put_before_a_text(gpt2):
    assert gpt2.encode("Once") != gpt2.encode(" Once")
    assert gpt2.decode(gpt2.encode("Once")) == "Once"


def test_pitfall_16_line_ends_and_byte_order_marks_are_kept():
    text = "\ufeffone\r\ntwo\rthree\n"
    assert TRAINED.decode_bytes(TRAINED.encode(text)) == text.encode("utf-8")


def test_remembered_pieces_are_bounded_and_change_nothing(monkeypatch):
    monkeypatch.setattr(encoder, "_REMEMBERED", 10)
    tokenizer, text = (
        Tokenizer(TRAINED.vocab, TRAINED.merges, TRAINED.special_tokens),
        " ".join(f"hen{number}then" for number in range(200)) + "x" * 1000,
    )
    expected = TRAINED.encode(text)
    assert tokenizer.encode(text) == expected
    assert tokenizer.encode(text) == expected
    assert len(tokenizer._encoder._remembered) <= 10


def test_encode_to_numpy():
    ids = TRAINED.encode_to_numpy(f"the hen{END}", allowed_special="all")
    assert ids.dtype == np.uint32
    assert ids.tolist() == [*TRAINED.encode("the hen"), TRAINED.eot_token]
    assert TRAINED.encode_to_numpy("the hen " * 100).dtype == TRAINED.encode_to_numpy("").dtype == np.uint32
    large = Tokenizer(BYTES, [], {END: 65536}).encode_to_numpy(END, allowed_special="all")
    assert large.dtype == np.uint32
    assert large.tolist() == [65536]


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.int64, np.uint64])
def test_decode_takes_integer_arrays(dtype):
    assert TRAINED.decode(np.array(TRAINED.encode("the hen"), dtype)) == "the hen"
    assert TRAINED.decode(iter(np.array(TRAINED.encode("the hen"), dtype))) == "the hen"


@pytest.mark.parametrize("id", [-1, 300, 10**12])
def test_decode_refuses_unknown_ids(id):
    with pytest.raises(ValueError, match=rf"n_vocab = {TRAINED.n_vocab}\), got {id};"):
        TRAINED.decode([id])


def test_decode_refuses_a_hole_in_the_ids():
    with pytest.raises(ValueError, match=r"got 256;"):
        Tokenizer(BYTES, [], {END: 257}).decode([256])


@pytest.mark.parametrize("ids", [5, "5", ["a"], [1.0], [None], np.array([1.0])])
def test_decode_refuses_what_are_no_integers(ids):
    with pytest.raises(TypeError, match="ids must be a sequence of integers"):
        TRAINED.decode(ids)


def test_decode_refuses_a_batch():
    with pytest.raises(ValueError, match=r"shape \(N,\), got \(2, 3\)"):
        TRAINED.decode(np.zeros((2, 3), int))


@pytest.mark.parametrize("text", [b"the", None, 5, ["the"]])
def test_encode_refuses_what_is_no_text(text):
    for encode in (TRAINED.encode, TRAINED.encode_ordinary, TRAINED.encode_to_numpy):
        with pytest.raises(TypeError, match="text must be a str, got"):
            encode(text)


# Whole characters


def test_pitfall_7_a_token_may_be_part_of_a_character(raw_bytes):
    first, second = raw_bytes.encode("é")
    assert raw_bytes.decode_bytes([first]) == b"\xc3"
    assert raw_bytes.decode([first]) == "\ufffd"
    with pytest.raises(UnicodeDecodeError):
        raw_bytes.decode([first], errors="strict")
    decoder = raw_bytes.stream_decoder()
    assert isinstance(decoder, StreamDecoder)
    assert [decoder.push(first), decoder.push(second), decoder.flush()] == ["", "é", ""]


@given(st.lists(st.integers(0, TRAINED.n_vocab - 1)))
def test_streaming_gives_what_decoding_gives(ids):
    decoder = TRAINED.stream_decoder()
    for _ in range(2):  # flush starts afresh
        assert "".join([decoder.push(id) for id in ids]) + decoder.flush() == TRAINED.decode(ids)


def test_streaming_refuses_unknown_ids():
    with pytest.raises(ValueError, match=r"got 9999;"):
        TRAINED.stream_decoder().push(9999)


# The constructor


@pytest.mark.parametrize(
    ("vocab", "merges", "special_tokens", "error"),
    [
        (BYTES[:-1], [], {}, r"all 256 single bytes, b'\\xff' is missing"),
        ([*BYTES, b"a"], [], {}, "b'a' has the ids 97 and 256"),
        ([*BYTES, b""], [], {}, "must not be empty"),
        (dict(enumerate(BYTES)) | {-1: b"he"}, [], {}, "got -1"),
        (BYTES, [(b"h", b"e")], {}, "merge 0 names b'he'"),
        ([*BYTES, b"hen"], [(b"he", b"n")], {}, "merge 0 names b'he'"),
        ([*BYTES, b"he"], [(b"h", b"e"), (b"h", b"e")], {}, "merges must differ"),
        (BYTES, [], {END: 7}, "must be its own, got 7"),
        (BYTES, [], {"<a>": 256, "<b>": 256}, "must be its own, got 256"),
        (BYTES, [], {END: -1}, "got -1"),
        (BYTES, [], {END: 1 << 32}, "got 4294967296"),
        (BYTES, [], {"": 256}, "must not be empty"),
        (BYTES, [], {"\ud800": 256}, "surrogate"),
    ],
)
def test_the_constructor_refuses_wrong_values(vocab, merges, special_tokens, error):
    with pytest.raises(ValueError, match=error):
        Tokenizer(vocab, merges, special_tokens)


@pytest.mark.parametrize(
    ("vocab", "special_tokens"),
    [([*BYTES, "he"], {}), ({"a": b"a"}, {}), (BYTES, {b"<a>": 256}), (BYTES, {"<a>": 256.0})],
)
def test_the_constructor_refuses_wrong_kinds(vocab, special_tokens):
    with pytest.raises(TypeError, match="Tokenizer: "):
        Tokenizer(vocab, [], special_tokens)


@pytest.mark.parametrize("merge", [(b"h",), (b"h", b"e", b"n"), (b"h", "e"), b"he", "he", 7, None, ([b"h"], b"e")])
def test_the_constructor_refuses_what_is_no_merge(merge):
    with pytest.raises(
        TypeError, match=r"a merge must be two tokens, \(bytes, bytes\); merge 1 is " + re.escape(repr(merge))
    ):
        Tokenizer([*BYTES, b"he", b"hen"], [(b"h", b"e"), merge], {})


def test_a_merge_may_be_a_list():
    tokenizer = Tokenizer([*BYTES, b"he"], [[b"h", b"e"]], {})
    assert tokenizer.merges == [(b"h", b"e")] and tokenizer.encode("he") == [256]


def test_the_constructor_keeps_copies():
    vocab, merges, special_tokens = [*BYTES, b"he"], [(b"h", b"e")], {END: 300}
    tokenizer = Tokenizer(vocab, merges, special_tokens)
    for argument in (vocab, merges, special_tokens):
        argument.clear()
    assert tokenizer.encode("he") == [256]
    assert tokenizer.n_vocab == 301
    assert tokenizer.vocab == dict(enumerate([*BYTES, b"he"]))
    assert tokenizer.merges == [(b"h", b"e")]
    assert tokenizer.special_tokens == {END: 300}


def test_fingerprints_differ_when_anything_differs():
    vocab, merges = [*BYTES, b"he", b"en"], [(b"h", b"e"), (b"e", b"n")]
    swapped = [*BYTES, b"en", b"he"]
    prints = [
        Tokenizer(vocab, merges, {END: 258}).fingerprint,
        Tokenizer(vocab, merges[::-1], {END: 258}).fingerprint,
        Tokenizer(vocab, merges[:1], {END: 258}).fingerprint,
        Tokenizer(swapped, merges, {END: 258}).fingerprint,
        Tokenizer(vocab, merges, {END: 259}).fingerprint,
        Tokenizer(vocab, merges, {"<|end|>": 258}).fingerprint,
        Tokenizer(vocab, merges, {}).fingerprint,
    ]
    assert len(set(prints)) == len(prints)
    assert all(len(bytes.fromhex(fingerprint)) == 32 for fingerprint in prints)
    assert Tokenizer(dict(reversed(list(enumerate(vocab)))), merges, {END: 258}).fingerprint == prints[0]

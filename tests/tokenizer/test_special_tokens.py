"""Special tokens take effect only where they are asked for, by tiktoken's rules."""

from __future__ import annotations

import pytest

from tinygpt.tokenizer import Tokenizer
from tinygpt.tokenizer.special_tokens import Flags, split_off

BYTES = [bytes([byte]) for byte in range(256)]
END = "<|endoftext|>"


def test_pitfall_6_special_tokens_take_no_effect_unasked(raw_bytes):
    text = f"one{END}two"
    with pytest.raises(
        ValueError, match=r"must not hold the special token '<\|endoftext\|>', got it at character 3; pass"
    ):
        raw_bytes.encode(text)
    with pytest.raises(ValueError, match="special token"):
        raw_bytes.encode_to_numpy(text)
    assert raw_bytes.encode(text, disallowed_special=()) == list(text.encode("ascii"))
    assert raw_bytes.encode_ordinary(text) == list(text.encode("ascii"))
    with_effect = [*b"one", 256, *b"two"]
    assert raw_bytes.encode(text, allowed_special={END}) == with_effect
    assert raw_bytes.encode(text, allowed_special="all") == with_effect
    assert raw_bytes.decode(with_effect) == text


def test_pitfall_6_of_overlapping_special_tokens_the_longest_counts():
    tokenizer = Tokenizer(BYTES, [], {"<a>": 256, "<a><b>": 257, "<b>": 258})
    assert tokenizer.encode("<a><b><a>x<b>", allowed_special="all") == [257, 256, ord("x"), 258]
    assert tokenizer.encode("<a><b>", allowed_special={"<a>"}, disallowed_special=()) == [256, *b"<b>"]


def test_pitfall_6_some_may_be_allowed_and_others_disallowed():
    tokenizer = Tokenizer(BYTES, [], {"<a>": 256, "<b>": 257})
    with pytest.raises(ValueError, match="special token '<b>'"):
        tokenizer.encode("<a><b>", allowed_special={"<a>"})
    assert tokenizer.encode("<a><b>", allowed_special={"<a>"}, disallowed_special={"<c>"}) == [256, *b"<b>"]
    with pytest.raises(ValueError, match="special token '<a>'"):
        tokenizer.encode("<a>", allowed_special={"<a>"}, disallowed_special={"<a>"})
    assert tokenizer.encode("x", allowed_special={"<unknown>"}) == [ord("x")]


def test_pitfall_6_a_repaired_text_is_looked_through_too():
    tokenizer = Tokenizer(BYTES, [], {"<\ufffd>": 256})
    with pytest.raises(ValueError, match="special token"):
        tokenizer.encode("<\ud800>")


def test_pitfall_6_special_tokens_are_split_off_before_the_pattern(gpt2):
    assert gpt2.encode(f"a {END} b", allowed_special="all") == [*gpt2.encode("a "), 50256, *gpt2.encode(" b")]


@pytest.mark.parametrize("argument", ["allowed_special", "disallowed_special"])
def test_a_name_in_place_of_a_set_of_names_is_refused(raw_bytes, argument):
    with pytest.raises(TypeError, match=f"{argument} must be 'all' or a set"):
        raw_bytes.encode("the", **{argument: END})


def test_white_space_before_and_after_is_read_once_however_long_the_text():
    flags = {"<a>": Flags(lstrip=True, rstrip=True)}
    assert split_off("hen <a> " * 50_000, ["<a>"], flags) == ["hen", "<a>"] * 50_000 + [""]  # took ten minutes
    assert split_off(" hen" * 50_000 + " <a>" * 3, ["<a>"], flags) == [" hen" * 50_000, "<a>", "", "<a>", "", "<a>", ""]

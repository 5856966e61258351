"""Tokenizer files that are too large, too long, too deep or not files at all: an error at once that names the file."""

from __future__ import annotations

import base64
import json
import os
import random
import sys

import pytest

from tinygpt import Tokenizer
from tinygpt.tokenizer.files import tiktoken
from tinygpt.tokenizer.pattern import LARGEST, PATTERNS, Pattern, covering, require_size

TEXT = "the hen and the fox, the moon and the hen " * 5


@pytest.fixture
def saved(tmp_path):
    Tokenizer.train(TEXT, 275, progress=False).save_pretrained(tmp_path)
    return tmp_path


def change(path, function):
    value = json.loads(path.read_text(encoding="utf-8"))
    function(value)
    path.write_text(json.dumps(value), encoding="utf-8")


def refused(saved, expected):
    with pytest.raises(ValueError, match=expected) as caught:
        Tokenizer.from_pretrained(saved)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 700


@pytest.mark.parametrize("token", ["a" * 300_000, "é" * 5000, "Ġ" * 4097, "<|" + "x" * 10**6 + "|>"])
def test_a_token_of_any_length_is_refused_at_once(saved, token):
    change(saved / "vocab.json", lambda ids: ids.update({token: 5000}))
    refused(saved, r"vocab\.json: a token must have at most 4,096 characters, got one of ")


def test_many_tokens_of_the_greatest_length_are_no_trouble(saved):
    (saved / "tokenizer_config.json").unlink()
    change(saved / "vocab.json", lambda ids: ids.update({"ab" * 2000 + str(i): 5000 + i for i in range(2000)}))
    Tokenizer.from_pretrained(saved)


def test_more_special_tokens_than_a_text_can_be_searched_for_are_refused(saved):
    (saved / "tokenizer_config.json").unlink()
    change(saved / "vocab.json", lambda ids: ids.update({f"<{i}>": 5000 + i for i in range(20_000)}))
    refused(saved, r"vocab\.json: must hold at most 16,384 special tokens, got 20,001")


def test_a_line_of_merges_without_end_is_quoted_shortly(saved):
    lines = (saved / "merges.txt").read_text(encoding="utf-8")
    (saved / "merges.txt").write_text(lines + "a" * 10**6 + "\n", encoding="utf-8")
    refused(saved, r"merges\.txt, line \d+: needs two tokens with a space between, got 'aaaa")


@pytest.mark.parametrize("id", [2**32, 10**30, -(10**30)])
def test_an_id_that_no_array_could_hold_names_the_file(saved, id):
    change(saved / "vocab.json", lambda ids: ids.update({"!": id}))
    refused(saved, r"vocab\.json: the id of '!' must be ")


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pipes with names")
@pytest.mark.parametrize("name", ["vocab.json", "merges.txt", "tokenizer_config.json"])
def test_a_pipe_under_a_name_of_ours_is_refused(saved, name):
    (saved / name).unlink()
    os.mkfifo(saved / name)
    refused(saved, f"{name} must be an ordinary file, got a named pipe")


@pytest.mark.skipif(sys.platform == "win32", reason="there are no devices with names")
def test_a_device_as_a_rank_file_or_a_tokenizer_json_is_refused(tmp_path):
    (tmp_path / "tokenizer.json").symlink_to("/dev/zero")
    refused(tmp_path, r"tokenizer\.json must be an ordinary file, got a device")
    with pytest.raises(ValueError, match="/dev/zero must be an ordinary file, got a device"):
        Tokenizer.from_tiktoken("/dev/zero")


# Added tokens


def listed(saved, entries):
    """The folder with these tokens in added_tokens.json."""
    (saved / "tokenizer_config.json").unlink()
    (saved / "added_tokens.json").write_text(json.dumps(entries), encoding="utf-8")


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ({"<a>": 10**30}, r"added_tokens\.json: special token '<a>' with id 1000+\.?.* contradicts the vocabulary"),
        ({"<a\n\x1b[2J" + "b" * 10**6 + ">": 9999}, r"special token '<a\\n\\x1b.* contradicts the vocabulary"),
        ({"<a>": ["\n" * 10**5]}, r"""added_tokens\.json: must hold {"token": id}, got '<a>': \['"""),
        (
            {f"<{id}>": id for id in range(273, 20_273)},
            r"added_tokens\.json: must hold at most 16,384 special tokens, got 20,000",
        ),
        ({"<" + "b" * 5000 + ">": 273}, "a token must have at most 4,096 characters, got one of 5,002"),
    ],
)
def test_an_added_token_beyond_a_limit_is_refused_in_one_line(saved, entries, expected):
    count = len(json.loads((saved / "vocab.json").read_text(encoding="utf-8")))
    entries = {text: id + count - 273 if type(id) is int and id < 30_000 else id for text, id in entries.items()}
    listed(saved, entries)
    refused(saved, expected)


@pytest.mark.parametrize("number", ["9" * 5000, "1" * 25, "-1", "1e3"])
def test_an_id_of_added_tokens_decoder_that_is_no_small_number_is_refused(saved, number):
    change(
        saved / "tokenizer_config.json",
        lambda values: values["added_tokens_decoder"].update({number: {"content": "<a>"}}),
    )
    refused(saved, r'tokenizer_config\.json: added_tokens_decoder must hold {"id"')


@pytest.mark.parametrize("field", ["split_special_tokens", "add_prefix_space"])
@pytest.mark.parametrize("value", [True, "\n" * 10**5])
def test_a_field_that_would_change_ids_is_refused_in_one_line(saved, field, value):
    change(saved / "tokenizer_config.json", lambda values: values.update({field: value}))
    refused(saved, rf"tokenizer_config\.json: {field} must be false")


def test_long_names_some_to_be_looked_for_later_are_no_trouble(saved):
    ids = json.loads((saved / "vocab.json").read_text(encoding="utf-8"))
    names = ["<" + "ab" * 2000 + f"{i}>" for i in range(200)]  # the parts of one alone would take 16 GB
    entries = {str(len(ids) + i): {"content": name, "normalized": i % 2 == 0} for i, name in enumerate(names)}
    change(saved / "tokenizer_config.json", lambda values: values["added_tokens_decoder"].update(entries))
    assert Tokenizer.from_pretrained(saved).special_flags.keys() == set(names[::2])


# Rank files


def test_long_tokens_of_a_rank_file_are_split_as_short_ones_are(monkeypatch):
    draw = random.Random(5)
    for _ in range(300):
        names = {bytes(draw.choice(b"abc") for _ in range(draw.randrange(2, 9))) for _ in range(20)}
        ids = draw.sample(range(256, 999), len(names))
        ranks = {bytes([b]): b for b in range(256)} | dict(zip(sorted(names), ids, strict=True))
        short = tiktoken.merges_of(ranks)
        with monkeypatch.context() as patch:
            patch.setattr(tiktoken, "_SHORT", 1)
            assert tiktoken.merges_of(ranks) == short


def rank_lines(tokens):
    return b"".join(base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(tokens))


def test_a_rank_file_of_long_tokens_that_are_joined_again_and_again_is_read(tmp_path):
    tokens = [bytes([b]) for b in range(256)] + [b"a" * 2**i for i in range(1, 11)]
    tokens += [b"a" * n for n in range(1500, 1700)]
    (tmp_path / "r").write_bytes(rank_lines(tokens))
    tokenizer = Tokenizer.from_tiktoken(tmp_path / "r")
    assert tokenizer.decode(tokenizer.encode("a" * 5000)) == "a" * 5000


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (base64.b64encode(b"x" * 10**6) + b" 300", "must have at most 4,096 bytes, got 1,333,34"),
        (b"eHl6 " + b"9" * 4000, "rank"),
        (b"eHl6 " + b"9" * 9000, "at most 4,096 bytes"),
        (b"\x1b[2J\x1b[2J 300", "got"),
    ],
)
def test_a_line_of_a_rank_file_has_a_limit(tmp_path, line, expected):
    (tmp_path / "r").write_bytes(rank_lines(bytes([b]) for b in range(256)) + line + b"\n")
    with pytest.raises(ValueError, match=f"r, line 257: .*{expected}") as caught:
        Tokenizer.from_tiktoken(tmp_path / "r")
    assert str(caught.value).isprintable()


# Patterns


@pytest.mark.parametrize(
    "pattern",
    ["(?:" * 7 + "ab" + "){9,}" * 7, "(?:" * 20 + "x" + ")+" * 20, "a{60000}", "(?:a{300}){300}", "(a{999999999999})",
     "(?:" * 60 + "a" + ")" * 60, "[ab]" * 6000, "(?i:" * 51 + "a" + ")" * 51],
)  # fmt: skip
def test_a_pattern_that_would_become_too_large_is_refused_unseen(pattern):
    with pytest.raises(ValueError, match="Tokenizer: pattern must ") as caught:
        Pattern(pattern)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "pattern", [*filter(None, PATTERNS.values()), r"\p{N}{1,3}+|\P{N}{1,64}", r"(?:[^\]\[(){}+*?]{2}|\)\(){3,}|[\s\S]"]
)
def test_patterns_of_an_ordinary_size_are_not_refused(pattern):
    require_size(pattern)
    require_size(covering(pattern))
    assert LARGEST > 1000


@pytest.mark.parametrize("pattern", [r"(?:a|a)+b|[\s\S]", r"(?:x|ab|a|b)*c|[\s\S]", r"(?:(?:a|b|ab)+)+c|[\s\S]"])
def test_a_pattern_that_tries_all_ways_is_ended(pattern):
    with pytest.raises(ValueError, match=r"must cut .* characters within 2 s, and does not: it tries too many"):
        Pattern(pattern).split("ab" * 20 + "a" * 40 + "!")


def test_a_pattern_from_a_tokenizer_json_is_named_with_its_file(tmp_path):
    tokenizer = Tokenizer([bytes([b]) for b in range(256)], [], {}, pattern=r"a|[\s\S]")
    tokenizer.to_tokenizer_json(tmp_path / "tokenizer.json")

    def deeper(value):
        split = value["pre_tokenizer"]["pretokenizers"][0]
        split.pop("python_regex")
        split["pattern"]["Regex"] = "(?:" * 500 + "a" + ")" * 500

    change(tmp_path / "tokenizer.json", deeper)
    refused(tmp_path, r"tokenizer\.json: Tokenizer: pattern must nest at most 50 groups")

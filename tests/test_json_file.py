"""JSON that no parser should be trusted with: every limit, from both sides."""

from __future__ import annotations

import json
import math

import pytest

from tinygpt.files.json_file import BITS, DEPTH, parse, parse_object, read_object


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


def test_what_the_library_reads_is_read_alike():
    value = {"a": [1, -2.5, 1e300, "é\n", None, True, {"b": {}}], "c": 2**127, "": "😀"}
    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False), "\ufeff" + json.dumps(value)):
        assert parse_object(text.encode("utf-8"), "test") == value


@pytest.mark.parametrize("text", [nested(DEPTH + 2), nested(500), nested(200_000), "[" * 200_000, '{"a":' * 200_000])
def test_values_inside_each_other_have_a_limit(text):
    with pytest.raises(ValueError, match=r"^test must be JSON, and is truncated or corrupt"):
        parse(text, "test")
    assert parse(nested(DEPTH), "test")


@pytest.mark.parametrize("digits", [80, 4000, 5000, 1_000_000])
def test_integers_have_a_limit(digits):
    for text in ("1" * digits, "-" + "1" * digits, f'{{"a": [{"1" * digits}]}}'):
        with pytest.raises(ValueError, match=f"holds an integer of more than {BITS} bits"):
            parse(text, "test")
    assert parse(str(2**BITS - 1), "test") == 2**BITS - 1


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
def test_numbers_are_finite_unless_asked_for(text):
    with pytest.raises(ValueError, match="test must hold finite numbers only"):
        parse(f'{{"loss": {text}}}', "test")
    assert not math.isfinite(parse(text, "test", finite=False))


@pytest.mark.parametrize("text", ['{"a": 1, "b": 2, "a": 1}', '[{"x": {"a": 1, "a": 2}}]'])
def test_a_name_that_is_there_twice_is_named(text):
    with pytest.raises(ValueError, match="test must hold each name once, 'a' is there twice"):
        parse(text, "test")


@pytest.mark.parametrize("text", [r'"\ud83d"', r'{"\udc00": 1}', r'["a", "\ud800x"]'])
def test_half_a_character_is_refused_and_a_pair_is_not(text):
    with pytest.raises(ValueError, match="test must hold characters only, got the lone surrogate in"):
        parse(text, "test")
    assert parse(r'"\ud83e\udd8a"', "test") == "🦊"


@pytest.mark.parametrize("data", [b"", b"{", b'{"a" 1}', b"\xff\xfe{}", '{"é": 1}'.encode("latin-1"), b"{}{}", b"{}\0"])
def test_what_is_no_json_is_one_line_with_the_place(data):
    with pytest.raises(
        ValueError, match=r"^test must be JSON, and is truncated or corrupt \((line|byte) .*another copy"
    ) as caught:
        parse_object(data, "test")
    assert str(caught.value).isprintable()


def test_a_file_that_is_too_large_is_not_parsed(tmp_path):
    (tmp_path / "x.json").write_text(" " * 1000 + "{}")
    assert read_object(tmp_path / "x.json", limit=1002) == {}
    with pytest.raises(ValueError, match=r"x\.json must be JSON of at most 1,001 bytes, got 1,002"):
        read_object(tmp_path / "x.json", limit=1001)


def test_a_name_with_a_line_end_does_not_make_two_lines(tmp_path):
    path = tmp_path / "a\nb.json"
    path.write_text('{"x\\ny": 1, "x\\ny": 2}')
    with pytest.raises(ValueError, match="twice") as caught:
        read_object(path, "test")
    assert str(caught.value).isprintable()

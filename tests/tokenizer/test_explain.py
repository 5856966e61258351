"""The drawn trees: they are how the tokens are really made, and they fit on a screen."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygpt.files.one_line import columns
from tinygpt.tokenizer import Tokenizer, explain
from tinygpt.tokenizer.explain import COLUMNS, shown
from tinygpt.tokenizer.explain import explain as draw

END = "<|endoftext|>"
BYTES = [bytes([byte]) for byte in range(256)]
TRAINED = Tokenizer.train("the hen and the fox and the other hen: 'tis the end. " * 3, 275, progress=False)


def top_ids(drawing: str) -> list[int]:
    """The ids of the lines that are roots of trees."""
    return [int(id) for id in re.findall(r"^  [^ │├└].*?  id (\d+)", drawing, re.MULTILINE)]


def test_the_worked_example_is_true(gpt2):
    promised = re.search(r"is this:\n\n(.*?)\n\nRead it", explain.__doc__, re.DOTALL)[1]
    drawn = "\n".join(f"    {line}" if line else "" for line in draw("the hens", gpt2).split("\n"))
    assert drawn == promised
    assert gpt2.merges[30707] == (b" he", b"n") and gpt2.encode_single_token(" hen")


@given(st.lists(st.sampled_from(["the", " hen", " other", "'", "é", " ", "x" * 20]), unique=True, max_size=6))
def test_the_roots_are_the_ids_of_encode(words):
    text = "\n".join(words)
    drawing = draw(text, TRAINED)
    assert set(top_ids(drawing)) == set(TRAINED.encode(text))


def test_every_rank_and_id_is_that_of_the_tokenizer():
    drawing = draw("the other hen", TRAINED)
    ids, ranks = 0, 0
    for text, id, rank in re.findall(r"('.*?')  +id (\d+)(?:, rank (\d+))?", drawing):
        token = TRAINED.vocab[int(id)]
        assert shown(token) == text
        ids += 1
        if rank:
            left, right = TRAINED.merges[int(rank)]
            assert left + right == token
            ranks += 1
    assert ids > 8 and ranks > 3


def test_pieces_that_came_before_are_only_named():
    drawing = draw("the hen the hen the hen", TRAINED)
    assert "piece 4: ' hen', 1 token, as piece 2" in drawing
    assert drawing.count("├─") == draw("the hen the", TRAINED).count("├─")
    assert drawing.startswith("6 pieces, 6 tokens\n")


def test_empty_text_and_special_tokens():
    assert draw("", TRAINED) == "0 pieces, 0 tokens"
    drawing = draw(f"the{END}", TRAINED)
    assert f"'{END}'" in drawing and f"id {TRAINED.eot_token}, special" in drawing


def test_a_piece_that_is_taken_whole():
    tokenizer = Tokenizer([*BYTES, b"hen"], [], {}, r"\S+|\s+", whole_pieces=True)
    assert "id 256, taken whole" in draw("hen 1", tokenizer)
    assert top_ids(draw("hens", tokenizer)) == [*b"hens"]


@pytest.mark.parametrize("text", ["汉字" * 20, "a" * 5000, "😀" * 30, "\x00\u200b" * 40, " " * 300, "-" * 300, END])
def test_every_line_fits_100_columns(gpt2, text):
    deep = Tokenizer(
        [*BYTES, *(b"a" * n for n in range(2, 99))],
        [(b"a" * n, b"a") for n in range(1, 98)],
        {END: 4294967295},
    )
    for tokenizer in (gpt2, TRAINED, deep):
        assert all(columns(line) <= COLUMNS for line in draw(text, tokenizer).split("\n"))


def test_deep_trees_are_cut():
    deep = Tokenizer([*BYTES, *("abcdefghijklmnop"[:n].encode() for n in range(2, 17))],
                     [("abcdefghijklmnop"[:n].encode(), "abcdefghijklmnop"[n : n + 1].encode()) for n in range(1, 16)],
                     {})  # fmt: skip
    drawing = draw("abcdefghijklmnop", deep)
    assert drawing.count("not drawn") == 1
    assert "'abcdefgh'" in drawing and "'abcdefg'" not in drawing


def test_what_is_shown_of_bytes():
    assert shown(b"he") == "'he'"
    assert shown(b"\xe6\xb1") == r"b'\xe6\xb1'"
    assert shown("汉".encode() * 40) == "'" + "汉" * 12 + "'…"

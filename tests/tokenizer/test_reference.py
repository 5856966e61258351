"""The readable BPE: the pattern against its description, the merges against recounting everything."""

from __future__ import annotations

import json
from collections import Counter
from itertools import islice, pairwise

import numpy as np
import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from tinygpt.tokenizer import unicode_table
from tinygpt.tokenizer.make_unicode_table import ranges, table_source
from tinygpt.tokenizer.reference import (
    BYTE_CHARACTERS,
    BYTE_ORDERS,
    chunks,
    learn_merges,
    merge,
    merge_long,
    split,
    without_surrogates,
)

# Unicode's property White_Space, from PropList.txt: 25 code points since Unicode 6.3
WHITE_SPACE = {
    *range(0x09, 0x0E),
    0x20,
    0x85,
    0xA0,
    0x1680,
    *range(0x2000, 0x200B),
    0x2028,
    0x2029,
    0x202F,
    0x205F,
    0x3000,
}
SCALARS = [*range(0xD800), *range(0xE000, 0x110000)]
SNIPPETS = [
    "'s",
    "'ll",
    "'re",
    "'T",
    "'",
    " ",
    "  ",
    "\n",
    "\r\n",
    "\t",
    "\u3000",
    "\x1c",
    "the",
    "É",
    "e\u0301",
    "12",
    "²Ⅷ",
    "!?",
    "汉字",
    "😀",
]
TEXTS = st.lists(st.sampled_from(SNIPPETS) | st.characters(exclude_categories=["Cs"]), max_size=20).map("".join)


def members(table: str) -> set[int]:
    """The code points in a table of ranges."""
    found: set[int] = set()
    for run in table.split():
        ends = [int(end, 16) for end in run.split("-")]
        found.update(range(ends[0], ends[-1] + 1))
    return found


LETTERS, NUMBERS = members(unicode_table.LETTERS), members(unicode_table.NUMBERS)


def split_by_the_rules(text: str) -> list[str]:
    """GPT-2's pattern in words instead of an expression."""
    pieces = []
    while text:
        length = next((len(c) for c in ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d") if text.startswith(c)), 0)
        if not length:
            skip = 1 if text[0] == " " and len(text) > 1 and ord(text[1]) not in WHITE_SPACE else 0
            length = skip + run_length(text[skip:])
            if ord(text[skip]) in WHITE_SPACE and 1 < length < len(text):
                length -= 1
        pieces.append(text[:length])
        text = text[length:]
    return pieces


def run_length(text: str) -> int:
    """How many characters at the start are of the class of the first."""
    groups = [set.__contains__.__get__(group) for group in (WHITE_SPACE, LETTERS, NUMBERS)]
    kinds = [[contains(ord(character)) for contains in groups] for character in text]
    return next((i for i, kind in enumerate(kinds) if kind != kinds[0]), len(kinds))


# The pattern


@given(TEXTS)
def test_split_is_the_pattern_in_words(text):
    assert split(text) == split_by_the_rules(text)


@given(TEXTS, st.integers(1, 6))
def test_chunks_split_as_the_whole(text, size):
    parts = list(chunks(text, size))
    assert "".join(parts) == text
    assert [piece for part in parts for piece in split(part)] == split(text)


def test_chunks_of_a_long_text_are_several():
    assert len(list(chunks("the hen " * 1000, size=100))) > 50


def test_pitfall_1_white_space_is_the_unicode_property():
    assert members(unicode_table.SPACES) == WHITE_SPACE
    assert len(WHITE_SPACE) == 25
    assert split("a\x1c\x1fb") == ["a", "\x1c\x1f", "b"], "str.isspace would call these white space"
    assert split("a\u3000\u3000b") == ["a", "\u3000", "\u3000", "b"]


def test_pitfall_2_every_code_point_is_classed_by_the_table_not_by_the_installed_regex():
    def joins(neighbour: str) -> set[int]:
        """Code points that continue a piece after `neighbour`."""
        text = "".join([neighbour + chr(code) for code in SCALARS])
        is_start = np.zeros(len(text) + 1, bool)
        is_start[np.cumsum([len(piece) for piece in split(text)])] = True
        return set(np.array(SCALARS)[~is_start[1::2]].tolist())

    assert joins("a") == LETTERS
    assert joins("0") == NUMBERS
    assert joins("!") == set(SCALARS) - LETTERS - NUMBERS - WHITE_SPACE


def test_pitfall_2_the_version_is_16():
    assert unicode_table.UNICODE_VERSION == "16.0.0"
    new_in_16, new_in_17 = 0x105C0, 0x323B0  # a Todhri letter; a Han character of extension J
    assert new_in_16 in LETTERS
    assert new_in_17 not in LETTERS
    assert len(LETTERS) == 141_028, "letters in DerivedGeneralCategory-16.0.0.txt"
    assert len(NUMBERS) == 1_911, "numbers in DerivedGeneralCategory-16.0.0.txt"


def test_pitfall_2_the_table_is_what_its_script_makes():
    unicodedata2 = pytest.importorskip("unicodedata2", reason="needs unicodedata2==16.0.0")
    if unicodedata2.unidata_version != "16.0.0":
        pytest.skip(f"needs unicodedata2==16.0.0, got {unicodedata2.unidata_version}")
    with open(unicode_table.__file__, encoding="utf-8") as file:
        assert file.read() == table_source(unicodedata2.category, "16.0.0")


def test_ranges_reach_both_ends():
    assert ranges(lambda code: code in (0, 1, 0x10FFFF)) == [(0, 1), (0x10FFFF, 0x10FFFF)]


def test_pitfall_3_numbers_are_more_than_digits_and_marks_are_no_letters():
    assert split("x²½Ⅷ") == ["x", "²½Ⅷ"]
    assert split("cafe\u0301s") == ["cafe", "\u0301", "s"]
    assert split("cafés") == ["cafés"]


def test_pitfall_4_contractions_are_lower_case_and_stand_at_the_start_of_a_piece():
    assert split("DON'T") == ["DON", "'", "T"]
    assert split("don't") == ["don", "'t"]
    assert split("we'll've") == ["we", "'ll", "'ve"]
    assert split("x 's") == ["x", " '", "s"]
    assert split("'''s") == ["'''", "s"]
    assert split("'é 'ς") == ["'", "é", " '", "ς"]
    assert split("it’s") == ["it", "’", "s"], "a curly apostrophe is a sign like any other"


def test_pitfall_5_parts_do_not_split_as_the_whole():
    assert split("  'there") == [" ", " '", "there"]
    assert split("end\n") + split("\n") == ["end", "\n", "\n"]
    assert split("end\n\n") == ["end", "\n\n"]
    assert split("a  ") + split("b") == ["a", "  ", "b"]
    assert split("a  b") == ["a", " ", " b"]


def test_split_agrees_with_regex_where_unicode_versions_agree(texts):
    published = regex.compile(r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+""")
    for text in texts.values():
        assert split(text) == published.findall(text)


# Bytes


def test_bytes_are_numbered_and_written_as_in_gpt2(shared_data):
    ids = json.loads((shared_data / "gpt2" / "encoder.json").read_text(encoding="utf-8"))
    for id, byte in enumerate(BYTE_ORDERS["gpt2"]):
        assert ids[BYTE_CHARACTERS[byte]] == id


def test_bytes_are_written_visibly():
    assert [BYTE_CHARACTERS[byte] for byte in b"A \n\t\x00\xad\xff"] == ["A", "Ġ", "Ċ", "ĉ", "Ā", "Ń", "ÿ"]
    assert sorted(BYTE_ORDERS["gpt2"]) == list(range(256))
    assert len(set(BYTE_CHARACTERS.values())) == 256


def test_pitfall_8_surrogates():
    assert without_surrogates("\ud83d\ude00") == "😀"
    assert without_surrogates("\ud83d \ude00\ud83d") == "\ufffd \ufffd\ufffd"
    assert without_surrogates("\ufeffa") == "\ufeffa", "a byte order mark is a character like any other"
    assert without_surrogates("\ufeff\ud83d") == "\ufeff\ufffd"


# Merging


def test_merge_takes_the_lowest_rank_first_then_the_leftmost():
    h, e, n, he, en = range(5)
    assert merge([h, e, n], {(h, e): (0, he), (e, n): (1, en)}) == [he, n]
    assert merge([h, e, n], {(h, e): (1, he), (e, n): (0, en)}) == [h, en]
    assert merge([1, 1, 1], {(1, 1): (0, 2)}) == [2, 1]
    assert merge([], {}) == []


def test_merge_is_one_pair_at_a_time():
    a, b, ab, aba = range(4)
    merges = {(ab, a): (0, aba), (a, b): (1, ab)}  # files may order merges in any way
    for function in (merge, merge_long):
        assert function([a, b, a, b], merges) == [aba, b]


@given(
    st.permutations([(left, right) for left in range(5) for right in range(5)]), st.lists(st.integers(0, 2)), st.data()
)
def test_the_heap_does_what_the_definition_says(pairs, ids, data):
    merges = {pair: (rank, data.draw(st.integers(0, 6))) for rank, pair in enumerate(pairs[:15])}
    assert merge_long(ids, merges) == merge(ids, merges)


def test_the_heap_finds_the_left_neighbour_of_a_joined_token():
    a, b, c, aa, bc, aabc = range(6)
    merges = {(a, a): (0, aa), (b, c): (1, bc), (aa, bc): (2, aabc)}
    assert merge_long([a, a, b, c], merges) == [aabc]


# Learning


def learn_by_recounting(words: dict[bytes, int], order: bytes) -> list[tuple[bytes, bytes]]:
    """Learn merges with nothing kept from one to the next."""
    tokens = [bytes([byte]) for byte in order]
    rows = [([bytes([byte]) for byte in word], count) for word, count in words.items()]
    merges = []
    while True:
        counts: Counter[tuple[bytes, bytes]] = Counter()
        for word, count in rows:
            for pair in pairwise(word):
                counts[pair] += count
        if not counts:
            return merges
        best = min(counts, key=lambda pair: (-counts[pair], tokens.index(pair[0]), tokens.index(pair[1])))
        merges.append(best)
        if best[0] + best[1] not in tokens:
            tokens.append(best[0] + best[1])
        for word, _ in rows:
            i = 0
            while i < len(word) - 1:
                if (word[i], word[i + 1]) == best:
                    word[i : i + 2] = [best[0] + best[1]]
                i += 1


@pytest.mark.parametrize("byte_order", ["gpt2", "raw"])
@given(st.dictionaries(st.text("ab \n", min_size=1, max_size=9).map(str.encode), st.integers(1, 4), max_size=8))
def test_learning_equals_recounting(byte_order, words):
    assert list(learn_merges(words, byte_order)) == learn_by_recounting(words, BYTE_ORDERS[byte_order])


def test_pitfall_11_ties_go_to_the_smallest_ids():
    words = {b" a": 1, b"ba": 1}
    assert next(learn_merges(words, "raw")) == (b" ", b"a"), "byte 32 is before 98"
    assert next(learn_merges(words, "gpt2")) == (b"b", b"a"), "in GPT-2's numbering a space, 220, is after b, 65"


def test_pitfall_12_a_run_counts_its_overlaps_and_merges_from_the_left():
    words = {b"aaaa": 2, b"bc": 5}  # (a, a) counts 6, three times two, and wins over (b, c)
    assert list(learn_merges(words)) == [(b"a", b"a"), (b"b", b"c"), (b"aa", b"aa")]
    assert list(learn_merges({b"aaaaa": 1})) == [(b"a", b"a"), (b"aa", b"a"), (b"aa", b"aaa")]


def test_learning_is_lazy():
    words = {bytes([left, right]): 1 for left in range(97, 123) for right in range(97, 123)}
    assert len(list(islice(learn_merges(words), 5))) == 5
    assert len(list(learn_merges(words))) == 26 * 26


def test_learning_from_nothing_gives_nothing():
    assert list(learn_merges({})) == []
    assert list(learn_merges({b"a": 100})) == []

"""Split patterns of one's own: the same merges, other pieces."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygpt import implementation
from tinygpt.tokenizer import Tokenizer
from tinygpt.tokenizer.pattern import Pattern

BYTES = [bytes([byte]) for byte in range(256)]
# tiktoken 0.14, tiktoken_ext/openai_public.py
CL100K = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|"
    r"\s+(?!\S)|\s"
)
CORPUS = "The hen's 12345 eggs.\n\n  Then THE HEN'S egg-cup!\r\n\tdef hen(egg): return 2025 "
MERGES = Tokenizer.train(CORPUS * 3, 290, special_tokens=(), byte_order="raw", progress=False)
SNIPPETS = ["'s", "'LL", " hen", "egg", "12345", "\n", "\r\n", "  ", "\t", "!?\n", "(", "é", "汉字", " \n x"]
TEXT = st.lists(st.sampled_from(SNIPPETS) | st.characters(max_codepoint=0x24F), max_size=30).map("".join)


def with_pattern(pattern: str) -> Tokenizer:
    return Tokenizer(MERGES.vocab, MERGES.merges, {"<|end|>": 400}, pattern=pattern)


@pytest.fixture(scope="module")
def tiktoken_cl100k():
    tiktoken = pytest.importorskip("tiktoken")
    ranks = {token: id for id, token in MERGES.vocab.items()}
    return tiktoken.Encoding("cl100k", pat_str=CL100K, mergeable_ranks=ranks, special_tokens={"<|end|>": 400})


@given(text=TEXT)
def test_ids_by_the_pattern_of_cl100k_equal_tiktokens(tiktoken_cl100k, text):
    tokenizer = with_pattern(CL100K)
    text = f"{text}<|end|>{text}"
    with implementation("check"):
        assert tokenizer.encode_ordinary(text) == tiktoken_cl100k.encode_ordinary(text)
        assert tokenizer.encode(text, allowed_special="all") == tiktoken_cl100k.encode(text, allowed_special="all")


def test_real_texts_by_the_pattern_of_cl100k_equal_tiktokens(tiktoken_cl100k, texts):
    tokenizer = with_pattern(CL100K)
    for name, text in texts.items():
        with implementation("check"):
            assert tokenizer.encode(text) == tiktoken_cl100k.encode(text), name


def test_pieces_follow_the_pattern():
    assert MERGES.encode("hen") != [104, 101, 110]
    assert with_pattern(r"(?s).").encode("hen") == [104, 101, 110]
    assert with_pattern(r"(?s)(.)").encode("hen") == [104, 101, 110]  # a group
    assert with_pattern(r"(?s).|").encode("") == []
    with implementation("check"):
        assert with_pattern(r"(?s).|").encode("hen") == [104, 101, 110]


@pytest.mark.parametrize(("pattern", "place"), [(r"\S+", 3), ("hen ", 4), ("x", 0)])
def test_a_text_that_the_pattern_does_not_cover_is_refused(pattern, place):
    for name in ("numpy", "check"):
        with implementation(name), pytest.raises(ValueError, match=f"must match all of a text, character {place}, "):
            with_pattern(pattern).encode("hen egg")


def test_wrong_patterns_are_refused():
    with pytest.raises(ValueError, match=r"pattern must be a regular expression, got '\('"):
        with_pattern("(")
    with pytest.raises(TypeError, match="pattern must be a str or None, got bytes"):
        with_pattern(b".")


def test_the_pattern_is_part_of_the_fingerprint():
    plain = Tokenizer(MERGES.vocab, MERGES.merges, {"<|end|>": 400})
    prints = [plain.fingerprint, with_pattern(CL100K).fingerprint, with_pattern(r"(?s).").fingerprint]
    assert len(set(prints)) == 3
    assert Tokenizer(BYTES, [], {}).fingerprint.startswith("deb104419f02865e")


# Unicode 16, whichever version the installed `regex` knows

O200K = (  # tiktoken 0.14, tiktoken_ext/openai_public.py
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
ALL = [chr(code) for code in range(0x110000) if not 0xD800 <= code <= 0xDFFF]


@pytest.mark.parametrize("chosen", [ALL[::97], pytest.param(ALL, marks=pytest.mark.slow)], ids=["some", "all"])
@pytest.mark.parametrize("pattern", [CL100K, O200K, r"\w+|\W+", r"([\p{S}\p{Mn}])|[\s\S]"])
def test_every_character_is_cut_as_tiktoken_cuts_it(pattern, chosen):
    """Each one before ":A" and after "a": a token for ":A" shows whether the piece ends between."""
    tiktoken = pytest.importorskip("tiktoken")
    ranks = {token: id for id, token in enumerate([*BYTES, b":A", b"a\xf0", b"a\xe0", b"a\xea"])}
    theirs = tiktoken.Encoding("x", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    merges = [(b":", b"A"), *[(b"a", bytes([byte])) for byte in b"\xf0\xe0\xea"]]
    ours = Tokenizer({id: token for token, id in ranks.items()}, merges, {}, pattern)
    for start in range(0, len(chosen), 1 << 15):
        text = "\n".join(f"a{character}:A 1{character}" for character in chosen[start : start + (1 << 15)])
        assert ours.encode(text) == theirs.encode(text)


@pytest.mark.parametrize("category", ["Ll", "Mn", "Nd", "So", "Cn"])
def test_every_character_has_the_category_that_hugging_faces_tokenizers_give_it(category):
    tokenizers = pytest.importorskip("tokenizers")
    split = tokenizers.pre_tokenizers.Split(tokenizers.Regex(rf"\p{{{category}}}+"), "isolated")
    pieces = [piece for piece, _ in split.pre_tokenize_str("".join(ALL))]
    assert Pattern(rf"\p{{{category}}}+|\P{{{category}}}+").split("".join(ALL)) == pieces


def test_a_character_that_the_pattern_names_is_found_though_it_came_later():
    assert Pattern("[\u0870-\u08ff]+|[a-z]+").split("a\u088fb\u0890") == ["a", "\u088f", "b", "\u0890"]
    assert Pattern("[^\\x00-\\x7f]+|[a-z]+").split("a\u088f\u0870b") == ["a", "\u088f\u0870", "b"]

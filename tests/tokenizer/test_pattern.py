"""Split patterns of one's own: the same merges, other pieces."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygpt import implementation
from tinygpt.tokenizer import Tokenizer

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

"""`encode_with_unstable`: exactly tiktoken's stable tokens and completions, and what these promise."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinygpt.tokenizer import Tokenizer
from tinygpt.tokenizer.pattern import PATTERNS
from tinygpt.tokenizer.reference import GPT2_PATTERN

END = "<|endoftext|>"
TRAINING = (
    "the hen and the fox\n\n  and then the other hen:\n \n 'tis hers. ééé ée 汉汉 汉字\u3000\u3000 12 123 \n\n\n" * 3
)
TRAINED = {
    name: Tokenizer.train(TRAINING, 295, byte_order="raw", pattern=pattern, progress=False)
    for name, pattern in (("gpt2", None), ("cl100k", PATTERNS["cl100k"]))
}
ENDS = ["hello fan", " ", "  ", "\n\n", "a \n", "a\u3000", "\u3000\u3000", "\x85\x85", "é", "'l", "a  b", "",
        "<|endof", END, f"{END} ", f"x {END}", f"{END}\n \n", " \t\n", "12", "汉", "don't", "\x1c\x1c"]  # fmt: skip


def in_tiktoken(tokenizer: Tokenizer):
    tiktoken = pytest.importorskip("tiktoken")
    ranks = {token: id for id, token in tokenizer.vocab.items()}
    pattern = tokenizer.pattern or GPT2_PATTERN.pattern
    return tiktoken.Encoding("same", pat_str=pattern, mergeable_ranks=ranks, special_tokens=tokenizer.special_tokens)


@pytest.fixture(scope="module")
def theirs():
    return {name: in_tiktoken(tokenizer) for name, tokenizer in TRAINED.items()}


def assert_the_same(ours: Tokenizer, theirs, text: str) -> None:
    stable, completions = ours.encode_with_unstable(text, allowed_special="all")
    expected = theirs.encode_with_unstable(text, allowed_special="all")
    assert (stable, completions) == (expected[0], sorted(expected[1])), text


@pytest.mark.parametrize("name", TRAINED)
@settings(max_examples=300)
@given(text=st.lists(st.sampled_from([*ENDS, *TRAINING[:80]]) | st.characters(exclude_categories=["Cs"]), max_size=8))
def test_completions_are_tiktokens(name, text, theirs):
    assert_the_same(TRAINED[name], theirs[name], "".join(text))


def test_completions_with_gpt2s_vocabulary_are_tiktokens(gpt2, texts):
    theirs, rng = in_tiktoken(gpt2), random.Random(1)
    tales = texts["grimms-fairy-tales_2591-0.txt"]
    cut = [tales[start : start + rng.randrange(40)] for start in (rng.randrange(len(tales)) for _ in range(40))]
    for text in [*ENDS, *cut]:
        assert_the_same(gpt2, theirs, text)


@pytest.mark.parametrize("text", ENDS)
def test_stable_tokens_begin_the_text_and_completions_spell_it(text):
    tokenizer = TRAINED["gpt2"]
    stable, completions = tokenizer.encode_with_unstable(text, allowed_special="all")
    assert text.encode().startswith(tokenizer.decode_bytes(stable))
    assert not completions or stable == tokenizer.encode(text, allowed_special="all")[: len(stable)]
    for completion in completions:
        assert tokenizer.decode_bytes(stable + completion).startswith(text.encode())
        assert not tokenizer.decode_bytes(stable + completion[:-1]).startswith(text.encode())
    assert completions == sorted(map(list, set(map(tuple, completions))))
    assert (completions == []) == (text == "" or text.endswith(END))


def test_what_follows_begins_with_one_of_the_completions(texts, gpt2):
    """Of the tokens of a whole word, those that cover what was known of it are among the completions."""
    words = ["The", "fisherman's", "daughters", "were", "extraordinarily", "fantastic", "storytellers"]
    for word in words:
        for end in range(1, len(word) + 1):
            stable, completions = gpt2.encode_with_unstable(f"a {word[:end]}")
            ids = gpt2.encode(f"a {word}")
            ends = [len(gpt2.decode(ids[:count])) >= end + 2 for count in range(len(ids) + 1)]
            assert ids[: len(stable)] == stable
            assert ids[len(stable) : ends.index(True)] in completions, word[:end]


def test_special_tokens_are_treated_as_encode_does():
    tokenizer = TRAINED["gpt2"]
    with pytest.raises(ValueError, match="the text must not hold the special token"):
        tokenizer.encode_with_unstable(END)
    assert tokenizer.encode_with_unstable(END, allowed_special={END}) == ([tokenizer.eot_token], [])
    assert tokenizer.encode_with_unstable(END, disallowed_special=())[1]
    with pytest.raises(TypeError, match="text must be a str, got bytes"):
        tokenizer.encode_with_unstable(b"hen")


def test_other_tokenizers_are_their_own_measure():
    """Whole pieces, merges that are not in the order of ids, ids with holes: completions are as `encode` has them."""
    tokens = {byte: bytes([byte]) for byte in range(256)} | {400: b"he", 300: b"hen", 500: b"hens"}
    tokenizer = Tokenizer(tokens, [(b"h", b"e"), (b"he", b"n")], {END: 600}, whole_pieces=True)
    assert tokenizer.encode_with_unstable("a, hen") == ([97, 44], [[32, 300]])
    assert tokenizer.encode_with_unstable("hen") == ([], [[300], [500]])

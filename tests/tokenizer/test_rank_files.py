"""tiktoken's rank files: its ids exactly, whatever the ranks; GPT-2's merges found again; damage named."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygpt.tokenizer import Tokenizer
from tinygpt.tokenizer.files.tiktoken import merges_of
from tinygpt.tokenizer.reference import BYTE_ORDERS, GPT2_PATTERN

tiktoken = pytest.importorskip("tiktoken")

END = "<|endoftext|>"
BYTES = [bytes([byte]) for byte in range(256)]
# As tiktoken 0.14 publishes it, in tiktoken_ext/openai_public.py.
CL100K = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]"
    r"|\s+(?!\S)|\s"
)
SNIPPETS = [
    "'s",
    "'LL",
    "'\u017f",
    "'",
    " ",
    "  ",
    "\n",
    "\r\n\n",
    "\u3000",
    "the",
    " hen",
    "é",
    "12345",
    "²",
    "!?\n",
    "汉字",
    "😀",
]
FUZZ = st.lists(
    st.sampled_from(SNIPPETS) | st.characters(categories=["L", "N", "P", "S", "Z"], max_codepoint=0x2FFF), max_size=30
).map("".join)


def write(path: Path, ranks: dict[bytes, int]) -> Path:
    """A rank file, as tiktoken's own `dump_tiktoken_bpe` writes it."""
    path.write_bytes(b"".join(base64.b64encode(token) + b" %d\n" % rank for token, rank in ranks.items()))
    return path


def theirs(ranks: dict[bytes, int], pattern: str | None = None, special_tokens=()) -> tiktoken.Encoding:
    return tiktoken.Encoding(
        "theirs", pat_str=pattern or GPT2_PATTERN.pattern, mergeable_ranks=ranks, special_tokens=dict(special_tokens)
    )


@pytest.fixture(scope="module")
def gpt2_ranks(gpt2) -> dict[bytes, int]:
    return {token: id for id, token in gpt2.vocab.items()}


@pytest.fixture(scope="module")
def cl100k(gpt2_ranks, tmp_path_factory):
    """The pattern of cl100k over GPT-2's ranks, here and there, with special tokens after a hole."""
    special_tokens = {END: 100257, "<|fim_prefix|>": 100258}
    path = write(tmp_path_factory.mktemp("ranks") / "r", gpt2_ranks)
    return Tokenizer.from_tiktoken(path, CL100K, special_tokens), theirs(gpt2_ranks, CL100K, special_tokens)


# The same ids


def test_gpt2s_merges_are_found_again(gpt2, gpt2_ranks, tmp_path):
    ours = Tokenizer.from_tiktoken(write(tmp_path / "r", gpt2_ranks), special_tokens=gpt2.special_tokens)
    assert ours.merges == gpt2.merges
    assert not ours.whole_pieces
    assert ours.fingerprint == gpt2.fingerprint


def test_real_texts_by_cl100ks_pattern_equal_tiktokens(cl100k, texts):
    ours, tiktokens = cl100k
    for name, text in texts.items():
        assert ours.encode(text) == tiktokens.encode(text), name
        assert ours.decode(ours.encode(text)) == text


@given(text=FUZZ)
def test_odd_texts_by_cl100ks_pattern_equal_tiktokens(cl100k, text):
    ours, tiktokens = cl100k
    assert ours.encode_ordinary(text) == tiktokens.encode_ordinary(text)
    special = f"{text}{END}{text}<|fim_prefix|>"
    assert ours.encode(special, allowed_special="all") == tiktokens.encode(special, allowed_special="all")


ABC = st.text("abc", min_size=1, max_size=6)


@given(
    tokens=st.lists(ABC.filter(lambda token: len(token) > 1), unique=True, max_size=25),
    texts=st.lists(st.text("abc", max_size=14), max_size=10),
    data=st.data(),
)
def test_pitfall_14_any_ranks_give_tiktokens_ids(tokens, texts, data, tmp_path_factory):
    """Ranks in any order, with holes: tokens older than their parts, tokens that no merge makes, many ways to each."""
    names = BYTES + [token.encode() for token in tokens]
    ids = data.draw(st.permutations(range(len(names) + 20)))
    ranks = dict(zip(names, ids, strict=False))
    tokenizer = Tokenizer.from_tiktoken(write(tmp_path_factory.mktemp("ranks") / "r", ranks))
    expected = theirs(ranks)
    for text in [*texts, *tokens, "".join(tokens)]:
        assert tokenizer.encode(text) == expected.encode(text)


def test_two_ways_to_one_token():
    """`aba` is made from ab + a, as it is when it stands alone; a + ba never stands side by side."""
    ranks = {byte: id for id, byte in enumerate(BYTES)} | {b"ab": 256, b"ba": 257, b"aba": 258}
    assert merges_of(ranks) == ([(b"a", b"b"), (b"b", b"a"), (b"ab", b"a")], False)
    assert merges_of({b"a": 0, b"b": 1, b"ba": 2, b"ab": 3, b"aba": 4})[0][-1] == (b"a", b"ba")
    assert merges_of({b"a": 0, b"b": 1, b"c": 2, b"ab": 3, b"abc": 4, b"bc": 5})[0] == [
        (b"a", b"b"),
        (b"ab", b"c"),
        (b"b", b"c"),
    ]


def test_a_token_that_no_merge_makes_is_a_whole_piece(tmp_path):
    ranks = {byte: id for id, byte in enumerate(BYTES)} | {b"hen": 300}
    ours = Tokenizer.from_tiktoken(write(tmp_path / "r", ranks))
    assert ours.whole_pieces and ours.merges == []
    assert ours.encode("hen hen") == theirs(ranks).encode("hen hen") == [300, 32, *b"hen"]


def test_permuted_bytes_and_holes(tmp_path):
    ranks = {bytes([byte]): id * 2 for id, byte in enumerate(BYTE_ORDERS["gpt2"])} | {b"he": 1001, b"hen": 2000}
    ours = Tokenizer.from_tiktoken(write(tmp_path / "r", ranks), special_tokens={END: 1500})
    assert ours.encode("hen é") == theirs(ranks).encode("hen é")
    assert ours.n_vocab == 2001 and ours.eot_token == 1500


# Writing


@pytest.mark.parametrize("byte_order", ["gpt2", "raw"])
def test_tiktoken_reads_what_we_write(byte_order, texts, tmp_path):
    corpus = texts["tinyshakespeare.txt"][:100_000]
    ours = Tokenizer.train(corpus, 600, byte_order=byte_order, progress=False)
    ours.to_tiktoken(tmp_path / "r")
    from tiktoken.load import load_tiktoken_bpe

    ranks = load_tiktoken_bpe(str(tmp_path / "r"))
    assert theirs(ranks).encode(corpus) == ours.encode(corpus)
    assert Tokenizer.from_tiktoken(tmp_path / "r", special_tokens=ours.special_tokens).fingerprint == ours.fingerprint


def test_what_is_read_is_written_again(cl100k, gpt2_ranks, tmp_path):
    cl100k[0].to_tiktoken(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == write(tmp_path / "r", gpt2_ranks).read_bytes()
    whole = Tokenizer([*BYTES, b"hen"], [], {}, whole_pieces=True)
    whole.to_tiktoken(tmp_path / "whole")
    assert Tokenizer.from_tiktoken(tmp_path / "whole").fingerprint == whole.fingerprint


@pytest.mark.parametrize(
    ("vocab", "merges", "expected"),
    [
        ([b"he", b"en"], [(b"e", b"n"), (b"h", b"e")], "b'en' is made before b'he', with the ids 257 and 256"),
        ([b"he", b"hen", b"en"], [(b"h", b"e"), (b"he", b"n")], "implies the merge of b'e' and b'n'"),
        ([b"he", b"xyz"], [(b"h", b"e")], "no merge makes the token b'xyz'"),
    ],
)
def test_what_ranks_cannot_say_is_refused(vocab, merges, expected, tmp_path):
    with pytest.raises(ValueError, match="^to_tiktoken: .*" + expected):
        Tokenizer([*BYTES, *vocab], merges, {}).to_tiktoken(tmp_path / "r")
    assert not (tmp_path / "r").exists()


# Damage


WHOLE = [base64.b64encode(byte) + b" %d" % id for id, byte in enumerate(BYTES)]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"aGU=", "line 257: needs base64, a space and a rank"),
        (b"aGU= ", "line 257: needs base64, a space and a rank"),
        (b"aGU= x", "line 257: needs base64, a space and a rank"),
        (b"aGU= -1", "line 257: needs base64, a space and a rank"),
        (b"aGU= 4294967296", r"line 257: needs base64, a space and a rank from 0 to 2\*\*32 - 1"),
        (b"aGU= 300 ", "line 257: needs base64, a space and a rank"),
        (b"aGU 300", "line 257: the token must be in base64"),
        (b"h!== 300", "line 257: the token must be in base64"),
        (b"\xff\xfe 300", "line 257: the token must be in base64"),
        (b" 300", "line 257: a token must not be empty"),
        (b"aA== 300", "line 257: must hold a new token, got b'h' of line 105 again"),
        (b"aGU= 25", "line 257: must have a rank of its own, got 25, that of line 26; if it is the last line"),
    ],
)
def test_a_wrong_line_is_named(line, expected, tmp_path):
    (tmp_path / "r").write_bytes(b"\n".join([*WHOLE, line]))
    with pytest.raises(ValueError, match=f"r, {expected}") as caught:
        Tokenizer.from_tiktoken(tmp_path / "r")
    assert "\n" not in str(caught.value)


def test_a_file_cut_off_before_the_last_byte(tmp_path):
    data = b"\n".join(WHOLE) + b"\n"
    for end in range(0, len(data) - len(WHOLE[-1]) - 1, 97):
        (tmp_path / "r").write_bytes(data[:end])
        with pytest.raises(ValueError, match=r"cut off|in base64|a token must not be empty"):
            Tokenizer.from_tiktoken(tmp_path / "r")


def test_line_ends_do_not_matter(tmp_path):
    (tmp_path / "r").write_bytes(b"\r\n\r\n".join([*WHOLE, b"aGU= 300"]))
    assert Tokenizer.from_tiktoken(tmp_path / "r").encode("he") == [300]


def test_a_missing_file_and_a_missing_byte(tmp_path):
    with pytest.raises(FileNotFoundError, match="must be a file, and is not there; it must be a rank file"):
        Tokenizer.from_tiktoken(tmp_path / "none")
    (tmp_path / "r").write_bytes(b"\n".join(WHOLE[:7] + WHOLE[8:]))
    with pytest.raises(ValueError, match=r"all 256 single bytes, b'\\x07' is missing"):
        Tokenizer.from_tiktoken(tmp_path / "r")


def test_the_special_tokens_must_fit(tmp_path):
    (tmp_path / "r").write_bytes(b"\n".join(WHOLE))
    with pytest.raises(ValueError, match="must be its own, got 255"):
        Tokenizer.from_tiktoken(tmp_path / "r", special_tokens={END: 255})

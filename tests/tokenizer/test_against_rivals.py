"""Id for id the same as tiktoken and Hugging Face's tokenizers, merge for merge the same as their trainer."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygpt import implementation
from tinygpt.tokenizer import Tokenizer, unicode_table
from tinygpt.tokenizer.reference import BYTE_CHARACTERS

END = "<|endoftext|>"
PATTERN = r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
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
    "\x1c",
    "\u3000",
    "the",
    " hen",
    "é",
    "12",
    "²",
    "!?",
    "汉字",
    "😀",
    END,
    "<|",
]
FUZZ = st.lists(st.sampled_from(SNIPPETS) | st.characters(exclude_categories=["Cs"]), max_size=30).map("".join)
ANY_FUZZ = st.lists(st.sampled_from(SNIPPETS) | st.characters(), max_size=30).map("".join)


def written(token: bytes) -> str:
    return "".join(BYTE_CHARACTERS[byte] for byte in token)


@pytest.fixture(scope="module")
def tiktoken_gpt2(shared_data):
    """GPT-2 in tiktoken, from the published files by hand, as its own loader would fetch them from the network."""
    tiktoken = pytest.importorskip("tiktoken")
    bytes_by_character = {character: byte for byte, character in BYTE_CHARACTERS.items()}
    ids = json.loads((shared_data / "gpt2" / "encoder.json").read_text(encoding="utf-8"))
    special_tokens = {END: ids.pop(END)}
    ranks = {bytes([bytes_by_character[character] for character in token]): id for token, id in ids.items()}
    return tiktoken.Encoding("gpt2", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens=special_tokens)


@pytest.fixture(scope="module")
def transformers():
    return pytest.importorskip("transformers")


# tiktoken


def test_ids_of_real_texts_equal_tiktokens(gpt2, tiktoken_gpt2, texts):
    assert len(texts) == 4
    for name, text in texts.items():
        expected = tiktoken_gpt2.encode_ordinary(text)
        assert gpt2.encode(text) == expected, name
        assert gpt2.encode_to_numpy(text).tolist() == expected, name


@given(text=FUZZ)
def test_ids_of_odd_texts_equal_tiktokens(gpt2, tiktoken_gpt2, text):
    assert gpt2.encode_ordinary(text) == tiktoken_gpt2.encode_ordinary(text)
    assert gpt2.encode(text, allowed_special="all") == tiktoken_gpt2.encode(text, allowed_special="all")


def test_ids_of_100_000_odd_texts_equal_tiktokens(gpt2, tiktoken_gpt2, rng):
    with implementation("check"):
        gpt2.encode("a")  # from here on by kernels
    snippets = np.array([*SNIPPETS, " wonderful", "fully", "^" * 30, "a" * 70, "\x85", "\0", "e\u0301"], object)
    sizes = rng.integers(2, 20, 100_000)
    codes = rng.integers(0, rng.choice([0x250, 0x3000, 0xD800, 0x110000], sizes.sum())).tolist()
    characters = np.array(["x" if 0xD800 <= code < 0xE000 else chr(code) for code in codes], object)
    parts = np.where(rng.random(len(codes)) < 0.6, rng.choice(snippets, len(codes)), characters).tolist()
    start = 0
    for size in sizes.tolist():
        text = "".join(parts[start : start + size]) + " " * 70  # long enough for kernels
        start += size
        assert gpt2.encode_ordinary(text) == tiktoken_gpt2.encode_ordinary(text)


@given(text=ANY_FUZZ)
def test_pitfall_8_surrogates_are_treated_as_tiktoken_does(gpt2, tiktoken_gpt2, text):
    assert gpt2.encode_ordinary(text) == tiktoken_gpt2.encode_ordinary(text)


@given(ids=st.lists(st.integers(0, 50256), max_size=20))
def test_decoding_equals_tiktokens(gpt2, tiktoken_gpt2, ids):
    assert gpt2.decode_bytes(ids) == tiktoken_gpt2.decode_bytes(ids)
    assert gpt2.decode(ids) == tiktoken_gpt2.decode(ids)


@pytest.mark.parametrize(
    ("pattern", "table"),
    [(r"\p{L}", unicode_table.LETTERS), (r"\p{N}", unicode_table.NUMBERS), (r"\s", unicode_table.SPACES)],
)
def test_pitfall_2_tiktoken_classes_every_code_point_as_the_table_does(pattern, table):
    tiktoken = pytest.importorskip("tiktoken")
    ranks = {bytes([byte]): byte for byte in range(256)}
    finder = tiktoken.Encoding("finder", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})  # drops the rest
    everything = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x110000)]))
    found = finder.decode(finder.encode_ordinary(everything))
    runs = [[int(end, 16) for end in run.split("-")] for run in table.split()]
    assert found == "".join(chr(code) for run in runs for code in range(run[0], run[-1] + 1))


def test_pitfall_9_long_runs_equal_tiktokens(gpt2, tiktoken_gpt2):
    for text in ("a" * 20_000, "^" * 20_000, " " * 20_000, "abcdefghij" * 2_000, "ĀāĂă" * 3_000):
        assert gpt2.encode(text) == tiktoken_gpt2.encode(text)


def test_pitfall_6_special_tokens_are_refused_where_tiktoken_refuses_them(gpt2, tiktoken_gpt2):
    text = f"a{END}b"
    refused = 0
    for allowed in (set(), {END}, {"<|other|>"}, "all"):
        for disallowed in ((), {END}, {"<|other|>"}, "all"):
            options = {"allowed_special": allowed, "disallowed_special": disallowed}
            try:
                expected = tiktoken_gpt2.encode(text, **options)
            except ValueError:
                refused += 1
                with pytest.raises(ValueError, match="special token"):
                    gpt2.encode(text, **options)
            else:
                assert gpt2.encode(text, **options) == expected
    assert refused == 6


# Hugging Face's tokenizers


@pytest.mark.parametrize("vocab_size", [300, 2000])
def test_pitfall_11_training_learns_the_merges_of_tokenizers(texts, vocab_size):
    tokenizers = pytest.importorskip("tokenizers")
    theirs = tokenizers.Tokenizer(tokenizers.models.BPE())
    byte_level = tokenizers.pre_tokenizers.ByteLevel
    theirs.pre_tokenizer = byte_level(add_prefix_space=False)
    books = [text for name, text in texts.items() if "shakespeare" not in name]
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size, initial_alphabet=byte_level.alphabet(), special_tokens=[], show_progress=False
    )
    theirs.train_from_iterator(books, trainer)
    ours = Tokenizer.train(iter(books), vocab_size, special_tokens=(), progress=False)
    expected = [tuple(merge) for merge in json.loads(theirs.to_str())["model"]["merges"]]
    assert [(written(left), written(right)) for left, right in ours.merges] == expected
    assert {written(token): id for id, token in ours.vocab.items()} == theirs.get_vocab()


@pytest.mark.parametrize(
    "special_tokens", [(), (END,), ("<|user|>",), (END, "<|user|>", "<|user|><|user|>", " é "), ("<|user|>", END)]
)
@pytest.mark.parametrize("byte_order", ["gpt2", "raw"])
def test_transformers_opens_what_we_save(transformers, texts, tmp_path, special_tokens, byte_order):
    corpus = texts["tinyshakespeare.txt"][:100_000]
    ours = Tokenizer.train(corpus, 600, special_tokens, byte_order, progress=False)
    ours.save_pretrained(tmp_path)
    odd = f"the hen {END} <|user|><|user|><|user|> é  's \u3000 12² 汉字😀 \r\n DON'T don't  <|endo\n"
    for theirs in (
        transformers.GPT2TokenizerFast.from_pretrained(tmp_path),
        transformers.AutoTokenizer.from_pretrained(tmp_path),
    ):
        for text in (corpus, odd, "", " ", END):
            ids = ours.encode(text, allowed_special="all")
            assert theirs(text)["input_ids"] == ids
            assert theirs.decode(ids, clean_up_tokenization_spaces=False) == text
        assert len(theirs) == ours.n_vocab
        assert theirs.eos_token_id == ours.eot_token
        assert theirs.convert_tokens_to_ids(list(special_tokens)) == list(ours.special_tokens.values())


def test_transformers_gives_gpt2s_ids(transformers, gpt2, texts, tmp_path):
    gpt2.save_pretrained(tmp_path)
    theirs = transformers.GPT2TokenizerFast.from_pretrained(tmp_path)
    for name, text in texts.items():
        assert theirs(text)["input_ids"] == gpt2.encode(text), name


def test_pitfall_13_we_open_what_tokenizers_saves(tokenizers_gpt2, gpt2, tmp_path):
    tokenizers_gpt2.model.save(str(tmp_path))
    ours = Tokenizer.from_pretrained(tmp_path)
    assert (ours.vocab, ours.merges) == (gpt2.vocab, gpt2.merges)


@given(text=FUZZ)
def test_ids_of_odd_texts_equal_tokenizers(gpt2, tokenizers_gpt2, text):
    assert tokenizers_gpt2.encode(text).ids == gpt2.encode_ordinary(text)


@pytest.fixture(scope="module")
def tokenizers_gpt2(gpt2):
    tokenizers = pytest.importorskip("tokenizers")
    model = tokenizers.models.BPE(
        {written(token): id for id, token in gpt2.vocab.items()},
        [(written(left), written(right)) for left, right in gpt2.merges],
    )
    theirs = tokenizers.Tokenizer(model)
    theirs.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    return theirs

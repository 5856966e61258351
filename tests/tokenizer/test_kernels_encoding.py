"""Encoding by kernels gives the ids of the reference: any text, any vocabulary, any size of the memory."""

from __future__ import annotations

import sysconfig
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tinygpt import implementation
from tinygpt.tokenizer import Tokenizer
from tinygpt.tokenizer.encoder import Encoder
from tinygpt.tokenizer.kernels import compiled_encoder
from tinygpt.tokenizer.kernels.compiled_encoder import CompiledEncoder
from tinygpt.tokenizer.kernels.hashing import padded
from tinygpt.tokenizer.kernels.splitter import BYTE_CLASSES, CLASSES, piece_end
from tinygpt.tokenizer.reference import merge, merge_long, split

BYTES = [bytes([byte]) for byte in range(256)]
END = "<|endoftext|>"
CORPUS = "the hen and the fox and the other hen, den, then: 'tis the end. It's we'll they've été 汉字 汉字 12 12²! " * 3
TRAINED = Tokenizer.train(CORPUS, 300, progress=False)
SNIPPETS = [
    "'s",
    "'ll",
    "'r",
    "'",
    " ",
    "  ",
    "\n",
    "\r\n",
    "\x1c",
    "\x85",
    "\u3000",
    "\u2028",
    "the",
    " hen",
    "é",
    "²",
]
SNIPPETS += ["e\u0301", "12", "Ⅷ", "!?", "汉字", "😀", "\U0001d7ce", "\0", "\ufeff", "wonderfully", " " * 9, "x" * 70]
TEXT = st.lists(st.sampled_from(SNIPPETS) | st.characters(exclude_categories=["Cs"]), max_size=40).map("".join)


def compiled(tokenizer: Tokenizer, **options) -> CompiledEncoder:
    encoder = tokenizer._encoder
    return CompiledEncoder(encoder._ids, encoder._merges, **options)


def reference(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer._encoder.encode_by_reference([text])


@pytest.fixture(scope="module")
def trained() -> CompiledEncoder:
    return compiled(TRAINED)


@pytest.fixture(scope="module")
def compiled_gpt2(gpt2) -> CompiledEncoder:
    return compiled(gpt2)


# Splitting


@given(TEXT)
@example("")
@example("DON'T 'twas 're\u0301 'l' 'll'v")
@example(" \u3000 a\u3000\u3000")
def test_pieces_are_the_references(text):
    data = text.encode("utf-8")
    pieces, start = [], 0
    while start < len(data):
        end = piece_end(padded(data), start, len(data), CLASSES, BYTE_CLASSES)
        pieces.append(data[start:end].decode("utf-8"))
        start = end
    assert pieces == split(text)


def test_every_code_point_splits_as_in_the_reference():
    """Each between a letter, a digit, a sign and a space, so that a wrong class would show."""
    for first in range(0, 0x110000, 0x8000):
        codes = [code for code in range(first, first + 0x8000) if not 0xD800 <= code < 0xE000]
        text = "".join(f"a{chr(code)}1{chr(code)}! {chr(code)}" for code in codes)
        data = padded(text.encode("utf-8"))
        end = len(data) - 16
        borders, start = [], 0
        expected = np.cumsum([len(piece.encode("utf-8")) for piece in split(text)]).tolist()
        for start in [0, *expected[:-1]]:
            borders.append(piece_end(data, start, end, CLASSES, BYTE_CLASSES))
        assert borders == expected, hex(first)


def test_a_text_ends_where_it_is_said_to_end(trained):
    """What stands behind in the same buffer is another text."""
    for texts in (["it'", "s"], ["a ", "b"], ["  ", " "], ["'l", "l"], ["", "", "x", ""], ["é", "\u0301"]):
        expected = [id for text in texts for id in [*reference(TRAINED, text), 7]][:-1]
        assert trained.encode(texts, [7] * (len(texts) - 1)).tolist() == expected


# Ids


@given(TEXT)
def test_ids_are_the_references(trained, text):
    assert trained.encode([text]).tolist() == reference(TRAINED, text)


@given(TEXT)
def test_ids_of_gpt2_are_the_references(compiled_gpt2, gpt2, text):
    assert compiled_gpt2.encode([text]).tolist() == reference(gpt2, text)


def test_ids_of_real_texts_are_the_references(compiled_gpt2, gpt2, texts):
    for name, text in texts.items():
        ids = compiled_gpt2.encode([text])
        assert ids.dtype == np.uint32
        assert ids.tolist() == reference(gpt2, text), name


def test_ids_of_python_source_are_the_references(compiled_gpt2, gpt2):
    paths = sorted(Path(sysconfig.get_path("stdlib")).glob("[a-m]*.py"))
    source = "".join(path.read_text(encoding="utf-8") for path in paths)
    assert len(source) > 1_000_000
    assert compiled_gpt2.encode([source]).tolist() == reference(gpt2, source)


@settings(max_examples=30)
@given(st.lists(TEXT, max_size=10), st.integers(0, 5))
def test_a_tiny_memory_changes_nothing(texts, remembered):
    encoder = compiled(TRAINED, remembered=remembered)
    for text in [*texts, *texts]:
        assert encoder.encode([text]).tolist() == reference(TRAINED, text)


def test_the_memory_is_bounded(compiled_gpt2, gpt2):
    encoder = compiled(gpt2, remembered=100)
    sizes = [len(part) for part in encoder._first[:3]]
    text = " ".join(f"hen{number * 7919}then!{number}" for number in range(20_000))
    assert encoder.encode([text]).tolist() == compiled_gpt2.encode([text]).tolist() == reference(gpt2, text)
    assert [len(part) for part in encoder._first[:3]] == sizes
    assert 2 * encoder._first.used[0] <= sizes[0] // 2
    assert encoder._first.used[1] <= sizes[1]


@pytest.mark.parametrize("chunk", [1, 10, 1000])
def test_cutting_into_chunks_changes_nothing(trained, monkeypatch, chunk):
    monkeypatch.setattr(compiled_encoder, "_CHUNK", chunk)
    texts = [CORPUS, "", "x" * 3000, CORPUS[5:], "  "]
    expected = [id for text in texts for id in [*reference(TRAINED, text), 9]][:-1]
    assert trained.encode(texts, [9] * 4).tolist() == expected


def test_pitfall_9_hostile_runs(compiled_gpt2, gpt2):
    for unit in ("a", "^", " ", "abcdefghij", "汉", "\n ", "'s", "\0"):
        for count in (62, 63, 64, 65, 66, 5000):
            text = (unit * count)[:count]
            assert compiled_gpt2.encode([text]).tolist() == reference(gpt2, text)
    start = time.perf_counter()
    assert len(compiled_gpt2.encode(["a" * 1_000_000])) == 250_000
    assert time.perf_counter() - start < 5  # half a second where nothing else runs


def test_room_for_long_pieces_is_made_when_they_come(compiled_gpt2, gpt2):
    """Between separators, after short pieces, ever longer, and shorter again."""
    texts = ["hen", "x" * 70 + " hen", "", "12" * 100, " hen" + "^" * 500 + "then", "y" * 65, "z" * 2000 + "'s"]
    expected = [id for text in texts for id in [*reference(gpt2, text), 5]][:-1]
    assert compiled_gpt2.encode(texts, [5] * (len(texts) - 1)).tolist() == expected


# Vocabularies


def test_no_text_at_all(trained):
    assert trained.encode([""]).shape == (0,)
    assert trained.encode([""]).dtype == np.uint32
    assert trained.encode_pieces(b"", np.zeros(0, np.int64)).shape == (0,)


def test_a_vocabulary_without_merges_with_holes_and_with_tokens_that_no_merge_makes():
    vocab = {3 * id + 4_000_000_000 * (id > 200): token for id, token in enumerate(BYTES)} | {10: b"hen", 11: b"x" * 99}
    encoder = compiled(Tokenizer(vocab, [], {}))
    assert encoder.encode(["hen\xff"]).tolist() == [312, 303, 330, 3 * 195, 3 * 191]
    high = {token: id for id, token in vocab.items()}["é".encode()[:1]]
    assert encoder.encode(["é\u3000"]).tolist()[0] == high
    tokenizer = Tokenizer(dict(enumerate(reversed(BYTES))) | {4_294_967_295: b"he"}, [(b"h", b"e")], {})
    assert compiled(tokenizer).encode(["the"]).tolist() == [255 - ord("t"), 4_294_967_295]


@given(st.text("abc", max_size=150), st.data())
def test_merges_of_equal_rank_join_the_leftmost_first(text, data):
    """Rank files of tiktoken give each token one rank, however it is made."""
    tokens = data.draw(st.lists(st.text("abc", min_size=2, max_size=4), unique=True, max_size=30))
    ids = {token: id for id, token in enumerate([*BYTES, *(token.encode() for token in tokens)])}
    merges = {
        (ids[token[:cut]], ids[token[cut:]]): (rank, rank)
        for token, rank in ids.items()
        for cut in range(1, len(token))
        if token[:cut] in ids and token[cut:] in ids
    }
    found = CompiledEncoder(ids, merges, remembered=10).encode_pieces(text.encode(), np.array([len(text)][: len(text)]))
    assert found.tolist() == merge(list(text.encode()), merges) == merge_long(list(text.encode()), merges)


# The switch


def test_a_planted_error_is_found_by_check():
    tokenizer = Tokenizer([*BYTES, b"he", b"en"], [(b"h", b"e"), (b"e", b"n")], {})
    other = Tokenizer([*BYTES, b"he", b"en"], [(b"e", b"n"), (b"h", b"e")], {})
    with implementation("check"):
        assert tokenizer.encode("a hen") == [97, 32, 256, 110]
        tokenizer._encoder._compiled = compiled(other)
        with pytest.raises(ValueError, match=r"must agree, got \[104\] and \[256\] at place 2; implementation\('numpy"):
            tokenizer.encode_to_numpy("a hen")
        with pytest.raises(ValueError, match="encode: kernels and reference"):
            tokenizer.encode("hen" * 1000)


def test_numpy_means_the_reference(monkeypatch):
    monkeypatch.setattr(CompiledEncoder, "encode", None)
    tokenizer = Tokenizer.train(CORPUS, 300, progress=False)
    with implementation("numpy"):
        assert len(tokenizer.encode(CORPUS * 5000)) > 100_000


@given(TEXT)
def test_special_tokens_and_both_results_are_the_same_by_kernels(text):
    tokenizer = Tokenizer(TRAINED.vocab, TRAINED.merges, {END: 299, "<a>": 70_000})
    text = f"{END}{text}<a><a>{text}{END}"
    with implementation("numpy"):
        expected = tokenizer.encode(text, allowed_special="all"), tokenizer.encode_ordinary(text)
    with implementation("check"):
        assert tokenizer.encode(text, allowed_special="all") == expected[0]
        assert tokenizer.encode_to_numpy(text, allowed_special="all").tolist() == expected[0]
        assert tokenizer.encode_ordinary(text) == expected[1]


def test_many_small_texts_come_to_the_kernels():
    tokenizer = Tokenizer.train(CORPUS, 300, progress=False)
    expected = tokenizer.encode(CORPUS)
    for _ in range(1 + 1_100_000 // len(CORPUS)):
        tokenizer.encode(CORPUS)
    assert tokenizer._encoder._compiled is not None
    assert tokenizer.encode(CORPUS) == expected


def test_threads_that_share_a_tokenizer(gpt2, texts):
    tokenizer = Tokenizer(gpt2.vocab, gpt2.merges, gpt2.special_tokens)
    tokenizer._encoder._compiled = compiled(tokenizer, remembered=1000)  # so that memories start afresh all the time
    work = [text[start : start + 100_000] for text in texts.values() for start in (0, 100_000)]
    expected = [reference(gpt2, text) for text in work]
    wrong = []

    def encode(offset: int) -> None:
        for turn in range(20):
            number = (turn + offset) % len(work)
            if tokenizer.encode_to_numpy(work[number]).tolist() != expected[number]:
                wrong.append(number)

    threads = [threading.Thread(target=encode, args=(offset,)) for offset in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(tokenizer._encoder._compiled._idle) <= 6


def test_lists_of_a_large_vocabulary_hold_integers():
    tokenizer = Tokenizer(BYTES, [], {END: 1 << 31})
    with implementation("check"):
        ids = tokenizer.encode(f"hen{END}", allowed_special="all")
    assert ids == [104, 101, 110, 1 << 31]
    assert {type(id) for id in ids} == {int}
    assert Encoder({byte: id for id, byte in enumerate(BYTES)}, [], 256).encode_to_list(["a"]) == [97]

"""Training by kernels: the words, the merges and their order are the reference's, and other trainers'."""

from __future__ import annotations

import sysconfig
from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygpt import implementation
from tinygpt.tokenizer import Tokenizer, training
from tinygpt.tokenizer.kernels import counting, trainer
from tinygpt.tokenizer.kernels.counting import WordCounts
from tinygpt.tokenizer.reference import BYTE_ORDERS, learn_merges, split

END = "<|endoftext|>"
PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
FEW_LETTERS = st.dictionaries(st.text("abc", min_size=1, max_size=12), st.integers(1, 50), max_size=20)
ANY_WORDS = st.dictionaries(st.binary(min_size=1, max_size=20), st.integers(1, 1 << 40), max_size=12)
TEXT = st.lists(st.sampled_from([" hen", "then", "'s", "  ", "aaa", "é", "汉字", "x" * 90]) | st.characters(
    exclude_categories=["Cs"]), max_size=30).map("".join)  # fmt: skip


def learned(counts: dict[bytes, int], byte_order: str, how_many: int = 10_000) -> list[tuple[bytes, bytes]]:
    compiled = WordCounts()
    compiled.add(list(counts), are_pieces=True, times=list(counts.values()))
    assert compiled.as_dict() == counts
    tokens, merges = [bytes([byte]) for byte in BYTE_ORDERS[byte_order]], []
    for batch in trainer.learn(compiled.words(), BYTE_ORDERS[byte_order], how_many):
        for left, right in batch.tolist():
            merges.append((tokens[left], tokens[right]))
            tokens.append(tokens[left] + tokens[right])
    return merges


@pytest.mark.parametrize("byte_order", ["gpt2", "raw"])
@given(counts=FEW_LETTERS.map(lambda counts: {word.encode(): count for word, count in counts.items()}) | ANY_WORDS)
def test_merges_are_the_references_down_to_the_last_pair(byte_order, counts):
    assert learned(counts, byte_order) == list(learn_merges(counts, byte_order))


@pytest.mark.parametrize("word", [b"aaa", b"aaaa", b"aaaaa", b"abab", b"ababa", b"aabaab", b"abcabcab", b"a" * 1000])
def test_pitfall_12_pairs_that_overlap(word):
    for counts in ({word: 1}, {word: 3, b"ab": 2, b"aa": 7}):
        assert learned(counts, "raw") == list(learn_merges(counts, "raw"))


@given(st.lists(TEXT, max_size=8))
def test_words_are_the_references(texts):
    compiled = WordCounts()
    for start in range(0, len(texts), 3):
        compiled.add([text.encode("utf-8") for text in texts[start : start + 3]], are_pieces=False)
    expected = Counter(piece.encode("utf-8") for text in texts for piece in split(text))
    assert list(compiled.as_dict().items()) == list(expected.items())


@pytest.mark.parametrize("length", [3, 20, 600])
def test_tables_grow_in_the_middle_of_a_text(monkeypatch, length):
    monkeypatch.setattr(counting, "_FIRST_ROOM", 16)
    text = " ".join(f"{number}" * (1 + length // 6) for number in range(3000)) * 2
    compiled = WordCounts()
    compiled.add([text.encode()], are_pieces=False)
    assert compiled.as_dict() == {word.encode(): count for word, count in Counter(split(text)).items()}


def test_a_batch_of_merges_ends_anywhere(monkeypatch):
    counts = {b"the": 3, b"then": 2, b"hen": 5, b" then": 1}
    expected = list(learn_merges(counts, "raw"))
    for batch in (1, 2, 3, 100):
        monkeypatch.setattr(trainer, "_BATCH", batch)
        for how_many in (0, 1, 2, 3, 4, 100):
            assert learned(counts, "raw", how_many) == expected[:how_many]


def test_nothing_to_learn():
    assert learned({}, "raw") == []
    assert learned({b"a": 5}, "raw") == []


def test_a_corpus_of_too_many_words_is_refused():
    class Large(np.ndarray):
        """Says that it is large."""

        def __len__(self):
            return 1 << 30

    data = np.zeros(1, np.uint8).view(Large)
    corpus = counting.Words(data, data, np.array([0, 1]), np.array([1]))
    with pytest.raises(ValueError, match=f"fewer than 715827882 bytes in all, got {1 << 30}; train on a part"):
        next(trainer.learn(corpus, BYTE_ORDERS["raw"], 1))


# Tokenizer.train


@pytest.mark.parametrize("byte_order", ["gpt2", "raw"])
def test_training_is_checked_on_real_texts(texts, byte_order):
    corpus = [f"{text[:60_000]}{END}{text[60_000:120_000]}" for text in texts.values()]
    with implementation("numpy"):
        expected = Tokenizer.train(corpus, 800, byte_order=byte_order, progress=False)
    with implementation("check"):
        found = Tokenizer.train(iter(corpus), 800, byte_order=byte_order, progress=False)
    assert (found.vocab, found.merges, found.special_tokens) == (
        expected.vocab,
        expected.merges,
        expected.special_tokens,
    )


def test_the_switch_in_the_middle_of_a_corpus_changes_nothing(texts, monkeypatch):
    text = texts["tinyshakespeare.txt"][:200_000]
    documents = [text[start : start + 7000] for start in range(0, len(text), 7000)]
    with implementation("numpy"):
        expected = Tokenizer.train(documents, 700, progress=False).merges
    for together in (1, 10_000, 1 << 20):
        monkeypatch.setattr(training, "_BLOCK", together)
        assert Tokenizer.train(documents, 700, progress=False).merges == expected


def test_training_with_a_pattern_of_ones_own(texts):
    text = texts["tinyshakespeare.txt"][:150_000]
    by_ours = Tokenizer.train(text, 600, progress=False)
    for name in ("numpy", "kernels", "check"):
        with implementation(name):
            assert Tokenizer.train(text, 600, pattern=PATTERN, progress=False).merges == by_ours.merges
            lines = Tokenizer.train(text, 600, pattern=r".+|\n", progress=False)
    assert lines.pattern == r".+|\n"
    assert any(b" " in token.strip() for token in lines.vocab.values())


def test_a_planted_error_is_found_by_check(monkeypatch):
    monkeypatch.setattr(trainer, "learn", lambda words, order, how_many: iter([np.array([[0, 0]])]))
    with implementation("check"), pytest.raises(ValueError, match=r"Tokenizer\.train: kernels and reference"):
        Tokenizer.train("the hen", 260, progress=False)


@pytest.mark.parametrize("vocab_size", [300, 3000])
def test_pitfall_11_raw_order_learns_the_merges_of_rustbpe(texts, vocab_size):
    rustbpe = pytest.importorskip("rustbpe")
    source = [path.read_text(encoding="utf-8") for path in sorted(Path(sysconfig.get_path("stdlib")).glob("[a-d]*.py"))]
    for corpus in (list(texts.values()), source):
        theirs = rustbpe.Tokenizer()
        theirs.train_from_iterator(iter(corpus), vocab_size, pattern=PATTERN)
        ours = Tokenizer.train(corpus, vocab_size, special_tokens=(), byte_order="raw", progress=False)
        assert list(ours.vocab.values()) == [bytes(token) for token, _ in theirs.get_mergeable_ranks()]


def test_merges_of_python_source_are_the_references():
    source = "".join(
        path.read_text(encoding="utf-8") for path in sorted(Path(sysconfig.get_path("stdlib")).glob("c*.py"))
    )
    counts = {word.encode("utf-8"): count for word, count in Counter(split(source)).items()}
    assert learned(counts, "gpt2", 2000) == list(islice(learn_merges(counts, "gpt2"), 2000))

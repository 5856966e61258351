"""Training a tokenizer: which ids are given, what the corpus teaches, what happens at the edges."""

from __future__ import annotations

import warnings
import weakref

import pytest

from tinygpt.tokenizer import Tokenizer

END = "<|endoftext|>"
CORPUS = "the hen and the fox and the other hen, den, then: 'tis the end. " * 3


def train(text=CORPUS, vocab_size=275, **options) -> Tokenizer:
    return Tokenizer.train(text, vocab_size, progress=False, **options)


def test_training_numbers_bytes_then_merges_then_special_tokens():
    tokenizer = train(vocab_size=270, special_tokens=("<|user|>", END))
    assert tokenizer.n_vocab == 270
    assert tokenizer.special_tokens == {"<|user|>": 268, END: 269}
    assert tokenizer.eot_token == 269
    assert sorted(tokenizer.vocab) == list(range(268))
    assert [tokenizer.vocab[256 + rank] for rank in range(12)] == [left + right for left, right in tokenizer.merges]
    assert tokenizer.merges[:3] == [(b"h", b"e"), (b"t", b"he"), (b" ", b"the")]  # 24, 18 and 14 times


def test_training_byte_orders():
    assert [train(vocab_size=257, byte_order="raw").vocab[id] for id in (0, 32, 255)] == [b"\x00", b" ", b"\xff"]
    assert [train(vocab_size=257).vocab[id] for id in (0, 220, 255)] == [b"!", b" ", b"\xad"]


def test_training_on_documents_is_training_on_each():
    documents = ["the hen", " then", "the den"]
    assert train(iter(documents), 262).merges == train(f"{END}".join(documents), 262).merges
    assert (b"n", b" ") not in train(["n", " n", " n", " n"], 258).merges


def test_training_compresses():
    assert len(train().encode(CORPUS)) < len(CORPUS) / 2


def test_training_keeps_no_document():
    class Document(str):
        """A str that can be watched."""

    watched = []

    def documents():
        for number in range(20):
            assert sum(watch() is not None for watch in watched) <= 2
            document = Document(f"the hen number {number}. ")
            watched.append(weakref.ref(document))
            yield document

    train(documents(), 265)
    assert len(watched) == 20


def test_pitfall_6_a_special_token_in_the_corpus_teaches_nothing():
    corpus = f"the hen{END}" * 100
    tokenizer = train(corpus, 261)
    learned = [left + right for left, right in tokenizer.merges]
    assert learned == [left + right for left, right in train(["the hen"] * 100, 261).merges]
    assert not any(set(token) & set(b"<|>") or b"endof" in token for token in learned)
    assert b"|>" in [left + right for left, right in train(corpus, 270, special_tokens=()).merges]


def test_pitfall_10_a_vocabulary_of_bytes():
    tokenizer = train(vocab_size=256, special_tokens=())
    assert (tokenizer.n_vocab, tokenizer.merges, tokenizer.eot_token) == (256, [], None)
    assert tokenizer.decode(tokenizer.encode("é")) == "é"


@pytest.mark.parametrize("vocab_size", [256, 0, -1])
def test_pitfall_10_a_vocabulary_that_is_too_small(vocab_size):
    with pytest.raises(ValueError, match=f"vocab_size must be at least 257, .* got {vocab_size}"):
        train(vocab_size=vocab_size)


def test_pitfall_10_a_corpus_with_too_few_pairs():
    with pytest.warns(UserWarning, match=r"n_vocab is 259; give more text") as caught:
        tokenizer = train("hen", 300)
    assert caught[0].filename.endswith("test_training.py")
    assert tokenizer.n_vocab == 259
    assert tokenizer.eot_token == 258
    assert tokenizer.encode("hen") == [257]


@pytest.mark.parametrize("corpus", ["", [], [""], END])
def test_pitfall_10_an_empty_corpus(corpus):
    with pytest.warns(UserWarning, match="n_vocab is 257"):
        tokenizer = train(corpus, 1000)
    assert tokenizer.n_vocab == 257
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert train(corpus, 257).n_vocab == 257


def test_pitfall_8_a_corpus_with_surrogates():
    assert train("\ud83d\ude00" * 3, 260).merges == train("😀" * 3, 260).merges


def test_progress_goes_to_stderr_or_nowhere(capsys, as_on_a_terminal):
    Tokenizer.train(CORPUS, 260)
    out, err = capsys.readouterr()
    assert out == ""
    assert "learning tokens" in err
    train()
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (b"the", "needs a str or an iterable of str, got bytes"),
        (5, "needs a str or an iterable of str, got int"),
        (None, "needs a str or an iterable of str, got NoneType"),
        (["the", b"hen"], "document 1 must be a str, got bytes"),
    ],
)
def test_training_refuses_what_is_no_text(text, error):
    with pytest.raises(TypeError, match=error):
        train(text)


def test_training_refuses_wrong_options():
    with pytest.raises(ValueError, match="byte_order must be 'gpt2' or 'raw', got 'hf'"):
        train(byte_order="hf")
    with pytest.raises(TypeError, match="special_tokens must be a sequence"):
        train(special_tokens=END)
    with pytest.raises(ValueError, match="must differ"):
        train(special_tokens=(END, END))
    with pytest.raises(ValueError, match="must not be empty"):
        train(special_tokens=("",))
    with pytest.raises(TypeError, match="vocab_size must be an integer, got float"):
        train(vocab_size=300.5)

"""Batches, lines, single tokens, copies and threads: as tiktoken has them, and equal to `encode` one by one."""

from __future__ import annotations

import copy
import inspect
import json
import multiprocessing
import pickle
import re
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygpt
from tinygpt import implementation
from tinygpt.tokenizer import Tokenizer, other_names
from tinygpt.tokenizer.reference import BYTE_CHARACTERS, GPT2_PATTERN

END = "<|endoftext|>"
BYTES = [bytes([byte]) for byte in range(256)]
TRAINED = Tokenizer.train("the hen and the fox and the other hen: 'tis the end. " * 3, 275, progress=False)


@pytest.fixture(scope="module")
def tiktoken_trained():
    """The same tokenizer in tiktoken: ids rise with the merges, so they can be ranks."""
    tiktoken = pytest.importorskip("tiktoken")
    ranks = {token: id for id, token in TRAINED.vocab.items()}
    return tiktoken.Encoding(
        "trained", pat_str=GPT2_PATTERN.pattern, mergeable_ranks=ranks, special_tokens=TRAINED.special_tokens
    )


# Many texts


@given(texts=st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=5))
def test_batches_equal_tiktokens(texts, tiktoken_trained):
    ids = TRAINED.encode_ordinary_batch(texts)
    assert ids == tiktoken_trained.encode_ordinary_batch(texts)
    assert TRAINED.encode_batch(texts, num_threads=2, disallowed_special=()) == ids
    assert TRAINED.decode_batch(ids) == tiktoken_trained.decode_batch(ids) == texts
    assert TRAINED.decode_bytes_batch(ids) == tiktoken_trained.decode_bytes_batch(ids)


def test_batches_treat_special_tokens_as_encode_does():
    assert TRAINED.encode_batch([f"a{END}"], allowed_special="all")[0][-1] == TRAINED.eot_token
    assert TRAINED.eot_token not in TRAINED.encode_ordinary_batch([f"a{END}"])[0]
    with pytest.raises(ValueError, match="special token"):
        TRAINED.encode_batch(["a", END])


def test_a_batch_of_rows_and_of_broken_characters():
    ids = TRAINED.encode("é")
    rows = np.array([ids, ids[::-1]])
    assert TRAINED.decode_batch(rows) == ["é", "\ufffd\ufffd"]
    with pytest.raises(UnicodeDecodeError):
        TRAINED.decode_batch(rows, errors="strict")


@pytest.mark.parametrize("name", ["encode_batch", "encode_ordinary_batch"])
def test_a_batch_is_no_text(name):
    with pytest.raises(TypeError, match=rf"{name}: needs a sequence of str, got str; write \[text\]"):
        getattr(TRAINED, name)("the hen")
    with pytest.raises(TypeError, match="text must be a str, got int"):
        getattr(TRAINED, name)(["the", 5])
    with pytest.raises(ValueError, match="num_threads must be at least 1, got 0"):
        getattr(TRAINED, name)(["the"], num_threads=0)
    with pytest.raises(ValueError, match=r"num_threads must be at most \d+, got 1000000"):
        getattr(TRAINED, name)(["the"], num_threads=1_000_000)
    assert getattr(TRAINED, name)([]) == []


# Lines


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=6))
def test_lines_are_encoded_one_by_one(lines):
    ids = list(TRAINED.encode_iterable(lines, disallowed_special=()))
    assert ids == [id for line in lines for id in TRAINED.encode_ordinary(line)]
    assert TRAINED.decode(ids) == "".join(lines)


def test_lines_differ_from_the_joined_text_as_the_rule_says(gpt2):
    two_line_ends = gpt2.encode_single_token("\n\n")
    line_end = gpt2.encode_single_token("\n")
    assert gpt2.encode("the end\n\n")[-1:] == [two_line_ends]
    assert list(gpt2.encode_iterable(["the end\n", "\n"]))[-2:] == [line_end, line_end]


def test_lines_are_taken_when_they_are_needed_and_not_kept():
    taken = []

    def lines():
        for number in range(100_000):
            taken.append(number)
            yield "the hen and the fox\n" * 10

    ids = TRAINED.encode_iterable(lines())
    assert taken == []
    next(ids)
    assert taken == [0]
    tracemalloc.start()
    with implementation("numpy"):  # the kernels have tables of a constant size, which would hide what grows
        for _ in range(50_000):
            next(ids)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(taken) > 500  # at least 100 kB of text
    assert peak < 60_000


def test_special_tokens_in_lines():
    assert list(TRAINED.encode_iterable([END], allowed_special={END})) == [TRAINED.eot_token]
    ids = TRAINED.encode_iterable(["the\n", END])
    with pytest.raises(ValueError, match="special token"):
        list(ids)


@pytest.mark.parametrize("lines", ["the hen", b"the hen", 5])
def test_lines_are_no_text(lines):
    with pytest.raises(TypeError, match="lines must be an iterable of str"):
        TRAINED.encode_iterable(lines)
    with pytest.raises(TypeError, match="text must be a str, got bytes"):
        list(TRAINED.encode_iterable([b"the\n"]))


# Single tokens


def test_single_tokens_equal_tiktokens(tiktoken_trained):
    for id in range(TRAINED.n_vocab):
        token = TRAINED.decode_single_token_bytes(id)
        assert token == tiktoken_trained.decode_single_token_bytes(id)
        assert TRAINED.encode_single_token(token) == id == tiktoken_trained.encode_single_token(token)
    assert TRAINED.encode_single_token("the") == tiktoken_trained.encode_single_token("the")
    assert TRAINED.token_byte_values() == tiktoken_trained.token_byte_values()


def test_gpt2s_single_tokens(gpt2, shared_data):
    published = json.loads((shared_data / "gpt2" / "encoder.json").read_text(encoding="utf-8"))
    for text in ("hen", " hen", END):
        name = "".join(BYTE_CHARACTERS[byte] for byte in text.encode())
        assert gpt2.encode_single_token(text) == published[name]


@pytest.mark.parametrize("token", ["the hen", "", b"\xc3\xa9\xa9", "\ud83d"])
def test_what_is_not_one_token(token, tiktoken_trained):
    with pytest.raises(KeyError, match="is not one token"):
        TRAINED.encode_single_token(token)
    if token != "\ud83d":
        with pytest.raises(KeyError):
            tiktoken_trained.encode_single_token(token)


def test_single_tokens_of_wrong_kinds():
    with pytest.raises(TypeError, match="needs a str or bytes, got int"):
        TRAINED.encode_single_token(5)
    for id in (-1, TRAINED.n_vocab):
        with pytest.raises(KeyError, match=f"no token has the id {id}"):
            TRAINED.decode_single_token_bytes(id)
    assert TRAINED.decode_single_token_bytes(np.uint16(257)) == TRAINED.vocab[257]
    for function in (TRAINED.decode_single_token_bytes, TRAINED.is_special_token):
        with pytest.raises(TypeError, match=f"{function.__name__}: needs an id, got text; encode gives its ids"):
            function("the")
        with pytest.raises(TypeError, match=f"{function.__name__}: needs an id, got list"):
            function([5])


def test_special_tokens_are_told_from_others_as_tiktoken_does(tiktoken_trained):
    ids = range(TRAINED.n_vocab + 5)
    assert [TRAINED.is_special_token(id) for id in ids] == [tiktoken_trained.is_special_token(id) for id in ids]
    assert TRAINED.special_tokens_set == tiktoken_trained.special_tokens_set == {END}
    assert TRAINED.max_token_value == tiktoken_trained.max_token_value
    two = Tokenizer(BYTES, [], {"<b>": 300, "<a>": 256})
    assert (two.max_token_value, two.is_special_token(256), two.is_special_token(299)) == (300, True, False)
    without = Tokenizer(BYTES, [], {})
    assert (without.special_tokens_set, without.max_token_value) == (set(), 255)


# Tokens and where they are


@given(text=st.text(st.sampled_from("then é汉😀\u200d\n") | st.characters(exclude_categories=["Cs"])))
def test_tokens_and_their_offsets_are_tiktokens(text, tiktoken_trained):
    ids = TRAINED.encode(text + END, allowed_special="all")
    found, offsets = TRAINED.decode_with_offsets(ids)
    assert (found, offsets) == tiktoken_trained.decode_with_offsets(ids)
    assert TRAINED.decode_with_offsets(np.array(ids)) == (found, offsets)
    assert found == text + END and type(offsets) is list
    assert offsets == [len(b"".join(TRAINED.decode_tokens_bytes(ids[:n])).decode("utf-8", "ignore"))
                       for n in range(len(ids))]  # fmt: skip
    assert TRAINED.decode_tokens_bytes(ids) == tiktoken_trained.decode_tokens_bytes(ids)


def test_offsets_of_tokens_that_cross_the_borders_of_characters():
    """Characters of one to four bytes, and tokens that hold the end of one and the beginning of the next."""
    tokens = [*BYTES, "é".encode()[1:] + "汉".encode()[:1], "汉".encode()[1:] + "😀".encode()[:2]]
    tokenizer = Tokenizer(tokens, [], {})
    ids = ["é".encode()[0], 256, 257, *"😀".encode()[2:], ord("a")]
    assert tokenizer.decode_with_offsets(ids) == ("é汉😀a", [0, 0, 1, 2, 2, 3])
    assert tokenizer.decode_with_offsets([]) == ("", [])


def test_offsets_need_whole_characters(tiktoken_trained):
    for tokenizer in (TRAINED, tiktoken_trained):
        with pytest.raises(UnicodeDecodeError):
            tokenizer.decode_with_offsets(TRAINED.encode("é")[:1])
        for method in (tokenizer.decode_with_offsets, tokenizer.decode_tokens_bytes):
            with pytest.raises(KeyError):
                method([TRAINED.n_vocab])


@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_arrays_are_tiktokens(text, tiktoken_trained):
    ours, theirs = TRAINED.encode_to_numpy(text), tiktoken_trained.encode_to_numpy(text)
    assert np.array_equal(ours, theirs) and ours.dtype == theirs.dtype


def test_every_public_name_of_tiktokens_class_is_there_or_says_what_to_write(tiktoken_trained):
    names = [name for name in {*dir(tiktoken_trained), *vars(tiktoken_trained)} if not name.startswith("_")]
    assert len(names) > 20
    missing = {name for name in names if not hasattr(TRAINED, name)}
    assert missing == {"name"}
    with pytest.raises(AttributeError, match=r"Tokenizer has no name; write tokenizer\.fingerprint"):
        TRAINED.name  # noqa: B018


def test_every_public_function_of_tiktoken_says_what_to_write():
    tiktoken = pytest.importorskip("tiktoken")
    names = [name for name, value in vars(tiktoken).items() if not name.startswith("_") and not inspect.ismodule(value)]
    assert len(names) == 5
    for name in names:
        with pytest.raises(AttributeError, match=f"no attribute '{name}': for an encoding of tiktoken write Tokenizer"):
            getattr(tinygpt, name)


@pytest.mark.parametrize("name", other_names.WRITE)
def test_a_name_of_another_tokenizer_says_what_to_write(name):
    with pytest.raises(AttributeError, match=f"Tokenizer has no {name}; write ") as raised:
        getattr(TRAINED, name)
    assert raised.value.name == name and raised.value.obj is TRAINED
    for attribute in re.findall(r"(?:t|T)okenizer\.(\w+)", other_names.WRITE[name]):
        assert hasattr(TRAINED, attribute), attribute


def test_a_name_that_nobody_has_is_an_ordinary_error():
    with pytest.raises(AttributeError, match="'Tokenizer' object has no attribute 'nosuch'"):
        TRAINED.nosuch  # noqa: B018


# Copies and threads


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda tokenizer: pickle.loads(pickle.dumps(tokenizer))])
@pytest.mark.parametrize("pattern", [None, r"\p{N}{1,3}|\D+"])
def test_copies_are_equal(copied, pattern):
    tokenizer = Tokenizer(TRAINED.vocab, TRAINED.merges, TRAINED.special_tokens, pattern, whole_pieces=True)
    tokenizer.encode("the hen 12345")
    again = copied(tokenizer)
    assert again is not tokenizer
    assert again.fingerprint == tokenizer.fingerprint
    assert (again.pattern, again.whole_pieces) == (pattern, True)
    assert again.encode("the hen 12345") == tokenizer.encode("the hen 12345")


def test_what_a_tokenizer_remembers_is_not_pickled():
    tokenizer = Tokenizer(TRAINED.vocab, TRAINED.merges, TRAINED.special_tokens)
    before = pickle.dumps(tokenizer)
    tokenizer.encode(" ".join(f"hen{number}" for number in range(5000)))
    assert pickle.dumps(tokenizer) == before


def test_several_threads_at_once(gpt2, texts):
    text = texts["tinyshakespeare.txt"]
    parts = [text[start : start + 9_973] for start in range(0, 200_000, 9_973)] * 3
    expected = [gpt2.encode(part) for part in parts]
    fresh = Tokenizer(gpt2.vocab, gpt2.merges, gpt2.special_tokens)
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(fresh.encode, parts)) == expected
        assert list(threads.map(fresh.decode, expected)) == parts
    assert fresh.encode_batch(parts) == expected


# Patterns of one's own


def test_a_pattern_cuts_the_pieces():
    tokenizer = Tokenizer([*BYTES, b"12", b"123", b"34"], [(b"1", b"2"), (b"12", b"3"), (b"3", b"4")], {},
                          pattern=r"(\p{N}){1,3}|[^\p{N}]+")  # fmt: skip
    assert tokenizer.encode("1234") == [257, ord("4")]
    assert Tokenizer(tokenizer.vocab, tokenizer.merges, {}).encode("1234") == [257, ord("4")]
    assert tokenizer.encode("12334") == [257, 258]


def test_whole_pieces():
    vocab = [*BYTES, b"he", b"hen"]
    assert Tokenizer(vocab, [(b"h", b"e")], {}).encode("hen he") == [256, ord("n"), 32, 256]
    assert Tokenizer(vocab, [(b"h", b"e")], {}, whole_pieces=True).encode("hen hens") == [257, 32, 256, *b"ns"]


def test_the_fingerprint_tells_patterns_apart():
    prints = [
        Tokenizer(BYTES, [], {}, pattern, whole).fingerprint
        for pattern in (None, r"\S+|\s+", GPT2_PATTERN.pattern)
        for whole in (False, True)
    ]
    assert len(set(prints)) == len(prints)


def test_wrong_patterns():
    with pytest.raises(ValueError, match=r"pattern must be a regular expression, got '\(': "):
        Tokenizer(BYTES, [], {}, pattern="(")
    with pytest.raises(TypeError, match="pattern must be a str or None, got bytes"):
        Tokenizer(BYTES, [], {}, pattern=b"a")


def ids_in_another_process(tokenizer: Tokenizer) -> list[int]:
    return tokenizer.encode("the hens, " * 3)


@pytest.mark.slow
def test_a_process_that_begins_with_nothing_can_be_given_a_tokenizer():
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        assert pool.apply(ids_in_another_process, [TRAINED]) == TRAINED.encode("the hens, " * 3)


@pytest.mark.parametrize("method", ["decode", "decode_bytes", "decode_tokens_bytes", "decode_with_offsets"])
@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (None, "NoneType; tokenizer.encode gives the ids"),
        (72, "int; write .72."),
        (np.array(72), "a single one; write .72."),
        ("72", "text, which is decoded already"),
        ({72}, "set, which has no order; write a list"),
        (np.array([[72]]), r"shape \(N,\), got \(1, 1\); tokenizer.decode_batch takes several"),
        (np.array([72.0]), "float64; convert them to integers"),
    ],
)
def test_what_is_no_sequence_of_ids_is_refused_alike_by_all_methods_that_decode_one(method, ids, message):
    tokenizer = Tokenizer.train("", 257, progress=False)
    with pytest.raises((TypeError, ValueError), match=rf"^Tokenizer.decode(_\w+)?: ids must .*{message}"):
        getattr(tokenizer, method)(ids)


@pytest.mark.parametrize(
    ("ids", "message"), [([1, [2]], "list among them; tokenizer.decode_batch"), ([1, None], "NoneType among them")]
)
def test_decode_names_what_is_no_id_and_not_in_the_words_of_python(ids, message):
    with pytest.raises(TypeError, match=f"must be a sequence of integers, got {message}"):
        Tokenizer.train("", 257, progress=False).decode(ids)


def test_encode_says_what_to_do_with_several_texts_and_with_bytes():
    tokenizer = Tokenizer.train("", 257, progress=False)
    with pytest.raises(TypeError, match="got list; encode_batch takes several"):
        tokenizer.encode(["the hen"])
    with pytest.raises(TypeError, match="got bytes; decode bytes first"):
        tokenizer.encode(b"the hen")

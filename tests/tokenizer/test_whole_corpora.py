"""
Id for id tiktoken's, on much text: the source of the standard library and 100,000 odd strings, for GPT-2's pattern and
for cl100k's over ranks of our own training.

Odd strings keep to code points that Unicode had assigned by version 15: tiktoken's tables are of another version than
Python's and `regex`'s, and a letter that one of them does not know yet splits otherwise.
"""

from __future__ import annotations

import base64
import sysconfig
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tinygpt.tokenizer import Tokenizer
from tinygpt.tokenizer.pattern import PATTERNS

tiktoken = pytest.importorskip("tiktoken")

GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"  # as tiktoken writes it
SNIPPETS = ["'s", "'LL", "'\u017f", "'", " ", "  ", "\n", "\r\n\n", "\u3000", "the", " hen", "é", "12345", "²", "!?\n",
            "汉字", "😀", "<|", "wonderful", "^" * 30, "a" * 70, "\x85", "\0", "e\u0301"]  # fmt: skip


@pytest.fixture(scope="module")
def source() -> str:
    """All of the standard library that is UTF-8."""
    parts = []
    for path in sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py")):
        if "site-packages" not in path.parts:
            try:
                parts.append(path.read_bytes().decode("utf-8"))
            except UnicodeDecodeError:
                continue  # a test of Python's own, about other encodings
    return "".join(parts)


@pytest.fixture(scope="module", params=["gpt2", "cl100k"])
def both(request, tmp_path_factory, gpt2, texts):
    """Ours and tiktoken's, from one file of ranks: GPT-2's own, and ranks trained with cl100k's pattern."""
    if request.param == "gpt2":
        ranks = {token: id for id, token in gpt2.vocab.items()}
        return gpt2, tiktoken.Encoding("theirs", pat_str=GPT2, mergeable_ranks=ranks, special_tokens={})
    pattern = PATTERNS["cl100k"]
    trained = Tokenizer.train(iter(texts.values()), 5000, (), byte_order="raw", pattern=pattern, progress=False)
    path = tmp_path_factory.mktemp("ranks") / "cl100k.tiktoken"
    lines = [base64.b64encode(token) + b" %d\n" % id for id, token in trained.vocab.items()]
    path.write_bytes(b"".join(lines))
    ranks = {token: id for id, token in trained.vocab.items()}
    theirs = tiktoken.Encoding("theirs", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    return Tokenizer.from_tiktoken(path, pattern, {}), theirs


def odd_texts(rng: np.random.Generator, count: int) -> Iterator[str]:
    """Snippets that patterns stumble over, among characters from all over Unicode."""
    sizes = rng.integers(2, 20, count)
    codes = rng.integers(0, rng.choice([0x250, 0x3000, 0xD800, 0x20000], sizes.sum())).tolist()
    old = [unicodedata.category(chr(code)) not in ("Cn", "Cs") for code in range(0x20000)]
    characters = np.array([chr(code) if old[code] else "x" for code in codes], object)
    parts = np.where(rng.random(len(codes)) < 0.6, rng.choice(np.array(SNIPPETS, object), len(codes)), characters)
    start = 0
    for size in sizes.tolist():
        yield "".join(parts[start : start + size].tolist())
        start += size


@pytest.mark.slow
def test_the_standard_library_has_tiktokens_ids(both, source):
    ours, theirs = both
    assert len(source) > 10_000_000
    assert ours.encode_to_numpy(source, disallowed_special=()).tolist() == theirs.encode_ordinary(source)


@pytest.mark.slow
def test_100_000_odd_texts_have_tiktokens_ids(both, rng):
    ours, theirs = both
    for text in odd_texts(rng, 100_000):
        assert ours.encode_ordinary(text) == theirs.encode_ordinary(text), ascii(text)

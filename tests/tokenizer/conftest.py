"""Fixtures for the tests of the tokenizer."""

from __future__ import annotations

from pathlib import Path

import pytest

from tinygpt.tokenizer import Tokenizer


@pytest.fixture(scope="package")
def gpt2(shared_data: Path) -> Tokenizer:
    """GPT-2's own tokenizer, from the files that OpenAI published."""
    return Tokenizer.from_pretrained(shared_data / "gpt2")


@pytest.fixture(scope="package")
def texts(shared_data: Path) -> dict[str, str]:
    """Real texts as they were distributed: byte order marks, CRLF, curly quotes."""
    paths = [*sorted((shared_data / "gutenberg").glob("*.txt")), shared_data / "tinyshakespeare.txt"]
    return {path.name: path.read_bytes().decode("utf-8") for path in paths}


@pytest.fixture
def raw_bytes() -> Tokenizer:
    """The smallest tokenizer that ends documents: id b is byte b, 256 is `<|endoftext|>`."""
    return Tokenizer([bytes([byte]) for byte in range(256)], [], {"<|endoftext|>": 256})

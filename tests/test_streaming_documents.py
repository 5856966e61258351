"""Documents in parts: whatever the blocks they are read in, the text is that of `read_documents`."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from tinygpt import Tokenizer
from tinygpt.text.corpus import encode_documents, read_documents
from tinygpt.text.streaming import joined, size_of, stream_documents
from tinygpt.text.token_file import open_token_file
from tinygpt.tokenizer.pattern import PATTERNS

TRICKY = (
    b"\xef\xbb\xbf  \r\nA fox, \xc3\xa9l\xc3\xa9gant.\r\rOld Mac\r\n<|endoftext|>\r\nB  crow\n\n\n <|endoftext|>\n"
    b"<|endoftext|> x\n<|endoftext|>\n \n<|endoftext|>\nthe \xf0\x9f\x98\x80 end, it's\n\n<|endoftext|>"
)


@pytest.fixture
def tricky(tmp_path):
    path = tmp_path / "tricky.txt"
    path.write_bytes(TRICKY)
    return path


def documents_of(parts) -> list[str]:
    documents, text = [], ""
    for part in parts:
        text += part.text
        if part.ends:
            documents.append(text)
            text = ""
    assert text == ""
    return documents


@pytest.mark.parametrize("block", [*range(1, 40), 1000])
@pytest.mark.parametrize("whole", [False, True])
def test_any_block_gives_the_same_documents(tricky, block, whole):
    expected = read_documents(tricky)
    assert len(expected) == 3
    parts = list(stream_documents(tricky, block=block, whole=whole))
    assert documents_of(parts) == expected
    assert not whole or len(parts) == 3


@pytest.mark.parametrize("block", [1, 7, 30])
def test_the_ids_of_the_parts_are_those_of_the_documents(tricky, block):
    tokenizer = Tokenizer.train(TRICKY.decode() * 3, vocab_size=300, progress=False)
    parts = list(stream_documents(tricky, block=block))
    ids = [id for part in parts for id in tokenizer.encode(part.text, disallowed_special=())]
    expected = [id for text in read_documents(tricky) for id in tokenizer.encode(text, disallowed_special=())]
    assert ids == expected
    assert len(parts) > 3 or block == 30


def test_documents_are_joined_as_in_memory(tricky):
    assert "".join(joined(stream_documents(tricky, block=5), whole=False)) == "\n\n".join(read_documents(tricky))


def test_a_folder_is_its_files_in_order(tmp_path):
    for name in ("b", "a"):
        (tmp_path / f"{name}.txt").write_text(f"{name} fox\n", encoding="utf-8")
    (tmp_path / "c.md").write_text("no", encoding="utf-8")
    assert documents_of(stream_documents(tmp_path)) == ["a fox\n", "b fox\n"]
    assert size_of(tmp_path) == 12


@pytest.mark.parametrize("block", [1, 3, 100])
@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"abc\xffdef", "must be UTF-8 text, got byte 0xff at offset 3"),
        (b"ab\xc3\xa9\xe2\x82", "must be UTF-8 text, got byte 0xe2 at offset 4"),
        (b"abcd\0", "must be UTF-8 text, got a NUL byte at offset 4"),
        (b"", "must hold text"),
        (b" \n\t\n<|endoftext|>\n \n<|endoftext|>\n", "must hold text"),
    ],
)
def test_what_is_no_text_is_named_with_its_place(tmp_path, raw, message, block):
    path = tmp_path / "bad.txt"
    path.write_bytes(raw)
    with pytest.raises(ValueError, match=f"bad.txt: {message}"):
        list(stream_documents(path, block=block))


def test_a_missing_file_says_what_to_give(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file or folder"):
        list(stream_documents(tmp_path / "none.txt"))


def command(*arguments) -> str:
    result = subprocess.run(
        [sys.executable, "-m", "tinygpt", "tokenizer", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize("pattern", ["gpt2", "cl100k"])
def test_the_commands_train_and_encode_as_in_memory(tmp_path, tricky, pattern):
    command("train", tricky, "--out", tmp_path / "tok", "--vocab-size", 300, "--pattern", pattern, "--quiet")
    tokenizer = Tokenizer.from_pretrained(tmp_path / "tok")
    documents = read_documents(tricky)
    expected = Tokenizer.train(iter(documents), 300, pattern=PATTERNS[pattern], progress=False)
    assert (tokenizer.vocab, tokenizer.merges, tokenizer.pattern) == (
        expected.vocab, expected.merges, PATTERNS[pattern],
    )  # fmt: skip
    shown = command("encode", tricky, "--out", tmp_path / "ids.bin", "--tokenizer", tmp_path / "tok", "--quiet")
    ids = open_token_file(tmp_path / "ids.bin", tokenizer.fingerprint).tokens
    np.testing.assert_array_equal(ids, encode_documents(documents, tokenizer))
    assert shown == f"{tmp_path / 'ids.bin'}: {len(ids):,} tokens (uint16)\n"


PEAK = """
import pathlib, sys
from tinygpt.cli.main import main
assert main(sys.argv[1:]) == 0
status = pathlib.Path("/proc/self/status").read_text()  # getrusage would count what this process was forked from
print(status.split("VmHWM:")[1].split()[0])
"""


@pytest.mark.slow
@pytest.mark.parametrize("action", ["train", "encode"])
def test_memory_does_not_grow_with_the_file(tmp_path, action):
    """60 MB of text, ten times as much as the first file; both processes may need what the kernels need."""
    tokenizer = tmp_path / "tok"
    Tokenizer.train("the hen and the fox, the moon and the sun", 280, progress=False).save_pretrained(tokenizer)
    peaks = []
    for copies in (1_000_000, 100_000, 1_000_000):  # the first compiles all that the others need
        path = tmp_path / f"{copies}.txt"
        path.write_text("the hen and the fox, the moon and the sun, all asleep at noon\n" * copies, encoding="utf-8")
        how = ["--vocab-size", "280"] if action == "train" else ["--tokenizer", str(tokenizer)]
        arguments = ["tokenizer", action, str(path), "--out", str(tmp_path / f"{action}{len(peaks)}"), "--quiet", *how]
        result = subprocess.run([sys.executable, "-c", PEAK, *arguments], capture_output=True, text=True, timeout=600)
        assert result.returncode == 0, result.stderr
        peaks.append(int(result.stdout.split()[-1]) / 1024)
    assert peaks[2] < peaks[1] + 20, peaks

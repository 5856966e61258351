"""Token files: what was written comes back, and nothing else is taken for one."""

from __future__ import annotations

import hashlib
import struct

import numpy as np
import pytest

from tinygpt.text import token_file
from tinygpt.text.token_file import is_token_file, open_token_file, write_token_file

FINGERPRINT = hashlib.sha256(b"a tokenizer").hexdigest()


def raw_file(**changes) -> bytes:
    """A file by the table in the module's docstring, written out by hand."""
    parts = {
        "magic": b"TGTOKENS",
        "version": struct.pack("<I", 1),
        "size": struct.pack("<I", 2),
        "count": struct.pack("<Q", 3),
        "digest": bytes.fromhex(FINGERPRINT),
        "tokens": bytes([1, 0, 0, 1, 255, 255]),  # 1, 256, 65535
    }
    return b"".join((parts | changes).values())


@pytest.fixture
def path(tmp_path):
    return tmp_path / "corpus.bin"


def test_the_format_is_the_documented_one(path):
    write_token_file(path, np.array([1, 256, 65535], np.uint16), FINGERPRINT)
    assert path.read_bytes() == raw_file()


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (np.array([0, 65535], np.uint16), np.uint16),
        (np.array([0, 1], np.uint32), np.uint32),
        (np.array([0, 2**32 - 1], np.uint32), np.uint32),
        (np.array([0, 65535], np.int64), np.uint16),
        (np.array([0, 65536], np.int64), np.uint32),
        (np.array([5], np.uint8), np.uint16),
        (np.arange(10, dtype=np.uint16)[::-3], np.uint16),
        (np.array([1, 70_000], ">u4"), np.uint32),
        ([3, 4], np.uint16),
    ],
)
def test_tokens_come_back_mapped_and_in_the_type_that_holds_them(path, given, kept):
    write_token_file(path, given, FINGERPRINT)
    tokens, fingerprint = open_token_file(path, FINGERPRINT)
    assert isinstance(tokens, np.memmap) and tokens.dtype == kept
    assert tokens.tolist() == list(given) and fingerprint == FINGERPRINT
    with pytest.raises(ValueError, match="read-only"):
        tokens[0] = 0


@pytest.mark.parametrize(
    ("tokens", "error", "message"),
    [
        ([1, -1], ValueError, r"ids must be in 0\.\.4294967295, got -1; encode"),
        ([1, 2**32], ValueError, "got 4294967296; encode"),
        ([], ValueError, r"shape \(N,\), N >= 1, got \(0,\)"),
        ([[1, 2]], ValueError, r"got \(1, 2\)"),
        ([1.0, 2.0], TypeError, "tokens must be integers, got float64"),
        ([True], TypeError, "tokens must be integers, got bool"),
    ],
)
def test_what_are_no_ids_is_refused_and_the_old_file_stays(path, tokens, error, message):
    path.write_bytes(b"old")
    with pytest.raises(error, match=f"write_token_file: .*{message}"):
        write_token_file(path, np.array(tokens), FINGERPRINT)
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize("fingerprint", ["", "abc", "g" * 64, "ab" * 31, "ab" * 33])
def test_a_fingerprint_is_64_hexadecimal_digits(path, fingerprint):
    with pytest.raises(ValueError, match=f"fingerprint: must be 64 hexadecimal digits, got '{fingerprint}'"):
        write_token_file(path, np.arange(3), fingerprint)
    assert not path.exists()


def test_an_interrupted_write_leaves_the_old_file_and_no_other(path, monkeypatch):
    write_token_file(path, np.arange(5), FINGERPRINT)
    before = path.read_bytes()

    def no_space(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", no_space)
    with pytest.raises(OSError, match="No space left on device"):
        write_token_file(path, np.arange(9), FINGERPRINT)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["corpus.bin"]


@pytest.mark.parametrize("length", range(len(raw_file())))
def test_a_file_cut_anywhere_is_refused(path, length):
    path.write_bytes(raw_file()[:length])
    with pytest.raises(ValueError, match=r"corpus\.bin: (is cut short|must be a token file).*; make it again with"):
        open_token_file(path)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"Once upon a time there was a fox", "must be a token file, got a file that begins with b'Once upo'"),
        (raw_file(magic=b"tgtokens"), "must be a token file, got a file that begins with b'tgtokens'"),
        (raw_file(version=struct.pack("<I", 2)), "reads version 1 of token files, got 2"),
        (raw_file(version=struct.pack(">I", 1)), "reads version 1 of token files, got 16777216"),
        (raw_file(size=struct.pack("<I", 0)), "a token must take 2 or 4 bytes, got 0"),
        (raw_file(size=struct.pack("<I", 8)), "a token must take 2 or 4 bytes, got 8"),
        (raw_file(size=struct.pack("<I", 4)), "is cut short: 3 tokens make 68 bytes, got 62"),
        (raw_file(count=struct.pack("<Q", 0), tokens=b""), "must hold tokens, got none"),
        (raw_file(count=struct.pack("<Q", 2**63)), "is cut short: 9223372036854775808 tokens make"),
        (raw_file() + b"\n", "has bytes after its end: 3 tokens make 62 bytes, got 63"),
    ],
)
def test_a_file_that_contradicts_itself_is_refused(path, raw, message):
    path.write_bytes(raw)
    with pytest.raises(ValueError, match=f"{message}.*; make it again with: tinygpt tokenizer encode") as caught:
        open_token_file(path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def test_a_missing_file_is_named(path):
    with pytest.raises(FileNotFoundError, match=r"corpus\.bin must be a file, and is not there; make it with: tinygpt"):
        open_token_file(path)


def test_ids_of_another_tokenizer_are_refused(path):
    write_token_file(path, np.arange(3), FINGERPRINT)
    other = hashlib.sha256(b"another").hexdigest()
    message = f"came from tokenizer {FINGERPRINT[:12]}, but this run uses {other[:12]}; use the tokenizer that made"
    with pytest.raises(ValueError, match=message):
        open_token_file(path, other)
    assert open_token_file(path, FINGERPRINT.upper()).tokens.tolist() == [0, 1, 2]


def test_a_token_file_is_told_from_text_folders_and_nothing(path, tmp_path):
    path.write_bytes(raw_file()[:20])
    (tmp_path / "tale.txt").write_text("TGTOKEN", encoding="utf-8")
    found = [is_token_file(place) for place in (path, str(path), tmp_path / "tale.txt", tmp_path, tmp_path / "gone")]
    assert found == [True, True, False, False, False]


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
@pytest.mark.parametrize("place", [0, 4_999, 9_999])
@pytest.mark.parametrize("wrong", [300, 301, 65_535, 280])  # just beyond, beyond, far beyond, a hole
def test_a_token_that_no_id_stands_for_is_found_with_its_place(path, dtype, place, wrong, monkeypatch):
    monkeypatch.setattr(token_file, "_BLOCK", 1_000)
    known = {*range(260), 299}
    tokens = np.arange(10_000).astype(dtype) % 260
    tokens[5] = 299
    write_token_file(path, tokens, "ab" * 32)
    assert len(open_token_file(path, known=known).tokens) == 10_000
    tokens[place] = wrong
    write_token_file(path, tokens, "ab" * 32)
    for table in (1 << 24, 0):
        monkeypatch.setattr(token_file, "_TABLE", table)
        with pytest.raises(
            ValueError, match=f"token {place:,} must be an id of the tokenizer, .*, got {wrong:,}; the file"
        ):
            open_token_file(path, known=known)
    assert len(open_token_file(path).tokens) == 10_000  # unless it is not asked for

"""Files: what is saved is read back, GPT-2's own files and their variants are read, damage is named."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from tinygpt.tokenizer import Tokenizer

END = "<|endoftext|>"
NAMES = ["merges.txt", "tokenizer_config.json", "vocab.json"]
TEXT = "the hen, then the other hen and the fox: é, 汉字, #hash ##version\n" * 2


@pytest.fixture
def tokenizer() -> Tokenizer:
    return Tokenizer.train(TEXT, 290, special_tokens=("<|user|>", END), progress=False)


@pytest.fixture
def saved(tokenizer: Tokenizer, tmp_path: Path) -> Path:
    """A folder with the three files, to be damaged."""
    tokenizer.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def assert_refused(folder: Path, *expected: str) -> None:
    with pytest.raises(ValueError) as caught:
        Tokenizer.from_pretrained(folder)
    message = str(caught.value)
    assert "\n" not in message
    for words in expected:
        assert words in message


# Whole files


@pytest.mark.parametrize("special_tokens", [(), (END,), ("<|user|>", END), (" été\n",)])
@pytest.mark.parametrize("byte_order", ["gpt2", "raw"])
def test_what_is_saved_is_read_back(special_tokens, byte_order, tmp_path):
    tokenizer = Tokenizer.train(TEXT, 290, special_tokens, byte_order, progress=False)
    tokenizer.save_pretrained(tmp_path / "new" / "folder")
    again = Tokenizer.from_pretrained(str(tmp_path / "new" / "folder"))
    assert (again.vocab, again.merges, again.special_tokens) == (
        tokenizer.vocab,
        tokenizer.merges,
        tokenizer.special_tokens,
    )
    assert again.fingerprint == tokenizer.fingerprint
    assert again.encode(TEXT) == tokenizer.encode(TEXT)


def test_gpt2_is_read_and_saved_as_the_same_tokenizer(gpt2, tmp_path):
    assert gpt2.special_tokens == {END: 50256}
    assert len(gpt2.merges) == 50000
    gpt2.save_pretrained(tmp_path)
    assert Tokenizer.from_pretrained(tmp_path).fingerprint == gpt2.fingerprint


def test_saving_gives_the_same_bytes_and_leaves_nothing_else(tokenizer, saved, tmp_path):
    assert sorted(os.listdir(saved)) == NAMES
    Tokenizer.from_pretrained(saved).save_pretrained(tmp_path / "again")
    for name in NAMES:
        assert (saved / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    assert b"\r" not in (saved / "merges.txt").read_bytes()


def test_saving_replaces_what_was_there(saved):
    other = Tokenizer.train("fox", 258, progress=False)
    other.save_pretrained(saved)
    assert Tokenizer.from_pretrained(saved).fingerprint == other.fingerprint
    assert sorted(os.listdir(saved)) == NAMES


def test_vocab_json_holds_the_special_tokens(saved):
    ids = json.loads((saved / "vocab.json").read_text(encoding="utf-8"))
    assert (ids["<|user|>"], ids[END], ids["Ġ"]) == (288, 289, 220)
    assert list(ids.values()) == list(range(290))


def test_the_end_of_text_is_named_only_if_there_is_one(saved, tmp_path):
    config = json.loads((saved / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert [config[f"{role}_token"] for role in ("bos", "eos", "unk")] == [END] * 3
    Tokenizer.train("hen", 256, special_tokens=(), progress=False).save_pretrained(tmp_path / "bytes")
    config = json.loads((tmp_path / "bytes" / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert [config[f"{role}_token"] for role in ("bos", "eos", "unk")] == [None] * 3


def test_a_failed_save_leaves_the_old_files(tokenizer, saved, monkeypatch):
    before = {name: (saved / name).read_bytes() for name in NAMES}

    def full_disk(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        Tokenizer.train("fox", 258, progress=False).save_pretrained(saved)
    assert {name: (saved / name).read_bytes() for name in sorted(os.listdir(saved))} == before


def test_a_special_token_that_reads_like_an_ordinary_one_cannot_be_saved(tmp_path):
    tokenizer = Tokenizer([bytes([byte]) for byte in range(256)], [], {"Ġ": 256})
    with pytest.raises(ValueError, match=r"writes the ordinary token b' ' as 'Ġ'.*rename it"):
        tokenizer.save_pretrained(tmp_path)
    assert os.listdir(tmp_path) == []


def test_saving_where_a_file_is(tmp_path, tokenizer):
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    with pytest.raises(FileExistsError):
        tokenizer.save_pretrained(tmp_path / "file")
    assert (tmp_path / "file").read_text(encoding="utf-8") == "mine"


# Variants of the files


@pytest.mark.parametrize("cut", ["#version: 0.2\n", "#version: 0.2\r\n", ""])
@pytest.mark.parametrize("end", ["\n", ""])
def test_pitfall_13_version_line_and_last_line_end_are_optional(saved, tokenizer, cut, end):
    text = (saved / "merges.txt").read_text(encoding="utf-8")
    assert text.startswith("#version: 0.2\n")
    text = cut + text.removeprefix("#version: 0.2\n").removesuffix("\n") + end
    (saved / "merges.txt").write_bytes(text.encode("utf-8"))
    assert Tokenizer.from_pretrained(saved).merges == tokenizer.merges


def test_pitfall_13_merges_that_begin_with_a_hash(gpt2, tmp_path):
    assert sum(left.startswith(b"#") for left, _ in gpt2.merges) == 8
    gpt2.save_pretrained(tmp_path)
    assert Tokenizer.from_pretrained(tmp_path).merges == gpt2.merges
    hashes = Tokenizer.train("## " * 9, 257, special_tokens=(), progress=False)
    assert hashes.merges == [(b"#", b"#")]
    hashes.save_pretrained(tmp_path)
    change(tmp_path / "merges.txt", "#version: 0.2\n", "")
    assert Tokenizer.from_pretrained(tmp_path).merges == hashes.merges


def test_pitfall_14_ids_may_have_holes(saved, tokenizer):
    change(saved / "vocab.json", f'"{END}": 289', f'"{END}": 1000')
    change(saved / "tokenizer_config.json", '"289"', '"1000"')
    again = Tokenizer.from_pretrained(saved)
    assert again.eot_token == 1000
    assert again.n_vocab == 1001


def test_without_a_list_the_special_tokens_are_found(saved, tokenizer):
    (saved / "tokenizer_config.json").unlink()
    assert Tokenizer.from_pretrained(saved).special_tokens == tokenizer.special_tokens
    (saved / "tokenizer_config.json").write_text('{"model_max_length": 1024}', encoding="utf-8")
    assert Tokenizer.from_pretrained(saved).special_tokens == tokenizer.special_tokens


def test_a_special_token_may_be_in_the_list_alone(saved):
    change(saved / "vocab.json", f',\n"{END}": 289', "")
    assert Tokenizer.from_pretrained(saved).special_tokens == {"<|user|>": 288, END: 289}


def test_openais_names_are_read_too(saved, tokenizer, tmp_path):
    folder = tmp_path / "openai"
    folder.mkdir()
    shutil.copy(saved / "vocab.json", folder / "encoder.json")
    shutil.copy(saved / "merges.txt", folder / "vocab.bpe")
    assert Tokenizer.from_pretrained(folder).fingerprint == tokenizer.fingerprint


# Missing and damaged files


def test_missing_files(saved, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere must be a run, .*a tokenizer's files.* does not exist"):
        Tokenizer.from_pretrained(tmp_path / "nowhere")
    (saved / "merges.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"merges.txt must be a file, and is not there"):
        Tokenizer.from_pretrained(saved)
    (saved / "vocab.json").rename(saved / "encoder.json")
    with pytest.raises(FileNotFoundError, match=r"vocab.bpe must be a file, and is not there"):
        Tokenizer.from_pretrained(saved)


@pytest.mark.parametrize("config", [True, False])
def test_a_file_cut_off_anywhere_is_refused(saved, config):
    if not config:
        (saved / "tokenizer_config.json").unlink()
    for name in ("merges.txt", "vocab.json"):
        whole = (saved / name).read_bytes()
        for length in range(0, len(whole) - 2, 7):
            (saved / name).write_bytes(whole[:length])
            assert_refused(saved, name)
        (saved / name).write_bytes(whole)
    Tokenizer.from_pretrained(saved)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("Ġt", "needs two tokens with a space between, got 'Ġt'"),
        ("Ġ t he", "needs two tokens with a space between"),
        ("", "needs two tokens with a space between, got ''"),
        ("Ġ qqq", "names 'qqq', which is not in the vocabulary"),
        ("q x", "names 'qx', which is not in the vocabulary"),
        ("h e", "got that of line 2 again"),
    ],
)
def test_a_wrong_merge_is_named_with_its_line(saved, line, expected):
    lines = (saved / "merges.txt").read_text(encoding="utf-8").split("\n")
    assert lines[1] == "h e"
    lines[4] = line
    (saved / "merges.txt").write_text("\n".join(lines), encoding="utf-8")
    assert_refused(saved, "merges.txt, line 5", expected)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ('"!": 0,', '"!": 1,', "'!' and '\"' both have id 1"),
        ('"!": 0,', '"!": -1,', "the id of '!' must be a non-negative integer, got -1"),
        ('"!": 0,', '"!": "0",', "the id of '!' must be a non-negative integer, got '0'"),
        ('"!": 0,', '"!": true,', "the id of '!' must be a non-negative integer, got True"),
        ('"!": 0,', '"!": 0, "!": 5,', "'!' is there twice"),
        ('"!": 0,', "", "must hold all 256 bytes, '!' (byte 33) is missing"),
        ('"!": 0,', '"!": 0, "": 999,', "must not be empty"),
        ('"!": 0,', '"!": 0', "must be JSON, and is truncated or corrupt (line 3, column"),
        ('"!": 0,', '"!": 0, "a b": 999,', "'a b' (id 999) is neither bytes nor special"),
    ],
)
def test_a_wrong_vocabulary_is_named(saved, old, new, expected):
    change(saved / "vocab.json", old, new)
    assert_refused(saved, "vocab.json", expected)


def test_a_vocabulary_that_is_no_object(saved):
    (saved / "vocab.json").write_text("[1, 2]", encoding="utf-8")
    assert_refused(saved, "vocab.json", "must hold a JSON object, got a list")


def test_files_that_are_no_utf8(saved):
    (saved / "merges.txt").write_bytes(b"#version: 0.2\nh e\n\xff\xfe")
    assert_refused(saved, "merges.txt", "must be UTF-8 text, byte 18 is not")


def test_merges_of_another_vocabulary(saved, tmp_path):
    Tokenizer.train("fox " * 9, 259, progress=False).save_pretrained(tmp_path / "other")
    shutil.copy(tmp_path / "other" / "merges.txt", saved)
    assert_refused(saved, "merges.txt")


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ('"289"', '"-289"', "added_tokens_decoder must hold"),
        ('"289"', '"5"', "contradicts the vocabulary"),
        (f'"content": "{END}"', '"content": 5', "added_tokens_decoder must hold"),
        (f'"content": "{END}"', '"content": "<|user|>"', "contradicts the vocabulary"),
        ('"added_tokens_decoder": {', '"added_tokens_decoder": "x", "rest": {', "added_tokens_decoder must hold"),
        ('"added_tokens_decoder": {', '"added_tokens_decoder": {"0": {"content": "!"}, ', "'!' is an ordinary token"),
    ],
)
def test_a_wrong_list_of_special_tokens_is_named(saved, old, new, expected):
    change(saved / "tokenizer_config.json", old, new)
    assert_refused(saved, "tokenizer_config.json", expected)

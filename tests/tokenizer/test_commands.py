"""`tinygpt tokenizer` as a user types it."""

from __future__ import annotations

import pytest

from tinygpt.cli.main import main
from tinygpt.tokenizer import Tokenizer

END = "<|endoftext|>"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "hens.txt").write_text("the hen é\nthe hens 汉\n", encoding="utf-8")
    Tokenizer.train("the hen, the hens", 262, progress=False).save_pretrained("tok")
    return tmp_path


def refused(capsys, *arguments: str) -> str:
    assert main(["tokenizer", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("tinygpt: ") and captured.err.count("\n") == 1
    return captured.err


def test_a_text_goes_into_a_token_file_and_comes_back(folder, capsysbinary):
    assert main(["tokenizer", "encode", "hens.txt", "-o", "hens.bin", "--tokenizer", "tok"]) == 0
    assert main(["tokenizer", "decode", "hens.bin", "-o", "again.txt", "--tokenizer", "tok"]) == 0
    expected = (folder / "hens.txt").read_bytes()
    assert (folder / "again.txt").read_bytes().removesuffix(END.encode()) == expected
    capsysbinary.readouterr()
    assert main(["tokenizer", "decode", "hens.bin", "--tokenizer", "tok"]) == 0
    assert capsysbinary.readouterr().out.startswith(expected)


def test_ids_are_decoded_to_their_exact_bytes(folder, capsysbinary):
    tokenizer = Tokenizer.from_pretrained("tok")
    ids = [str(id) for id in tokenizer.encode("the é")]
    assert main(["tokenizer", "decode", *ids, "--tokenizer", "tok"]) == 0
    assert capsysbinary.readouterr().out == "the é\n".encode()
    assert main(["tokenizer", "decode", *ids[:-1], "--tokenizer", "tok"]) == 0
    assert capsysbinary.readouterr().out == b"the \xc3\n"


def test_what_cannot_be_decoded(folder, capsys):
    assert "got 9999" in refused(capsys, "decode", "9999", "--tokenizer", "tok")
    assert "needs one token file, or ids, got '1 x'" in refused(capsys, "decode", "1", "x", "--tokenizer", "tok")
    assert "none.bin" in refused(capsys, "decode", "none.bin", "--tokenizer", "tok")
    main(["tokenizer", "encode", "hens.txt", "-o", "hens.bin", "--tokenizer", "tok"])
    Tokenizer.train("", 256, special_tokens=(), progress=False).save_pretrained("other")
    capsys.readouterr()
    assert "tokenizer" in refused(capsys, "decode", "hens.bin", "--tokenizer", "other")


def test_info(folder, capsys):
    assert main(["tokenizer", "info", "tok"]) == 0
    out = capsys.readouterr().out
    tokenizer = Tokenizer.from_pretrained("tok")
    for promised in ("262, ids below 262", f"{END} 261", "that of GPT-2", tokenizer.fingerprint):
        assert promised in out
    assert "whole pieces" not in out
    longest = max(tokenizer.vocab.values(), key=len)
    assert f"the longest {len(longest)}: {longest.decode()!r}" in out
    Tokenizer(tokenizer.vocab, tokenizer.merges, {}, r"\S+|\s+", True).save_pretrained("own")
    assert main(["tokenizer", "info", "own"]) == 0
    out = capsys.readouterr().out
    assert r"\S+|\s+" in out and "whole pieces" in out and "special tokens  none" in out


def test_explain(folder, capsys):
    assert main(["tokenizer", "explain", "the hens", "--tokenizer", "tok"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("tokenizer: tok (262 tokens)\n2 pieces, ") and "├─" in out


def test_the_name_gpt2_everywhere_names_the_remedy(folder, capsys):
    remedy = 'run "tinygpt tokenizer fetch gpt2"'
    assert remedy in refused(capsys, "info", "gpt2")
    assert remedy in refused(capsys, "encode", "hens.txt", "-o", "hens.bin", "--tokenizer", "gpt2")
    assert main(["train", "--data", "hens.txt", "--tokenizer", "gpt2", "--out", "run"]) == 2
    assert remedy in capsys.readouterr().err
    assert main(["train", "--data", "hens.txt", "--preset", "gpt2", "--out", "run"]) == 2
    error = capsys.readouterr().err
    assert remedy in error and "--tokenizer FOLDER" in error

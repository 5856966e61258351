"""`tinygpt cache`: what it shows, and that it removes what tinygpt made and nothing else."""

from __future__ import annotations

import json
import os

import pytest

from tinygpt.cli.main import main
from tinygpt.kernels.jit import compiler

OLD = "kernels-0123456789abcdef"
MADE = {
    f"{OLD}/kernels",
    f"{OLD}/kernels_{'a' * 40}/gelu._forward-64.py311.nbi",
    f"{OLD}/kernels_{'a' * 40}/gelu._forward-64.py311.1.nbc",
    f"{OLD}/kernels_{'a' * 40}/gelu._forward-64.py311.1.nbc.tmp.0123456789abcdef",
    "tokenizer-fedcba9876543210/load-0123.nbc",
    "tokenizer-fedcba9876543210/.abcd.partial",
    "CURRENT/_forward-0123.nbc",
    "tokenizers/gpt2/encoder.json",
    "tokenizers/gpt2/vocab.bpe.partial",
    "gutenberg/pg2591.txt",
    "gutenberg/pg1.txt.tinygpt-partial",
}
FOREIGN = {
    "notes.txt",
    "kernels-mine/a.nbc",
    "kernels-0123456789abcdeg/a.nbc",
    f"{OLD}/notes.txt",
    "gutenberg/my own/book.txt",
    "tokenizers/gpt2/encoder.json.d/x",
    "another/pg1.txt",
}


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    root = tmp_path / "cache" / "tinygpt"
    for name in MADE:
        path = root / name.replace("CURRENT", compiler.folder_name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"0123456789")
    return root


def files(root) -> set[str]:
    return {path.relative_to(root).as_posix().replace(compiler.folder_name, "CURRENT")
            for path in root.rglob("*") if not path.is_dir() or path.is_symlink()}  # fmt: skip


def test_it_shows_where_what_and_how_much(root, capsys):
    assert main(["cache"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == f"folder {root}"
    assert sum(line.endswith("  (old)") for line in shown) == 2
    assert shown[-1] == "old: of another version or processor; to remove them: tinygpt cache --clear old"
    assert sum(" 1 file  " in line for line in shown) == 1 and max(map(len, shown[1:])) <= 80
    assert main(["cache", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["folder"] == found["kernel_folder"] == str(root)
    sizes = {os.path.basename(entry["path"]): (entry["files"], entry["bytes"]) for entry in found["contents"]}
    assert sizes == {compiler.folder_name: (1, 10), OLD: (4, 40), "tokenizer-fedcba9876543210": (2, 20),
                     "gutenberg": (2, 20), "tokenizers": (2, 20)}  # fmt: skip
    assert files(root) == MADE


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        (["old"], {"CURRENT", "tokenizers", "gutenberg"}),
        (["kernels"], {"tokenizers", "gutenberg"}),
        ([], {"tokenizers", "gutenberg"}),
        (["downloads"], {"CURRENT", OLD, "tokenizer-fedcba9876543210"}),
        (["all"], set()),
    ],
)
def test_it_clears_what_it_is_told(options, kept, root, capsys):
    assert main(["cache", "--clear", *options]) == 0
    expected = {name for name in MADE if name.split("/")[0] in kept}
    assert files(root) == expected
    assert capsys.readouterr().out == f"removed {len(MADE) - len(expected)} files, 0.0 MB\n"
    assert root.exists() == bool(kept)  # empty folders go, too
    assert main(["cache", "--json", "--clear", *options]) == 0  # nothing is left to remove
    assert json.loads(capsys.readouterr().out) == {"files": 0, "bytes": 0, "left": []}


def test_what_tinygpt_did_not_make_stays(root, capsys):
    for name in FOREIGN:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("mine")
    assert main(["cache", "--clear", "all"]) == 0
    assert files(root) == FOREIGN
    shown = capsys.readouterr().out
    for name in (f"{OLD}/notes.txt", "gutenberg/my own/book.txt"):
        assert f"left {root / name}: tinygpt did not make it" in shown


@pytest.mark.skipif(not hasattr(os, "symlink") or os.name == "nt", reason="links need rights on Windows")
def test_no_link_is_followed_or_removed(root, tmp_path, capsys):
    outside = tmp_path / "outside"
    for name in ("a.nbc", "pg1.txt", "sub/b.nbc"):
        (outside / name).parent.mkdir(parents=True, exist_ok=True)
        (outside / name).write_text("mine")
    (root / OLD / "linked").symlink_to(outside)
    (root / OLD / "a.nbc").symlink_to(outside / "a.nbc")
    (root / "kernels-1111111111111111").symlink_to(outside)
    (root / OLD / "loop").symlink_to(root / OLD)
    assert main(["cache", "--clear", "all"]) == 0
    assert files(outside) == {"a.nbc", "pg1.txt", "sub/b.nbc"}
    assert files(root) == {f"{OLD}/linked", f"{OLD}/a.nbc", f"{OLD}/loop", "kernels-1111111111111111"}


def test_kernels_elsewhere_are_found_and_cleared(root, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "numba"))
    mine = tmp_path / "numba" / "tinygpt" / "kernels-2222222222222222" / "a.nbc"
    mine.parent.mkdir(parents=True)
    mine.write_text("")
    others = tmp_path / "numba" / "project_0123" / "f.nbc"  # what Numba keeps there for other programs
    others.parent.mkdir()
    others.write_text("")
    assert main(["cache"]) == 0
    assert f"folder {root}; of kernels {tmp_path / 'numba' / 'tinygpt'}" in capsys.readouterr().out
    assert main(["cache", "--clear", "old"]) == 0
    assert not mine.exists() and others.exists()
    assert not (root / OLD).exists()


def test_a_cache_that_is_not_there_is_empty(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "nothing"))
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    assert main(["cache", "--clear", "all"]) == 0
    assert capsys.readouterr().out == "removed 0 files, 0.0 MB\n"
    assert not (tmp_path / "nothing").exists()

"""Compiled code on disk: never stale, announced once, and not needed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tinygpt import compiler
from tinygpt.compiler import Compiler

FOLDER = Path(compiler.__file__).parent / "tokenizer" / "kernels"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(compiler.numba.config, "CACHE_DIR", "")
    monkeypatch.setattr(compiler.numba.config, "DISABLE_JIT", 0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tinygpt"


def test_an_edit_in_any_file_changes_the_folder(tmp_path, monkeypatch, cache):
    copy = tmp_path / "kernels"
    shutil.copytree(FOLDER, copy, ignore=shutil.ignore_patterns("__pycache__"))
    files = sorted(copy.glob("*.py"))
    folders = [Compiler("group", files).folder]
    assert Compiler("group", files).folder == folders[0]
    for name in ("splitter.py", "hashing.py", "__init__.py"):
        with (copy / name).open("a", encoding="utf-8") as file:
            file.write("\n")
        folders.append(Compiler("group", files).folder)
    monkeypatch.setattr(compiler.numba, "__version__", "0.0")
    folders.append(Compiler("group", files).folder)
    monkeypatch.setattr(compiler.llvmlite.binding, "get_host_cpu_name", lambda: "another")
    folders.append(Compiler("group", files).folder)
    assert len(set(folders)) == 6
    assert all(folder.is_dir() and folder.parent == cache for folder in folders)


def test_a_first_compilation_is_announced_once(monkeypatch, capsys):
    group = Compiler("group", [])
    for _ in range(2):
        group.announce("encoding", "compiling for encoding")
    group.announce("training", "compiling for training")
    out, err = capsys.readouterr()
    assert (out, err) == ("", "tinygpt: compiling for encoding\ntinygpt: compiling for training\n")
    group.folder = None
    group.announce("decoding", "compiling for decoding")
    assert capsys.readouterr() == ("", "")


def test_a_folder_that_is_read_only_is_not_used(monkeypatch):
    monkeypatch.setattr(compiler.os, "access", lambda path, mode: False)  # root may write anywhere: modes show nothing
    assert Compiler("group", []).folder is None


def test_where_no_folder_can_be_made_none_is_used(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("", encoding="utf-8")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert Compiler("group", []).folder is None

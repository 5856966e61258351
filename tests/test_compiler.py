"""Compiled code on disk: never stale, announced when it has to be made, and not needed."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import numba
import numpy as np
import pytest

from tinygpt.kernels import compiler, jit
from tinygpt.kernels.compiler import Compiler
from tinygpt.kernels.simd.cpu import LANES
from tinygpt.runtime.streams import bar

FOLDER = Path(compiler.__file__).parents[1] / "tokenizer" / "kernels"


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


def test_a_settings_of_numba_that_changes_code_changes_the_folder(monkeypatch):
    names = {Compiler("group", [FOLDER]).folder_name, Compiler("group", [FOLDER], facts=("AMX", True)).folder_name}
    for setting, value in (("BOUNDSCHECK", 1), ("OPT", 0), ("CPU_NAME", "generic")):
        monkeypatch.setattr(compiler.numba.config, setting, value)
        names.add(Compiler("group", [FOLDER]).folder_name)
    assert len(names) == 5


@pytest.fixture
def package(tmp_path) -> Path:
    for name, text in (("a.py", "one = 1\n"), ("sub/a.py", "two = 2\n"), ("sub/deep/b.py", "")):
        (tmp_path / "package" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "package" / name).write_text(text, encoding="utf-8")
    return tmp_path / "package"


def test_files_of_subfolders_count_and_so_does_where_they_lie(package):
    names = [Compiler("group", [package]).folder_name]
    with (package / "sub/deep/b.py").open("a", encoding="utf-8") as file:
        file.write("three = 3\n")
    names.append(Compiler("group", [package]).folder_name)
    first, second = (package / "a.py").read_bytes(), (package / "sub/a.py").read_bytes()
    (package / "a.py").write_bytes(second)
    (package / "sub/a.py").write_bytes(first)  # the same names and the same texts, exchanged
    names.append(Compiler("group", [package]).folder_name)
    (package / "sub/deep/b.py").rename(package / "sub/b.py")
    names.append(Compiler("group", [package]).folder_name)
    assert len(set(names)) == 4


def test_a_line_that_moves_from_the_end_of_one_file_to_the_start_of_the_next_counts(package):
    for name in ("a.py", "b.py"):
        (package / name).write_bytes(b"")
    (package / "a.py").write_bytes(b"b.py")
    before = Compiler("group", [package]).folder_name
    (package / "a.py").write_bytes(b"")
    (package / "b.py").write_bytes(b"b.py")
    assert Compiler("group", [package]).folder_name != before


def test_the_same_package_elsewhere_has_the_same_folder(package, tmp_path):
    shutil.copytree(package, tmp_path / "deeper" / "still" / "package")
    names = {Compiler("group", [at]).folder_name for at in (package, tmp_path / "deeper" / "still" / "package")}
    assert len(names) == 1


def test_without_source_code_nothing_is_kept(tmp_path):
    """A frozen application: no edit could be seen, and code of another version would run."""
    (tmp_path / "empty").mkdir()
    group = Compiler("group", [tmp_path / "empty"])
    assert group.folder is None and "no source code" in group.reason
    assert Compiler("group", [tmp_path / "no-file.py"]).folder is None


def test_a_compilation_is_said_once_and_what_is_kept_is_not(capsys):
    def seen() -> list[str]:
        group = Compiler("group", [], subject="hens")
        for function in (double, triple):
            compiled = group.kernel(function)
            assert compiled(4) == function(4)
            assert compiled(4.5) == function(4.5)
        return capsys.readouterr().err.splitlines()

    assert seen() == ["tinygpt: compiling hens as they are needed, once; this takes some seconds"]
    assert seen() == []


def test_an_interrupted_compilation_marks_nothing_as_done_and_is_said_again(capsys, monkeypatch):
    group = Compiler("group", [], subject="foxes")
    compiled = group.kernel(double)
    ahead, needed = (f"tinygpt: compiling foxes{when}, once; this takes some seconds\n"
                     for when in ("", " as they are needed"))  # fmt: skip
    for _ in range(2):
        with monkeypatch.context() as patch:
            patch.setattr(compiled._compiler, "compile", interrupted)
            with pytest.raises(KeyboardInterrupt), group.compiling("ahead"):
                compiled(4)
            assert capsys.readouterr().err == ahead
            assert not group.has_compiled("ahead") and not Compiler("group", []).has_compiled("ahead")
            with pytest.raises(KeyboardInterrupt):
                compiled(4)
            assert capsys.readouterr().err == needed
    assert compiled(4) == 8 and capsys.readouterr().err == needed


def test_a_stage_that_was_done_is_marked_on_disk_and_says_how_long_it_took(capsys):
    group = Compiler("group", [], subject="geese")
    assert not group.has_compiled("ahead")
    with group.compiling("ahead"):
        assert group.kernel(double)(4) + group.kernel(triple)(4) == 20
        assert not group.has_compiled("ahead")
    assert group.has_compiled("ahead") and Compiler("group", []).has_compiled("ahead")
    begun, done = capsys.readouterr().err.splitlines()
    assert begun == "tinygpt: compiling geese, once; this takes some seconds"
    assert re.fullmatch(r"tinygpt: compiled geese \(2\) in \d+ s", done)
    with Compiler("group", []).compiling("ahead"):
        Compiler("group", []).kernel(double)(4)
    assert capsys.readouterr().err == ""


def test_the_seconds_of_a_compilation_are_not_those_of_an_open_bar(capsys):
    group = Compiler("group", [])
    with bar(total=2, desc="counting") as shown:
        start = shown.start_t
        group.kernel(double)(4)
        assert shown.start_t > start


def interrupted(*arguments):
    raise KeyboardInterrupt


def double(x):
    return 2 * x


def triple(x):
    return 3 * x


class Broken:
    """A stream on a full disk, or of a terminal that is gone."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def write(self, text: str) -> None:
        raise self.error


@pytest.mark.parametrize("stream", [None, Broken(OSError(28, "No space left on device")), Broken(ValueError("closed"))])
def test_a_notice_that_cannot_be_shown_stops_nothing(stream, monkeypatch):
    group = Compiler("group", [], subject="the hens of this test")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", stream)
        assert group.kernel(double)(21) == 42


def test_a_folder_that_is_read_only_is_not_used(monkeypatch):
    monkeypatch.setattr(compiler.os, "access", lambda path, mode: False)  # root may write anywhere: modes show nothing
    group = Compiler("group", [])
    assert group.folder is None and group.trouble().endswith("cannot be written")


@pytest.mark.skipif(LANES != 16 or numba.config.DISABLE_JIT, reason="this processor has no AVX-512, or nothing is compiled")
def test_loops_of_kernels_fill_the_widest_registers_and_other_functions_are_left_alone():
    """LLVM itself prefers registers of half the width on most of Intel's processors."""

    def add(x, y):
        for i in range(len(x)):
            y[i] += x[i]

    def add_in_parallel(x, y):
        for i in numba.prange(len(x)):
            y[i] += x[i]

    types = (numba.float32[::1],) * 2

    def wide(function):
        function.compile(types)
        return any("zmm" in compiled.library.get_asm_str() for compiled in function.overloads.values())

    before = wide(numba.njit(error_model="numpy")(add))
    assert wide(jit.kernel(add)) and wide(jit.parallel(add_in_parallel).dispatcher)
    assert wide(numba.njit(error_model="numpy")(add)) == before


def test_where_no_folder_can_be_made_none_is_used(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("", encoding="utf-8")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    group = Compiler("group", [])
    assert group.folder is None and "set XDG_CACHE_HOME to a folder that can be written" in group.trouble()
    assert group.kernel(double)(np.float32(4)) == 8


def test_a_version_of_numba_with_other_inner_parts_compiles_without_a_cache(monkeypatch):
    monkeypatch.setattr(compiler, "KernelFolder", None)
    group = Compiler("group", [])
    assert group.folder is None and "inner parts of Numba" in group.trouble()
    assert group.kernel(double)(4) == 8

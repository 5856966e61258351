"""A file is what it was or what it should become."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from tinygpt.durable import atomic_open, atomic_write


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("data", "stored"), [(b"\x00\xff", b"\x00\xff"), ("naïve\nfox\r\n", b"na\xc3\xafve\nfox\r\n"), ("", b"")]
)
def test_atomic_write_stores_bytes_as_they_are_and_text_as_utf8(tmp_path, data, stored):
    for _ in range(2):  # a new file, then the same one replaced
        atomic_write(tmp_path / "file", data)
        assert contents(tmp_path) == {"file": stored}


def test_atomic_write_follows_symbolic_links_and_leaves_them(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere" / "file")
    atomic_write(tmp_path / "link", b"x")
    assert (tmp_path / "link").is_symlink()
    assert contents(tmp_path / "elsewhere") == {"file": b"x"}


@pytest.mark.skipif(os.name == "nt", reason="Windows has other permissions")
def test_files_have_the_permissions_of_any_new_file(tmp_path):
    before = os.umask(0o027)
    try:
        atomic_write(tmp_path / "file", b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


@pytest.mark.parametrize("error", [ValueError("planted"), KeyboardInterrupt()])
def test_an_error_while_writing_leaves_the_old_file(tmp_path, error):
    atomic_write(tmp_path / "file", b"old")
    with pytest.raises(type(error)), atomic_open(tmp_path / "file") as file:
        file.write(b"half of the n")
        raise error
    assert contents(tmp_path) == {"file": b"old"}


def test_atomic_write_refuses_what_it_cannot_replace(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"atomic_open: the folder of .*missing.*create"):
        atomic_write(tmp_path / "missing" / "file", b"x")
    with pytest.raises(FileExistsError, match="must be an ordinary file"):
        atomic_write(tmp_path, b"x")
    with pytest.raises(TypeError, match="must be bytes or str, got int"):
        atomic_write(tmp_path / "file", 5)
    assert contents(tmp_path) == {}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs something that has a name and is no file")
def test_atomic_write_never_replaces_a_pipe_or_a_device(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileExistsError, match="must be an ordinary file"):
        atomic_write(tmp_path / "pipe", b"x")
    assert (tmp_path / "pipe").is_fifo()

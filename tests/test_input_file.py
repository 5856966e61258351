"""What is no ordinary file is refused at once, under any name; what is one is named when it cannot be read."""

from __future__ import annotations

import errno
import os
import socket
import sys

import pytest

from tinygpt.files.input_file import open_input, read_bytes
from tinygpt.files.one_line import brief, one_line, shown

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="pipes and devices have no names there")


def make(path, kind):
    if kind == "a named pipe":
        os.mkfifo(path)
    elif kind == "a folder":
        path.mkdir()
    elif kind == "a device":
        path.symlink_to("/dev/zero")
    else:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(os.path.relpath(path))  # a name may have some hundred bytes at most


@pytest.mark.parametrize("kind", ["a named pipe", "a folder", "a device", "a socket"])
def test_what_is_no_file_is_refused_without_waiting(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "x", kind)
    with pytest.raises(ValueError, match=f"^test: .*x must be an ordinary file, got {kind}; look elsewhere$"):
        read_bytes(tmp_path / "x", 100, "test", "look elsewhere")


def test_a_link_to_itself_and_one_to_nowhere_are_errors_that_name_it(tmp_path):
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "nowhere").symlink_to("gone")
    with pytest.raises(OSError, match=r"cannot read .*circle: Too many levels of symbolic links; nothing was changed"):
        read_bytes(tmp_path / "circle", 100)
    with pytest.raises(FileNotFoundError, match="nowhere must be a file, and is not there"):
        read_bytes(tmp_path / "nowhere", 100)


def test_a_file_in_the_middle_of_a_path_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(FileNotFoundError, match="is not there"):
        read_bytes(tmp_path / "file" / "config.json", 100)


def test_a_file_of_one_byte_too_many_is_not_read(tmp_path):
    (tmp_path / "x").write_bytes(bytes(101))
    with pytest.raises(ValueError, match="x must be a text of at most 100 bytes, got 101; use another copy"):
        read_bytes(tmp_path / "x", 100, what="a text")
    assert read_bytes(tmp_path / "x", 101) == bytes(101)


def test_a_file_of_a_terabyte_with_holes_takes_no_memory(tmp_path):
    with (tmp_path / "x").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ValueError, match=f"at most 1,000 bytes, got {1 << 40:,}"):
        read_bytes(tmp_path / "x", 1000)


@pytest.mark.parametrize(
    ("number", "kind", "message"),
    [
        (errno.EACCES, PermissionError, "permission denied; nothing was changed; make it readable"),
        (errno.EIO, OSError, "Input/output error; nothing was changed; check the disk, or use another copy"),
    ],
)
def test_a_disk_or_a_permission_that_fails_is_told_with_the_file(tmp_path, monkeypatch, number, kind, message):
    (tmp_path / "x").write_text("x")

    def fail(path, flags, *more):
        raise OSError(number, os.strerror(number), path)

    monkeypatch.setattr(os, "open", fail)
    with pytest.raises(kind, match=f"^test: cannot read .*x: {message}") as caught:
        read_bytes(tmp_path / "x", 100, "test")
    assert caught.value.errno == number


def test_an_error_of_the_reader_itself_stays_what_it_is(tmp_path):
    (tmp_path / "x").write_text("x")
    with pytest.raises(KeyError), open_input(tmp_path / "x"):
        raise KeyError("mine")


@pytest.mark.parametrize("text", ["a\nb", "\x1b[31mred", "a\u2028b", "\u202eabc", "\ud800", "a\rb", "\x00", "\x85"])
def test_a_name_is_one_line_that_changes_no_terminal(text):
    for written in (one_line(text), brief(text), shown(text)):
        assert written.isprintable() and len(written.splitlines()) == 1
    assert one_line("é „x“ 狐") == shown("é „x“ 狐") == "é „x“ 狐"


def test_a_value_is_shortened_however_deep_or_long_it_is():
    deep = []
    for _ in range(100_000):
        deep = [deep]
    for value in (deep, "x" * 10**7, list(range(10**6)), {str(i): i for i in range(10**5)}, 10**4000):
        assert len(brief(value)) <= 120

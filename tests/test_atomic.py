"""A file is what it was or what it should become."""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tinygpt.files import atomic, locks
from tinygpt.files.atomic import atomic_open, atomic_write


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


def test_two_writers_of_one_file_each_finish_theirs(tmp_path):
    """In any order, the file is what the last of them wrote, whole."""
    path = tmp_path / "corpus.bin"
    for first_ends_last in (True, False):
        with contextlib.ExitStack() as first, contextlib.ExitStack() as second:
            one, two = first.enter_context(atomic_open(path)), second.enter_context(atomic_open(path))
            for _ in range(3):
                one.write(b"1" * 70_001)
                one.flush()
                two.write(b"2" * 30_007)
                two.flush()
            assert len(os.listdir(tmp_path)) == 2 + path.exists()
            (second if first_ends_last else first).close()
            whole = path.read_bytes()
            assert whole == (b"2" * 90_021 if first_ends_last else b"1" * 210_003)
            (first if first_ends_last else second).close()
        assert contents(tmp_path) == {"corpus.bin": b"1" * 210_003 if first_ends_last else b"2" * 90_021}


def test_many_threads_write_one_file_and_readers_see_whole_ones(tmp_path):
    path = tmp_path / "curve.png"
    values = [bytes([65 + n]) * (5_000 * n + 1) for n in range(6)]
    errors: list[BaseException] = []

    def write(data: bytes) -> None:
        try:
            for _ in range(15):
                atomic_write(path, data)
                assert path.read_bytes() in values
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(data,)) for data in values]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert errors == []
    assert os.listdir(tmp_path) == ["curve.png"]


@pytest.mark.parametrize("name", ["x" * 255, "x" * 101 + ".tinygpt-partial", "é" * 127, "\u6587" * 85], ids=len)
def test_names_as_long_as_the_file_system_allows_can_be_written(tmp_path, name):
    for data in (b"1", b"2"):
        atomic_write(tmp_path / name, data)
    assert contents(tmp_path) == {name: b"2"}


@pytest.mark.skipif(os.name == "nt", reason="Windows has other permissions")
@pytest.mark.parametrize("mode", [0o600, 0o444, 0o755, 0o664])
def test_a_file_that_is_replaced_keeps_its_permissions(tmp_path, mode):
    (tmp_path / "file").write_bytes(b"old")
    (tmp_path / "file").chmod(mode)
    atomic_write(tmp_path / "file", b"new")
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == mode
    assert contents(tmp_path) == {"file": b"new"}


WRITER = """
import sys
from tinygpt.files.atomic import atomic_open
with atomic_open(sys.argv[1]) as file:
    file.write(b"half")
    file.flush()
    print("writing", flush=True)
    sys.stdin.read()
"""


@pytest.mark.skipif(locks.fcntl is None, reason="needs a lock that dies with its process")
@pytest.mark.parametrize("name", ["corpus.bin", "y" * 255])
def test_the_leftover_of_a_killed_writer_goes_with_the_next_and_a_living_ones_stays(tmp_path, name):
    (tmp_path / f"{name[:20]}.notes").write_bytes(b"mine")  # a name like a temporary one's beginning
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, tmp_path / name], stdin=subprocess.PIPE,
                                stdout=subprocess.PIPE) for _ in range(2)]  # fmt: skip
    assert [writer.stdout.readline() for writer in writers] == [b"writing\n"] * 2
    atomic_write(tmp_path / name, b"whole")
    assert len(os.listdir(tmp_path)) == 4  # both live
    writers[0].kill()
    writers[0].communicate()
    atomic_write(tmp_path / name, b"again")
    assert len(os.listdir(tmp_path)) == 3
    writers[1].communicate(b"")
    assert writers[1].returncode == 0
    assert contents(tmp_path) == {name: b"half", f"{name[:20]}.notes": b"mine"}


def test_without_locks_only_an_old_temporary_file_is_a_leftover(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "fcntl", None)
    monkeypatch.setattr(atomic, "fcntl", None)
    for age, name in ((0, "young"), (2 * atomic.LEFTOVER_AGE, "old")):
        path = tmp_path / f"{name}.0123456789abcdef.tinygpt-partial"
        path.write_bytes(b"half")
        os.utime(path, (time.time() - age, time.time() - age))
        atomic_write(tmp_path / name, b"whole")
    assert sorted(contents(tmp_path)) == ["old", "young", "young.0123456789abcdef.tinygpt-partial"]


def test_a_writer_whose_new_file_is_taken_for_a_leftover_makes_another(tmp_path, monkeypatch):
    """Another writer of the same file comes between the creation of the temporary file and its lock."""
    lock_file, disturbed = atomic.lock_file, []

    def late_lock(descriptor):
        if not disturbed:
            disturbed.append(os.listdir(tmp_path))
            with monkeypatch.context() as patch:
                patch.setattr(atomic, "lock_file", lock_file)
                atomic.remove_leftovers(tmp_path)
        return lock_file(descriptor)

    monkeypatch.setattr(atomic, "lock_file", late_lock)
    atomic_write(tmp_path / "file", b"x")
    assert len(disturbed[0]) == 1
    assert contents(tmp_path) == {"file": b"x"}


def test_nobodys_file_is_taken_for_a_temporary_one(tmp_path):
    names = ["file.tinygpt-partial", "file.0123.tinygpt-partial", "other.0123456789abcdef.tinygpt-partial",
             "file.0123456789abcdef.tinygpt-partial.txt", "xfile.0123456789abcdef.tinygpt-partial"]  # fmt: skip
    for name in names:
        (tmp_path / name).write_bytes(b"mine")
    (tmp_path / "file.0123456789abcdef.tinygpt-partial").mkdir()
    atomic_write(tmp_path / "file", b"x")
    assert sorted(os.listdir(tmp_path)) == sorted([*names, "file", "file.0123456789abcdef.tinygpt-partial"])


@pytest.mark.skipif(not hasattr(os, "symlink") or os.name == "nt", reason="needs symbolic links")
def test_a_link_in_the_place_of_a_temporary_file_is_not_followed(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").write_bytes(b"kept")
    tokens = iter(["a" * 16, "b" * 16])
    monkeypatch.setattr(atomic.secrets, "token_hex", lambda size: next(tokens))
    (tmp_path / f"file.{'a' * 16}.tinygpt-partial").symlink_to(tmp_path / "elsewhere")
    atomic_write(tmp_path / "file", b"x")
    assert (tmp_path / "elsewhere").read_bytes() == b"kept"
    assert (tmp_path / "file").read_bytes() == b"x"


FORKING_WRITER = """
import os, sys
from tinygpt.files.atomic import atomic_open
try:
    with atomic_open(sys.argv[1]) as file:
        file.write(b"parent")
        file.flush()
        child = os.fork()
        if child:
            os.waitpid(child, 0)
            print(len(os.listdir(os.path.dirname(sys.argv[1]))), os.path.exists(sys.argv[1]), flush=True)
        elif sys.argv[2] == "raise":
            raise SystemExit(0)
except BlockingIOError as error:
    print("child:", error, flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("how", ["raise", "fall through"])
def test_a_forked_child_that_leaves_the_block_does_not_end_what_its_parent_writes(tmp_path, how):
    done = subprocess.run([sys.executable, "-c", FORKING_WRITER, tmp_path / "file", how], capture_output=True,
                          text=True, check=True)  # fmt: skip
    assert done.stdout.splitlines()[-1] == "1 False"  # the temporary file is there, and not renamed
    assert ("may not finish it" in done.stdout) is (how == "fall through")
    assert contents(tmp_path) == {"file": b"parent"}

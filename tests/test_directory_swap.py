"""Whatever happens in the middle of a save, what was there before is there after, or its successor is, whole."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tinygpt.files import atomic, directory_swap
from tinygpt.files.atomic import atomic_write
from tinygpt.files.directory_swap import recover, swap_in

OLD = {"config.json": b"old", "model.safetensors": b"old weights", "vocab.json": b"old words"}
NEW = {"config.json": b"new", "model.safetensors": b"new weights", "merges.txt": b"new pairs"}


class Killed(BaseException):
    """What ends the process in these tests. No code can catch up after it, because every later step raises it too."""


@contextmanager
def killed_before(step: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Let `step` file-system calls happen and no more; gives the list of those that did."""
    done: list[str] = []

    def limited(name: str, call: Callable) -> Callable:
        def run(*args, **kwargs):
            if len(done) >= step:
                raise Killed
            done.append(name)
            return call(*args, **kwargs)

        return run

    with monkeypatch.context() as patch:
        for name in ("mkdir", "rename", "replace", "unlink", "rmdir", "fsync", "open"):
            patch.setattr(os, name, limited(name, getattr(os, name)))
        patch.setattr("builtins.open", limited("builtin open", open))
        yield done


def write_all(folder: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        atomic_write(folder / name, data)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def save(target: Path, files: dict[str, bytes]) -> None:
    with swap_in(target) as fresh:
        write_all(fresh, files)


def test_bytes_reach_the_disk_before_the_name_does(tmp_path, monkeypatch):
    with killed_before(99, monkeypatch) as steps:
        atomic_write(tmp_path / "file", b"x")
    assert steps[steps.index("fsync") :] == ["fsync", "replace", "open", "fsync"]  # file, name, folder


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_one_clear_line(tmp_path, monkeypatch, number):
    save(tmp_path / "last", OLD)

    def full(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match=r"atomic_open: cannot write .*curve.png.*; any .* is unchanged; free") as one:
            atomic_write(tmp_path / "curve.png", b"x")
        with pytest.raises(OSError, match=r"swap_in: cannot save .*last: .* still whole; free space") as two:
            save(tmp_path / "last", NEW)
    for raised in (one, two):
        assert raised.value.errno == number
        assert os.strerror(number) in str(raised.value)
        assert "\n" not in str(raised.value)
    assert os.listdir(tmp_path) == ["last"]
    assert contents(tmp_path / "last") == OLD


@pytest.mark.skipif(os.name == "nt", reason="limits the size of files as POSIX does")
def test_running_into_a_real_limit_leaves_the_old_checkpoint(tmp_path):
    save(tmp_path / "last", OLD)
    program = f"""
import resource
from tinygpt.files.atomic import atomic_write
from tinygpt.files.directory_swap import swap_in
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    with swap_in({str(tmp_path / "last")!r}) as fresh:
        atomic_write(fresh / "config.json", b"new")
        atomic_write(fresh / "model.safetensors", bytes(1_000_000))
except OSError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("swap_in: cannot save ")
    assert os.listdir(tmp_path) == ["last"]
    assert contents(tmp_path / "last") == OLD


def test_swap_in_replaces_the_folder_as_a_whole(tmp_path):
    target = tmp_path / "runs" / "x" / "last"  # the parents do not exist either
    for files in (OLD, NEW):
        save(target, files)
        assert contents(target) == files
        assert os.listdir(target.parent) == ["last"]


def test_every_file_reaches_the_disk_before_the_folder_counts(tmp_path, monkeypatch):
    with killed_before(99, monkeypatch) as steps, swap_in(tmp_path / "last") as fresh:
        fresh.joinpath("curve.png").write_bytes(b"by a program that syncs nothing")
    assert steps[: steps.index("rename")].count("fsync") == 2  # the file, and the folder that names it
    assert steps[len(steps) - steps[::-1].index("rename") :] == ["open", "fsync"]  # the parent, which got the new name


@pytest.mark.parametrize("before", [None, OLD], ids=["first save", "later save"])
def test_a_kill_at_any_step_leaves_the_old_or_the_new_whole(tmp_path, monkeypatch, before):
    outcomes, step, finished = [], 0, False
    while not finished:
        run = tmp_path / str(step)
        run.mkdir()
        if before:
            save(run / "last", before)
        with killed_before(step, monkeypatch) as done:
            try:
                save(run / "last", NEW)
                finished = True
            except Killed:
                assert len(done) == step
        recover(run / "last")
        whole = contents(run / "last") if (run / "last").exists() else None
        assert whole in (before, NEW)
        assert os.listdir(run) == (["last"] if whole else [])
        outcomes.append(whole == NEW)
        step += 1
    assert step > 30  # all calls were counted: there are three files, each with open, fsync and replace, and more
    assert outcomes[0] is False
    assert outcomes == sorted(outcomes)  # old up to one step, new ever after
    assert sum(outcomes) > 3  # and that one step is not the last: the other renames come after


def test_a_kill_at_any_step_of_the_recovery_changes_nothing_either(tmp_path, monkeypatch):
    states = {  # every kind of row in the table of swap_in, and the one that a power failure can leave
        "2": ({"last": OLD, "last.tinygpt-partial": {"config.json": b"ne"}}, OLD),
        "4": ({"last": OLD, "last.tinygpt-new": NEW}, NEW),
        "5": ({"last.tinygpt-old": OLD, "last.tinygpt-new": NEW}, NEW),
        "6": ({"last": NEW, "last.tinygpt-old": OLD}, NEW),
        "7": ({"last": NEW, "last.tinygpt-old": {"vocab.json": b"old words"}}, NEW),
        "first": ({"last.tinygpt-new": NEW}, NEW),
        "power": ({"last.tinygpt-old": OLD, "last.tinygpt-partial": NEW}, OLD),
        "stuck": ({"last": OLD, "last.tinygpt-new": NEW, "last.tinygpt-old": {"config.json": b"older"}}, NEW),
    }
    for name, (folders, expected) in states.items():
        step, finished = 0, False
        while not finished:
            run = tmp_path / f"{name}-{step}"
            for folder, files in folders.items():
                (run / folder).mkdir(parents=True)
                write_all(run / folder, files)
            with killed_before(step, monkeypatch):
                try:
                    recover(run / "last")
                    finished = True
                except Killed:
                    pass
            recover(run / "last")
            assert (name, contents(run / "last"), os.listdir(run)) == (name, expected, ["last"])
            step += 1
        assert step > 1, name


def test_recover_leaves_whole_checkpoints_and_other_folders_alone(tmp_path):
    names = ["last", "last.old", "last.new", "last.partial", "last2"]  # copies that a person may make
    for name in names:
        (tmp_path / name).mkdir()
        write_all(tmp_path / name, {"config.json": name.encode()})
    recover(tmp_path / "last")
    recover(tmp_path / "missing")
    assert sorted(os.listdir(tmp_path)) == sorted(names)
    assert contents(tmp_path / "last") == {"config.json": b"last"}


def test_swap_in_goes_on_after_a_kill(tmp_path):
    (tmp_path / "last.tinygpt-partial").mkdir()
    write_all(tmp_path / "last.tinygpt-partial", {"stale.bin": b"half"})
    save(tmp_path / "last", NEW)
    assert contents(tmp_path / "last") == NEW


@pytest.mark.parametrize("error", [ValueError("planted"), KeyboardInterrupt()])
def test_an_error_in_the_block_leaves_the_old_checkpoint(tmp_path, error):
    save(tmp_path / "last", OLD)
    with pytest.raises(type(error)), swap_in(tmp_path / "last") as fresh:
        atomic_write(fresh / "config.json", b"new")
        raise error
    assert os.listdir(tmp_path) == ["last"]
    assert contents(tmp_path / "last") == OLD


def test_swap_in_never_replaces_what_is_no_checkpoint(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    (tmp_path / "notes").write_text("more")
    for name in ("thesis", "notes"):
        with pytest.raises(FileExistsError, match=f"swap_in: .*{name} .*choose another"):
            save(tmp_path / name, NEW)
    assert sorted(os.listdir(tmp_path)) == ["notes", "thesis"]
    assert os.listdir(tmp_path / "thesis") == ["chapter.txt"]


def test_swap_in_follows_a_symbolic_link(tmp_path):
    (tmp_path / "big disk").mkdir()
    (tmp_path / "last").symlink_to(tmp_path / "big disk" / "last")
    for files in (OLD, NEW):
        save(tmp_path / "last", files)
    assert (tmp_path / "last").is_symlink()
    assert contents(tmp_path / "big disk" / "last") == NEW


def test_without_locks_and_folders_that_open_saving_still_works(tmp_path, monkeypatch):
    open_before = os.open

    def no_folders(path, *args, **kwargs):  # what Windows says
        if os.path.isdir(path):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return open_before(path, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", no_folders)
        patch.setattr(atomic, "fcntl", None)
        patch.setattr(
            directory_swap.shutil, "_use_fd_functions", False, raising=False
        )  # Windows deletes folders by their paths
        for files in (OLD, NEW):
            save(tmp_path / "last", files)
    assert os.listdir(tmp_path) == ["last"]
    assert contents(tmp_path / "last") == NEW


def test_only_a_folder_that_cannot_be_synced_is_forgiven(tmp_path, monkeypatch):
    sync = os.fsync
    number = errno.EINVAL

    def no_folder_sync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", no_folder_sync)
    save(tmp_path / "last", NEW)
    assert contents(tmp_path / "last") == NEW
    number = errno.EIO
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        save(tmp_path / "last", OLD)

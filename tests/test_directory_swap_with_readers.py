"""Saving in one process while another loads: neither disturbs the other, and a reader never sees two saves at once."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tinygpt.files import directory_swap
from tinygpt.files.atomic import atomic_write
from tinygpt.files.directory_swap import read_whole, recover, swap_in

fcntl = pytest.importorskip("fcntl", reason="needs a lock that dies with its process")

OLD = {"config.json": b"old", "vocab.json": b"old words"}
NEW = {"config.json": b"new", "merges.txt": b"new pairs"}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def save(target: Path, files: dict[str, bytes]) -> None:
    with swap_in(target) as fresh:
        for name, data in files.items():
            atomic_write(fresh / name, data)


def first_time(action: Callable[[], object]) -> Callable[[], None]:
    """The action, but only at the first call."""
    waiting = [action]
    return lambda: waiting.pop()() if waiting else None


def test_a_loader_leaves_a_save_that_goes_on_alone(tmp_path):
    save(tmp_path / "last", OLD)
    with swap_in(tmp_path / "last") as fresh:
        atomic_write(fresh / "config.json", b"new")
        recover(tmp_path / "last")  # what a loader in another process does
        assert contents(tmp_path / "last") == OLD
        with pytest.raises(FileExistsError, match="another process is writing"):
            save(tmp_path / "last", OLD)
        atomic_write(fresh / "merges.txt", b"new pairs")
    assert contents(tmp_path / "last") == {"config.json": b"new", "merges.txt": b"new pairs"}


def test_a_loader_waits_while_there_is_no_checkpoint_under_its_name(tmp_path, monkeypatch):
    save(tmp_path / "last", OLD)
    seen: list[dict[str, bytes]] = []
    loader = threading.Thread(target=lambda: (recover(tmp_path / "last"), seen.append(contents(tmp_path / "last"))))
    rename = os.rename

    def rename_with_a_loader_in_between(source, destination):
        rename(source, destination)
        if str(destination).endswith("-old"):
            loader.start()
            loader.join(0.2)
            assert loader.is_alive()  # it waits for the two renames to be over

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", rename_with_a_loader_in_between)
        save(tmp_path / "last", NEW)
    loader.join(10)
    assert seen == [NEW]


def test_a_loader_that_takes_a_fresh_folder_for_a_leftover_does_no_harm(tmp_path, monkeypatch):
    mkdir, load = os.mkdir, first_time(lambda: recover(tmp_path / "last"))

    def mkdir_then_load(path, *args):
        mkdir(path, *args)
        load()  # before the writer can lock what it made
        assert os.path.exists(path) is bool(made)
        made.append(path)

    made: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", lambda path, **_: mkdir_then_load(path))
        save(tmp_path / "last", NEW)
    assert len(made) == 2
    assert contents(tmp_path / "last") == NEW


def test_a_loader_that_was_late_deletes_no_later_save(tmp_path, monkeypatch):
    partial = tmp_path / "last.tinygpt-partial"
    partial.mkdir()
    flock, writers = fcntl.flock, []

    def another_save_begins() -> None:
        shutil.move(partial, tmp_path / "elsewhere")
        partial.mkdir()
        writers.append(os.open(partial, os.O_RDONLY))
        flock(writers[0], fcntl.LOCK_EX)

    begin = first_time(another_save_begins)

    def slow_flock(descriptor: int, how: int) -> None:
        begin()
        flock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", slow_flock)
    recover(tmp_path / "last")
    os.close(writers[0])
    assert sorted(os.listdir(tmp_path)) == ["elsewhere", "last.tinygpt-partial"]


@pytest.mark.parametrize("moment", ["before", "between", "after"])
def test_read_whole_reads_again_when_a_save_came_in_between(tmp_path, moment):
    save(tmp_path / "last", OLD)
    save_once = {name: lambda: None for name in ("before", "between", "after")}
    save_once[moment] = first_time(lambda: save(tmp_path / "last", NEW))

    def read(folder: Path) -> dict[str, bytes]:
        save_once["before"]()
        names = os.listdir(folder)
        save_once["between"]()
        found = {name: (folder / name).read_bytes() for name in names}  # one name is gone after the save
        save_once["after"]()
        return found

    assert read_whole(tmp_path / "last", read) == NEW


def test_read_whole_waits_out_the_moment_without_a_checkpoint(tmp_path, monkeypatch):
    save(tmp_path / "last", OLD)
    rename, nothing_there = os.rename, threading.Event()

    def slow_rename(source, destination):
        rename(source, destination)
        if str(destination).endswith("-old"):
            nothing_there.set()
            time.sleep(0.2)

    writer = threading.Thread(target=lambda: save(tmp_path / "last", NEW))
    save_begins = first_time(lambda: (writer.start(), nothing_there.wait(10)))

    def recover_just_before_the_save(directory):
        recover(directory)
        save_begins()

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", slow_rename)
        patch.setattr(directory_swap, "recover", recover_just_before_the_save)
        assert read_whole(tmp_path / "last", contents) == NEW
        writer.join(10)


def test_read_whole_passes_errors_on(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_whole(tmp_path / "last", os.listdir)
    save(tmp_path / "last", OLD)
    with pytest.raises(ValueError, match="planted"):
        read_whole(tmp_path / "last", lambda folder: int("planted"))

"""Who an owner file names, and what that decides: processes and hosts that are gone, copies, damage."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import textwrap
import time

import pytest
from owners import (  # noqa: F401 (fixtures)
    NEEDS_PROC,
    WITHOUT_LOCKS,
    edit,
    kind_of_locks,
    leave_owner_file,
    owner_process,
    start_processes,
    state_of,
)

from tinygpt.files import locks
from tinygpt.files.owner_file import OWNER_FILE
from tinygpt.files.ownership import own_run


@NEEDS_PROC
def test_a_process_id_that_is_used_again_is_not_the_owner(tmp_path, kind, start):
    leave_owner_file(start, kind, tmp_path / "run")
    other = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    try:
        edit(tmp_path / "run", pid=other.pid)  # with the start time of the one that was killed
        with own_run(tmp_path / "run"):
            pass
    finally:
        other.communicate(b"")


@NEEDS_PROC
def test_a_process_of_an_earlier_boot_is_not_the_owner(tmp_path, kind, start):
    owner_process(start, kind, tmp_path / "run")
    other = tmp_path / "other"
    other.mkdir()
    there = other.stat()
    shutil.copy2(tmp_path / "run" / OWNER_FILE, other)
    edit(other, folder=str(other), device=there.st_dev, inode=there.st_ino, boot="another")  # pid and start: living
    with own_run(other):
        pass


@pytest.mark.parametrize("changes", [{"host": "quantum-7"}, {"machine": "0123456789abcdef"}])
def test_the_owner_on_another_host_is_refused_named_and_can_be_deleted(tmp_path, kind, start, changes):
    leave_owner_file(start, kind, tmp_path / "run")
    if not json.loads((tmp_path / "run" / OWNER_FILE).read_text())["machine"] and "machine" in changes:
        pytest.skip("this host has no id")
    edit(tmp_path / "run", **changes)
    before = state_of(tmp_path / "run")
    host = changes.get("host", "")
    with pytest.raises(
        BlockingIOError, match=rf"on {host}.*cannot be seen from here.*delete .*{OWNER_FILE}"
    ) as refused:
        own_run(tmp_path / "run").__enter__()
    assert "\n" not in str(refused.value)
    assert state_of(tmp_path / "run") == before
    (tmp_path / "run" / OWNER_FILE).unlink()
    with own_run(tmp_path / "run"):
        pass


def test_an_owner_without_a_lock_is_respected_by_one_that_got_the_lock(tmp_path, start):
    """The lock service of a network disk was away when the first started, and is back."""
    if locks.fcntl is None:
        pytest.skip("has no locks")
    owner_process(start, textwrap.dedent(WITHOUT_LOCKS["locks that fail"]), tmp_path / "run")
    with pytest.raises(BlockingIOError, match="is owned by process"):
        own_run(tmp_path / "run").__enter__()


@pytest.mark.parametrize("copy", [shutil.copytree, shutil.copy])
def test_a_copy_of_a_run_that_is_owned_is_nobodys(tmp_path, kind, start, copy):
    first = owner_process(start, kind, tmp_path / "run")
    if copy is shutil.copytree:  # keeps the times
        shutil.copytree(tmp_path / "run", tmp_path / "copy")
    else:
        (tmp_path / "copy").mkdir()
        shutil.copyfile(tmp_path / "run" / OWNER_FILE, tmp_path / "copy" / OWNER_FILE)
    with own_run(tmp_path / "copy") as owner:
        assert owner.is_new()
        with pytest.raises(BlockingIOError, match=f"process {first.pid}"):
            own_run(tmp_path / "run").__enter__()
        with pytest.raises(BlockingIOError, match=f"process {os.getpid()}"):
            own_run(tmp_path / "copy").__enter__()


def test_a_copy_of_another_hosts_run_is_nobodys_but_its_own_folder_is(tmp_path, kind, start):
    first = owner_process(start, kind, tmp_path / "run")
    edit(tmp_path / "run", host="quantum-7")
    with pytest.raises(BlockingIOError, match="quantum-7"):
        own_run(tmp_path / "run").__enter__()
    (tmp_path / "copy").mkdir()
    shutil.copyfile(tmp_path / "run" / OWNER_FILE, tmp_path / "copy" / OWNER_FILE)
    os.utime(tmp_path / "copy" / OWNER_FILE, (time.time() + 60, time.time() + 60))  # it was copied later
    with own_run(tmp_path / "copy"):
        pass
    written = json.loads((tmp_path / "run" / OWNER_FILE).read_text())["written"]
    shutil.copytree(tmp_path / "run", tmp_path / "folders are numbered anew here")
    os.utime(tmp_path / "folders are numbered anew here" / OWNER_FILE, (written, written))
    with pytest.raises(BlockingIOError, match="quantum-7"):  # what a network disk shows on two hosts
        own_run(tmp_path / "folders are numbered anew here").__enter__()
    assert first.poll() is None


DAMAGED = {
    "empty": b"", "cut": b'{"host": "here", "pid"', "zeros": bytes(300), "list": b"[]", "deep": b"[" * 60_000,
    "binary": b"\xff\xfe\x00", "no fields": b"{}", "number": b"1e999",
}  # fmt: skip


@pytest.mark.parametrize("data", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_owner_file_is_replaced_where_the_lock_decides_and_named_where_it_cannot(tmp_path, kind, data):
    (tmp_path / OWNER_FILE).write_bytes(data)
    if not kind:
        with own_run(tmp_path):
            assert json.loads((tmp_path / OWNER_FILE).read_text())["pid"] == os.getpid()
        return
    with pytest.raises(BlockingIOError, match=rf"{OWNER_FILE} must name the owner .* is damaged; .* delete it"):
        own_run(tmp_path).__enter__()
    assert (tmp_path / OWNER_FILE).read_bytes() == data


@pytest.mark.parametrize("changes", [{"pid": -1}, {"pid": 0}, {"pid": 2**70}, {"pid": True}, {"pid": "7"},
                                     {"locked": 1}, {"host": None}, {"inode": 1.5}], ids=str)  # fmt: skip
def test_fields_that_no_owner_writes_make_it_damaged(tmp_path, kind, start, changes):
    leave_owner_file(start, kind, tmp_path / "run")
    edit(tmp_path / "run", **changes)
    if kind:
        with pytest.raises(BlockingIOError, match="damaged"):
            own_run(tmp_path / "run").__enter__()
    else:
        with own_run(tmp_path / "run"):
            pass


def test_what_is_no_file_is_never_opened_followed_or_deleted(tmp_path, kind):
    (tmp_path / "elsewhere").write_text("kept")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / OWNER_FILE).symlink_to(tmp_path / "elsewhere")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / OWNER_FILE).mkdir()
    (tmp_path / "c").mkdir()
    os.mkfifo(tmp_path / "c" / OWNER_FILE)  # opening it would wait for ever
    for name in "ac":
        if kind:
            with pytest.raises(BlockingIOError, match="damaged"):
                own_run(tmp_path / name).__enter__()
        else:
            with own_run(tmp_path / name):
                pass
    with pytest.raises(FileExistsError, match="must be a file, got a folder; rename or delete it"):
        own_run(tmp_path / "b").__enter__()
    assert (tmp_path / "elsewhere").read_text() == "kept"
    assert (tmp_path / "b" / OWNER_FILE).is_dir()


def test_what_a_hostile_owner_file_says_stays_on_one_line(tmp_path, kind, start):
    leave_owner_file(start, kind, tmp_path / "run")
    edit(tmp_path / "run", host="a\n\x1b[2Jtinygpt: all is well" + "x" * 10_000, since="\r\u2028now")
    with pytest.raises(BlockingIOError) as refused:
        own_run(tmp_path / "run").__enter__()
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 1000


def test_a_file_system_without_hard_links_has_owners_too(tmp_path, kind, monkeypatch, start):
    leave_owner_file(start, kind, tmp_path / "run")

    def link(source, destination):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", link)
    with own_run(tmp_path / "run"), pytest.raises(BlockingIOError, match=f"process {os.getpid()}"):
        own_run(tmp_path / "run").__enter__()
    assert os.listdir(tmp_path / "run") == []

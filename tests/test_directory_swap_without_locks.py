"""Saving where there are no locks that die with their process: an owner file in the fresh folder takes their place."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest
from owners import NEEDS_FORK, kind_of_locks, start_processes  # noqa: F401 (fixtures)

from tinygpt.files.atomic import atomic_write
from tinygpt.files.directory_swap import read_whole, recover, swap_in

OLD = {"config.json": b"old", "vocab.json": b"old words"}
NEW = {"config.json": b"new", "merges.txt": b"new pairs"}
SAVING = """
import pathlib, sys
from tinygpt.files.directory_swap import swap_in
with swap_in(pathlib.Path(sys.argv[1]) / "last") as fresh:
    (fresh / "config.json").write_bytes(b"other")
    print("saving", flush=True)
    sys.stdin.read()
"""


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def save(target: Path, files: dict[str, bytes]) -> None:
    with swap_in(target) as fresh:
        for name, data in files.items():
            atomic_write(fresh / name, data)


def test_a_loader_leaves_the_save_of_another_process_alone_and_a_killed_one_goes(tmp_path, kind, start):
    save(tmp_path / "last", OLD)
    for ends in ("killed", "done"):
        writer = start(kind + SAVING, tmp_path)
        assert writer.stdout.readline() == "saving\n"
        for _ in range(3):
            assert read_whole(tmp_path / "last", contents) == OLD
        with pytest.raises(FileExistsError, match="another process is writing"):
            save(tmp_path / "last", NEW)
        if ends == "killed":
            writer.kill()
            writer.wait()
            assert read_whole(tmp_path / "last", contents) == OLD
            assert os.listdir(tmp_path) == ["last"]
    writer.communicate("")
    assert writer.returncode == 0
    assert contents(tmp_path / "last") == {"config.json": b"other"}
    assert os.listdir(tmp_path) == ["last"]


def test_a_loader_between_two_renames_waits_for_the_writer(tmp_path, kind, monkeypatch):
    save(tmp_path / "last", OLD)
    seen: list[dict[str, bytes]] = []
    loader = threading.Thread(target=lambda: seen.append(read_whole(tmp_path / "last", contents)))
    rename = os.rename

    def rename_with_a_loader_in_between(source, destination):
        rename(source, destination)
        if str(destination).endswith("-old"):
            loader.start()
            loader.join(0.2)
            assert loader.is_alive()

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", rename_with_a_loader_in_between)
        save(tmp_path / "last", NEW)
    loader.join(30)
    assert [{name: data for name, data in found.items() if name != "owner.json"} for found in seen] == [NEW]
    assert contents(tmp_path / "last") == NEW


def test_a_save_of_another_host_is_left_alone_and_named(tmp_path, kind, start):
    save(tmp_path / "last", OLD)
    writer = start(kind + SAVING, tmp_path)
    assert writer.stdout.readline() == "saving\n"
    writer.kill()
    writer.wait()
    fresh = tmp_path / "last.tinygpt-partial"
    if not kind:
        recover(tmp_path / "last")  # the lock tells
        assert os.listdir(tmp_path) == ["last"]
        return
    owner = json.loads((fresh / "owner.json").read_text(encoding="utf-8"))
    (fresh / "owner.json").write_text(json.dumps(owner | {"host": "quantum-7"}), encoding="utf-8")
    recover(tmp_path / "last")
    with pytest.raises(FileExistsError, match=r"last\.tinygpt-partial; wait .* or delete the folder if it has ended"):
        save(tmp_path / "last", NEW)
    assert contents(tmp_path / "last") == OLD


def test_leftovers_in_the_copy_of_a_run_are_nobodys(tmp_path, kind, start):
    import shutil

    (tmp_path / "run").mkdir()
    save(tmp_path / "run" / "last", OLD)
    writer = start(kind + SAVING, tmp_path / "run")
    assert writer.stdout.readline() == "saving\n"
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    save(tmp_path / "copy" / "last", NEW)
    assert os.listdir(tmp_path / "copy") == ["last"]
    assert sorted(os.listdir(tmp_path / "run")) == ["last", "last.tinygpt-partial"]


FORKING = """
import os, pathlib, sys
from tinygpt.files.directory_swap import swap_in
last = pathlib.Path(sys.argv[1]) / "last"
try:
    with swap_in(last) as fresh:
        (fresh / "config.json").write_bytes(b"parent")
        child = os.fork()
        if child:
            os.waitpid(child, 0)
            print(sorted(os.listdir(sys.argv[1])), os.listdir(fresh), flush=True)
        else:
            raise SystemExit(0)
finally:
    os._exit(0) if not child else None
"""


@NEEDS_FORK
def test_a_forked_child_that_leaves_the_block_does_not_undo_the_save(tmp_path, start):
    process = start(FORKING, tmp_path)
    assert process.communicate()[0] == "['last.tinygpt-partial'] ['config.json']\n"
    assert contents(tmp_path / "last") == {"config.json": b"parent"}


SAVING_WITH_A_CHILD = """
import os, pathlib, sys, time
from tinygpt.files.directory_swap import swap_in
with swap_in(pathlib.Path(sys.argv[1]) / "last") as fresh:
    if not os.fork():
        print("saving", flush=True)
        os.closerange(1, 3)
        time.sleep(20)
        os._exit(0)
    sys.stdin.read()
"""


@NEEDS_FORK
def test_a_forked_child_that_outlives_a_killed_save_does_not_keep_it_locked(tmp_path, start):
    save(tmp_path / "last", OLD)
    process = start(SAVING_WITH_A_CHILD, tmp_path)
    assert process.stdout.readline() == "saving\n"
    process.kill()
    process.wait()
    save(tmp_path / "last", NEW)
    assert contents(tmp_path / "last") == NEW

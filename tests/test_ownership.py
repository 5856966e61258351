"""One owner at a time: with locks and without, across processes, threads, forks and kills."""

from __future__ import annotations

import errno
import json
import os
import signal
import threading

import pytest
from owners import NEEDS_FORK, kind_of_locks, leave_owner_file, owner_process, start_processes, state_of  # noqa: F401 (fixtures)

from tinygpt.files.owner_file import OWNER_FILE
from tinygpt.files.ownership import own_run


def test_a_second_process_is_refused_told_by_whom_and_changes_nothing(tmp_path, kind, start):
    first = owner_process(start, kind, tmp_path / "run")
    (tmp_path / "run" / "settings.json").write_text("{}")
    before, times = state_of(tmp_path / "run"), (tmp_path / "run").stat()
    with pytest.raises(BlockingIOError, match=rf"run is owned by process {first.pid} on .* since 20\d\d-") as refused:
        own_run(tmp_path / "run").__enter__()
    assert "\n" not in str(refused.value)
    assert state_of(tmp_path / "run") == before
    assert (tmp_path / "run").stat().st_mtime_ns == times.st_mtime_ns
    first.communicate("")
    with own_run(tmp_path / "run") as owner:
        assert not owner.is_new()
    assert os.listdir(tmp_path / "run") == ["settings.json"]


@pytest.mark.parametrize("error", [ValueError("planted"), KeyboardInterrupt(), SystemExit(3)])
def test_a_run_is_given_back_whatever_ends_it(tmp_path, kind, error):
    for _ in range(2):
        with pytest.raises(type(error)), own_run(tmp_path / "a" / "run"):
            assert os.listdir(tmp_path / "a" / "run") == [OWNER_FILE]
            raise error
        assert os.listdir(tmp_path) == []  # nothing was written, so nothing is left


def test_a_start_that_is_refused_or_fails_leaves_no_folder_that_stops_the_next(tmp_path, kind):
    with own_run(tmp_path / "run"), pytest.raises(BlockingIOError), own_run(tmp_path / "run"):
        pass
    (tmp_path / "empty").mkdir()
    with own_run(tmp_path / "empty") as owner:
        assert owner.is_new()
    assert os.listdir(tmp_path) == ["empty"]  # which was there before


def test_two_threads_of_one_process_are_two(tmp_path, kind):
    answers = []

    def second() -> None:
        try:
            with own_run(tmp_path / "run"):
                answers.append("owns")
        except BlockingIOError as error:
            answers.append(str(error))

    with own_run(tmp_path / "run"):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(60)
    second()
    assert f"is owned by process {os.getpid()} on" in answers[0]
    assert answers[1:] == ["owns"]


def test_every_path_to_a_run_means_the_same_run(tmp_path, kind, monkeypatch):
    (tmp_path / "deep" / "run").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "deep")
    monkeypatch.chdir(tmp_path / "deep")
    for path in ("run", "../link/run", tmp_path / "deep/../link/run", "./run/."):
        with own_run(tmp_path / "link" / "run"), pytest.raises(BlockingIOError):
            own_run(path).__enter__()


def test_a_link_to_a_folder_that_is_not_there_yet_is_followed(tmp_path, kind):
    (tmp_path / "run").symlink_to(tmp_path / "big disk" / "run")
    with own_run(tmp_path / "run"):
        assert os.listdir(tmp_path / "big disk" / "run") == [OWNER_FILE]
        with pytest.raises(BlockingIOError):
            own_run(tmp_path / "big disk" / "run").__enter__()


def test_a_killed_owner_is_replaced(tmp_path, kind, start):
    leave_owner_file(start, kind, tmp_path / "run")
    with own_run(tmp_path / "run") as owner:
        assert owner.is_new()
        assert json.loads((tmp_path / "run" / OWNER_FILE).read_text())["pid"] == os.getpid()
    assert os.listdir(tmp_path) == ["run"]
    assert os.listdir(tmp_path / "run") == []


def test_of_many_that_start_at_once_exactly_one_owns_the_run(tmp_path, kind, start):
    """Also where all of them find the owner file of one that was killed, which each would replace."""
    program = (
        kind
        + """
import os, sys, time
from tinygpt.files.ownership import own_run
print("ready", flush=True)
sys.stdin.readline()
try:
    with own_run(sys.argv[1]):
        print("owns", flush=True)
        sys.stdin.read()
except BlockingIOError as error:
    print(error, flush=True)
"""
    )
    for stale in (False, True):
        run = tmp_path / str(stale)
        if stale:
            leave_owner_file(start, kind, run)
        processes = [start(program, run) for _ in range(6)]
        assert [process.stdout.readline() for process in processes] == ["ready\n"] * 6
        for process in processes:
            process.stdin.write("go\n")
            process.stdin.flush()
        answers = [process.stdout.readline() for process in processes]
        assert answers.count("owns\n") == 1, answers
        winner = processes[answers.index("owns\n")]
        told = [f"process {winner.pid} on" in answer for answer in answers if answer != "owns\n"]
        assert all(told), answers
        for process in processes:
            process.communicate("")


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_a_run_that_cannot_be_written_is_refused_in_words(tmp_path, kind, monkeypatch, number):
    open_before = os.open

    def read_only(path, flags, *args, **kwargs):
        if flags & os.O_CREAT:
            raise OSError(number, os.strerror(number), str(path))
        return open_before(path, flags, *args, **kwargs)

    monkeypatch.setattr(os, "open", read_only)
    with pytest.raises(PermissionError, match=f"run must be a folder that can be written, got: {os.strerror(number)}"):
        own_run(tmp_path / "run").__enter__()
    assert os.listdir(tmp_path) == []


def test_a_file_in_the_place_of_a_run_is_refused(tmp_path, kind):
    (tmp_path / "run").write_text("notes")
    with pytest.raises(FileExistsError, match="must be a folder, got a file; choose another --out"):
        own_run(tmp_path / "run").__enter__()
    assert (tmp_path / "run").read_text() == "notes"


@NEEDS_FORK
def test_a_forked_child_that_outlives_the_owner_owns_nothing(tmp_path, kind, start):
    forking = (
        kind
        + """
import os, sys, time
from tinygpt.files.ownership import own_run
with own_run(sys.argv[1]) as owner:
    child = os.fork()
    if not child:
        os.close(1)
        time.sleep(120)
        os._exit(0)
    print(child, flush=True)
    sys.stdin.read()
"""
    )
    parent = start(forking, tmp_path / "run")
    child = int(parent.stdout.readline())
    try:
        with pytest.raises(BlockingIOError):
            own_run(tmp_path / "run").__enter__()
        parent.kill()
        parent.wait()
        os.kill(child, 0)  # it lives
        with own_run(tmp_path / "run"):
            pass
    finally:
        os.kill(child, signal.SIGKILL)


@NEEDS_FORK
def test_a_forked_child_neither_writes_nor_gives_the_run_back(tmp_path, kind):
    with own_run(tmp_path / "run") as owner:
        owner.hold()
        child = os.fork()
        if not child:
            code = 1
            try:
                owner.hold()
            except BlockingIOError:
                owner.release()
                code = 0
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert os.listdir(tmp_path / "run") == [OWNER_FILE]
        with pytest.raises(BlockingIOError):
            own_run(tmp_path / "run").__enter__()
        owner.hold()

"""The files of compiled code: none is loaded that is not whole and this function's, and none is needed."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tinygpt.files.user_cache import distrust
from tinygpt.kernels import kernel_cache
from tinygpt.kernels.kernel_cache import SUFFIX, KernelFolder

ROOT = Path(__file__).resolve().parents[1]
POSIX = pytest.mark.skipif(os.name != "posix", reason="owners and modes of files are POSIX's")
CONTENT = b"compiled code of a function"


@pytest.fixture
def folder(tmp_path) -> KernelFolder:
    kept = KernelFolder(tmp_path / "kernels-0123456789abcdef")
    kept.write("f", b"who I am", CONTENT)
    return kept


@pytest.fixture
def file(folder) -> Path:
    (path,) = folder.path.iterdir()
    assert path.name == "f" + SUFFIX and folder.read("f", b"who I am") == CONTENT
    return path


# one file


def test_a_file_cut_at_any_length_is_not_read(folder, file):
    whole = file.read_bytes()
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        assert folder.read("f", b"who I am") is None
    file.write_bytes(whole + b"\0")
    assert folder.read("f", b"who I am") is None


def test_a_bit_flipped_anywhere_is_seen(folder, file):
    whole = file.read_bytes()
    for place in range(8 * len(whole)):
        changed = bytearray(whole)
        changed[place // 8] ^= 1 << place % 8
        file.write_bytes(changed)
        assert folder.read("f", b"who I am") is None


def test_another_functions_file_is_not_read_under_this_name(folder, file):
    folder.write("g", b"who another is", b"another's code")
    (folder.path / f"g{SUFFIX}").replace(file)
    assert folder.read("f", b"who I am") is None
    assert folder.read("f", b"who another is") == b"another's code"


def test_where_identity_ends_and_content_begins_counts(folder, file):
    """The same bytes, split in another place, are another function's."""
    folder.write("f", b"who I am" + CONTENT[:4], CONTENT[4:])
    assert folder.read("f", b"who I am") is None


@POSIX
@pytest.mark.parametrize("kind", ["folder", "link", "loop", "pipe", "another user's", "too large"])
def test_what_is_no_file_of_this_user_is_not_read_and_is_waited_for_by_nobody(folder, file, kind, monkeypatch):
    elsewhere = file.with_name("elsewhere")
    file.rename(elsewhere)
    if kind == "folder":
        file.mkdir()
    elif kind == "link":
        file.symlink_to(elsewhere)
    elif kind == "loop":
        file.symlink_to(file)
    elif kind == "pipe":
        os.mkfifo(file)  # opening it for reading would wait for a writer
    else:
        elsewhere.rename(file)
        if kind == "too large":
            monkeypatch.setattr(kernel_cache, "_LARGEST", 10)
        else:
            user = os.geteuid()
            answers = iter([user, user + 1])  # the folder's owner, then the file's
            monkeypatch.setattr(kernel_cache.os, "geteuid", lambda: next(answers))
    try:
        assert folder.read("f", b"who I am") is None
    except OSError as error:
        assert (error.errno, kind) in ((errno.ELOOP, "link"), (errno.ELOOP, "loop"), (errno.EISDIR, "folder"))


@POSIX
@pytest.mark.parametrize("moment", ["mkstemp", "write", "replace"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO])
def test_a_failure_at_any_moment_leaves_the_file_that_was_there(folder, file, moment, number, monkeypatch):
    def fail(*arguments, **options):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        if moment == "mkstemp":
            patch.setattr(kernel_cache.tempfile, "mkstemp", fail)
        elif moment == "write":
            patch.setattr(kernel_cache, "open", lambda *a: Full(os.fdopen(*a), fail), raising=False)
        else:
            patch.setattr(kernel_cache.os, "replace", fail)
        with pytest.raises(OSError):
            folder.write("f", b"who I am", b"new code")
    assert [path.name for path in folder.path.iterdir()] == [file.name]
    assert folder.read("f", b"who I am") == CONTENT


class Full:
    """An open file that takes half of what is written, then fails."""

    def __init__(self, file, fail) -> None:
        self.file, self.fail = file, fail

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.file.close()

    def write(self, data):
        self.file.write(data[: len(data) // 2])
        self.fail()


# the folder


@POSIX
def test_a_new_folder_is_this_users_alone_whatever_the_mask(tmp_path):
    before = os.umask(0)
    try:
        kept = KernelFolder(tmp_path / "cache" / "tinygpt" / "kernels")
        kept.write("f", b"", CONTENT)
    finally:
        os.umask(before)
    for path in (kept.path, kept.path.parent, kept.path.parent.parent):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700


@POSIX
@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777, 0o1777])
def test_a_folder_that_others_can_write_is_neither_read_nor_written(folder, file, mode):
    folder.path.chmod(mode)
    assert distrust(folder.path) == "can be written by other users"
    assert folder.read("f", b"who I am") is None
    folder.write("g", b"", CONTENT)
    assert [path.name for path in folder.path.iterdir()] == [file.name]


@POSIX
def test_a_folder_of_another_user_is_not_used(folder, file, monkeypatch):
    user = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: user + 1)
    assert distrust(folder.path) == "belongs to another user"
    assert folder.read("f", b"who I am") is None


@POSIX
def test_a_link_to_a_folder_is_not_used(folder, file, tmp_path):
    (tmp_path / "link").symlink_to(folder.path)
    assert KernelFolder(tmp_path / "link").read("f", b"who I am") is None


def test_a_folder_that_is_deleted_meanwhile_is_made_again(folder, file):
    file.unlink()
    folder.path.rmdir()
    with pytest.raises(OSError):
        folder.read("f", b"who I am")
    folder.write("f", b"who I am", CONTENT)
    assert folder.read("f", b"who I am") == CONTENT


# kernels

GELU = "import numpy as np, tinygpt.functional as F\nfrom tinygpt import Tensor\n"
GELU += "print(repr(F.gelu(Tensor(np.linspace(-3, 3, 4096, dtype=np.float32))).data.sum()))\n"
DROPOUT = "print(repr(F.dropout(Tensor(np.ones(4096, np.float32)), 0.25, 7).data.sum()))\n"
BOTH = GELU + DROPOUT


def start(code: str, **environment: str | None) -> subprocess.Popen:
    variables = {**os.environ, "NUMBA_CACHE_DIR": None, "PYTHONPATH": str(ROOT), **environment}
    variables = {name: value for name, value in variables.items() if value is not None}
    return subprocess.Popen([sys.executable, "-c", code], env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            text=True)  # fmt: skip


def run(code: str, **environment: str | None) -> tuple[str, bool]:
    """What a program prints, and whether it compiled anything; whatever else it says on stderr is a failure."""
    process = start(code, **environment)
    out, err = process.communicate(timeout=300)
    compiled = "tinygpt: compiling" in err
    assert process.returncode == 0 and err.count("\n") == int(compiled), err
    return out, compiled


@pytest.fixture(scope="module")
def warm(tmp_path_factory) -> tuple[Path, str]:
    """A cache with the code of two operations in it, and what they compute."""
    cache = tmp_path_factory.mktemp("warm")
    expected, compiled = run(BOTH, XDG_CACHE_HOME=str(cache))
    assert compiled and run(BOTH, XDG_CACHE_HOME=str(cache)) == (expected, False)
    return cache, expected


def exchanged(files: list[Path]) -> None:
    contents = [path.read_bytes() for path in files]
    for path, content in zip(files, contents[1:] + contents[:1], strict=True):
        path.write_bytes(content)


def flipped(files: list[Path]) -> None:
    for number, path in enumerate(files):
        data = bytearray(path.read_bytes())
        data[len(data) * (number + 1) // (len(files) + 1)] ^= 16
        path.write_bytes(data)


def folders(files: list[Path]) -> None:
    for path in files:
        path.unlink()
        path.mkdir()


def pickles(files: list[Path]) -> None:
    """What would run a program when it is unpickled, after the right first bytes and a wrong digest."""
    bomb = b"cos\n_exit\n(I66\ntR."
    for path in files:
        path.write_bytes(path.read_bytes()[:49] + bomb)
    for suffix in ("nbi", "nbc"):
        for path in files:
            path.with_suffix(f".more.{suffix}").write_bytes(bomb)


DAMAGE = {
    "cut by a byte": lambda files: [path.write_bytes(path.read_bytes()[:-1]) for path in files],
    "exchanged": exchanged,
    "flipped": flipped,
    "folders": folders,
    "pickles": pickles,
    "too long": lambda files: [path.write_bytes(path.read_bytes() * 2) for path in files],
    "zeros": lambda files: [path.write_bytes(bytes(path.stat().st_size)) for path in files],
}


QUICK = ("exchanged", "flipped", "pickles")


@pytest.mark.parametrize(
    "damage", [pytest.param(DAMAGE[name], id=name, marks=() if name in QUICK else pytest.mark.slow) for name in DAMAGE]
)
def test_what_is_damaged_is_compiled_again(damage, warm, tmp_path):
    cache, expected = warm
    copy(cache, tmp_path)
    damage(sorted(tmp_path.rglob(f"*{SUFFIX}")))
    assert run(BOTH, XDG_CACHE_HOME=str(tmp_path)) == (expected, True)
    assert run(BOTH, XDG_CACHE_HOME=str(tmp_path)) == (expected, damage is folders)  # mended, where that is possible


def copy(cache: Path, target: Path) -> None:
    for path in cache.rglob(f"*{SUFFIX}"):
        folder = target / path.relative_to(cache).parent
        for part in (folder.parent, folder):
            part.mkdir(mode=0o700, exist_ok=True)
        (folder / path.name).write_bytes(path.read_bytes())


@POSIX
@pytest.mark.parametrize("limit", [100, 700, 20_000])
def test_without_room_for_the_code_it_is_compiled_and_not_kept(limit, tmp_path):
    first = f"import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
    out, compiled = run(first + "import sys\nsys.dont_write_bytecode = True\n" + GELU, XDG_CACHE_HOME=str(tmp_path))
    assert compiled and float(out.split("(")[-1].rstrip(")\n")) > 0
    assert all(path.stat().st_size <= limit for path in tmp_path.rglob("*") if path.is_file())
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith(kernel_cache.PARTIAL)]


@POSIX
@pytest.mark.parametrize("kind", ["no home", "relative", "loop", "file", "deleted"])
def test_without_a_folder_it_is_compiled_and_not_kept(kind, tmp_path, warm):
    first, environment = "", {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    if kind == "no home":
        first = "import pwd\ndef nobody(user): raise KeyError(user)\npwd.getpwuid = nobody\n"
        environment = {"XDG_CACHE_HOME": None, "HOME": None}
    elif kind == "relative":
        first = f"import os\nos.chdir({str(tmp_path)!r})\n"
        environment = {"XDG_CACHE_HOME": "cache", "NUMBA_CACHE_DIR": "kept", "HOME": "/dev/null"}
    elif kind == "loop":
        (tmp_path / "cache").symlink_to(tmp_path / "cache")
    elif kind == "file":
        (tmp_path / "cache").write_text("")
    else:
        first = f"import tinygpt.kernels.jit, shutil\nshutil.rmtree({str(tmp_path / 'cache')!r})\n"
    out, compiled = run(first + BOTH, **environment)
    assert out == warm[1] and compiled
    if kind != "deleted":
        assert {path.name for path in tmp_path.iterdir()} <= {"cache"} and not list(tmp_path.rglob(f"*{SUFFIX}"))


@pytest.mark.slow
def test_two_processes_that_compile_at_once_leave_one_whole_cache(tmp_path, warm):
    processes = [start(BOTH, XDG_CACHE_HOME=str(tmp_path)) for _ in range(2)]
    for process in processes:
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0 and out == warm[1], err
    assert run(BOTH, XDG_CACHE_HOME=str(tmp_path)) == (warm[1], False)
    assert {path.name.split(".")[-1] for path in tmp_path.rglob("*") if path.is_file()} == {"nbc"}

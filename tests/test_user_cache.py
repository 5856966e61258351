"""Where caches are: one rule for all, whatever the environment says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tinygpt.files import hub, user_cache
from tinygpt.files.user_cache import cache_folder, cache_root, kernel_root, make_folder

ROOT = Path(__file__).resolve().parents[1]
POSIX = pytest.mark.skipif(os.name != "posix", reason="HOME and the list of users are POSIX's")


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path):
    for name in ("XDG_CACHE_HOME", "NUMBA_CACHE_DIR", "HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path))


@pytest.mark.parametrize("ignored", ["", "cache", "./cache", "../cache", "~/cache", "cache/.."])
def test_a_relative_path_is_ignored_for_every_cache(ignored, monkeypatch, tmp_path):
    usual = tmp_path / ".cache" / "tinygpt"
    monkeypatch.setenv("XDG_CACHE_HOME", ignored)
    monkeypatch.setenv("NUMBA_CACHE_DIR", ignored)
    assert cache_root() == kernel_root() == usual
    assert cache_folder("tokenizers") == usual / "tokenizers"
    assert hub._cache_folder() == tmp_path / ".cache" / "huggingface" / "hub"


def test_absolute_paths_count_and_kernels_may_lie_elsewhere(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert cache_root() == kernel_root() == tmp_path / "x" / "tinygpt"
    assert hub._cache_folder() == tmp_path / "x" / "huggingface" / "hub"
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "n"))
    assert cache_root() == tmp_path / "x" / "tinygpt" and kernel_root() == tmp_path / "n" / "tinygpt"
    monkeypatch.setenv("HF_HOME", "anything")  # the client's own business
    assert hub._cache_folder() is None


@POSIX
@pytest.mark.parametrize("home", [None, "", "relative"])
def test_without_a_home_the_list_of_users_is_asked(home, monkeypatch, tmp_path):
    import pwd

    monkeypatch.delenv("HOME") if home is None else monkeypatch.setenv("HOME", home)
    entry = pwd.struct_passwd(("me", "x", 1, 1, "", str(tmp_path / "listed"), ""))
    monkeypatch.setattr(pwd, "getpwuid", lambda user: entry)
    assert cache_root() == tmp_path / "listed" / ".cache" / "tinygpt"

    def nobody(user):
        raise KeyError(user)

    monkeypatch.setattr(pwd, "getpwuid", nobody)
    for ask in (cache_root, kernel_root, hub._cache_folder):
        with pytest.raises(FileNotFoundError, match="this user has none; set XDG_CACHE_HOME to an absolute path"):
            ask()
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    assert kernel_root() == tmp_path / "tinygpt"


def test_a_folder_that_cannot_be_made_is_named_with_the_remedy(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"cannot make the folder .*file.tinygpt \(.*\); set XDG_CACHE_HOME to a folder"):
        make_folder(tmp_path / "file" / "tinygpt")
    with pytest.raises(NotADirectoryError):
        make_folder(tmp_path / "file")
    assert make_folder(tmp_path / "a" / "b") == make_folder(tmp_path / "a" / "b") == tmp_path / "a" / "b"


@POSIX
@pytest.mark.parametrize(
    "arguments", ["tokenizer info gpt2", "tokenizer fetch gpt2", "data gutenberg 1 -o x.txt", "cache"]
)
def test_a_command_that_needs_a_cache_says_so_in_one_line_where_there_is_no_home(arguments, tmp_path):
    program = (
        "import pwd, sys\ndef nobody(uid): raise KeyError(uid)\npwd.getpwuid = nobody\n"
        f"from tinygpt.cli.main import main\nsys.exit(main({arguments.split()!r}))"
    )
    homeless = {name: value for name, value in os.environ.items() if name != "HOME"} | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program], env=homeless, cwd=tmp_path, capture_output=True, text=True,
                          timeout=120)  # fmt: skip
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("tinygpt: ") and done.stderr.count("\n") == 1
    assert "XDG_CACHE_HOME" in done.stderr
    assert user_cache.cache_root().is_absolute()

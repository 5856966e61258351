"""`tinygpt doctor --report`: complete, private, and there even where everything else is broken."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tinygpt.files.user_cache import kernel_root
from tinygpt.study import bug_report

ROOT = Path(__file__).resolve().parents[1]
PARTS = ["tinygpt", "Python", "system", "terminal", "processor", "cores", "memory", "NumPy", "Numba", "packages",
         "extras", "environment", "cache", "kernels", "self-check"]  # fmt: skip
LINE = re.compile(r"- ([\w-]+): `(.*)`")


def report(*options: str, first: str = "", **variables: str) -> subprocess.CompletedProcess:
    """What the command prints; `first` is a folder whose modules come before all others."""
    path = os.pathsep.join(filter(None, [first, str(ROOT)]))
    return subprocess.run([sys.executable, "-m", "tinygpt", "doctor", "--report", *options], capture_output=True,
                          text=True, timeout=400, env={**os.environ, "PYTHONPATH": path, **variables})  # fmt: skip


def lines(done: subprocess.CompletedProcess) -> dict[str, str]:
    """Each line of the report, which is a list in Markdown."""
    assert done.returncode == 0, done.stderr
    found = [LINE.fullmatch(line) for line in done.stdout.splitlines()]
    assert all(found), done.stdout
    return {match[1]: match[2] for match in found}


def test_it_has_every_part_in_one_line_each_and_nothing_failed():
    found = lines(report())
    assert list(found) == PARTS
    assert not [name for name, text in found.items() if "failed" in text or not text]
    assert found["Python"].startswith(".".join(map(str, sys.version_info[:3])))
    assert found["self-check"].startswith("linear, layernorm and gelu agree")
    assert json.loads(report("--json").stdout).keys() == found.keys()


def test_it_has_no_home_and_no_secret(tmp_path):
    home = tmp_path / "maria"
    home.mkdir()
    secrets = {"HF_TOKEN": "hf_12345", "https_proxy": "http://maria:pa55@proxy", "TINYGPT_API_KEY": "key12345",
               "TINYGPT_TOKENIZER_URL": "https://maria:pa55@example.org/x", "OMP_DYNAMIC": "false"}  # fmt: skip
    kept = str(kernel_root().parent)  # nothing is compiled for this
    said = report(HOME=str(home), USERPROFILE=str(home), XDG_CACHE_HOME=str(home / "cache"), NUMBA_CACHE_DIR=kept,
                  **secrets).stdout  # fmt: skip
    assert not re.search("maria|pa55|12345", said)
    assert "XDG_CACHE_HOME=~/cache" in said and "- cache: `~/cache/tinygpt is" in said
    for shown in ("HF_TOKEN is set", "https_proxy is set", "TINYGPT_API_KEY is set", "OMP_DYNAMIC=false",
                  "TINYGPT_TOKENIZER_URL=https://...@example.org/x"):  # fmt: skip
        assert shown in said


@pytest.mark.parametrize("module", ["numpy", "numba", "llvmlite"])
def test_where_a_library_is_broken_its_lines_say_so_and_the_others_are_there(tmp_path, module):
    (tmp_path / f"{module}.py").write_text("raise ImportError('libgomp.so.1: no such file\\nor directory')")
    found = lines(report(first=str(tmp_path)))
    assert list(found) == PARTS
    line = {"numpy": "NumPy", "numba": "Numba", "llvmlite": "Numba"}[module]
    assert "ImportError: libgomp.so.1: no such file\\nor directory" in found[line]
    assert found["self-check"].startswith("failed: exit status 1, ")
    assert found["Python"] and "failed" not in found["memory"] + found["cores"] + found["cache"] + found["packages"]


def test_a_self_check_that_crashes_or_never_ends_is_a_line(monkeypatch):
    monkeypatch.setattr(bug_report, "_CHECK_SECONDS", 0.01)
    assert bug_report.bug_report()["self-check"] == "failed: did not end within 0.01 s"
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    assert bug_report.bug_report()["self-check"].startswith("failed: FileNotFoundError: ")


@pytest.mark.parametrize(
    ("url", "editable", "expected"),
    [
        (f"file://{ROOT.as_posix()}", True, f"editable, in {ROOT}"),
        ("file:///elsewhere", True, f"run from {ROOT}, besides an installation (editable, in /elsewhere)"),
        (None, False, f"run from {ROOT}, besides an installation (from a package index, in /site)"),
    ],
)
def test_it_says_how_tinygpt_was_installed(monkeypatch, url, editable, expected):
    class Distribution:
        def read_text(self, name):
            return json.dumps({"url": url, "dir_info": {"editable": editable}}) if url else None

        def locate_file(self, name):
            return Path("/site", name)

    monkeypatch.setattr(bug_report.metadata, "distribution", lambda name: Distribution())
    assert bug_report._installation() == expected

"""
A walk through the README: every line of its `sh` blocks, as a reader types them, offline, in a fresh environment.

The environment is a copy of the project, a new virtual environment that sees the packages of this one, an empty home,
and Python without a network. A line that needs one says so in its remark and is run all the same: it must fail in one
line that says what to do. What else a line needs is in its remark, too, and is made before it is run, as a reader would
make it. What is not run as it stands: `pip install`, and Jupyter; the tests, which are only collected; and all training
but the first, which ends after a few steps.
"""

from __future__ import annotations

import importlib.util
import inspect
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import textwrap
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from tinygpt.kernels.jit import compiler
from tinygpt.ops.layernorm import layernorm_backward

ROOT = Path(__file__).resolve().parents[1]
NOT_COPIED = shutil.ignore_patterns(".git", ".venv", "runs", "__pycache__", ".*_cache", "*.egg-info")
NETWORK = "needs a network, once"
FETCHED = ("needs that tokenizer",)  # what only a line that needs a network can make
SHORTER = {
    ".venv/bin/python -m pytest": " --collect-only -q",
    "tinygpt train --out runs/tiny --resume": " --stop-after 610",
    "tinygpt train --profile": "",
    "tinygpt train": " --steps 20",
}  # how a line begins: more

# In every Python of the walk: names have no address, and no address answers, as in a machine without a network.
OFFLINE = """
import errno
import socket

def connect(self, address):
    raise OSError(errno.ENETUNREACH, "Network is unreachable")

def getaddrinfo(*arguments, **options):
    raise socket.gaierror(-3, "Temporary failure in name resolution")

socket.socket.connect = socket.socket.connect_ex = connect
socket.getaddrinfo = getaddrinfo
"""


class Line(NamedTuple):
    """A line of the README: what is typed, and the remark behind it."""

    command: str
    remark: str


def lines_of(text: str) -> list[Line]:
    """The lines of all `sh` blocks of a page."""
    found = []
    for block in re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            command, _, remark = line.partition("  #")
            found.append(Line(command.strip(), remark.strip()))
    return found


README = (ROOT / "README.md").read_text(encoding="utf-8")
LINES = lines_of(README)


class Walk:
    """A copy of the project with an environment of its own, in which the lines are typed."""

    def __init__(self, folder: Path) -> None:
        self.clone, home = folder / "tinygpt", folder / "home"
        home.mkdir()
        shutil.copytree(ROOT, self.clone, ignore=NOT_COPIED)
        self._make_environment()
        self._copy_kernels(home / ".cache" / "tinygpt")
        ours = r"(TINYGPT|NUMBA|OMP|GOMP|OPENBLAS|XDG|HF|PIP|PYTEST|PYTHON).*|VIRTUAL_ENV"
        kept = {name: value for name, value in os.environ.items() if not re.fullmatch(ours, name)}
        self.variables = kept | {"HOME": str(home)}
        self.activated = ""

    def _make_environment(self) -> None:
        """`.venv`, as the README's first command makes it, except that pip is not asked for packages that are here."""
        environment = self.clone / ".venv"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True, timeout=60)
        here = dict.fromkeys([sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
        [site] = environment.glob("lib/python*/site-packages")
        (site / "offline.py").write_text(OFFLINE)
        (site / "walk.pth").write_text("\n".join([str(self.clone), *here, "import offline"]))
        script = environment / "bin" / "tinygpt"
        script.write_text(
            f"#!{environment}/bin/python\nimport sys\nfrom tinygpt.__main__ import main\nsys.exit(main())\n"
        )
        script.chmod(0o755)

    def _copy_kernels(self, cache: Path) -> None:
        """What this process and others have compiled of the same sources: to compile it again takes minutes."""
        (cache / compiler.folder.name).mkdir(parents=True)
        for file in compiler.folder.glob("*.nbc"):
            shutil.copy(file, cache / compiler.folder.name)

    def type(self, command: str) -> subprocess.CompletedProcess:
        """Run what is typed, in the clone."""
        return subprocess.run(["bash", "-c", self.activated + command], cwd=self.clone, env=self.variables,
                              stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=900)  # fmt: skip

    def make_what_is_needed(self, remark: str) -> None:
        """What a reader has made before typing a line, by the line's remark."""
        need = re.match(r"needs ([^:,]*)", remark)
        if need is None or remark.startswith((NETWORK, *FETCHED)):
            return
        if need[1] == "mymodule.py":
            page = (self.clone / "docs" / "own_operations.md").read_text(encoding="utf-8")
            first = re.search(r"^`mymodule\.py`:\n\n```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
            assert first is not None
            (self.clone / "mymodule.py").write_text(first[1], encoding="utf-8")
        elif need[1] == "that backward":
            exercise = self.clone / "layernorm_exercise.py"
            before, _, _ = exercise.read_text(encoding="utf-8").partition("def layernorm_backward")
            exercise.write_text(before + inspect.getsource(layernorm_backward), encoding="utf-8")
        elif need[1] == "files of students":
            (self.clone / "homework" / "ada").mkdir(parents=True)
            shutil.copy(self.clone / "layernorm_exercise.py", self.clone / "homework" / "ada")
        elif need[1] in ("a text of yours", "the text of the line above"):
            name = "book.txt" if need[1] == "a text of yours" else "tinyshakespeare.txt"
            stories = [path.read_text(encoding="utf-8") for path in sorted((self.clone / "data").glob("*.txt"))]
            (self.clone / name).write_text("\n".join(stories), encoding="utf-8")
        else:
            raise AssertionError(f"the walk does not know how to make {need[1]!r}")

    def take(self, line: Line) -> str:
        """Type a line; returns what went wrong."""
        self.make_what_is_needed(line.remark)
        command = " && ".join(part for part in line.command.split(" && ") if not re.search("-m venv|pip install", part))
        offline = command == line.command and line.remark.startswith((NETWORK, *FETCHED))
        if command.startswith("source "):
            self.activated = f"{command} && "
        if command.startswith(".venv/bin/jupyter lab"):
            there = importlib.util.find_spec("jupyterlab")  # else the extra is not here: nothing can be run
            command = ".venv/bin/python -m jupyterlab --version" if there else "true"
        command += next((more for begin, more in SHORTER.items() if command.startswith(begin)), "")
        start = time.monotonic()
        done = self.type(command)
        print(f"$ {line.command}   # {line.remark}\n    typed: {command}")
        print(f"    exit status {done.returncode}, {time.monotonic() - start:.0f} s")
        print(textwrap.indent(done.stdout[-1500:], "    | "))
        last = done.stderr.rstrip().rpartition("\n")[2].rpartition("\r")[2]
        print(textwrap.indent(last, "    ! ") if done.returncode else "")
        if "Traceback" in done.stderr:
            return done.stderr[-2000:]
        if offline:
            helps = re.match("tinygpt: .*(with a browser|where there is a network)", last)
            return "" if done.returncode == 2 and helps else f"must say what to do without a network, says {last!r}"
        return "" if done.returncode == 0 else f"exit status {done.returncode}: {last}"


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="the README's lines are those of a POSIX shell")
def test_every_line_runs_offline_right_after_installation_or_says_what_it_needs(tmp_path):
    walk = Walk(tmp_path)
    unreachable = walk.type(".venv/bin/python -c \"import socket; socket.create_connection(('127.0.0.1', 9))\"")
    assert "name resolution" in unreachable.stderr
    trouble = {line.command: said for line in LINES if (said := walk.take(line))}
    assert not trouble
    for made in (
        "runs/tiny/best/model.safetensors",
        "runs/tiny/loss.png",
        "runs/book/last/model.safetensors",
        "sweep.png",
    ):
        assert (walk.clone / made).exists()
    assert {path.name for path in (tmp_path / "home").iterdir()} <= {".cache", ".config"}


def test_the_two_commands_for_windows_are_the_two_for_other_systems():
    [block] = re.findall(r"^```powershell\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    same = block.replace("; ", " && ").replace("py -m", "python3 -m").replace("Scripts", "bin").replace("\\", "/")
    assert same.splitlines() == [line.command for line in LINES[:2]]


def test_these_lines_need_a_network_and_say_so():
    needing = [line.command.rpartition(" && ")[2] for line in LINES if line.remark.startswith(NETWORK)]
    assert needing == [
        ".venv/bin/tinygpt train",  # to install
        ".venv/bin/python -m pytest -n 2 --dist loadfile",  # to install
        ".venv/bin/jupyter lab gpt2_from_scratch.ipynb",  # to install
        "tinygpt data shakespeare",
        "tinygpt tokenizer fetch gpt2",
    ]
    assert all(NETWORK in line.remark for line in LINES if re.search("pip install|tinygpt data|fetch", line.command))
    assert len(LINES) > 20


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda path: path.name)
def test_lines_of_other_pages_that_fetch_something_say_so(page):
    for line in lines_of(page.read_text(encoding="utf-8")):
        if re.search(r"pip install|tinygpt data |tokenizer fetch|(generate|evaluate|--init-from) gpt2", line.command):
            assert re.match("needs (a|no) network", line.remark), line.command

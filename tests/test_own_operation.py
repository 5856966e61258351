"""docs/own_operations.md, followed word for word: the files written, every command typed, in an empty folder."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "own_operations.md").read_text(encoding="utf-8")


class Piece(NamedTuple):
    """A block of the page, and the line of text above it."""

    above: str
    language: str
    text: str

    @property
    def file(self) -> str:
        """The file that the line above names last; the block is written to it."""
        return re.findall(r"`(\w+\.py)`", self.above)[-1]


PIECES = [Piece(*match) for match in re.findall(r"([^\n]*)\n+```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)]


def lines(file: str) -> int:
    """Of the first block that is written to a file: all but blank ones."""
    text = next(piece.text for piece in PIECES if piece.language == "python" and piece.above == f"`{file}`:")
    return sum(bool(line.strip()) for line in text.splitlines())


def test_the_operation_has_twenty_lines_and_the_kernel_thirty():
    assert "Your operation in twenty lines, your kernel in thirty" in PAGE
    assert lines("mymodule.py") <= 20 and lines("mykernel.py") <= 30


def write(folder: Path, piece: Piece) -> None:
    """Write a file, add to it, or replace one of its statements, as the line above the block says."""
    path = folder / piece.file
    if "in place of" not in piece.above:
        before = path.read_text(encoding="utf-8") + "\n" if "Add to" in piece.above else ""
        path.write_text(before + piece.text, encoding="utf-8")
        return
    old = path.read_text(encoding="utf-8")
    (name,) = re.findall(r"begins with `(\w+)`", piece.above)
    (statement,) = [node for node in ast.parse(old).body if isinstance(node, ast.Assign) and node.targets[0].id == name]
    kept = old.splitlines(keepends=True)
    kept[statement.lineno - 1 : statement.end_lineno] = [piece.text]
    path.write_text("".join(kept), encoding="utf-8")


def typed(line: str, folder: Path) -> str:
    """What a command of the page prints in that folder, where `tinygpt` and `python` are those of this test."""
    *settings, program, rest = re.fullmatch(r"((?:\w+=\w+ )*)(tinygpt|python) (.*)", line).groups()
    words = [sys.executable, *(["-m", "tinygpt"] if program == "tinygpt" else []), *rest.split()]
    if "--quick" in words:
        words[words.index("--quick")] = "--verify-only"  # nothing is timed in a test
    extra = dict(setting.split("=") for setting in settings[0].split())
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", **extra}
    told = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    assert told.returncode == 0, f"{line}\n{told.stdout[-2000:]}\n{told.stderr[-2000:]}"
    return told.stdout


EXPECTED = {
    "tinygpt gradcheck": " passed\n",
    "tinygpt explain": "Squared ReLU: 0 for a negative number",
    "python train.py": "6 7 8 9 0 1 2 3",
    "python -m": "1 benchmark: all results are right",
}


@pytest.mark.slow
def test_the_page_does_what_it_says(tmp_path):
    ran, printed = [], {}
    for piece in PIECES:
        if piece.language == "python" and ">>>" in piece.text:
            (tmp_path / "typed.txt").write_text(piece.text, encoding="utf-8")
            assert typed("python -m doctest typed.txt", tmp_path) == ""
        elif piece.language == "python":
            write(tmp_path, piece)
        else:
            for line in piece.text.splitlines():
                if "TINYGPT_GUARD" in line and not hasattr(os, "fork"):
                    continue
                printed[line] = typed(line, tmp_path)
                (expected,) = [text for start, text in EXPECTED.items() if re.search(rf"(^| ){start}", line)]
                assert expected in printed[line], f"{line}\n{printed[line]}"
                ran.append(line)
    assert len(ran) >= 10
    assert "kernel: mykernel.py" in printed["tinygpt explain mymodule:SQUARED_RELU"]  # the later one, with the kernel
    assert "float32" in printed["tinygpt gradcheck mymodule:SQUARED_RELU"]
    assert float(re.search(r"loss (\S+)", printed["python train.py"]).group(1)) < 0.1
    if find_spec("torch"):
        assert "against NumPy only" not in printed["python -m benchmarks mymodule --verify-only"]

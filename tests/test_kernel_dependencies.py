"""A user's kernel: what it depends on is part of what its compiled code is kept under, so that no old code runs."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
KERNEL = """
import numpy as np
from numba import njit, prange
from tinygpt.kernels.jit import parallel
import constants
from helper import gate

FACTOR = np.float32(2)

@parallel
def scale(x, out):
    for i in prange(len(x)):
        out[i] = FACTOR * gate(x[i]) + constants.SHIFT

if __name__ == "__main__":
    x, out = np.ones(4, np.float32), np.empty(4, np.float32)
    scale(x, out)
    print(out[0], scale_stats())
""".replace("scale_stats()", "len(list(__import__('tinygpt.kernels.jit').kernels.jit.compiler.folder.glob('scale*')))")
HELPER = "from numba import njit\nimport deeper\n\n@njit\ndef gate(x):\n    return x * deeper.WEIGHT\n"


def run(folder: Path) -> tuple[float, int]:
    """The kernel's result in a process of its own, and the number of compiled functions that are kept."""
    path = os.pathsep.join([str(ROOT), str(folder)])
    environment = {**os.environ, "PYTHONPATH": path, "XDG_CACHE_HOME": str(folder / "cache"), "NUMBA_CACHE_DIR": "",
                   "PYTHONDONTWRITEBYTECODE": "1"}  # fmt: skip
    result = subprocess.run(
        [sys.executable, "mine.py"], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr
    value, kept = result.stdout.split()
    return float(value), int(kept)


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text, encoding="utf-8")


@pytest.mark.slow
def test_an_edit_anywhere_below_a_users_kernel_compiles_it_again(tmp_path):
    write(tmp_path, mine=KERNEL, helper=HELPER, deeper="WEIGHT = 3", constants="SHIFT = 1")
    assert run(tmp_path) == (7, 1)
    assert run(tmp_path) == (7, 1)  # what was kept
    write(tmp_path, mine=KERNEL.replace("float32(2)", "float32(4)"))  # a value that the code's bytes do not show
    assert run(tmp_path) == (13, 2)
    write(tmp_path, helper=HELPER.replace("x * deeper.WEIGHT", "x + deeper.WEIGHT"))
    assert run(tmp_path) == (17, 3)
    write(tmp_path, deeper="WEIGHT = 5")
    assert run(tmp_path) == (25, 4)
    write(tmp_path, constants="import os\nSHIFT = len(os.environ['SHIFT'])")
    os.environ["SHIFT"] = "xx"
    try:
        assert run(tmp_path) == (26, 5)
        os.environ["SHIFT"] = "xxx"  # no file was changed at all
        assert run(tmp_path) == (27, 6)
    finally:
        del os.environ["SHIFT"]


@pytest.mark.parametrize("value", ["object()", "{1: 2}", "open(__file__)"])
def test_what_cannot_be_told_is_not_kept(tmp_path, value):
    from tinygpt.kernels.dependencies import digest

    names = {"__name__": "typed", "__file__": __file__}
    (tmp_path / "typed.py").write_text(f"value = {value}\ndef read():\n    return value\n", encoding="utf-8")
    exec(compile((tmp_path / "typed.py").read_text(), str(tmp_path / "typed.py"), "exec"), names)
    assert digest(names["read"], known=[]) is None


def test_a_file_of_the_users_that_is_called_like_one_of_pythons_own_counts(tmp_path):
    from tinygpt.kernels.dependencies import digest

    seen = set()
    for number in (1, 2):
        (tmp_path / "profile.py").write_text(f"def f():\n    return {number}\n", encoding="utf-8")
        names = {"__name__": "profile"}
        exec(compile((tmp_path / "profile.py").read_text(), str(tmp_path / "profile.py"), "exec"), names)
        seen.add(digest(names["f"], known=[]))
    assert len(seen) == 2 and None not in seen


@pytest.mark.parametrize("body", [
    "class Sizes(enum.IntEnum):\n    ROWS = {n}\n\ndef read():\n    return Sizes.ROWS == 1\n",
    "class Sizes(NamedTuple):\n    columns: int\n    rows: int = {n}\n\ndef read():\n    return Sizes(2).rows\n",
])  # fmt: skip
def test_the_numbers_in_a_class_count_wherever_they_come_from(tmp_path, monkeypatch, body):
    """As if read from another file or the environment: the file of the class is the same each time."""
    from tinygpt.kernels.dependencies import digest

    path, found = tmp_path / "sizes_of_mine.py", []
    path.write_text("the same", encoding="utf-8")
    for number in (1, 2, 1):
        module = types.ModuleType("sizes_of_mine")
        module.__file__ = str(path)
        monkeypatch.setitem(sys.modules, "sizes_of_mine", module)
        text = "import enum\nfrom typing import NamedTuple\n" + body.format(n=number)
        exec(compile(text, str(path), "exec"), vars(module))
        found.append(digest(module.read, known=[]))
    assert found[0] == found[2] is not None and found[0] != found[1]

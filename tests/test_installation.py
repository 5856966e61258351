"""What an editor sees of an installed tinygpt: a user's script, type-checked strictly outside of the clone."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("user_script.py")


@pytest.mark.slow
def test_a_users_script_passes_strict_type_checking_outside_of_the_clone(tmp_path):
    shutil.copy(SCRIPT, tmp_path / "script.py")
    command = [sys.executable, "-m", "mypy", "--strict", "script.py"]
    told = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert told.returncode == 0, told.stdout


@pytest.mark.slow
def test_a_users_script_with_a_wrong_type_does_not_pass(tmp_path):
    text = SCRIPT.read_text(encoding="utf-8")
    assert "norm: float = clip_grad_norm" in text
    (tmp_path / "script.py").write_text(text.replace("norm: float", "norm: str"), encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--strict", "script.py"]
    told = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert told.returncode == 1 and 'expression has type "float"' in told.stdout, told.stdout


def test_a_users_script_runs(tmp_path):
    told = subprocess.run([sys.executable, SCRIPT], cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert told.returncode == 0, told.stderr
    losses = [float(line.split()[0]) for line in told.stdout.splitlines()[:8]]
    assert losses[0] > 5 > losses[-1]  # ln 280 = 5.6 before training

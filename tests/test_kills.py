"""Runs that are killed, stopped or refused their writes end up as if nobody had disturbed them; see `kills.py`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_disturbed_runs_equal_undisturbed_ones_in_every_byte():
    command = [sys.executable, Path(__file__).parent / "kills.py", "--kills", "6", "--signals", "1", "--faults", "12"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("all equal") == 10

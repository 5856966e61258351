"""Random calls with whatever a caller may hand over, in a process that a stray write may kill."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 20261129])
def test_no_call_crashes_or_differs_from_the_reference(seed):
    root = Path(__file__).resolve().parents[1]
    command = [sys.executable, "-X", "faulthandler", "-W", "ignore", "tests/fuzz.py", "--calls", "5000"]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run([*command, "--seed", str(seed)], cwd=root, env=environment, capture_output=True, text=True,
                          timeout=900)  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "5000 calls, 0 failed" in done.stdout

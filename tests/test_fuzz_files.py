"""A short run of the fuzz of everything that reads files; `python tests/fuzz_files.py` makes longer ones."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="limits and what memory was used are asked for as on Linux"
)
def test_changed_files_are_opened_or_refused_in_one_line():
    command = [sys.executable, Path(__file__).with_name("fuzz_files.py"), "--seed", "7"]
    command += ["--checkpoints", "150", "--tokenizers", "150", "--runs", "25"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, env=environment)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    for kind, count in (("checkpoints", 150), ("tokenizers", 150), ("runs", 25)):
        assert f"{kind}: {count} cases" in done.stdout and "opened" in done.stdout

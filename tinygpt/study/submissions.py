"""Grade files of exercises, each in a process with a time limit, and make a table of them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def grade_all(paths: Sequence[Path], seconds: float = 60) -> list[dict[str, Any]]:
    """
    The grades of files, and of all .py files in folders.

    Parameters
    ----------
    paths : sequence of Path
    seconds : float
        The time limit of one file, which an endless loop exceeds.

    Raises
    ------
    FileNotFoundError
        If there is no such file, or no .py file in a folder.
    """
    files: list[Path] = []
    for path in paths:
        found = sorted(path.glob("*.py")) if path.is_dir() else [path] if path.is_file() else []
        if not found:
            raise FileNotFoundError(f"exercise: {path} must be a .py file or a folder with some; check the name")
        files += found
    return [_grade(file, seconds) for file in files]


def _grade(file: Path, seconds: float) -> dict[str, Any]:
    empty: dict[str, Any] = {"file": str(file), "exercise": "", "right": {}, "general": {}, "fast": None}
    command = [sys.executable, "-m", "tinygpt.study.grade", str(file)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        return {**empty, "problem": f"not done after {seconds:g} seconds: is there an endless loop?"}
    try:
        return json.loads(done.stdout.strip().splitlines()[-1])
    except (IndexError, ValueError):
        last = done.stderr.strip().splitlines()[-1:] or [f"ended with status {done.returncode}"]
        return {**empty, "problem": last[0]}


def passed(result: dict[str, Any]) -> bool:
    """Whether every mark of a file for right and general is ok; its speed does not count."""
    marks = [*result["right"].values(), *result["general"].values()]
    return not result["problem"] and bool(marks) and all(mark == "ok" for mark in marks)


def table(results: Sequence[dict[str, Any]]) -> str:
    """A line per file, with its failures below."""
    lines = []
    for result in results:
        fast = "" if result["fast"] is None else f", {result['fast']:g} % of our kernel's speed"
        right = sum(mark == "ok" for mark in result["right"].values())
        general = sum(mark == "ok" for mark in result["general"].values())
        counts = f"right {right}/{len(result['right'])}, general {general}/{len(result['general'])}{fast}"
        said = result["problem"] or counts
        lines.append(f"{'passed' if passed(result) else 'failed'}  {result['file']}  {result['exercise']}  {said}")
        for what, mark in {**result["right"], **result["general"]}.items():
            if mark != "ok" and not result["problem"]:
                lines.append(f"        {what}: {mark}")
    return "\n".join(lines)

"""Small training runs: what the tests of training have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tinygpt.training.log import read_metrics
from tinygpt.training.settings import TrainingSettings

SMALL = {"steps": 6, "batch_size": 2, "context": 16, "eval_every": 2, "vocab_size": 300, "eval_tokens": 200}
TEXT = "\n".join(f"The hen counts {n} eggs, and then {n + 1}." for n in range(120))


class Killed(BaseException):
    """As abrupt as a kill: nothing handles it."""


def killed(*arguments: Any, **options: Any) -> None:
    raise Killed


def settings(text: Path | str, **changes: Any) -> TrainingSettings:
    """Settings of a run of a second."""
    return TrainingSettings.from_preset("tiny", data=str(text), **(SMALL | changes))


def files_of(folder: Path) -> dict[str, bytes]:
    """The content of each file of a checkpoint."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def checkpoints_of(run: Path) -> dict[str, dict[str, bytes]]:
    """Each checkpoint of a run, by its path there."""
    folders = sorted(path.parent for path in run.rglob("config.json"))
    return {str(folder.relative_to(run)): files_of(folder) for folder in folders}


def without_times(run: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, without what depends on the machine."""
    return [{name: value for name, value in line.items() if name not in ("ms", "tokens_per_second")}
            for line in read_metrics(run / "metrics.jsonl")]  # fmt: skip

"""What a run leaves to look at: metrics.jsonl, a line for each step or evaluation, and the curve drawn from it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from tinygpt.checkpoint import atomic_open, atomic_write


class MetricsLog:
    """
    Appends one JSON object a line; opened again by a resumed run, forgets what was written after its checkpoint.

    Lines have "step", how many steps were done, and either "loss", "lr", "grad_norm", "ms", "tokens_per_second" (of the
    last of them) or "validation_loss", "perplexity", "bits_per_byte" (after it). Losses are in nats a token.
    """

    def __init__(self, path: Path, after_step: int) -> None:
        kept = [line for line in read_metrics(path) if line["step"] <= after_step] if path.exists() else []
        atomic_write(path, "".join(json.dumps(line) + "\n" for line in kept))
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 (closed by __exit__)

    def write(self, **values: Any) -> None:
        """Append a line."""
        self._file.write(json.dumps(values) + "\n")
        self._file.flush()

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics file, up to one that a kill or a copy cut short, or that is none of ours."""
    lines: list[dict[str, Any]] = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            break
        if not isinstance(line, dict) or not isinstance(line.get("step"), int):
            break
        lines.append(line)
    return lines


def plot_losses(metrics: Path, picture: Path) -> bool:
    """
    Draw the training and validation loss over the steps as a PNG.

    Parameters
    ----------
    metrics : path
        A metrics.jsonl.
    picture : path
        The PNG to write.

    Returns
    -------
    bool
        False where matplotlib is not installed: nothing is written then.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return False
    lines = read_metrics(metrics)
    train = [(line["step"], line["loss"]) for line in lines if "loss" in line]
    validation = [(line["step"], line["validation_loss"]) for line in lines if "validation_loss" in line]
    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    if train:
        steps, losses = np.array(train).T
        axes.plot(steps, losses, color="tab:blue", alpha=0.25, linewidth=0.8)
        axes.plot(steps, smooth(losses), color="tab:blue", label="training")
    if validation:
        axes.plot(*np.array(validation).T, color="tab:orange", marker="o", markersize=4, label="validation")
        lowest = min(validation, key=lambda point: point[1])
        axes.annotate(f"{lowest[1]:.3f} (perplexity {math.exp(lowest[1]):.1f})", lowest, xytext=(0, 10), ha="right",
                      textcoords="offset points", color="tab:orange")  # fmt: skip
    axes.set(xlabel="step", ylabel="loss (nats a token)", title=picture.resolve().parent.name)
    axes.grid(alpha=0.3)
    axes.legend()
    with atomic_open(picture) as file:
        FigureCanvasAgg(figure).print_png(file)
    return True


def smooth(losses: np.ndarray, weight: float = 0.9) -> np.ndarray:
    """Exponential running mean, corrected for its start: smooth([a])[0] is a."""
    smoothed, mean, total = np.empty(len(losses)), 0.0, 0.0
    for i, loss in enumerate(losses):
        mean, total = weight * mean + (1 - weight) * loss, weight * total + (1 - weight)
        smoothed[i] = mean / total
    return smoothed

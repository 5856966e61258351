"""
The pictures of runs: the losses of one over its steps, with its learning rate and gradient norm, or several compared.

The loss of each step stays visible, as a thin line, or, in a long run, as a band from the lowest to the highest of so
many steps. Over it lies the mean of a stated number of steps, each mean at the middle of its steps: unlike a running
mean it does not lag behind a loss that falls. It begins and ends where there are as many steps as it says.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tinygpt.files import figures
from tinygpt.files.figures import label
from tinygpt.files.json_file import read_object
from tinygpt.files.locate import did_you_mean
from tinygpt.files.one_line import shown
from tinygpt.training.evaluate import perplexity_in_words
from tinygpt.training.log import read_metrics

SCALES = ("steps", "tokens", "time")
MOST_RUNS = 16
_LEFT = 0.75  # inches beside the axes
_MOST_POINTS = 2000  # of a line; the steps of a longer one are drawn as a band
_BANDS = 800
_FEW = 30  # points that are marked, since one alone has no line
_TRAINING, _VALIDATION, _FAINT = "#0b3c6f", "#c04000", "#8fb4da"
# Eight kinds of lines that differ without their colors; then the same with other markers.
_COLORS = ("black", "#c04000", "#0072b2", "#009e73", "#b0609a", "0.45", "#b8860b", "#5050c0")
_LINES = ("-", "--", "-.", ":")
_MARKERS = "os^Dv*PX"


class Series(NamedTuple):
    """What was logged under one name: the steps at which it is a finite number, and the numbers."""

    steps: np.ndarray
    values: np.ndarray


class Run(NamedTuple):
    """
    What a picture shows of a run.

    Attributes
    ----------
    name : str
    sizes : str
        Of its model, if known; else "".
    clip : float or None
        The largest gradient norm, if there is a limit.
    loss, validation, lr, norm, ms, rate, planned : Series
        Of metrics.jsonl; `rate` is tokens per second, `planned` the number of steps where a run was extended.
    """

    name: str
    sizes: str
    clip: float | None
    loss: Series
    validation: Series
    lr: Series
    norm: Series
    ms: Series
    rate: Series
    planned: Series


def read_run(folder: Path, after: int = 0) -> Run:
    """
    What is logged of a run so far; it may be in training.

    Parameters
    ----------
    folder : Path
    after : int
        Leave out the steps before this one.

    Raises
    ------
    FileNotFoundError, ValueError
        If it has no metrics.jsonl, or a damaged one.
    """
    if not (folder / "metrics.jsonl").exists():
        remedy = did_you_mean(folder) or "; check the name"
        raise FileNotFoundError(f"plot: {shown(folder)} must be the folder of a run, and has no metrics.jsonl{remedy}")
    return _run(folder / "metrics.jsonl", after)


def _run(metrics: Path, after: int = 0) -> Run:
    names = ("loss", "validation_loss", "lr", "grad_norm", "ms", "tokens_per_second", "planned_steps")
    found: dict[str, dict[int, float]] = {name: {} for name in names}
    for line in read_metrics(metrics):
        for name in found.keys() & line.keys():
            if _is_finite(line[name]):
                found[name][line["step"]] = line[name]  # of two lines for a step, the later counts
    first = {name: 0 if name in ("ms", "tokens_per_second") else after for name in names}  # these are summed from 0
    series = [_series([point for point in found[name].items() if point[0] >= first[name]]) for name in names]
    folder = metrics.parent
    return Run(os.path.basename(os.path.abspath(folder)), _sizes(folder), _clip(folder), *series)


def _series(points: list[tuple[int, float]]) -> Series:
    steps, values = np.array(sorted(points), np.float64).reshape(-1, 2).T
    return Series(steps, values)


def _is_finite(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e30  # above, the axes overflow


def _clip(folder: Path) -> float | None:
    """The setting, if it can be read: without it, the picture lacks a line."""
    with contextlib.suppress(OSError, ValueError):
        clip = read_object(folder / "settings.json").get("clip")
        return clip if _is_finite(clip) else None
    return None


def _sizes(folder: Path) -> str:
    """The sizes of the model, if one is saved."""
    from tinygpt.gpt2.config import GPTConfig
    from tinygpt.gpt2.memory_estimate import number_of_parameters

    for name in ("last", "best"):
        with contextlib.suppress(OSError, ValueError, TypeError):
            if (folder / name).is_dir():
                config = GPTConfig.from_pretrained(folder / name)
                return (f"{number_of_parameters(config):,} parameters: {config.n_layer} layers, {config.n_head} heads, "
                        f"{config.n_embd} features, context {config.n_positions:,}, "
                        f"vocabulary {config.vocab_size:,}")  # fmt: skip
    return ""


def window(steps: int) -> int:
    """
    How many steps a mean is taken over: a round number, at most a twenty-fifth of all; 1, which is none, for few.

    Examples
    --------
    >>> [window(steps) for steps in (10, 100, 125, 600, 100_000)]
    [1, 1, 5, 20, 2000]
    """
    sizes = (round(factor * 10**power) for power in range(13) for factor in (1, 2, 5))
    return max([size for size in itertools.takewhile(lambda size: size <= steps / 25, sizes) if size >= 5], default=1)


def smooth(series: Series, size: int) -> Series:
    """
    The mean of each `size` neighbours, at the mean of their steps.

    Examples
    --------
    >>> smooth(Series(np.arange(1.0, 6.0), np.array([9.0, 3.0, 3.0, 6.0, 0.0])), 3)
    Series(steps=array([2., 3., 4.]), values=array([5., 4., 3.]))
    """
    if size == 1:
        return series
    return Series(*(np.lib.stride_tricks.sliding_window_view(each, size).mean(-1) for each in series))


def plot_losses(metrics: Path, picture: Path) -> bool:
    """
    Draw one run: its losses, and below them its learning rate and gradient norm.

    Parameters
    ----------
    metrics : path
        A metrics.jsonl; what lies beside it gives the name, the sizes and the largest gradient norm.
    picture : path
        The file to write.

    Returns
    -------
    bool
        False where matplotlib is not installed: nothing is written then.
    """
    try:
        figure = figures.new_figure("train: drawing")
    except ValueError:
        return False
    draw_run(figure, _run(Path(metrics)))
    figures.save(figure, Path(picture))
    return True


def draw_run(figure: Any, run: Run, scale: str = "steps") -> None:
    """
    Draw one run.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
        An empty one; its size is set.
    run : Run
    scale : {"steps", "tokens", "time"}
        What the horizontal axis counts.

    Raises
    ------
    ValueError
        If the log does not say how many tokens a step has, or how long it takes.
    """
    scaled, unit, ticks = _scale([run], scale)
    place = scaled(run)
    below = len(run.norm.steps) + len(run.lr.steps) > 0
    upper, *lower = _panels(figure, [3.1, 1.15] if below else [3.1], right=2.0)
    left, height = _LEFT / figures.WIDTH, figure.get_figheight()
    figure.text(left, 1 - 0.13 / height, label(run.name, 400, 12), size=12, va="top")
    figure.text(left, 1 - 0.36 / height, label(run.sizes, 510), size=8, va="top", color="0.3")
    labels = [*_draw_training(upper, run.loss, place), *_draw_validation(upper, run.validation, place)]
    upper.set_ylabel("loss (nats per token)")
    if not labels:
        upper.text(0.5, 0.5, "nothing is logged yet", transform=upper.transAxes, ha="center")
    for axes in lower:
        _draw_rate_and_norm(axes, run, place)
    for axes in (upper, *lower):
        _limit(axes, [place(each.steps) for each in (run.loss, run.validation)], ticks)
        for step in run.planned.steps:
            axes.axvline(place(step), color="0.4", linewidth=0.8)
    for step, planned in list(zip(*run.planned, strict=True))[-1:]:
        said = f"extended to {planned:,.0f} steps"
        upper.text(place(step), 1.01, said, transform=upper.get_xaxis_transform(), size=7, ha="center")
    (*lower, upper)[0].set_xlabel(unit)
    figures.label_ends(upper, labels)


def _draw_training(axes: Any, loss: Series, place: Callable) -> list[tuple[Any, str]]:
    count, size = len(loss.steps), window(len(loss.steps))
    if not count:
        return []
    if size == 1:
        marker = "." if count <= _FEW else ""
        (line,) = axes.plot(place(loss.steps), loss.values, color=_TRAINING, linewidth=1.5, marker=marker)
        return [(line, "training,\neach step")]
    told = _draw_each(axes, loss, place, color=_FAINT, linewidth=0.7)
    mean = smooth(loss, size)
    thin = slice(None, None, max(1, count // _MOST_POINTS))
    (line,) = axes.plot(place(mean.steps[thin]), mean.values[thin], color=_TRAINING, linewidth=2)
    return [(line, f"training,\nmean of {size:,} steps\n({told})")]


def _draw_each(axes: Any, series: Series, place: Callable, **style: Any) -> str:
    """Draw each step, thin; of many, the range of so many. Returns which."""
    count = len(series.steps)
    if count <= _MOST_POINTS:
        axes.plot(place(series.steps), series.values, **style)
        return "thin: each step"
    size = -(-count // _BANDS)
    starts = np.arange(0, count, size)
    low, high = np.minimum.reduceat(series.values, starts), np.maximum.reduceat(series.values, starts)
    middle = np.add.reduceat(series.steps, starts) / np.diff([*starts, count])
    axes.fill_between(place(middle), low, high, color=style["color"], linewidth=0.3, alpha=0.7)
    return f"band: range of {size:,}"


def _draw_validation(axes: Any, validation: Series, place: Callable) -> list[tuple[Any, str]]:
    if not len(validation.steps):
        return []
    every = -(-len(validation.steps) // 40)
    (line,) = axes.plot(place(validation.steps), validation.values, color=_VALIDATION, linestyle="--", linewidth=1.5,
                        marker="o", markersize=4, markevery=every)  # fmt: skip
    best = int(np.argmin(validation.values))
    step, lowest = validation.steps[best], validation.values[best]
    axes.plot(place(step), lowest, "o", markersize=10, markerfacecolor="none", color=_VALIDATION)
    shown_perplexity = perplexity_in_words(math.exp(min(lowest, 700)))  # the exponential of more overflows
    return [(line, f"validation, best (circle)\n{lowest:.4g} at step {step:,.0f}\nperplexity {shown_perplexity}")]


def _draw_rate_and_norm(axes: Any, run: Run, place: Callable) -> None:
    """The gradient norm on the left, on a logarithmic scale if it varies much; the learning rate on the right."""
    from matplotlib.lines import Line2D
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    keys = []
    if len(run.norm.steps):
        few = "." if len(run.norm.steps) <= _FEW else ""
        _draw_each(axes, run.norm, place, color="0.55", linewidth=0.8, marker=few)
        keys.append(Line2D([], [], color="0.55", linewidth=1.5, label="gradient norm (left)"))
        lowest, highest = run.norm.values.min(), run.norm.values.max()
        if run.clip is not None:
            axes.axhline(run.clip, color="black", linestyle=":", linewidth=1.2)
            keys.append(Line2D([], [], color="black", linestyle=":", linewidth=1.2, label=f"clipped to {run.clip:g}"))
            lowest, highest = min(lowest, run.clip), max(highest, run.clip)
        if lowest > 0 and highest > 5 * lowest:
            axes.set_yscale("log")
            decades = math.log10(highest / lowest)
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 2 else (1,), numticks=6))
            axes.yaxis.set_minor_formatter(NullFormatter())
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        else:
            axes.set_ylim(0, 1.1 * highest or 1)
    axes.set_ylabel("gradient norm")
    if len(run.lr.steps):
        right = axes.twinx()
        few = "." if len(run.lr.steps) <= _FEW else ""
        thin = slice(None, None, max(1, len(run.lr.steps) // _MOST_POINTS))
        right.plot(place(run.lr.steps[thin]), run.lr.values[thin], color=_TRAINING, linestyle="--", marker=few)
        keys.append(Line2D([], [], color=_TRAINING, linestyle="--", label="learning rate (right)"))
        right.set_ylim(0, 1.2 * run.lr.values.max() or 1)
        right.set_ylabel("learning rate", labelpad=6)
        right.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
        right.tick_params(labelsize=8)
    axes.legend(handles=keys, loc="lower left", bbox_to_anchor=(-0.01, 0.99), ncols=3, frameon=False, fontsize=8,
                handlelength=2.6, borderpad=0.1)  # fmt: skip


def compare(figure: Any, runs: Sequence[Run], scale: str = "steps") -> None:
    """
    Draw the validation losses of several runs, and below them their training losses.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
        An empty one; its size is set.
    runs : sequence of Run
        From 2 to MOST_RUNS.
    scale : {"steps", "tokens", "time"}
        What the horizontal axis counts.

    Raises
    ------
    ValueError
        As `draw_run`.
    """
    place, unit, ticks = _scale(runs, scale)
    room = max(2.9, 0.19 * len(runs))
    upper, lower = _panels(figure, [room, room], right=2.35, gap=0.3)
    windows = sorted(window(len(run.loss.steps)) for run in runs)
    taken = " to ".join(f"{size:,}" for size in sorted({windows[0], windows[-1]}))
    names = (
        "validation loss (nats per token)",
        f"training loss, mean of {taken} steps" if taken != "1" else "training loss",
    )
    figure.text(_LEFT / figures.WIDTH, 1 - 0.13 / figure.get_figheight(), f"{len(runs)} runs", size=12, va="top")
    for axes, name in zip((upper, lower), names, strict=True):
        labels = []
        for number, run in enumerate(runs):
            series = run.validation if axes is upper else smooth(run.loss, window(len(run.loss.steps)))
            if not len(series.steps):
                continue
            thin = slice(None, None, max(1, len(series.steps) // _MOST_POINTS))
            x, every = place(run)(series.steps[thin]), max(1, len(series.steps[thin]) // 8)
            color = _COLORS[number % 8]
            (line,) = axes.plot(
                x,
                series.values[thin],
                color=color,
                linestyle=_LINES[number % 4],
                linewidth=1.4,
                marker=_MARKERS[number % 8],
                markersize=5,
                markerfacecolor=color if number < 8 else "white",
                markevery=(number * every // len(runs), every),
            )
            best = f", best {series.values.min():.4g}" if axes is upper else ""
            labels.append((line, label(run.name, 118 - figures.text_width(best, 8)) + best))
        axes.set_ylabel(name)
        _limit(axes, [place(run)(each.steps) for run in runs for each in (run.loss, run.validation)], ticks)
        figures.label_ends(axes, labels)
    lower.set_xlabel(unit)


def _panels(figure: Any, heights: Sequence[float], right: float, gap: float = 0.5) -> list[Any]:
    """Axes one below the other, in inches, with room for the title above and for labels on the right."""
    top, bottom = 0.62, 0.5
    total = top + sum(heights) + gap * (len(heights) - 1) + bottom
    figure.set_size_inches(figures.WIDTH, total)
    found: list[Any] = []
    above = top
    for height in heights:
        edge = total - above - height
        axes = figure.add_axes(
            (_LEFT / figures.WIDTH, edge / total, 1 - (_LEFT + right) / figures.WIDTH, height / total)
        )
        axes.grid(alpha=0.3)
        axes.tick_params(labelsize=8, labelbottom=len(found) == len(heights) - 1)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        found.append(axes)
        above += height + gap
    return found


def _limit(axes: Any, places: Sequence[np.ndarray], ticks: Callable) -> None:
    """Show all of these, a single one too."""
    every = np.concatenate([np.ravel(each) for each in places]) if places else np.zeros(0)
    first, last = (every.min(), every.max()) if every.size else (0.0, 1.0)
    margin = 0.015 * (last - first) or 0.5
    axes.set_xlim(first - margin, last + margin)
    ticks(axes.xaxis)


def _scale(runs: Sequence[Run], scale: str) -> tuple[Callable, str, Callable]:
    """The function that gives the places of a run's steps, the name of the axis, and what sets its ticks."""
    from matplotlib.ticker import EngFormatter, FuncFormatter, MaxNLocator

    def whole(axis: Any) -> None:
        axis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))

    if scale == "steps":
        return lambda run: lambda steps: steps, "step", whole
    sums = {id(run): _sums(run, scale) for run in runs}
    longest = max(total[-1] for _, total in sums.values())
    factor, unit = 1.0, "tokens"
    if scale == "time":
        factor, unit = next((size, name) for size, name in ((3600e3, "hours"), (60e3, "minutes"), (1e3, "seconds"))
                            if longest >= 2 * size or size == 1e3)  # fmt: skip
        unit = f"{unit} of training, without validation"

    def set_ticks(axis: Any) -> None:
        axis.set_major_locator(MaxNLocator(7, steps=[1, 2, 5, 10]))
        axis.set_major_formatter(
            EngFormatter(sep="") if scale == "tokens" else FuncFormatter(lambda value, _: f"{value:g}")
        )

    def place(run: Run) -> Callable:
        steps, total = sums[id(run)]
        return lambda asked: np.interp(asked, steps, total / factor)

    return place, unit, set_ticks


def _sums(run: Run, scale: str) -> tuple[np.ndarray, np.ndarray]:
    """After each step, the sum of the milliseconds, or of the tokens, of all steps so far."""
    if not len(run.ms.steps) or (scale == "tokens" and len(run.rate.steps) != len(run.ms.steps)):
        needed = "ms" if scale == "time" else "ms and tokens_per_second"
        raise ValueError(
            f"plot: --x {scale} needs {needed} for every step, which the log of {run.name} lacks; use --x steps"
        )
    each = run.ms.values if scale == "time" else np.round(run.ms.values * run.rate.values / 1000)
    each = each * np.diff(run.ms.steps, prepend=0.0)  # steps that are missing were as this one
    return np.concatenate([[0.0], run.ms.steps]), np.concatenate([[0.0], np.cumsum(each)])

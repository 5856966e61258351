"""The results of the benchmarks as a picture, 800 pixels wide: a panel for each kind of row that there is."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import table
from benchmarks.worker import median

WIDTH, DPI = 8.0, 100  # inches, and pixels per inch
ROW, MARGIN = 0.3, 0.95  # inches: of a row of two bars, and of a panel's title, axis and legend
# Ours dark and PyTorch's light, which greyscale keeps; sides of a kind differ by their hatch.
DARK, LIGHT, GREY = "#1b4f72", "#f5c071", "#a9a9a9"
STYLES = {
    "tinygpt": (DARK, ""), "torch": (LIGHT, ""),
    "tinygpt float32": (DARK, ""), "tinygpt bfloat16": (DARK, "///"), "tinygpt int8": (DARK, "..."),
    "torch float32": (LIGHT, ""), "torch float32 compiled": (LIGHT, "..."),
    "torch bfloat16": (LIGHT, "///"), "torch bfloat16 compiled": (LIGHT, "xxx"),
    "torch float32 max-autotune": (LIGHT, "ooo"), "torch bfloat16 max-autotune": (LIGHT, "++"),
    "tinygpt int4": (DARK, "xxx"),
    "against": (GREY, ""), "against float32": (GREY, ""), "against bfloat16": (GREY, "///"),
    "against int8": (GREY, "..."), "against int4": (GREY, "xxx"),
}  # fmt: skip

Bars = dict[str, list[float | None]]  # a side -> the length of its bar in each row, None where it has none


def draw(report: dict[str, Any], path: Path) -> None:
    """
    Write the picture of a report that has rows.

    Raises
    ------
    ValueError
        If there is no row, or matplotlib is not installed.
    """
    panels = [panel for make in (_products, _memory, _steps, _generation) if (panel := make(report))]
    if not panels:
        raise ValueError("there is nothing to draw: no row was measured")
    try:
        import matplotlib
    except ImportError:
        raise ValueError("--plot needs matplotlib: pip install matplotlib") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    heights = [ROW * sum(max(1, _bars_in(bars, i) / 2) for i in range(len(names))) + MARGIN
               for _, names, bars, _ in panels]  # fmt: skip
    figure, axes = pyplot.subplots(
        len(panels), 1, figsize=(WIDTH, sum(heights) + 0.5), height_ratios=heights, squeeze=False, layout="constrained"
    )
    for axis, (title, names, bars, mark) in zip(axes[:, 0], panels, strict=True):
        _panel(axis, title, names, bars, mark)
    named = report.get("processor name") or report["machine"]
    threads = f", {report['threads']} threads" if "threads" in report else ""
    older = ", as an older processor (avx2)" if report.get("processor") == "avx2" else ""
    noise = "; ~ is a noisy row" if any(name.endswith("~") for _, names, _, _ in panels for name in names) else ""
    figure.suptitle(textwrap.fill(f"{named}{threads}{older}, {report['date']}{noise}", 90), fontsize=10)
    figure.savefig(path, dpi=DPI, format="png")
    pyplot.close(figure)


def _panel(axis: Any, title: str, names: Sequence[str], bars: Bars, mark: float) -> None:
    """Horizontal bars, the rows from the top; each row is as high as it has bars."""
    places, place = [], 0.0
    for i in range(len(names)):
        count = _bars_in(bars, i)
        offset = 0
        for side, lengths in bars.items():
            if lengths[i] is not None:
                axis.barh(place + offset, lengths[i], 1, align="edge", linewidth=0.4, **_style(side))
                number = table.figure(lengths[i], 2 if lengths[i] < 100 else 3)
                axis.text(lengths[i], place + offset + 0.5, f" {number}", va="center", fontsize=6)
                offset += 1
        places.append(place + count / 2)
        place += count + 0.7
    axis.set_yticks(places, names, fontsize=8)
    axis.tick_params(axis="x", labelsize=8)
    axis.set_ylim(place - 0.4, -0.3)
    axis.margins(x=0.08)
    axis.axvline(mark, color="0.4", linewidth=0.8, zorder=0)
    axis.spines[["top", "right"]].set_visible(False)
    handles = [axis.barh(0, 0, label=side, **_style(side)) for side in bars]
    columns = min(3 if max(map(len, bars)) < 18 else 2, len(bars))  # what fits beside the names of the rows
    axis.legend(handles=handles, fontsize=8, ncols=columns, frameon=False, loc="lower left", bbox_to_anchor=(0, 1),
                borderaxespad=0)  # fmt: skip
    axis.set_title(title, fontsize=9, loc="left", pad=8 + 12 * -(-len(bars) // columns), fontweight="bold")


def _style(side: str) -> dict[str, str]:
    color, hatch = STYLES[side]
    return {"color": color, "hatch": hatch, "edgecolor": "white" if color == DARK else "0.35"}


def _bars_in(bars: Bars, row: int) -> int:
    return sum(lengths[row] is not None for lengths in bars.values())


def _kernels(report: dict[str, Any], kind: str, title: str) -> tuple | None:
    rows = [row for row in report.get("kernels", []) if row["kind"] == kind and row["share"] is not None]
    if not rows:
        return None
    names = [f"{row['benchmark']}, {row['case']}" + (" bf16" if row["precision"] == "medium" else "") + _noise(row)
             for row in rows]  # fmt: skip
    bars: Bars = {"tinygpt": [100 * row["share"] for row in rows]}
    if any(row["to_torch"] for row in rows):
        bars["torch"] = [100 * row["share"] / row["to_torch"] if row["to_torch"] else None for row in rows]
    return title, names, bars, 100.0


def _noise(row: dict[str, Any]) -> str:
    readings = row["readings"]
    return " ~" if "torch" in readings and "~" in table.ratio(
        readings["torch"], readings["tinygpt"], readings["tinygpt again"]) else ""  # fmt: skip


def _products(report: dict[str, Any]) -> tuple | None:
    return _kernels(report, "flops", "Matrix products: % of the measured peak")


def _memory(report: dict[str, Any]) -> tuple | None:
    return _kernels(report, "bytes", "Other kernels: % of memory bandwidth (above 100: from cache)")


def _times(report: dict[str, Any], group: str, what: str) -> tuple | None:
    """Times as a share of PyTorch's in float32, of the rows that have it; in milliseconds where none has."""
    raced = [row for row in report.get(group) or [] if "torch float32" in row["readings"]]
    rows = raced or report.get(group)
    if not rows:
        return None
    units = [median(row["readings"]["torch float32"]) if raced else 1e-3 for row in rows]
    sides = list(dict.fromkeys(side for row in rows for side in row["readings"] if not side.endswith("again")))
    bars: Bars = {
        side: [median(row["readings"][side]) / unit if side in row["readings"] else None
               for row, unit in zip(rows, units, strict=True)]
        for side in sides
    }  # fmt: skip
    title = f"{what}: time, PyTorch's float32 = 1" if raced else f"{what}: milliseconds"
    return title, [row["case"] for row in rows], bars, 1.0 if raced else 0.0


def _steps(report: dict[str, Any]) -> tuple | None:
    return _times(report, "train_step", "Training steps")


def _generation(report: dict[str, Any]) -> tuple | None:
    return _times(report, "generate", "Generation")

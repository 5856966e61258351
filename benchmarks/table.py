"""The results of the benchmarks, as text and as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.worker import median

COLORS = ("tab:green", "limegreen", "0.35", "0.5", "0.65", "0.8")  # ours, then PyTorch's


def kernels(rows: list[dict[str, Any]]) -> str:
    """Milliseconds are medians; a ratio is how many times as long the rival takes."""
    columns = ["kernel", "case", "products", "numpy ms", "torch ms", "tinygpt ms (spread)", "rate", "of peak",
               "to numpy", "to torch", "noise"]  # fmt: skip
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for row in rows:
        times = {side: 1e3 * median(readings) for side, readings in row["readings"].items()}
        spread = f"{1e3 * min(row['readings']['tinygpt']):.3g}-{1e3 * max(row['readings']['tinygpt']):.3g}"
        unit = "GB/s" if row["kind"] == "bytes" else "GFLOP/s"
        products = {"highest": "float32", "medium": "bfloat16"}[row["precision"]]
        cells = [
            row["benchmark"],
            row["case"],
            products if row["kind"] == "flops" else "",
            f"{times['numpy']:.3g}",
            f"{times['torch']:.3g}",
            f"{times['tinygpt']:.3g} ({spread})",
            f"{row['rate']:.3g} {unit}",
            f"{row['share']:.0%}",
            f"{row['to_numpy']:.1f}",
            f"**{row['to_torch']:.2f}**",
            f"{row['noise']:.2f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def steps(rows: list[dict[str, Any]]) -> str:
    """One line a side, and the ratios that count."""
    lines = []
    for row in rows:
        lines += [f"\n{row['case']}", "", "| | ms per step, median (spread) | peak memory, MB |", "|---|---|---|"]
        for side, readings in row["readings"].items():
            memory = f"{row['memory'][side] / 1e6:,.0f}" if side in row["memory"] else ""
            spread = f"{1e3 * min(readings):.4g}-{1e3 * max(readings):.4g}"
            lines.append(f"| {side} | {1e3 * median(readings):.4g} ({spread}) | {memory} |")
        said = f"\nPyTorch's best takes **{row['float32_to_torch']:.2f}** times as long in float32"
        if "tinygpt bfloat16" in row["readings"]:
            said += (f", and its best of all **{row['bfloat16_to_torch']:.2f}** times as long as our bfloat16, "
                     f"{row['best_to_torch']:.2f} as our best")  # fmt: skip
        lines.append(said + ".")
    return "\n".join(lines)


def draw(report: dict[str, Any], path: Path) -> None:
    """Share of the measured peak of each kernel, and the time of a step for each side."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    kernel_rows, step_rows = report.get("kernels", []), report.get("train_step", [])
    figure, (left, right) = pyplot.subplots(
        1, 2, figsize=(15, 2 + 0.22 * max(len(kernel_rows), 20)), width_ratios=[3, 2]
    )
    names = [
        f"{row['benchmark']}, {row['case']}" + (" bf16" if row["precision"] == "medium" else "") for row in kernel_rows
    ]
    shares = [100 * row["share"] for row in kernel_rows]
    colors = ["tab:blue" if row["kind"] == "flops" else "tab:green" for row in kernel_rows]
    left.barh(names, shares, color=colors)
    left.invert_yaxis()
    left.set_xlabel("% of the measured peak: products (blue), memory bandwidth (green; above 100: from cache)")
    left.axvline(100, color="gray", linewidth=0.8)
    sides = [side for side in (step_rows[0]["readings"] if step_rows else {}) if not side.endswith("again")]
    height = 0.8 / max(len(sides), 1)
    for index, side in enumerate(sides):
        shares = [median(row["readings"][side]) / median(row["readings"]["torch float32"]) for row in step_rows]
        places = [place + height * index for place in range(len(step_rows))]
        right.barh(places, shares, height, label=side, color=COLORS[index])
    right.set_yticks([place + 0.4 for place in range(len(step_rows))], [row["case"] for row in step_rows])
    right.invert_yaxis()
    right.set_xlabel("time of a training step, PyTorch's float32 = 1")
    if sides:
        right.legend(fontsize=8, loc="lower right", bbox_to_anchor=(1, 1), ncols=3)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)

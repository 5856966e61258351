"""
The results of each processor, in a file of its own: `results/<processor>.json`, and its picture beside it.

`python -m benchmarks NAME ... --save` measures, and replaces the rows that it has measured; other rows stay, so that a
file can be made by several short runs. `python -m benchmarks.results` prints a file as Markdown, which are the tables
of RESULTS.md.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks import bench_generate, machine, picture, table
from tinygpt.files.atomic import atomic_open

FOLDER = Path(__file__).parent / "results"
# What tells the rows of a group apart.
_KEYS = {
    "kernels": ("benchmark", "case", "precision"), "train_step": ("case",), "python_share": ("case",),
    "shared": ("case",), "recipe": ("case",), "generate": ("case", "size"), "lookup": ("case", "model"),
    "perplexity": ("case", "model"),
}  # fmt: skip

Report = dict[str, Any]


def path_of(processor: str = "this") -> Path:
    """The file of this processor, or of what the sides took it for."""
    return FOLDER / f"{machine.short_name(processor)}.json"


def read(path: Path) -> Report:
    """The report in a file; an empty one where there is none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def write(path: Path, report: Report) -> None:
    """Write a report at once, or not at all."""
    path.parent.mkdir(exist_ok=True)
    with atomic_open(path) as file:
        file.write((json.dumps(report, indent=1) + "\n").encode())


def merged(before: Report, now: Report) -> Report:
    """The later report, with those rows of an earlier one that it has not measured again, in the earlier order."""
    result = {**before, **now}
    for group, keys in _KEYS.items():
        rows = {_key(row, keys): row for report in (before, now) for row in report.get(group, [])}
        if rows:
            result[group] = list(rows.values())
    return result


def _key(row: Mapping[str, Any], keys: tuple[str, ...]) -> tuple[Any, ...]:
    return tuple(row.get(key, "gpt2" if key == "size" else None) for key in keys)


def text_of(report: Report, group: str) -> str:
    """The table of a group; empty where it has no rows."""
    return SHOWN[group](report) if report.get(group) else ""


def _generation(report: Report) -> str:
    """One table for each size of model; shares of the bandwidth are of that measured in the same run."""
    sizes = dict.fromkeys(row.get("size", "gpt2") for row in report["generate"])
    bandwidth = report.get("generate_peak", report.get("peak", {})).get("bandwidth")
    return "\n\n".join(
        table.generation(
            [row for row in report["generate"] if row.get("size", "gpt2") == size], bench_generate.NAMES[size],
            bench_generate.bytes_per_token(size), bandwidth if size == "gpt2" else None,
        )
        for size in sizes
    )  # fmt: skip


SHOWN: dict[str, Callable[[Report], str]] = {
    "kernels": lambda report: table.kernels(report["kernels"]),
    "train_step": lambda report: table.steps(report["train_step"]),
    "python_share": lambda report: table.python_share(report["python_share"]),
    "shared": lambda report: table.shared(report["shared"]),
    "recipe": lambda report: table.recipe(report["recipe"]),
    "generate": _generation,
    "lookup": lambda report: table.lookup(report["lookup"]),
    "perplexity": lambda report: table.perplexity(report["perplexity"]),
}


def as_markdown(report: Report) -> str:
    """All tables, below what was measured on what."""
    older = f"; raced as {report['processor']}" if report.get("processor", "this") != "this" else ""
    parts = [
        f"{report.get('processor name', 'unknown processor')}{older}\n"
        f"{report.get('threads', '?')} threads, {report['machine']}\n{peak_in_words(report['peak'])}",
        *filter(None, (text_of(report, group) for group in SHOWN)),
    ]
    text = "\n\n".join(parts)
    return f"{text}\n\n{table.NOTE}" if " ~" in text else text


def peak_in_words(peak: Mapping[str, float]) -> str:
    """The measured rates, of which the tables have shares."""
    memory, *products = (table.figure(peak[name]) for name in ("bandwidth", "highest", "medium"))
    cache = f", {table.figure(peak['cache'])} GB/s from the third-level cache" if "cache" in peak else ""
    return (f"measured peak: {memory} GB/s from memory{cache},\n"
            f"  products {products[0]} GFLOP/s in float32, {products[1]} in bfloat16")  # fmt: skip


def main() -> None:
    """Print the tables of a file, and draw its picture if one is wanted."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.results", description="Print the results of a processor as Markdown."
    )
    parser.add_argument("file", nargs="?", type=Path, help="a file of --json or --save (default: this processor's)")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the picture, too")
    options = parser.parse_args()
    path = options.file or path_of()
    report = read(path)
    if not report:
        known = ", ".join(sorted(str(each) for each in FOLDER.glob("*.json")))
        parser.error(f"{path}: no such file; there are {known}")
    print(as_markdown(report))
    if options.plot:
        picture.draw(report, options.plot)


if __name__ == "__main__":
    main()

"""`python -m benchmarks`: every benchmark, its results checked before it is timed."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import sys
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

from benchmarks import bench_generate, bench_train_step, kernel_race, table
from benchmarks.worker import PROCESSORS, Worker

GROUPS = (*kernel_race.OPS, "train_step", "generate")


def main() -> int:
    """Run the chosen benchmarks and print their tables."""
    options = _parser().parse_args()
    unknown = [name for name in options.names if name not in GROUPS]
    if unknown:
        print(f"benchmarks: there is no {unknown[0]!r}; choose from {', '.join(GROUPS)}", file=sys.stderr)
        return 2
    names = options.names or list(GROUPS)
    os.environ.update(PROCESSORS[options.processor])
    bfloat16 = options.processor == "this"
    ops = [name for name in names if name in kernel_race.OPS]
    report: dict = {"date": datetime.date.today().isoformat(), "machine": _machine(),
                    "processor": options.processor, "rounds": options.rounds}  # fmt: skip
    if options.verify_only:
        list(kernel_race.race(ops, 0, None))
        if "train_step" in names:
            sides = ("tinygpt float32", "tinygpt bfloat16", "torch float32")
            list(bench_train_step.race(0, list(bench_train_step.TINY), sides))
        if "generate" in names:
            list(bench_generate.race(0, tiny=True))
        print(f"{len(names)} benchmarks: all results are right")
        return 0
    with Worker("tinygpt") as worker:
        report["peak"] = worker.ask("benchmarks.peak", "measure")
    print("measured peak:", ", ".join(f"{name} {rate:.0f}" for name, rate in report["peak"].items()), flush=True)
    if ops:
        rows = kernel_race.race(ops, options.rounds, report["peak"], bfloat16)
        _keep(rows, "kernels", report, options.json)
        print(table.kernels(report["kernels"]), flush=True)
    if "train_step" in names:
        sides = [side for side in bench_train_step.SIDES if bfloat16 or "bfloat16" not in side]
        rows = bench_train_step.race(options.rounds, sides=sides)
        _keep(rows, "train_step", report, options.json)
        print(table.steps(report["train_step"]), flush=True)
    if "generate" in names:
        _keep(bench_generate.race(options.rounds), "generate", report, options.json)
        print(bench_generate.table(report["generate"], report["peak"]["bandwidth"]))
    if options.plot:
        table.draw(report, options.plot)
    return 0


def _keep(rows: Iterable[dict], group: str, report: dict, path: Path | None) -> None:
    """Gather the rows; each is in the file, if one is wanted, as soon as it is measured."""
    report[group] = []
    for row in rows:
        report[group].append(row)
        if path:
            path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Every kernel against NumPy and PyTorch, and whole training steps.",
        epilog="Tables of their own: python -m benchmarks.bench_tokenizer, python -m benchmarks.bench_ladder.",
    )  # fmt: skip
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(GROUPS)} (default: all)")
    parser.add_argument("--verify-only", action="store_true", help="check the results, time nothing")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each side (default: 7)")
    parser.add_argument("--processor", choices=PROCESSORS, default="this",
                        help="what all sides may use: avx2 is a laptop without AVX-512 and bfloat16")  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep every reading")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw shares of the peak and times of a step")
    return parser


def _machine() -> str:
    import llvmlite.binding

    from tinygpt.runtime.settings import available_cores

    versions = ", ".join(f"{name} {version(name)}" for name in ("numpy", "numba", "torch"))
    cpu = llvmlite.binding.get_host_cpu_name()
    return f"{available_cores()} cores of {cpu}, {platform.system()}, Python {platform.python_version()}, {versions}"


if __name__ == "__main__":
    sys.exit(main())

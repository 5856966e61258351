"""`python -m benchmarks`: every benchmark, its results checked before it is timed."""

from __future__ import annotations

import argparse
import datetime
import functools
import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from benchmarks import bench_generate, bench_train_step, kernel_race, machine, modules, picture, table
from benchmarks.worker import PROCESSORS, Worker, WorkerError, threads
from tinygpt.cli.parser import Parser
from tinygpt.cli.shared_options import file_to_write, picture_to_write, positive
from tinygpt.files.atomic import atomic_open

QUICK = {
    "linear": ["c_fc, N=256"],
    "attention": ["B=4 T=64 H=12 D=64"],
    "layernorm": ["N=1024"],
    "gelu": ["N=1024"],
    "cross_entropy": ["N=256, V=50257"],
    "adamw": ["7 M parameters"],
    "train_step": ["nanoGPT's recipe, B=12 T=64"],
    "generate": ["one stream"],
}
SECONDS = 90  # of --quick; what is being measured then ends with its round

_ABOUT = """\
Race every kernel against its NumPy reference and PyTorch, whole training steps,
and generation."""
_EXAMPLES = """\
A NAME is a benchmark of the list that --list prints, or a module of your own
with a tinygpt.Op: as in import, in this folder or installed; or the path of its
file. module:NAME chooses one of several operations. docs/own_operations.md says
what else it may have. Run this in the clone, or anywhere if tinygpt is
installed from it with pip install -e.

Each side runs in a process of its own, in turns with the others, after its
results were found right. Without PyTorch the race is against NumPy only.

examples:
  python -m benchmarks --quick                      this machine, in two minutes
  python -m benchmarks                              all: more than an hour
  python -m benchmarks gelu layernorm --rounds 15
  python -m benchmarks mymodule                     an operation of your own
  python -m benchmarks ../mine/mymodule.py:MY_OP --verify-only
  python -m benchmarks --json all.json --plot all.png

Tables of their own, with --verify-only and --rounds:
  python -m benchmarks.bench_tokenizer              against tiktoken and others
  python -m benchmarks.bench_ladder                 the product in four steps
"""


def main() -> int:
    """Run the chosen benchmarks and print their tables; errors are one line."""
    options = _parser().parse_args()
    try:
        return _list() if options.list else _run(options)
    except KeyboardInterrupt:
        print("benchmarks: stopped", file=sys.stderr)
        return 130
    except (kernel_race.WrongResult, WorkerError) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    except (ValueError, TypeError, OSError) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2


def _run(options: argparse.Namespace) -> int:
    os.environ.update(PROCESSORS[options.processor])
    if options.threads:
        os.environ["BENCHMARK_THREADS"] = str(options.threads)
    names = list(dict.fromkeys(map(modules.resolve, options.names)))
    only = QUICK if options.quick and not names else None
    bfloat16 = options.processor == "this" and only is None
    names = names or list(QUICK if only else (*modules.OPS, *modules.STEPS))
    ops = [name for name in names if name not in modules.STEPS]
    rows = list(kernel_race.cases(ops, bfloat16, only))
    for name in ops:
        benchmark = modules.load(name)
        if not benchmark.has_kernel:
            print(f"{benchmark.name}: it has no kernel; its reference is raced as tinygpt's side")
        if benchmark.torch is None and machine.HAS_TORCH:
            print(f"{benchmark.name}: it has no torch(given) or torch_forward(*tensors); raced against NumPy only")
    if not machine.HAS_TORCH:
        print("torch is not installed: raced against NumPy only")
    if options.verify_only:
        return _verify(rows, names, bfloat16)
    return _time(options, names, rows, only, bfloat16)


def _verify(rows: list[tuple[str, str, str]], names: list[str], bfloat16: bool) -> int:
    """Only the results, of steps and generation those of tiny models."""
    if rows:
        list(kernel_race.race(rows, 0, None))
    if "train_step" in names:
        sides = [side for side in ("tinygpt float32", "tinygpt bfloat16", "torch float32")
                 if side in bench_train_step.SIDES and (bfloat16 or "bfloat16" not in side)]  # fmt: skip
        list(bench_train_step.race(0, list(bench_train_step.TINY), sides))
    if "generate" in names:
        list(bench_generate.race(0, "tiny"))
    print(f"{len(names)} benchmark{'s' * (len(names) != 1)}: all results are right")
    return 0


def _time(options: argparse.Namespace, names: list[str], rows: list, only: dict | None, bfloat16: bool) -> int:
    rounds = options.rounds or (3 if options.quick else 7)
    until = time.monotonic() + SECONDS if options.quick else float("inf")
    report: dict[str, Any] = {
        "date": datetime.date.today().isoformat(), "processor name": machine.processor(), "threads": threads(),
        "machine": machine.libraries(), "processor": options.processor, "rounds": rounds,
    }  # fmt: skip
    print(f"{report['processor name']}, {threads()} threads\n{report['machine']}", flush=True)
    with Worker("tinygpt") as worker:
        report["peak"] = worker.ask("benchmarks.peak", "measure", rounds=3 if options.quick else 7)
    print(_peak(report["peak"]))
    spread = "one round: nothing is known of the noise" if rounds == 1 else f"times are medians of {rounds} rounds"
    print(f"{spread}; a ratio above 1 means that tinygpt is faster", flush=True)
    keep = functools.partial(_keep, report=report, path=options.json, notes=[table.NOTE])
    if rows:
        keep("kernels", kernel_race.race(rows, rounds, report["peak"], until), table.kernels)
    if "train_step" in names:
        fast = [side for side in bench_train_step.SIDES if side.split()[1:] == ["float32"]] if options.quick else None
        cases = QUICK["train_step"] if options.quick else list(bench_train_step.CASES)
        sides = fast or [side for side in bench_train_step.SIDES if bfloat16 or "bfloat16" not in side]
        keep("train_step", bench_train_step.race(rounds, cases, sides, until), table.steps)
    if "generate" in names:
        size, sides = "gpt2", bench_generate.SIDES
        if options.quick:
            size, sides = "small", [side for side in bench_generate.SIDES if side.endswith("float32")]
        cases = QUICK["generate"] if options.quick else list(bench_generate.CASES)
        show = functools.partial(table.generation, model=bench_generate.NAMES[size],
                                 bytes_per_token=bench_generate.bytes_per_token(size),
                                 bandwidth=report["peak"]["bandwidth"] if size == "gpt2" else None)  # fmt: skip
        keep("generate", bench_generate.race(rounds, size, sides, cases, until), show)
    if options.quick and (left_out := _left_out(names, rows, report, only)):
        print(f"\n{left_out}")
    if options.plot:
        picture.draw(report, options.plot)
        print(options.plot)
    return 0


def _peak(peak: dict[str, float]) -> str:
    """The measured rates, of which the table has shares."""
    bandwidth, *products = (table.figure(peak[name]) for name in ("bandwidth", "highest", "medium"))
    return f"measured peak: {bandwidth} GB/s, products {products[0]} GFLOP/s in float32, {products[1]} in bfloat16"


def _keep(group: str, rows: Iterable[dict], show: Callable, report: dict, path: Path | None, notes: list[str]) -> None:
    """
    Gather the rows and print their table; each is in the file, if one is wanted, as soon as it is measured.

    `notes` holds the note on noisy rows until it was printed.
    """
    report[group] = []
    try:
        for row in rows:
            report[group].append(row)
            if path:
                with atomic_open(path) as file:
                    file.write((json.dumps(report, indent=1) + "\n").encode())
    finally:  # also of a race that was stopped, or that found a wrong result
        if report[group]:
            text = show(report[group])
            print(f"\n{text}" + (f"\n\n{notes.pop()}" if "~" in text and notes else ""), flush=True)


def _left_out(names: list[str], rows: list, report: dict[str, Any], only: dict | None) -> str:
    """What --quick did not measure."""
    begun = {(row["benchmark"], row["case"]) for row in report.get("kernels", [])}
    late = [f"{name.rstrip(':')}, {case}" for name, case, _ in rows if (name.rstrip(":"), case) not in begun]
    late += [name for name in modules.STEPS if name in names and not report[name]]
    lines = []
    if late:
        lines.append(f"No time was left for: {'; '.join(late)}. The first run also compiles kernels: try again.")
    if only or {*modules.STEPS} & {*names}:
        lines.append("Left out by --quick: other sizes and kernels, bfloat16, torch.compile, GPT-2 124M; "
                     "python -m benchmarks has them.")  # fmt: skip
    return "\n".join(lines)


def _list() -> int:
    """Print all benchmarks with what they are."""
    names = [*modules.OPS, *modules.STEPS]
    width = max(map(len, names))
    print("\n".join(f"  {name:{width}}  {modules.summary(name)}" for name in names))
    return 0


def _parser() -> Parser:
    parser = Parser(prog="python -m benchmarks", description=_ABOUT, epilog=_EXAMPLES)
    add = parser.add_argument
    add("names", nargs="*", metavar="NAME", help="a benchmark, or a module of your own (default: all benchmarks)")
    add("--list", action="store_true", help="print the names of all benchmarks and exit")
    add("--quick", action="store_true", help="at most two minutes: the most important rows, or the NAMEs, in 3 rounds")
    add("--verify-only", action="store_true", help="check the results, time nothing")
    add("--rounds", type=positive, metavar="N", help="turns of each side (default: 7)")
    add("--threads", type=positive, metavar="N", help="threads of each side (default: one per core)")
    add("--processor", choices=PROCESSORS, default="this",
        help="what all sides may use: avx2 is a laptop without AVX-512 and bfloat16 (default: this)")  # fmt: skip
    add("--json", type=file_to_write, metavar="FILE", help="keep every reading")
    add("--plot", type=picture_to_write, metavar="FILE",
        help="draw shares of the peak, and times against PyTorch's: a .png, .svg or .pdf file")  # fmt: skip
    return parser


if __name__ == "__main__":
    sys.exit(main())

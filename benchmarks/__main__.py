"""`python -m benchmarks`: every benchmark, its results checked before it is timed."""

from __future__ import annotations

import argparse
import datetime
import functools
import itertools
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from benchmarks import (
    bench_generate,
    bench_lookup,
    bench_perplexity,
    bench_python_share,
    bench_recipe,
    bench_shared,
    bench_train_step,
    kernel_race,
    machine,
    modules,
    picture,
    plan,
    results,
    table,
)
from benchmarks.worker import PROCESSORS, Worker, WorkerError, threads
from tinygpt.cli.parser import Parser
from tinygpt.cli.shared_options import file_to_write, picture_to_write, positive
from tinygpt.kernels.simd.cpu import BFLOAT16

SECONDS = 90  # of --quick; what is being measured then ends with its round
ROUNDS, QUICK_ROUNDS = 7, 3
QUICK_TURN = 2.0  # seconds of a turn beside busy processes, in --quick

_ABOUT = """\
Race every kernel against its NumPy reference and PyTorch, whole training steps,
alone and beside other work, and generation."""
_EXAMPLES = """\
A NAME is a benchmark of the list that --list prints, or a module of your own
with a tinygpt.Op: as in import, in this folder or installed; or the path of its
file. module:NAME chooses one of several operations. docs/own_operations.md says
what else it may have. Run this in the clone, or anywhere if tinygpt is
installed from it with pip install -e.

Each side runs in a process of its own, in turns with the others, after its
results were found right. Without PyTorch the race is against NumPy only.

--cases and --sides choose rows and sides by their name, or by words of it: the
cases with T=64, the sides that are compiled. --against adds the kernels, steps
or generation of another checkout, an earlier commit of tinygpt for example, as
a further side. What PyTorch compiles is kept; the first time takes minutes.

examples:
  python -m benchmarks --quick                      this machine, in two minutes
  python -m benchmarks                              all: more than an hour
  python -m benchmarks gelu layernorm --rounds 15
  python -m benchmarks linear --cases N=256 --against ../before
  python -m benchmarks train_step --cases nano --sides "tinygpt,torch float32"
  python -m benchmarks train_step --cases B=4 --sides float32 --save
  python -m benchmarks shared --rounds 3 --seconds 5
  python -m benchmarks recipe --data tinyshakespeare.txt
  python -m benchmarks generate lookup perplexity --model runs/tiny
  python -m benchmarks mymodule                     an operation of your own
  python -m benchmarks ../mine/mymodule.py:MY_OP --verify-only
  python -m benchmarks --json all.json --plot all.png

What --save keeps, and RESULTS.md has:
  python -m benchmarks.results

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
    quick_rows = options.quick and not names  # the kernels, too, are those of --quick
    bfloat16 = options.processor == "this" and not quick_rows
    names = names or list(plan.QUICK if quick_rows else (*modules.OPS, *modules.STEPS))
    against = options.against is not None
    raced = plan.plan(names, options.quick, quick_rows, bfloat16, against, options.cases, options.sides)
    for name in names:
        if name not in modules.STEPS:
            _tell_what_it_lacks(modules.load(name))
    if not machine.HAS_TORCH:
        print("torch is not installed: raced against NumPy only")
    if options.verify_only:
        return _verify(raced, names, bfloat16, options.against)
    return _time(options, raced, names, quick_rows)


def _tell_what_it_lacks(benchmark: modules.Benchmark) -> None:
    if not benchmark.has_kernel:
        print(f"{benchmark.name}: it has no kernel; its reference is raced as tinygpt's side")
    if benchmark.torch is None and machine.HAS_TORCH:
        print(f"{benchmark.name}: it has no torch(given) or torch_forward(*tensors); raced against NumPy only")


def _verify(raced: plan.Plan, names: list[str], bfloat16: bool, against: Path | None) -> int:
    """
    Only the results, of steps and generation those of tiny models, without what must be compiled by PyTorch.

    Products of bfloat16 are float32 on a processor without instructions for them, and take PyTorch minutes.
    """
    rows = [row for row in raced.rows if BFLOAT16 or row[2] == "highest"]
    if rows:
        list(kernel_race.race(rows, 0, None, sides=raced.kernel_sides, against=against))
    other = ["against"] if against else []
    wanted = [f"{who} {kind}" for who in ("tinygpt", *other) for kind in ("float32", "bfloat16")[: 1 + bfloat16]]
    wanted += [side for side in ("torch float32",) if side in bench_train_step.SIDES]
    ours = [f"{who} float32" for who in ("tinygpt", *other)]
    tiny = list(bench_train_step.TINY)
    verified: dict[str, Callable[[], Iterable[dict]]] = {
        "train_step": lambda: bench_train_step.race(0, tiny, wanted, against=against),
        "python_share": lambda: bench_python_share.race(0, tiny, ours, against=against),
        "shared": lambda: bench_shared.race(0, tiny, wanted[:1], against=against),
        "recipe": lambda: bench_recipe.race(0, sides=[*ours, *bench_recipe.SIDES[2:]], against=against),
        "generate": lambda: bench_generate.race(0, "tiny", [*bench_generate.SIDES, *ours[1:]], against=against),
        "lookup": lambda: bench_lookup.race(0, sides=bench_lookup.OURS),
        "perplexity": lambda: bench_perplexity.race(0, sides=[*bench_perplexity.SIDES, *ours[1:]], against=against),
    }
    for name in names:
        if name in verified:
            list(verified[name]())
    print(f"{len(names)} benchmark{'s' * (len(names) != 1)}: all results are right")
    return 0


def _time(options: argparse.Namespace, raced: plan.Plan, names: list[str], quick_rows: bool) -> int:
    rounds = options.rounds or (QUICK_ROUNDS if options.quick else ROUNDS)
    until = time.monotonic() + SECONDS if options.quick else float("inf")
    report: dict[str, Any] = {
        "date": datetime.date.today().isoformat(), "processor name": machine.processor(), "threads": threads(),
        "machine": machine.libraries(), "processor": options.processor, "rounds": rounds,
    }  # fmt: skip
    print(f"{report['processor name']}\n{threads()} threads, {report['machine']}", flush=True)
    with Worker("tinygpt") as worker:
        report["peak"] = worker.ask("benchmarks.peak", "measure", rounds=QUICK_ROUNDS if options.quick else ROUNDS)
    print(results.peak_in_words(report["peak"]))
    spread = "one round: nothing is known of the noise" if rounds == 1 else f"times are medians of {rounds} rounds"
    print(f"{spread}; a ratio above 1 means that tinygpt is faster", flush=True)
    files: dict[Path, dict] = {options.json: {}} if options.json else {}
    saved = results.path_of(options.processor)
    if options.save:
        files[saved] = results.read(saved)
    keep = functools.partial(_keep, report, files=files, notes=[table.NOTE])
    against = options.against
    if raced.rows:
        keep("kernels", kernel_race.race(raced.rows, rounds, report["peak"], until, raced.kernel_sides, against))
    for name, rows in _races(options, raced, until).items():
        if name == "generate":
            report["generate_peak"] = report["peak"]
        keep(name, rows)
    if options.quick and (left_out := _left_out(names, raced, report, quick_rows)):
        print(f"\n{left_out}")
    if options.save:
        picture.draw(results.read(saved), saved.with_suffix(".png"))
        print(f"\n{saved}")
    if options.plot:
        picture.draw(report, options.plot)
        print(options.plot)
    return 0


def _races(options: argparse.Namespace, raced: plan.Plan, until: float) -> dict[str, Iterable[dict]]:
    """The rows of each benchmark of its own that has cases and sides, which are measured as they are taken."""
    shared: dict[str, Any] = {"until": until, "against": options.against}
    compiled = {**shared, "limit": options.compile_limit}
    turns = {"seconds": options.seconds or (QUICK_TURN if options.quick else bench_shared.SECONDS),
             "busy": options.busy or bench_shared.BUSY}  # fmt: skip
    model = {**shared, "model": options.model}
    step, generation = bench_train_step.race, bench_generate.race
    start: dict[str, Callable[[int, list[str], list[str]], Iterator[dict]]] = {
        "train_step": lambda rounds, cases, sides: step(rounds, cases, sides, **compiled),
        "small_steps": lambda rounds, cases, sides: step(rounds, cases, sides, **compiled),
        "python_share": lambda *given: bench_python_share.race(*given, **shared),
        "shared": lambda *given: bench_shared.race(*given, **compiled, **turns),
        "recipe": lambda *given: bench_recipe.race(*given, **shared, data=options.data),
        "generate": lambda rounds, cases, sides: generation(rounds, raced.size, sides, cases, **shared),
        "lookup": lambda *given: bench_lookup.race(*given, **model),
        "perplexity": lambda *given: bench_perplexity.race(*given, **model),
    }
    found: dict[str, Iterable[dict]] = {}
    for name, race in raced.races.items():
        if not (race.cases and race.sides):
            continue
        if name in ("lookup", "perplexity") and options.model is None:
            print(f"{name}: left out; name a model with --model")
            continue
        rows = start[name](options.rounds or _rounds(name, options.quick), *race)
        group = "train_step" if name == "small_steps" else name
        found[group] = itertools.chain(found[group], rows) if group in found else rows
    return found


def _rounds(name: str, quick: bool) -> int:
    """How many turns each side has unless --rounds says so."""
    own = {"shared": bench_shared.ROUNDS, "recipe": bench_recipe.ROUNDS, "lookup": bench_lookup.ROUNDS, "perplexity": 1}
    return min(own.get(name, ROUNDS), QUICK_ROUNDS if quick else ROUNDS)


def _keep(report: dict[str, Any], group: str, rows: Iterable[dict], files: dict[Path, dict], notes: list[str]) -> None:
    """
    Gather the rows and print their table; each is in the files as soon as it is measured.

    `files` holds what was in each file to write, and stays; `notes` the note on noisy rows, until it is printed.
    """
    report[group] = []
    try:
        for row in rows:
            report[group].append({**row, "date": report["date"]})
            for path, before in files.items():
                results.write(path, results.merged(before, report))
    finally:  # also of a race that was stopped, or that found a wrong result
        if text := results.text_of(report, group):
            print(f"\n{text}" + (f"\n\n{notes.pop()}" if " ~" in text and notes else ""), flush=True)


def _left_out(names: list[str], raced: plan.Plan, report: dict[str, Any], quick_rows: bool) -> str:
    """What --quick did not measure."""
    begun = {(row["benchmark"], row["case"]) for row in report.get("kernels", [])}
    late = [f"{name.rstrip(':')}, {case}" for name, case, _ in raced.rows if (name.rstrip(":"), case) not in begun]
    late += [name for name in raced.races if name in names and name not in ("recipe", "lookup", "perplexity")
             and not report.get(name)]  # fmt: skip
    lines = []
    if late:
        lines.append(f"No time was left for: {'; '.join(late)}. The first run also compiles kernels: try again.")
    if quick_rows or {*modules.STEPS} & {*names}:
        lines.append("Left out by --quick: other sizes and kernels, bfloat16, torch.compile, GPT-2 124M; "
                     "python -m benchmarks has them.")  # fmt: skip
    return "\n".join(lines)


def _list() -> int:
    """Print all benchmarks with what they are."""
    names = [*modules.OPS, *modules.STEPS]
    width = max(map(len, names))
    print("\n".join(f"  {name:{width}}  {modules.summary(name)}" for name in names))
    return 0


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _counts(text: str) -> list[int]:
    return [positive(number.strip()) for number in text.split(",")]


def _text(text: str) -> Path:
    if not Path(text).is_file():
        raise argparse.ArgumentTypeError(f"must be a file of text, got {text!r}")
    return Path(text)


def _checkout(text: str) -> Path:
    """The folder of another checkout, whose harness runs its side."""
    folder = Path(text).resolve()
    if not all((folder / name).is_file() for name in ("tinygpt/__init__.py", "benchmarks/worker.py")):
        raise argparse.ArgumentTypeError(f"must be a checkout of tinygpt, with its folder benchmarks, got {text!r}; "
                                         "make one with git worktree add")  # fmt: skip
    return folder


def _parser() -> Parser:
    parser = Parser(prog="python -m benchmarks", description=_ABOUT, epilog=_EXAMPLES)
    add = parser.add_argument
    add("names", nargs="*", metavar="NAME", help="a benchmark, or a module of your own (default: all benchmarks)")
    add("--list", action="store_true", help="print the names of all benchmarks and exit")
    add("--quick", action="store_true", help="at most two minutes: the most important rows, or the NAMEs, in 3 rounds")
    add("--cases", action="append", metavar="TEXT",
        help="only cases of this name, or with its words; several times for several (default: all)")  # fmt: skip
    add("--sides", type=_names, action="extend", metavar="TEXT,TEXT",
        help="time only sides of these names, or with their words (default: all)")  # fmt: skip
    add("--against", type=_checkout, metavar="FOLDER", help="another checkout of tinygpt, as a further side")
    add("--verify-only", action="store_true", help="check the results, time nothing")
    add(
        "--rounds",
        type=positive,
        metavar="N",
        help="turns of each side (default: 7; 5 of shared, 3 of lookup and with --quick, 1 of recipe)",
    )
    add("--seconds", type=positive, metavar="N",
        help="of a turn beside busy processes, in shared (default: 10; 2 with --quick)")  # fmt: skip
    add("--busy", type=_counts, metavar="N,N",
        help="numbers of busy processes in shared, beside none (default: 1,2)")  # fmt: skip
    add("--model", metavar="MODEL",
        help="the run, folder or hub name that lookup and perplexity read (default: leave both out)")  # fmt: skip
    add("--data", type=_text, metavar="FILE",
        help="the text of recipe (default: tinyshakespeare.txt in TINYGPT_TEST_DATA, or bundled stories)")  # fmt: skip
    add("--threads", type=positive, metavar="N", help="threads of each side (default: one per core)")
    add("--compile-limit", type=positive, metavar="SECONDS", default=bench_train_step.COMPILE_LIMIT,
        help="leave out a side that PyTorch compiles for longer (default: 300)")  # fmt: skip
    add("--processor", choices=PROCESSORS, default="this",
        help="what all sides may use: avx2 is a laptop without AVX-512 and bfloat16 (default: this)")  # fmt: skip
    add("--save", action="store_true", help="keep every reading in benchmarks/results, in this processor's file")
    add("--json", type=file_to_write, metavar="FILE", help="write every reading into a file of your own")
    add("--plot", type=picture_to_write, metavar="FILE",
        help="draw shares of the peak, and times against PyTorch's: a .png, .svg or .pdf file")  # fmt: skip
    return parser


if __name__ == "__main__":
    sys.exit(main())

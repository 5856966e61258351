"""`tinygpt doctor`: what this machine can do, and advice."""

from __future__ import annotations

import argparse
from typing import Any

from tinygpt.cli.parser import Parser
from tinygpt.cli.shared_options import add_json, add_threads

_LINES = (
    "processor",
    "features",
    "float32",
    "bfloat16",
    "cores",
    "threads",
    "caches",
    "host",
    "memory",
    "numpy",
    "numba",
    "loops",
    "busy_waiting",
    "kernels",
    "cache",
)

_EXAMPLES = """\
What --report prints can be pasted into a bug report: it has no passwords, and
the home folder as ~. Look it over all the same.

examples:
  tinygpt doctor
  tinygpt doctor --threads 1
  tinygpt doctor --report
"""


def add_arguments(parser: Parser) -> None:
    """The arguments."""
    parser.describe(run, _EXAMPLES)
    parser.add_argument("--report", action="store_true", help="print what a bug report needs, as Markdown")
    add_threads(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Measure for a few seconds, and print what was found; or print the facts for a bug report."""
    if options.report:
        return _run_report(options)
    from tinygpt.runtime.streams import print_json
    from tinygpt.study.machine import report

    found = report()
    if options.json:
        print_json(found, indent=2)
        return 0
    for name in _LINES:
        if text := found["topology" if name == "cores" else name]:
            print(f"{name.replace('_', '-'):<12} {text}")
    for name, text in _rates(found):
        print(f"{name:<12} {text}")
    for line in found["advice"]:
        print(f"{'advice':<12} {line}")
    return 0


def _rates(found: dict[str, Any]) -> list[tuple[str, str]]:
    """What was measured, and on what: a line for each, the first of a kind with its name."""
    from tinygpt.kernels.rates import in_words
    from tinygpt.study.machine import BUSY

    flops = [in_words(found[f"{kind}_gflops"], "FLOP/s") for kind in ("float32", "bfloat16")]
    size = found["product_size"]
    cache = "the third-level cache: there is none, or the system does not say how large it is"
    if found["cache_gbytes"] is not None:
        cache = (f"{in_words(found['cache_gbytes'])} from the third-level cache, an array of "
                 f"{found['cache_megabytes']:.1f} MB")  # fmt: skip
    busy = ": a busy machine" if found["spread"] > BUSY else ""
    return [
        ("products", f"{flops[0]} float32, {flops[1]} bfloat16, {size} x {size} x {size}"),
        ("reading", f"{in_words(found['read_gbytes'])} from memory, an array of {found['read_megabytes']:.0f} MB"),
        ("", cache),
        ("", f"each the best of {found['turns']} turns, half of which were within {found['spread']:.0%}{busy}"),
    ]


def _run_report(options: argparse.Namespace) -> int:
    from tinygpt.runtime.streams import print_json
    from tinygpt.study.bug_report import as_markdown, bug_report

    found = bug_report()
    if options.json:
        print_json(found, indent=2)
    else:
        print(as_markdown(found))
    return 0

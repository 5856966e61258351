"""`tinygpt doctor`: what this machine can do, and advice."""

from __future__ import annotations

import argparse

from tinygpt.cli.parser import Parser
from tinygpt.cli.shared_options import add_json, add_threads

_LINES = (
    "processor",
    "features",
    "bfloat16",
    "cores",
    "threads",
    "memory",
    "numpy",
    "numba",
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
    from tinygpt.kernels.rates import in_words
    from tinygpt.runtime.streams import print_json
    from tinygpt.study.machine import report

    found = report()
    if options.json:
        print_json(found, indent=2)
        return 0
    for line in _LINES:
        print(f"{line.replace('_', '-'):<12} {found[line]}")
    flops = [in_words(found[f"{kind}_gflops"], "FLOP/s") for kind in ("float32", "bfloat16")]
    print(f"{'products':<12} {flops[0]} float32, {flops[1]} bfloat16, the best of {found['turns']} turns")
    print(f"{'reading':<12} {in_words(found['read_gbytes'])} from memory, the best of {found['turns']} turns over "
          f"{found['read_megabytes']:.0f} MB")  # fmt: skip
    for line in found["advice"]:
        print(f"{'advice':<12} {line}")
    return 0


def _run_report(options: argparse.Namespace) -> int:
    from tinygpt.runtime.streams import print_json
    from tinygpt.study.bug_report import as_markdown, bug_report

    found = bug_report()
    if options.json:
        print_json(found, indent=2)
    else:
        print(as_markdown(found))
    return 0

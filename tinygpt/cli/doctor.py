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


def add_arguments(parser: Parser) -> None:
    """The arguments."""
    parser.describe(run, "example:\n  tinygpt doctor --threads 1\n")
    add_threads(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Measure for a few seconds, and print the report."""
    from tinygpt.runtime.streams import print_json
    from tinygpt.study.machine import report

    found = report()
    if options.json:
        print_json(found, indent=2)
        return 0
    for line in _LINES:
        print(f"{line.replace('_', '-'):<12} {found[line]}")
    print(f"{'products':<12} {found['float32_gflops']:.0f} GFLOP/s float32, {found['bfloat16_gflops']:.0f} bfloat16")
    print(f"{'reading':<12} {found['read_gbytes']:.0f} GB/s")
    for line in found["advice"]:
        print(f"{'advice':<12} {line}")
    return 0

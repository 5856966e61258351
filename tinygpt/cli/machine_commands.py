"""What `tinygpt doctor` and `tinygpt warmup` do."""

from __future__ import annotations

import argparse

from tinygpt.cli.warmup import warm_up
from tinygpt.kernels.jit import compiler
from tinygpt.runtime.streams import print_json, tell
from tinygpt.study.machine import report


def doctor(options: argparse.Namespace) -> int:
    """tinygpt doctor"""
    found = report()
    if options.json:
        print_json(found, indent=2)
        return 0
    for name in ("processor", "features", "bfloat16", "cores", "threads", "memory", "numpy", "numba", "waiting",
                 "kernels", "cache"):  # fmt: skip
        print(f"{name:<12} {found[name]}")
    print(f"{'products':<12} {found['float32_gflops']:.0f} GFLOP/s float32, {found['bfloat16_gflops']:.0f} bfloat16")
    print(f"{'reading':<12} {found['read_gbytes']:.0f} GB/s")
    for line in found["advice"]:
        print(f"{'advice':<12} {line}")
    return 0


def warmup(options: argparse.Namespace) -> int:
    """tinygpt warmup"""
    seconds = warm_up(progress=not options.quiet)
    trouble = compiler.trouble()
    where = f"memory only: {trouble}" if trouble else compiler.folder
    tell(f"every kernel is compiled ({seconds:.0f} s), in {where}")
    return 0

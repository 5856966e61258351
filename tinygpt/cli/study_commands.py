"""What `tinygpt gradcheck`, `museum`, `diff`, `explain` and `exercise` do, once their arguments are read."""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path

import numpy as np

from tinygpt.files.atomic import atomic_write
from tinygpt.gpt2.config import GPTConfig
from tinygpt.gpt2.model import GPT
from tinygpt.runtime.streams import bar, print_json, tell
from tinygpt.study import checks, divergence, exercises, report, submissions
from tinygpt.study import museum as exhibits
from tinygpt.study.explain import show
from tinygpt.study.model_check import check_model
from tinygpt.study.samples import every_op
from tinygpt.study.user_ops import find_op


def check_gradients(options: argparse.Namespace) -> int:
    """tinygpt gradcheck"""
    names = options.ops or ([] if options.model else sorted(every_op()))
    checked = [find_op(name) for name in names]
    findings: list[checks.Finding] = []
    for op, samples in bar(iterable=checked, desc="gradcheck", unit="op", leave=False, disable=options.json):
        findings += checks.check_op(op, samples, torch=options.against == "torch")
    if options.model:
        findings += check_model()
    if options.sweep:
        report.draw_sweep(checked, options.sweep)
    if options.json:
        print_json([{**finding._asdict(), "passed": finding.passed} for finding in findings], indent=1)
    else:
        print(report.table(findings))
        if options.sweep:
            print(options.sweep)
    return 0 if all(finding.passed for finding in findings) else 1


def museum(options: argparse.Namespace) -> int:
    """tinygpt museum"""
    print(exhibits.page(options.number, options.hint, options.answer))
    return 0


def diff(options: argparse.Namespace) -> int:
    """tinygpt diff"""
    model = GPT.from_pretrained(options.model) if options.model else _any_model()
    limit = min(options.context, model.config.n_positions)
    tokens, targets = np.random.default_rng(1).integers(0, model.config.vocab_size, (2, options.batch_size, limit))
    a, b = (divergence.trace(model, tokens, targets, side) for side in (options.a, options.b))
    allowed = options.tolerance or divergence.allowed_between(options.a, options.b)
    gaps = divergence.compare(a, b, allowed)
    if options.json:
        print_json([{**gap._asdict(), "parted": gap.parted} for gap in gaps], indent=1)
        return int(gaps[-1].parted)
    width = max(len(gap.where) for gap in gaps)
    for number, gap in enumerate(gaps, 1):
        print(f"{number:5}  {gap.where:{width}}  {gap.direction:8}  {gap.gap:.1e}{'  <- here' if gap.parted else ''}")
    if gaps[-1].parted:
        print(f"{options.a} and {options.b} part at {gaps[-1].where}, {gaps[-1].direction}: they differ by "
              f"{gaps[-1].gap:.1e} of the largest number, where rounding explains {allowed:.0e}")  # fmt: skip
        return 1
    print(f"{options.a} and {options.b} agree: no operation is further apart than {max(gap.gap for gap in gaps):.1e} "
          f"of its largest number, and rounding explains {allowed:.0e}")  # fmt: skip
    return 0


def _any_model() -> GPT:
    """Weights of order one, so that no part of the model is silent."""
    model = GPT(GPTConfig(vocab_size=101, n_positions=32, n_embd=48, n_layer=2, n_head=4))
    model.flat_parameters += 0.2 * np.random.default_rng(2).standard_normal(model.flat_parameters.size, np.float32)
    return model


def explain(options: argparse.Namespace) -> int:
    """tinygpt explain"""
    show(options.op, options.step)
    return 0


def exercise(options: argparse.Namespace) -> int:
    """tinygpt exercise"""
    if options.what is None:
        listed = textwrap.fill(", ".join(exercises.ORDER), 100, initial_indent="  ", subsequent_indent="  ")
        print(f"exercises, in a course's order:\n{listed}")
        return 0
    if options.what == "check":
        results = submissions.grade_all([Path(file) for file in options.files] or [Path(".")], options.time_limit)
        if options.json:
            print_json(results, indent=1)
        else:
            print(submissions.table(results))
        return 0 if all(map(submissions.passed, results)) else 1
    given = exercises.exercise(options.what)
    path = Path(options.files[0]) if options.files else Path(f"{given.name}_exercise.py")
    if path.exists():
        raise ValueError(f"exercise: {path} is there already, and would be lost; name another file")
    atomic_write(path, given.text)
    tell(f"{path}: write {given.asked}, then tinygpt exercise check {path}")
    return 0

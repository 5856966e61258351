"""`tinygpt gradcheck`: check gradients."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from tinygpt.cli.parser import Parser
from tinygpt.cli.shared_options import add_json, add_threads, picture_to_write

if TYPE_CHECKING:
    from tinygpt.study.checks import Finding

_ABOUT = """\
Each backward of the reference is compared with finite differences in float64,
each kernel with the reference. An error is a share of the largest derivative of
its input; the exit status is 1 if one is too large. The differences use a step
of 1e-6; "best step" is the one at which their error would be smallest.

examples:
  tinygpt gradcheck                       every operation
  tinygpt gradcheck layernorm gelu --sweep sweep.png
  tinygpt gradcheck mymodule:MY_OP        an Op of your own; a list `samples` in
                                          the module is its inputs
  tinygpt gradcheck --causal              does a model see the future?
  tinygpt gradcheck --causal mine.py:make_model
                                          yours: a model, or a function that
                                          returns one
"""


def add_arguments(parser: Parser) -> None:
    """The arguments."""
    parser.describe(run, _ABOUT)
    add = parser.add_argument
    add("ops", nargs="*", metavar="OP", help="an operation, module:name or file.py:name (default: all operations)")
    add("--causal", action="store_true", help="does a small GPT-2, or the model that OP names, see later tokens?")
    add("--model", action="store_true", help="check a whole small GPT-2, parameter by parameter")
    add(
        "--sweep",
        type=picture_to_write,
        metavar="FILE",
        help="draw the error of finite differences against their step, a panel for each operation: a .png, .svg or "
        ".pdf file",
    )
    add("--against", choices=["torch"], help="compare with PyTorch's gradients too, where it is installed")
    add_threads(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Check the named operations and print the table."""
    from tinygpt.runtime.streams import bar, print_json
    from tinygpt.study import checks, report
    from tinygpt.study.kernel_precision import float64_notes
    from tinygpt.study.model_check import check_model
    from tinygpt.study.samples import every_op
    from tinygpt.study.sweep import draw_sweep
    from tinygpt.study.user_ops import find_op

    if options.causal:
        return _causal(options)
    names = options.ops or ([] if options.model else sorted(every_op()))
    checked = [find_op(name) for name in names]
    explained = {op.name: name for name, (op, _) in zip(names, checked, strict=True)}
    findings: list[Finding] = []
    quiet = options.json or not checked
    for op, samples in bar(iterable=checked, desc="gradcheck", unit="op", leave=False, disable=quiet):
        findings += checks.check_op(op, samples, torch=options.against == "torch")
    if options.model:
        findings += check_model()
    if options.sweep:
        draw_sweep(checked, options.sweep)
    if options.json:
        print_json([{**finding._asdict(), "passed": finding.passed} for finding in findings], indent=1)
    else:
        print(report.table(findings, explained))
        for note in [note for op, _ in checked for note in float64_notes(op)]:
            print(f"note: {note}")
        if options.sweep:
            print(options.sweep)
    return 0 if all(finding.passed for finding in findings) else 1


def _causal(options: argparse.Namespace) -> int:
    """Check what must be true of a language model."""
    from tinygpt.gpt2.model import GPT
    from tinygpt.runtime.streams import print_json
    from tinygpt.study.causality import check_causality, report
    from tinygpt.study.model_check import CONFIG
    from tinygpt.study.user_ops import find_model

    if options.model or options.sweep or options.against:
        raise ValueError("--causal is a check of its own: leave out --model, --sweep and --against")
    if len(options.ops) > 1:
        raise ValueError(f"--causal: name one model, got {len(options.ops)}")
    claims = check_causality(find_model(options.ops[0]) if options.ops else GPT(CONFIG))
    if options.json:
        print_json([claim._asdict() for claim in claims], indent=1)
    else:
        print(report(claims))
    return int(any(claim.holds is False for claim in claims))

"""`tinygpt diff`: the first operation where two implementations differ."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from tinygpt.cli.parser import Parser
from tinygpt.cli.shared_options import MODEL, add_json, add_threads, name, number, positive

if TYPE_CHECKING:
    from tinygpt.gpt2.model import GPT

SIDES = ("kernels", "numpy", "float64", "bfloat16", "transformers")
_ABOUT = """\
  kernels        the compiled kernels
  numpy          the reference in float32
  float64        the reference in float64
  bfloat16       the kernels, with bfloat16 operands of matrix products
  transformers   Hugging Face's GPT-2 in float32, where it is installed

The exit status is 1 if they differ by more than rounding explains.

example:
  tinygpt diff kernels numpy
"""
_CONTEXT = 16


def add_arguments(parser: Parser) -> None:
    """The arguments."""
    parser.describe(run, _ABOUT)
    add = parser.add_argument
    add("a", choices=SIDES, metavar="A", help=f"one side: {', '.join(SIDES[:-1])} or {SIDES[-1]}")
    add("b", choices=SIDES, metavar="B", help="the other side")
    add("--model", type=name, metavar="MODEL", help=f"{MODEL} (default: a small one with random weights)")
    add("--context", type=positive, metavar="T", help=f"tokens per sequence (default: {_CONTEXT}, or the model's)")
    add("--batch-size", type=positive, default=2, metavar="B", help="sequences (default: 2)")
    add(
        "--tolerance",
        type=number,
        metavar="X",
        help="largest difference, as a share of the largest number (default: what rounding explains)",
    )
    add_threads(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Print the gap between both at each operation, up to the first where it is too large."""
    import numpy as np

    from tinygpt.gpt2.model import GPT
    from tinygpt.runtime.streams import print_json
    from tinygpt.study import divergence

    if options.tolerance is not None and not options.tolerance > 0:
        raise ValueError(f"--tolerance must be above 0, got {options.tolerance:g}")
    model = GPT.from_pretrained(options.model) if options.model else any_model()
    limit = model.config.n_positions
    context = options.context or min(_CONTEXT, limit)
    if context > limit:
        raise ValueError(f"--context must be at most the model's {limit} tokens, got {context}")
    tokens, targets = np.random.default_rng(1).integers(0, model.config.vocab_size, (2, options.batch_size, context))
    a, b = (divergence.trace(model, tokens, targets, side) for side in (options.a, options.b))
    allowed = options.tolerance or divergence.allowed_between(options.a, options.b)
    gaps = divergence.compare(a, b, allowed)
    if options.json:
        print_json([{**gap._asdict(), "differs": gap.differs} for gap in gaps], indent=1)
        return int(gaps[-1].differs)
    width = max(len(gap.where) for gap in gaps)
    for place, gap in enumerate(gaps, 1):
        print(f"{place:5}  {gap.where:{width}}  {gap.direction:8}  {gap.gap:.1e}{'  <- here' if gap.differs else ''}")
    if gaps[-1].differs:
        print(
            f"{options.a} and {options.b} first differ at {gaps[-1].where}, {gaps[-1].direction}: by "
            f"{gaps[-1].gap:.1e} of the largest number, where rounding explains {allowed:.0e}"
        )
        return 1
    print(
        f"{options.a} and {options.b} agree: no operation is further apart than {max(gap.gap for gap in gaps):.1e} "
        f"of its largest number, and rounding explains {allowed:.0e}"
    )
    return 0


def any_model() -> GPT:
    """A small model with weights of order one, so that every part contributes."""
    import numpy as np

    from tinygpt.gpt2.config import GPTConfig
    from tinygpt.gpt2.model import GPT

    model = GPT(GPTConfig(vocab_size=101, n_positions=32, n_embd=48, n_layer=2, n_head=4))
    model.flat_parameters += 0.2 * np.random.default_rng(2).standard_normal(model.flat_parameters.size, np.float32)
    return model

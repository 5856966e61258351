"""`tinygpt warmup`: compile ahead of time; each kernel runs once, on the smallest model and text that reach it."""

from __future__ import annotations

import argparse
import time

from tinygpt.cli.parser import Parser
from tinygpt.cli.shared_options import add_quiet

_EXAMPLES = """\
Kernels are compiled when they are first used, and kept. After this, no run has
to wait for that; "tinygpt cache" says where they are.

example:
  tinygpt warmup
"""


def add_arguments(parser: Parser) -> None:
    """The arguments."""
    parser.describe(run, _EXAMPLES)
    add_quiet(parser)


def run(options: argparse.Namespace) -> int:
    """Compile, and say where the kernels are kept."""
    from tinygpt.kernels.jit import compiler
    from tinygpt.runtime.streams import tell

    seconds = warm_up(progress=not options.quiet)
    trouble = compiler.trouble()
    where = f"memory only: {trouble}" if trouble else compiler.folder
    tell(f"every kernel is compiled ({seconds:.0f} s), in {where}")
    return 0


def warm_up(progress: bool = True) -> float:
    """
    Run every kernel once, so that its compiled code is on disk.

    Parameters
    ----------
    progress : bool
        Show a line with progress.

    Returns
    -------
    float
        Seconds.
    """
    from tinygpt.gpt2.compile_ahead import STAGES, compile_ahead
    from tinygpt.kernels.jit import compiler

    start = time.perf_counter()
    with compiler.compiling(progress=progress):
        compile_ahead(*STAGES, again=True)
        _score_logits()
        _descend()
        _tokenize()
    return time.perf_counter() - start


def _score_logits() -> None:
    """The loss of logits that are there in full, which the model never makes."""
    import numpy as np

    import tinygpt.functional as F
    from tinygpt.autograd import Tensor

    logits = Tensor(np.zeros((2, 3), np.float32), requires_grad=True)
    F.cross_entropy(logits, [0, 1]).backward()


def _descend() -> None:
    """SGD, which `tinygpt train` does not use."""
    import numpy as np

    from tinygpt.autograd import Tensor
    from tinygpt.optim import SGD

    parameter = Tensor(np.zeros(3, np.float32), requires_grad=True)
    parameter.grad = np.ones(3, np.float32)
    for momentum in (0.0, 0.9):
        SGD([parameter], momentum=momentum).step()


def _tokenize() -> None:
    from tinygpt.runtime.settings import implementation
    from tinygpt.tokenizer import Tokenizer

    text = "the hen and the other hen, 12 of them: \U0001f600 " + "x" * 500
    with implementation("check"):  # so that kernels run, however short the text
        tokenizer = Tokenizer.train(text * 2, 260, progress=False)
        tokenizer.decode_bytes(tokenizer.encode_to_numpy(text))

"""`tinygpt warmup`: compile ahead of time; each kernel runs once, on the smallest model and text that reach it."""

from __future__ import annotations

import argparse
import importlib
import time
from collections.abc import Callable

from tinygpt.cli.parser import Parser
from tinygpt.cli.shared_options import add_quiet

# Whatever an op's forward leads to, in the order in which a training step needs it.
KERNELS = (
    "embedding",
    "add",
    "layernorm",
    "linear",
    "attention",
    "gelu",
    "gelu_linear",
    "dropout",
    "linear_cross_entropy",
    "cross_entropy",
    "adamw",
    "norm",
    "training steps",
    "generating",
    "tokenizer",
)
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
        Show a bar.

    Returns
    -------
    float
        Seconds.
    """
    from tinygpt.runtime.streams import bar

    start = time.perf_counter()
    with bar(total=len(KERNELS), desc="compiling", disable=not progress, leave=False) as shown:
        for name in KERNELS:
            shown.set_postfix_str(name)
            _work_of(name)()
            shown.update()
    return time.perf_counter() - start


def _work_of(name: str) -> Callable[[], object]:
    special = {"training steps": _train, "generating": _generate, "tokenizer": _tokenize, "cross_entropy": _score}
    return special.get(name) or (lambda: importlib.import_module(f"tinygpt.kernels.{name}"))


def _model(dropout: float):
    from tinygpt.gpt2.config import GPTConfig
    from tinygpt.gpt2.model import GPT

    # 128 tokens of 32 features: as many numbers as `add` wants before it calls its kernel
    sizes = {"vocab_size": 300, "n_positions": 128, "n_embd": 32, "n_layer": 1, "n_head": 2}
    return GPT(GPTConfig(**sizes, embd_pdrop=dropout, attn_pdrop=dropout, resid_pdrop=dropout))


def _train() -> None:
    """A step in each precision, with dropout; gradients are overwritten, and added in the second batch."""
    import numpy as np

    from tinygpt.optim import AdamW
    from tinygpt.optim.gradient_norm import clip_grad_norm
    from tinygpt.runtime import settings

    tokens = np.arange(256).reshape(2, 128)
    for precision in ("highest", "medium"):
        with settings.float32_matmul_precision(precision):
            model = _model(0.1)
            optimizer = AdamW(model.parameters())
            for _ in range(2):
                (model.loss(tokens, tokens) / 2).backward()
            clip_grad_norm(model.parameters(), 1e-3)
            optimizer.step()


def _score() -> None:
    import numpy as np

    import tinygpt.functional as F
    from tinygpt.autograd import Tensor

    logits = Tensor(np.zeros((2, 3), np.float32), requires_grad=True)
    F.cross_entropy(logits, [0, 1]).backward()


def _generate() -> None:
    from tinygpt.quantization import KINDS, round_weights

    for kind in KINDS:
        model = _model(0.0)
        round_weights(model, kind)
        list(model.generate([1, 2], max_tokens=2, seed=0))


def _tokenize() -> None:
    from tinygpt.tokenizer import Tokenizer

    text = "the hen and the other hen, 12 of them: \U0001f600 " * 4000  # enough for kernels to be worth it
    tokenizer = Tokenizer.train(text, 270, progress=False)
    tokenizer.decode(tokenizer.encode(text))
    tokenizer.decode_bytes(tokenizer.encode_to_numpy(text + "x" * 500))

"""
Compile ahead: a stage of the work is done once on the smallest model that reaches its kernels, before the work begins.

A command then waits for the compiler in one place, with the notice of `kernels/notice.py`, and its clock starts after
it. Each finished stage is marked beside its compiled kernels: where the mark is, nothing is imported and nothing runs.
What the smallest model does not reach, or was removed by hand, is compiled when it is needed.

    scoring                the loss, without gradients       evaluate, inspect; validation while training
    training-PRECISION     a step                            train
    generating-WEIGHTS     the cache, one token              generate; stories while training
"""

from __future__ import annotations

from collections.abc import Callable

from tinygpt.kernels.jit import compiler
from tinygpt.quantization import KINDS
from tinygpt.runtime.launch import kernels_may_run
from tinygpt.runtime.settings import current_implementation


def compile_ahead(*stages: str, progress: bool = True, again: bool = False) -> None:
    """
    Compile what stages of the work need.

    Parameters
    ----------
    *stages : str
        Keys of `STAGES`.
    progress : bool
        Show a line with progress while something is compiled; otherwise say that it begins, and how long it took.
    again : bool
        Do the work of stages that are marked as compiled, too.

    Examples
    --------
    >>> compile_ahead("scoring")
    >>> compiler.has_compiled("scoring")
    True
    """
    if current_implementation() == "numpy" or not kernels_may_run():
        return
    missing = [stage for stage in stages if again or not compiler.has_compiled(stage)]
    if not missing:
        return
    with compiler.compiling(*missing, progress=progress):
        for stage in missing:
            STAGES[stage]()


def _model(dropout: float = 0.0):
    from tinygpt.gpt2.config import GPTConfig
    from tinygpt.gpt2.model import GPT

    # 128 tokens of 32 features: as many numbers as `add` wants before it calls its kernel
    sizes = {"vocab_size": 300, "n_positions": 128, "n_embd": 32, "n_layer": 1, "n_head": 2}
    return GPT(GPTConfig(**sizes, embd_pdrop=dropout, attn_pdrop=dropout, resid_pdrop=dropout))


def _score() -> None:
    import numpy as np

    from tinygpt.autograd import no_grad

    tokens = np.arange(256).reshape(2, 128)
    with no_grad():
        _model().eval().loss(tokens, tokens)
        _multiply_by_a_large_weight()


def _train(precision: str) -> None:
    """A step with dropout; gradients are overwritten, and added in the second batch; then a backward of few tokens."""
    import numpy as np

    from tinygpt.optim import AdamW
    from tinygpt.optim.gradient_norm import clip_grad_norm
    from tinygpt.runtime.settings import float32_matmul_precision

    tokens = np.arange(256).reshape(2, 128)
    with float32_matmul_precision("medium" if precision == "bfloat16" else "highest"):
        model = _model(0.1)
        optimizer = AdamW(model.parameters())
        for _ in range(2):
            (model.loss(tokens, tokens) / 2).backward()
        assert model.flat_gradients.size  # whoever looks at gradients has them clipped at once
        clip_grad_norm(model.parameters(), 1e-3)
        optimizer.step()
        model = _model()  # nobody has seen its gradients: the sum of the table's squares is kept
        model.loss(tokens[:1, :8], tokens[:1, :8]).backward()
        _multiply_by_a_large_weight()


def _multiply_by_a_large_weight() -> None:
    """The plans of the product that a small weight does not reach: kernels/matmul/vector_gemm.py, or amx_packed.py."""
    import numpy as np

    from tinygpt.autograd import Tensor
    from tinygpt.functional import linear

    x, weight, bias = (Tensor(np.zeros(shape, np.float32)) for shape in ((1, 1280), (1280, 1280), 1280))
    linear(x, weight, bias)


def _generate(weights: str) -> None:
    from tinygpt.quantization import quantize_model

    model = _model()
    quantize_model(model, weights)
    list(model.generate([1, 2], max_tokens=2, seed=0))
    _multiply_by_a_large_weight()


def _stages() -> dict[str, Callable[[], None]]:
    work: dict[str, Callable[[], None]] = {"scoring": _score}
    for precision in ("float32", "bfloat16"):
        work[f"training-{precision}"] = lambda precision=precision: _train(precision)  # type: ignore[misc]
    for weights in KINDS:
        work[f"generating-{weights}"] = lambda weights=weights: _generate(weights)  # type: ignore[misc]
    return work


STAGES = _stages()

"""
The memory that a training run needs, by kind, estimated before any of it is allocated.

For a GPT-2 of L layers, C features, H heads, an MLP of I hidden features (4 C in GPT-2) and V tokens in the vocabulary,
on N = B T tokens per micro-batch, in float32 (4 bytes per number):

    parameters     P numbers; as many gradients, and twice as many moments (AdamW's m and v)
    activations    what a block keeps for backward, N numbers per feature:
                       the residual stream before attention and before the MLP       2 C
                       both layer norms' outputs, if smaller than 1 MB; larger ones
                       are computed again (autograd/recomputed_outputs.py)           2 C or 0
                       queries, keys, values; attention's output                     3 C + C
                       the MLP's hidden layer before GELU                            I
                   that is N (8 C + I) per block, or N (6 C + I); besides, 4 N of the norms, 2 N H of attention's
                   softmax; with --recompute, N C per block, and all of the above for one block
    workspace      what is larger: the head's logits of at most 512 tokens at a time (512 V numbers), or, in the same
                   memory later, the MLP's hidden layer and the gradients inside a block (N (8 C + 2 I) numbers at
                   once, and with --recompute what the block keeps); and the packed panels of a matrix product
    program        the interpreter, its libraries and the compiled kernels

The memory pool has eight sizes per power of two, so each array takes up to an eighth more than it needs.
"""

from __future__ import annotations

from typing import NamedTuple

from tinygpt.autograd.recomputed_outputs import LARGE
from tinygpt.gpt2.config import GPTConfig

FLOAT = 4  # bytes
PROGRAM = 160 * 2**20  # measured on Linux, with a tiny model that has trained and kernels from the cache
_HEAD_ROWS = 512  # ROWS in kernels/linear_cross_entropy.py
_PANELS = 12 * 2**20  # kernels/matmul/vector_gemm.py: packed panels of A, and of B for each thread
_ROUNDING = 17 / 16  # the mean of nothing and an eighth more


class Ledger(NamedTuple):
    """Bytes by kind; see the top of the file."""

    parameters: int
    gradients: int
    moments: int
    activations: int
    workspace: int
    program: int

    @property
    def total(self) -> int:
        """The sum of all kinds."""
        return sum(self)

    def __str__(self) -> str:
        lines = [f"{name:<12} {count / 1e6:>9,.0f} MB" for name, count in self._asdict().items()]
        return "\n".join([*lines, f"{'total':<12} {self.total / 1e6:>9,.0f} MB"])


def predict(config: GPTConfig, batch_size: int, context: int, recompute: bool = False) -> Ledger:
    """
    The memory that training needs at its peak.

    Parameters
    ----------
    config : GPTConfig
    batch_size, context : int
        B and T of a micro-batch.
    recompute : bool
        Whether backward computes activations again: `--recompute`.

    Returns
    -------
    Ledger

    Examples
    --------
    >>> round(predict(GPTConfig.preset("gpt2"), 4, 64).total / 1e9, 2)
    2.35
    """
    L, C, V, H = config.n_layer, config.n_embd, config.vocab_size, config.n_head
    N = batch_size * context
    parameters = number_of_parameters(config)
    norms = 0 if FLOAT * N * C >= LARGE else 2 * C
    per_block = (6 * C + norms + config.inner) * N + 4 * N + 2 * N * H
    kept = L * N * C + per_block if recompute else L * per_block
    activations = kept + 3 * N * C  # the embeddings' sum, the last norm's input and output
    logits, block = min(_HEAD_ROWS, N) * V, (8 * C + 2 * config.inner) * N
    workspace = max(logits - (per_block if recompute else 0), block)
    return Ledger(
        parameters=FLOAT * parameters,
        gradients=FLOAT * parameters,
        moments=2 * FLOAT * parameters,
        activations=int(FLOAT * activations * _ROUNDING),
        workspace=int(FLOAT * workspace * _ROUNDING) + _PANELS,
        program=PROGRAM,
    )


def number_of_parameters(config: GPTConfig) -> int:
    """
    The number of parameters of a model.

    V C + T C in the embeddings, 4 C^2 + 2 C I + 9 C + I per block (12 C^2 + 13 C if I = 4 C), 2 C in the last norm.

    Parameters
    ----------
    config : GPTConfig

    Returns
    -------
    int

    Examples
    --------
    >>> number_of_parameters(GPTConfig.preset("gpt2"))
    124439808
    """
    C, inner = config.n_embd, config.inner
    per_block = 4 * C * C + 2 * C * inner + 9 * C + inner
    return (config.vocab_size + config.n_positions) * C + config.n_layer * per_block + 2 * C

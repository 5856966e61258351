"""
The memory ledger: what a training run will need, by kind, before any of it is allocated.

For a GPT-2 of L layers, C features, H heads, an MLP of I features (4 C in GPT-2) and V tokens, on N = B T tokens a
batch, in float32 (4 bytes per number):

    parameters     P numbers; gradients as many, moments (AdamW's m and v) twice as many
    activations    what a block keeps for backward, N numbers for each feature:
                       the residual stream before attention and before the MLP       2 C
                       both layer norms' outputs, which the next products read        2 C
                       queries, keys, values; attention's output                      3 C + C
                       the MLP's hidden layer before GELU                             I
                   that is N (8 C + I) a block, and 4 N numbers of the norms and N H of attention's log-sum-exp;
                   with --recompute, N C a block and all of it for one block
    workspace      the head: the scores of at most 512 tokens at a time (512 V numbers); the MLP's hidden layer and
                   gradients on their way through a block (N (8 C + 2 I) numbers at once); packed panels of a product
    program        the interpreter, its libraries and the compiled kernels

Pieces of memory come in eight sizes to a power of two, so each is up to an eighth larger than its array.
"""

from __future__ import annotations

from typing import NamedTuple

from tinygpt.gpt2.config import GPTConfig

FLOAT = 4  # bytes
PROGRAM = 160 * 2**20  # measured, on Linux: a tiny model that has trained, kernels from the cache
_HEAD_ROWS = 512  # kernels/linear_cross_entropy.py, ROWS
_PANELS = 12 * 2**20  # kernels/gemm.py: a slab of A, a panel of B for each thread
_ROUNDING = 17 / 16  # the mean of no waste and an eighth


class Ledger(NamedTuple):
    """Bytes by kind."""

    parameters: int
    gradients: int
    moments: int
    activations: int
    workspace: int
    program: int

    @property
    def total(self) -> int:
        """All of it."""
        return sum(self)

    def __str__(self) -> str:
        lines = [f"{name:<12} {count / 1e6:>9,.0f} MB" for name, count in self._asdict().items()]
        return "\n".join([*lines, f"{'total':<12} {self.total / 1e6:>9,.0f} MB"])


def predict(config: GPTConfig, batch_size: int, context: int, recompute: bool = False) -> Ledger:
    """
    What training needs at its peak.

    Parameters
    ----------
    config : GPTConfig
    batch_size, context : int
        B and T of a batch.
    recompute : bool
        As `--recompute`.

    Returns
    -------
    Ledger

    Examples
    --------
    >>> round(predict(GPTConfig.preset("gpt2"), 4, 64).total / 1e9, 1)
    2.4
    """
    L, C, V, H = config.n_layer, config.n_embd, config.vocab_size, config.n_head
    N = batch_size * context
    parameters = number_of_parameters(config)
    of_a_block = (8 * C + config.inner) * N + 4 * N + N * H
    kept = L * N * C + of_a_block if recompute else L * of_a_block
    activations = kept + 3 * N * C  # the embeddings' sum, the last norm's input and output
    workspace = min(_HEAD_ROWS, N) * V + (8 * C + 2 * config.inner) * N
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
    V C + T C embeddings, 4 C^2 + 2 C I + 9 C + I a block (12 C^2 + 13 C if I = 4 C), 2 C of the last norm.

    Examples
    --------
    >>> number_of_parameters(GPTConfig.preset("gpt2"))
    124439808
    """
    C, inner = config.n_embd, config.inner
    of_a_block = 4 * C * C + 2 * C * inner + 9 * C + inner
    return (config.vocab_size + config.n_positions) * C + config.n_layer * of_a_block + 2 * C

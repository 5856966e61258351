"""
What a model does with a prompt, layer by layer: attention maps, and the logit lens.

    attention maps   the attention weights (L, H, T, T): row t says how much token t takes from each token up to itself,
                     and sums to 1
    logit lens       the final layer norm and the head applied to the residual stream after the embeddings and after
                     each layer: the next token that each position would predict if the layers above were not there

Both are taken while the model's own blocks run: `AttentionMaps` is a cache that `Block.forward` calls.

Source: the logit lens is nostalgebraist's, 2020, "interpreting GPT: the logit lens", lesswrong.com.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tinygpt.autograd import Tensor, no_grad
from tinygpt.generation.sampling import top_k_ids
from tinygpt.nn import no_dropout
from tinygpt.ops.attention import attention_forward
from tinygpt.ops.embedding import check_ids
from tinygpt.ops.reductions import softmax_forward

COLUMNS = 80
_MOST_LINES = 8  # of the prompt


class Inspection(NamedTuple):
    """
    What `inspect_prompt` returns, for a prompt of T tokens.

    Attributes
    ----------
    attention : ndarray, (L, H, T, T)
        The attention maps.
    ids : ndarray, int64, (L + 1, T, K)
        The logit lens: the K most probable next tokens, the most probable first; after the embeddings, then after each
        layer.
    probabilities : ndarray, (L + 1, T, K)
        Their probabilities.
    """

    attention: np.ndarray
    ids: np.ndarray
    probabilities: np.ndarray


class AttentionMaps:
    """
    A cache for `Block.forward` that keeps the attention weights of each block that it is passed to.

    Attributes
    ----------
    maps : list of ndarray, (B, H, T, T)

    Examples
    --------
    >>> from tinygpt import GPT, GPTConfig
    >>> model = GPT(GPTConfig(vocab_size=11, n_positions=8, n_embd=4, n_layer=1, n_head=2)).eval()
    >>> attention = AttentionMaps()
    >>> out = model.h[0](Tensor(np.ones((1, 2, 4), np.float32)), attention)
    >>> attention.maps[0][0, 1]  # the first token attends to itself only, the second to two equal ones
    array([[1. , 0. ],
           [0.5, 0.5]], dtype=float32)
    """

    def __init__(self) -> None:
        self.maps: list[np.ndarray] = []

    def attend(self, qkv: Tensor, n_head: int) -> Tensor:
        """Attention by the NumPy reference, which has the weights as an array."""
        heads, (_, weights, *_) = attention_forward(qkv.data, n_head)
        self.maps.append(weights)
        return Tensor(heads)


def inspect_prompt(model: Any, ids: Any, top_k: int = 5, allowed: np.ndarray | None = None) -> Inspection:
    """
    Run a prompt through a model, and return its attention maps and what the logit lens shows.

    Parameters
    ----------
    model : GPT
    ids : sequence of int, (T,)
        The prompt, from 1 to `n_positions` tokens.
    top_k : int
        K, the number of predictions per position and layer.
    allowed : array of int, optional
        Keep predictions of these ids only, as `generate_batch` does. Probabilities are those of the whole vocabulary.

    Returns
    -------
    Inspection

    Raises
    ------
    TypeError, ValueError
        If there are no tokens, too many, or ids that the model does not have.

    Examples
    --------
    >>> from tinygpt import GPT, GPTConfig
    >>> model = GPT(GPTConfig(vocab_size=11, n_positions=8, n_embd=4, n_layer=3, n_head=2))
    >>> found = inspect_prompt(model, [1, 2], top_k=4)
    >>> found.attention.shape, found.ids.shape
    ((3, 2, 2, 2), (4, 2, 4))
    """
    config = model.config
    ids = check_ids("inspect_prompt: ids", ids, config.vocab_size)
    if ids.ndim != 1:
        raise ValueError(f"inspect_prompt: ids must have shape (T,), got {ids.shape}; inspect one prompt at a time")
    if not 0 < len(ids) <= config.n_positions:
        raise ValueError(f"inspect: the prompt must have from 1 to n_positions = {config.n_positions} tokens, got "
                         f"{len(ids)}")  # fmt: skip
    if not 0 < top_k <= config.vocab_size:
        raise ValueError(f"inspect: top must be from 1 to {config.vocab_size}, got {top_k}")
    attention, lens = AttentionMaps(), []
    with no_grad(), no_dropout():
        x = model.wte(ids[None]) + model.wpe(np.arange(len(ids)))  # (1, T, C)
        lens.append(_logit_lens(model, x, top_k, allowed))
        for block in model.h:
            x = block(x, attention)
            lens.append(_logit_lens(model, x, top_k, allowed))
    return Inspection(np.concatenate(attention.maps), *(np.stack(parts) for parts in zip(*lens, strict=True)))


def _logit_lens(model: Any, x: Tensor, top_k: int, allowed: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """The most probable next tokens of each position (T, K), were x (1, T, C) the last layer's, and their p."""
    logits = model.head(model.ln_f(x).reshape(x.shape[1], -1)).data  # (T, V)
    ids = np.stack([top_k_ids(row if allowed is None else row[allowed], top_k) for row in logits])
    ids = ids if allowed is None else allowed[ids]
    return ids, np.take_along_axis(softmax_forward(logits)[0], ids, axis=1)


def describe(found: Inspection, texts: Sequence[str], decode: Any) -> str:
    """
    The predictions for the token after the prompt, layer by layer, in lines of at most 80 columns.

    Of a long prompt, the last lines are shown.

    Parameters
    ----------
    found : Inspection
    texts : sequence of str, (T,)
        The tokens of the prompt as text.
    decode : callable
        ``decode([id]) -> str``.

    Returns
    -------
    str
    """
    lines = textwrap.wrap(f"after {''.join(texts)!r}, the next token would be", COLUMNS, break_on_hyphens=False)
    if len(lines) > _MOST_LINES:
        lines = ["after ...", *lines[-_MOST_LINES:]]
    for layer, (ids, probabilities) in enumerate(zip(found.ids[:, -1], found.probabilities[:, -1], strict=True)):
        line = f"  {name_of(layer):>10}"
        for id, p in zip(ids, probabilities, strict=True):
            guess = f"  {decode([id])!r} {p:.0%}"
            if len(line + guess) > COLUMNS:
                lines.append(line)
                line = " " * 12
            line += guess
        lines.append(line)
    return "\n".join(lines)


def name_of(layer: int) -> str:
    """What the logit lens was taken after: 0 is the embeddings."""
    return f"layer {layer - 1}" if layer else "embeddings"

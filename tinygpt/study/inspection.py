"""
What a model does with a prompt, layer by layer: where each head looks, and what would be said if it ended here.

    attention      weights (L, H, T, T): row t of a map is what token t takes from those up to itself; it sums to 1
    predictions    the residual stream after the embeddings and after each layer, put through the final norm and the
                   head: which token each place would predict if the layers above were not there

Source: the second is the "logit lens", nostalgebraist 2020, "interpreting GPT: the logit lens".
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tinygpt.autograd import Tensor, no_grad
from tinygpt.files.figures import new_figure, save
from tinygpt.generation.sampling import likeliest
from tinygpt.ops.attention import attention_forward
from tinygpt.ops.embedding import check_ids
from tinygpt.ops.gelu import gelu
from tinygpt.ops.reductions import softmax_forward


class Seen(NamedTuple):
    """
    What was seen inside a model.

    Attributes
    ----------
    attention : ndarray, (L, H, T, T)
    ids : ndarray, int64, (L + 1, T, K)
        The K most probable next tokens, the most probable first: after the embeddings, then after each layer.
    probabilities : ndarray, (L + 1, T, K)
    """

    attention: np.ndarray
    ids: np.ndarray
    probabilities: np.ndarray


def look_inside(model: Any, ids: Any, top: int = 5, allowed: np.ndarray | None = None) -> Seen:
    """
    Run a prompt through a model and keep what is usually thrown away.

    Parameters
    ----------
    model : GPT
    ids : sequence of int, (T,)
        From 1 to `n_positions` tokens.
    top : int
        K, how many predictions are kept for each place.
    allowed : array of int, optional
        Keep predictions of these ids only, as `generate_batch` does; probabilities stay the model's own.

    Raises
    ------
    TypeError, ValueError
        If there are no tokens, too many, or such as the model does not have.

    Examples
    --------
    >>> from tinygpt import GPT, GPTConfig
    >>> model = GPT(GPTConfig(vocab_size=11, n_positions=8, n_embd=4, n_layer=3, n_head=2))
    >>> seen = look_inside(model, [1, 2], top=4)
    >>> seen.attention.shape, seen.ids.shape
    ((3, 2, 2, 2), (4, 2, 4))
    """
    config = model.config
    ids = check_ids("look_inside: ids", ids, config.vocab_size)
    if ids.ndim != 1:
        raise ValueError(f"look_inside: ids must have shape (T,), got {ids.shape}; look at one text at a time")
    if not 0 < len(ids) <= config.n_positions:
        raise ValueError(f"inspect: the prompt must have from 1 to n_positions = {config.n_positions} tokens, got "
                         f"{len(ids)}")  # fmt: skip
    if not 0 < top <= config.vocab_size:
        raise ValueError(f"inspect: top must be from 1 to {config.vocab_size}, got {top}")
    maps, guesses = [], []
    with no_grad():
        x = model.wte(ids[None]) + model.wpe(np.arange(len(ids)))  # (1, T, C)
        guesses.append(_guess(model, x, top, allowed))
        for block in model.h:
            heads, saved = attention_forward(block.attn.c_attn(block.ln_1(x)).data, config.n_head)
            maps.append(saved[1][0])  # (H, T, T)
            x = x + block.attn.c_proj(Tensor(heads))
            hidden = block.mlp.c_fc(block.ln_2(x))
            x = x + block.mlp.c_proj(gelu(hidden))
            guesses.append(_guess(model, x, top, allowed))
    return Seen(np.stack(maps), *(np.stack(parts) for parts in zip(*guesses, strict=True)))


def _guess(model: Any, x: Tensor, top: int, allowed: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """The most probable next tokens of each place (T, K), and their probabilities."""
    scores = model.head(model.ln_f(x).reshape(x.shape[1], -1)).data  # (T, V)
    ids = np.stack([likeliest(row if allowed is None else row[allowed], top) for row in scores])
    ids = ids if allowed is None else allowed[ids]
    return ids, np.take_along_axis(softmax_forward(scores)[0], ids, axis=1)


def describe(seen: Seen, texts: Sequence[str], decode: Any) -> str:
    """The last place's predictions after each layer, a line each."""
    lines = [f"after {''.join(texts)[-60:]!r}, the next token would be"]
    for layer, (ids, probabilities) in enumerate(zip(seen.ids[:, -1], seen.probabilities[:, -1], strict=True)):
        guesses = "  ".join(f"{decode([id])!r} {p:.0%}" for id, p in zip(ids, probabilities, strict=True))
        lines.append(f"  {_name_of(layer):>10}  {guesses}")
    return "\n".join(lines)


def draw(seen: Seen, texts: Sequence[str], decode: Any, folder: Path) -> list[Path]:
    """
    Draw `attention.png` and `predictions.png` into a folder, which is made if it is missing.

    Parameters
    ----------
    seen : Seen
    texts : sequence of str, (T,)
        The tokens of the prompt as text.
    decode : callable
        ``decode([id]) -> str``.
    folder : Path

    Raises
    ------
    ValueError
        If matplotlib is not installed.
    """
    pictures = {name: new_figure("inspect: drawing") for name in ("attention.png", "predictions.png")}
    folder.mkdir(parents=True, exist_ok=True)
    labels = [_shown(text) for text in texts]
    _draw_attention(pictures["attention.png"], seen.attention, labels)
    _draw_predictions(pictures["predictions.png"], seen, labels, decode)
    for name, figure in pictures.items():
        save(figure, folder / name)
    return [folder / name for name in pictures]


def _draw_attention(figure: Any, maps: np.ndarray, labels: list[str]) -> None:
    L, H, T, _ = maps.shape
    side = max(1.3, min(3.0, 0.11 * T))
    figure.set_size_inches(side * H + 1.2, side * L + 1.2)
    axes = figure.subplots(L, H, squeeze=False)
    for layer in range(L):
        for head in range(H):
            axis = axes[layer, head]
            axis.imshow(maps[layer, head], vmin=0, vmax=1, cmap="Blues")
            axis.set_xticks([]), axis.set_yticks([])
            if layer == 0:
                axis.set_title(f"head {head}", fontsize=9)
            if head == 0:
                axis.set_ylabel(f"layer {layer}", fontsize=9)
    if T <= 24:
        axes[-1, 0].set_xticks(range(T), labels, rotation=90, fontsize=6)
        axes[-1, 0].set_yticks(range(T), labels, fontsize=6)
    figure.suptitle("attention: each row is a token, each column one that it may look at", fontsize=9)
    figure.tight_layout()


def _draw_predictions(figure: Any, seen: Seen, labels: list[str], decode: Any) -> None:
    ids, p = seen.ids[-1::-1, :, 0], seen.probabilities[-1::-1, :, 0]  # the last layer on top
    layers, T = ids.shape
    figure.set_size_inches(max(5, 0.75 * T + 2), max(3, 0.3 * layers + 1.5))
    axis = figure.subplots()
    picture = axis.imshow(p, vmin=0, vmax=1, cmap="Greens", aspect="auto")
    for row in range(layers):
        for t in range(T):
            color = "white" if p[row, t] > 0.6 else "black"
            axis.text(t, row, _shown(decode([ids[row, t]])), ha="center", va="center", fontsize=7, color=color)
    axis.set_xticks(range(T), labels, rotation=60, fontsize=8, ha="right")
    axis.set_yticks(range(layers), [_name_of(layers - 1 - row) for row in range(layers)], fontsize=8)
    axis.set_title("the token that each place would predict next, after each layer", fontsize=10)
    figure.colorbar(picture, label="probability")
    figure.tight_layout()


def _name_of(layer: int) -> str:
    return f"layer {layer - 1}" if layer else "embeddings"


def _shown(text: str) -> str:
    """A token as a label: what cannot be seen is written out, and `$` would begin a formula."""
    return repr(text)[1:-1].replace("$", r"\$").replace(" ", "␣")[:12]

"""
The pictures of `tinygpt inspect`: `attention.png`, a map for each head, and `predictions.png`, the logit lens.

Both are 8 inches wide, however long the prompt is and however many heads there are: maps and predictions go on in the
next row. Where the tokens of a map are too many to label each, every second, third, ... is labelled, and the title says
so. Of a prompt with more tokens than `MOST_TOKENS`, the last are predicted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tinygpt.files.figures import WIDTH, label, new_figure, save, text_width
from tinygpt.study.inspection import Inspection, name_of

MOST_TOKENS = 264  # in predictions.png: 24 rows of 11
_LEFT, _RIGHT, _TOP = 0.85, 0.15, 0.65  # inches
_HEADS = 6  # maps side by side
_CELLS = 11  # predictions side by side
_CELL = 0.2  # inches high
_LARGEST = 6.3  # inches of a map
_GAP = 0.1  # inches between maps
_TITLE = 0.24  # inches above a map
_TICKS = 6.5  # points
_DOTS = frozenset(".,:;'`")  # in the size of words, they are a pixel or two
_MOST_PIXELS = 60000  # matplotlib draws fewer than 65,536 of them in a column


def draw(
    found: Inspection,
    texts: Sequence[str],
    decode: Callable[[list[int]], str],
    folder: Path,
    layer: int | None = None,
    head: int | None = None,
) -> list[Path]:
    """
    Draw the attention maps to `attention.png` and the logit lens to `predictions.png`.

    Parameters
    ----------
    found : Inspection
    texts : sequence of str, (T,)
        The tokens of the prompt as text.
    decode : callable
        ``decode([id]) -> str``.
    folder : Path
        Created if it is missing.
    layer, head : int, optional
        Draw the maps of this layer, or of this head of each layer, alone, and larger.

    Returns
    -------
    list of Path
        The two files.

    Raises
    ------
    ValueError
        If matplotlib is not installed, or there is no such layer or head.
    """
    L, H = found.attention.shape[:2]
    for name, number, count in (("layer", layer, L), ("head", head, H)):
        if number is not None and not 0 <= number < count:
            raise ValueError(f"inspect: {name} must be from 0 to {count - 1}, got {number}")
    pictures = {name: new_figure("inspect: drawing") for name in ("attention.png", "predictions.png")}
    chosen = [range(count) if number is None else [number] for number, count in ((layer, L), (head, H))]
    _draw_attention(pictures["attention.png"], found.attention, texts, *chosen)
    _draw_predictions(pictures["predictions.png"], found, texts, decode)
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in pictures.items():
        save(figure, folder / name)
    return [folder / name for name in pictures]


def _draw_attention(
    figure: Any, maps: np.ndarray, texts: Sequence[str], layers: Sequence[int], heads: Sequence[int]
) -> None:
    from matplotlib.colors import PowerNorm

    rows = math.ceil(len(heads) / _HEADS)
    columns = math.ceil(len(heads) / rows)
    side = min(_LARGEST, (WIDTH - _LEFT - _RIGHT + _GAP) / columns - _GAP)
    every = math.ceil(len(texts) * 1.3 * _TICKS / (72 * side))
    ticks = range(0, len(texts), every)
    labels = [_shown(texts[t], 54, _TICKS) for t in ticks]
    below = max(text_width(text, _TICKS) for text in labels) / 72 + 0.2  # inches, for the upright labels
    block = rows * (side + _TITLE) + below
    height = _TOP + len(layers) * block
    _set_size(figure, height)
    blurred = len(texts) > side * figure.get_dpi()  # with fewer pixels than tokens, each shows a mean
    colors = {"cmap": "Blues", "norm": PowerNorm(0.5, 0, 1), "interpolation": "auto" if blurred else "nearest"}
    picture = None
    for number, layer in enumerate(layers):
        for place, head in enumerate(heads):
            row, column = divmod(place, columns)
            bottom = height - _TOP - number * block - (row + 1) * (side + _TITLE) + 0.05
            left = _LEFT + column * (side + _GAP)
            axes = figure.add_axes((left / WIDTH, bottom / height, side / WIDTH, side / height))
            picture = axes.imshow(maps[layer, head], **colors)
            axes.set_title(f"layer {layer}, head {head}", fontsize=8, pad=3)
            axes.tick_params(length=2, pad=1.5)
            axes.set_xticks([]), axes.set_yticks([])
            if place + columns >= len(heads):  # nothing is below
                axes.set_xticks(ticks, labels, rotation=90, fontsize=_TICKS)
            if column == 0:
                axes.set_yticks(ticks, labels, fontsize=_TICKS)
    said = "" if every == 1 else f"; one token in {every} is labelled"
    _write_title(
        figure, height, "attention maps", f"in each row, what a token takes from the tokens up to itself{said}"
    )
    _add_scale(figure, height, picture, "attention weight", [0, 0.01, 0.1, 0.25, 0.5, 1])


def _draw_predictions(figure: Any, found: Inspection, texts: Sequence[str], decode: Callable) -> None:
    ids, p = found.ids[::-1, :, 0], found.probabilities[::-1, :, 0]  # the last layer on top
    layers, T = ids.shape
    shown = min(T, MOST_TOKENS)
    cells = min(max(shown, 6), _CELLS)
    width = (WIDTH - _LEFT - _RIGHT) / cells
    starts = range(T - shown, T, cells)
    block = layers * _CELL + 0.5
    height = _TOP + len(starts) * block
    _set_size(figure, height)
    picture = None
    for number, start in enumerate(starts):
        stop = min(start + cells, T)
        bottom = height - _TOP - (number + 1) * block + 0.15
        frame = (_LEFT / WIDTH, bottom / height, (stop - start) * width / WIDTH, layers * _CELL / height)
        axes = figure.add_axes(frame)
        picture = axes.imshow(p[:, start:stop], vmin=0, vmax=1, cmap="Greens", aspect="auto", interpolation="nearest")
        for row in range(layers):
            for t in range(start, stop):
                guess, color = decode([int(ids[row, t])]), "white" if p[row, t] > 0.6 else "black"
                size = 11 if guess in _DOTS else 7
                text = _shown(guess, 72 * width - 3, size)
                axes.text(t - start, row, text, ha="center", va="center_baseline", fontsize=size, color=color)
        labels = [_shown(text, 72 * width - 5, 7.5) for text in texts[start:stop]]
        axes.set_xticks(range(stop - start), labels, fontsize=7.5, fontweight="bold")
        axes.tick_params(length=0, pad=2, bottom=False, labelbottom=False, labeltop=True)
        axes.set_yticks(range(layers), [name_of(layers - 1 - row) for row in range(layers)], fontsize=7)
        numbers = f"{start + 1:,}" + (f" to {stop:,}" if stop > start + 1 else "")
        above = (bottom + layers * _CELL + 0.09) / height
        figure.text((_LEFT - 0.06) / WIDTH, above, numbers, size=6.5, ha="right", va="center")
    part = "" if shown == T else f"; the last {shown} of {T:,} tokens"
    _write_title(
        figure, height, "logit lens", f"below each token, what is predicted to follow it after each layer{part}"
    )
    _add_scale(figure, height, picture, "probability", [0, 0.25, 0.5, 0.75, 1])


def _set_size(figure: Any, height: float) -> None:
    figure.set_size_inches(WIDTH, height)
    figure.set_dpi(min(figure.get_dpi(), _MOST_PIXELS / height))


def _write_title(figure: Any, height: float, title: str, what: str) -> None:
    figure.text(0.15 / WIDTH, 1 - 0.12 / height, title, size=12, va="top")
    figure.text(0.15 / WIDTH, 1 - 0.4 / height, what, size=8, va="top", color="0.3")


def _add_scale(figure: Any, height: float, picture: Any, name: str, ticks: list[float]) -> None:
    """What the colors mean, at the upper right."""
    axes = figure.add_axes(((WIDTH - 2.4) / WIDTH, 1 - 0.2 / height, 2.2 / WIDTH, 0.1 / height))
    bar = figure.colorbar(picture, cax=axes, orientation="horizontal", ticks=ticks)
    bar.ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks], fontsize=7)
    bar.ax.tick_params(length=2, pad=1)
    figure.text((WIDTH - 2.5) / WIDTH, 1 - 0.15 / height, name, size=8, ha="right", va="center")


def _shown(text: str, points: float, size: float) -> str:
    """A token as a label: spaces can be seen."""
    return label(text.replace(" ", "␣"), points, size)

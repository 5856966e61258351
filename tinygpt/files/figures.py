r"""
Pictures with matplotlib, if it is installed: no window, no global state, written atomically.

All are 8 inches wide, which are 800 pixels: a point is 1.4 of them, and text of 6 points, the smallest that is used,
can be read. Curves differ in their line styles or markers, not in their colors alone, so that a print in black and
white shows what the screen shows.

Text that comes from elsewhere, a token or the name of a folder, goes through `label`: on one line, in characters that
the font has, and never read as a formula.
"""

from __future__ import annotations

import functools
import itertools
import math
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tinygpt.files.atomic import atomic_open
from tinygpt.files.one_line import one_line

FORMATS = (".png", ".svg", ".pdf")
WIDTH = 8.0  # inches
_LINE = 1.25  # the height of a line of text, in sizes of its font


def new_figure(who: str, **options: Any) -> Any:
    """
    An empty figure.

    Parameters
    ----------
    who : str
        What needs it, for the error.
    **options
        Those of `matplotlib.figure.Figure`.

    Raises
    ------
    ValueError
        If matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise ValueError(f'{who} needs matplotlib: pip install "tinygpt[plot]"') from None
    figure = Figure(**{"dpi": 100, "layout": "none", **options})
    FigureCanvasAgg(figure)  # the figure keeps it
    return figure


def save(figure: Any, path: Path) -> None:
    """Write a figure in the format of its name's ending, one of FORMATS; PNG if it is none of them."""
    suffix = path.suffix.lower()
    with atomic_open(path) as file:
        figure.savefig(file, format=suffix[1:] if suffix in FORMATS else "png", dpi="figure")


def label(text: str, points: float = math.inf, size: float = 8) -> str:
    r"""
    A text as matplotlib draws it unchanged: what would be invisible, or missing in the font, is written as an escape.

    Parameters
    ----------
    text : str
    points : float
        The width that there is; a longer text ends in an ellipsis.
    size : float
        Of the font, in points.

    Returns
    -------
    str
        With a backslash before each `$`, which matplotlib removes: a pair of them would enclose a formula.

    Examples
    --------
    >>> print(label("two\nlines"), label("$5"), label("a very long name", points=40))
    two\nlines \$5 a very l…
    """
    pieces = [
        each if _advance(each) is not None else each.encode("unicode_escape").decode("ascii")
        for each in map(one_line, unicodedata.normalize("NFC", text))  # an accent of its own overlaps, and has no width
    ]
    if text_width("".join(pieces), size) > points:
        widths = itertools.accumulate(text_width(piece, size) for piece in pieces)
        room = points - text_width("…", size)
        pieces = [*(piece for piece, width in zip(pieces, widths, strict=True) if width <= room), "…"]
    return "".join(pieces).replace("$", r"\$")


def text_width(text: str, size: float) -> float:
    """The width in points of a text in the default font, without kerning; the characters that the font lacks are 0."""
    return size * sum(_advance(character) or 0.0 for character in text)


@functools.lru_cache(maxsize=4096)
def _advance(character: str) -> float | None:
    """The width of a character as a share of the font's size; None if the font lacks it. Of an escape, its sum."""
    from matplotlib import font_manager

    if len(character) > 1:
        return math.fsum(_advance(each) or 0.0 for each in character)
    font = font_manager.get_font(font_manager.findfont(font_manager.FontProperties()))
    if not font.get_char_index(ord(character)):
        return None
    font.set_size(100, 72)
    return font.load_char(ord(character)).linearHoriAdvance / 65536 / 100


def spread(wanted: Sequence[float], heights: Sequence[float], low: float, high: float) -> list[float]:
    """
    Places for labels beside one another: in the order of the wanted places, without overlap, as near to them as can be.

    Parameters
    ----------
    wanted, heights : sequence of float
        Where the middle of each label should be, and how much room it takes.
    low, high : float
        The room for all of them. If it is too small, they go beyond `high`.

    Returns
    -------
    list of float
        The middles, which have the least sum of squared distances from what was wanted.

    Examples
    --------
    >>> spread([5, 5, 9], [2, 2, 2], low=0, high=10)
    [4.0, 6.0, 9.0]
    """
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    below = list(itertools.accumulate((heights[index] for index in order), initial=0.0))
    blocks: list[list[float]] = []  # labels that touch: the lower edge of the first, were all before it gone; how many
    for place, index in enumerate(order):
        blocks.append([wanted[index] - heights[index] / 2 - below[place], 1])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            edge, count = blocks.pop()
            total = blocks[-1][1] + count
            blocks[-1] = [(blocks[-1][0] * blocks[-1][1] + edge * count) / total, total]
    edges = [edge for edge, count in blocks for _ in range(int(count))]
    places = [0.0] * len(wanted)
    for place, index in enumerate(order):
        edge = max(low, min(edges[place], high - below[-1]))
        places[index] = edge + below[place] + heights[index] / 2
    return places


def label_ends(axes: Any, curves: Sequence[tuple[Any, str]], size: float = 8) -> None:
    """
    Write what each curve is to the right of the frame, at the height of its end, beside a sample of its line.

    Call it last: the limits of the axes must be final, and their place in the figure.

    Parameters
    ----------
    axes : matplotlib.axes.Axes
    curves : sequence of (Line2D, str)
        The text may have several lines; `label` has made names in it harmless.
    size : float
        Of the font, in points.
    """
    points = 72 * axes.get_figure().get_figheight() * axes.get_position().height
    inch = 1 / (axes.get_figure().get_figwidth() * axes.get_position().width)
    axes.set(xlim=axes.get_xlim(), ylim=axes.get_ylim())
    ends = [(line.get_xdata()[-1], line.get_ydata()[-1]) for line, _ in curves]
    heights_of = axes.transData + axes.transAxes.inverted()
    wanted = [min(1.0, max(0.0, float(heights_of.transform(end)[1]))) for end in ends]
    heights = [size * (_LINE * (text.count("\n") + 1) + 0.3) / points for _, text in curves]
    for (line, text), end, place in zip(curves, ends, spread(wanted, heights, -0.02, 1.02), strict=True):
        near, far = 1 + 0.15 * inch, 1 + 0.5 * inch
        leader = {"arrowstyle": "-", "color": "0.6", "linewidth": 0.6, "shrinkA": 0, "shrinkB": 3}
        axes.annotate("", end, (near, place), "data", "axes fraction", arrowprops=leader, annotation_clip=False)
        (sample,) = axes.plot([near, (near + far) / 2, far], [place] * 3)
        sample.update_from(line)
        sample.set(transform=axes.transAxes, clip_on=False, markevery=[1])
        axes.text(1 + 0.6 * inch, place, text, transform=axes.transAxes, va="center", fontsize=size, linespacing=1.15)

"""What a reader sees of a figure: the texts that are drawn and where they are, and lines without their colors."""

from __future__ import annotations

import itertools
from typing import Any
from unittest import mock

SMALLEST = 6  # points: 8 pixels, if a picture of 8 inches is shown 800 pixels wide


def drawn_texts(figure: Any) -> list[tuple[str, float, Any]]:
    """Each text that is drawn, its size in points and its box in pixels."""
    from matplotlib.text import Text

    seen, draw = [], Text.draw

    def draw_and_note(text: Any, renderer: Any) -> None:
        if text.get_visible() and text.get_text().strip():
            seen.append((text.get_text(), text.get_fontsize(), text.get_window_extent(renderer)))
        draw(text, renderer)

    with mock.patch.object(Text, "draw", draw_and_note):
        figure.canvas.draw()
    return seen


def require_readable(figure: Any) -> None:
    """Every text lies inside of the picture, is large enough, and covers no other; the picture is 8 inches wide."""
    texts, frame = drawn_texts(figure), figure.bbox
    assert figure.get_figwidth() == 8
    for text, size, box in texts:
        assert size >= SMALLEST, text
        assert frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1, text
    for (one, _, a), (other, _, b) in itertools.combinations(texts, 2):
        width, height = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
        assert min(width, height) < 2, f"{one!r} and {other!r} overlap"  # boxes have a rim of a pixel


def in_grey(line: Any) -> tuple:
    """What is left of a line in a print without colors: its pattern, its marker, and light, middle or dark."""
    from matplotlib.colors import to_rgb

    red, green, blue = to_rgb(line.get_color())
    face = to_rgb(line.get_markerfacecolor()) == (1, 1, 1)
    return line.get_linestyle(), line.get_marker(), face, round(2 * (0.3 * red + 0.59 * green + 0.11 * blue))

"""Pictures with matplotlib, if it is installed: no window, no global state, written atomically."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tinygpt.files.atomic import atomic_open


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
    figure = Figure(**{"dpi": 110, **options})
    FigureCanvasAgg(figure)  # the figure keeps it
    return figure


def save(figure: Any, path: Path) -> None:
    """Write a figure as a PNG."""
    with atomic_open(path) as file:
        figure.savefig(file, format="png", dpi="figure")

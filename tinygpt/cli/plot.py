"""`tinygpt plot`: draw the losses of one run, or of several in one picture."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from tinygpt.cli.parser import Parser
from tinygpt.cli.shared_options import not_negative, path, picture_to_write
from tinygpt.files.one_line import shown

_SCALES = ("steps", "tokens", "time")
_ABOUT = """\
One run: training and validation loss, learning rate and gradient norm. Several
runs, at most 16: their validation losses, and below them their training losses.
A run may be in training; its picture shows the steps so far.

examples:
  tinygpt plot runs/tiny                          runs/tiny/loss.png
  tinygpt plot runs/tiny runs/wide -o wide.svg
  tinygpt plot runs/tiny runs/wide --x time --from 100
"""


def add_arguments(parser: Parser) -> None:
    """The arguments."""
    parser.describe(run, _ABOUT)
    add = parser.add_argument
    add("runs", nargs="+", type=path, metavar="RUN", help="the folder of a run")
    add(
        "-o",
        "--out",
        type=picture_to_write,
        metavar="FILE",
        help="a .png, .svg or .pdf file (default: loss.png in the folder of one run; comparison.png here for several)",
    )
    add("--x", choices=_SCALES, default=_SCALES[0], help="what the horizontal axis counts (default: steps)")
    add(
        "--from",
        dest="first",
        type=not_negative,
        default=0,
        metavar="STEP",
        help="leave out the steps before this one, which are often far above the rest (default: 0)",
    )


def run(options: argparse.Namespace) -> int:
    """Draw the picture and print its name."""
    from tinygpt.files.figures import new_figure, save
    from tinygpt.files.locate import named_run
    from tinygpt.training import plot

    options.runs = [named_run(folder) for folder in options.runs]
    figure = new_figure("plot: drawing")
    if len(options.runs) > plot.MOST_RUNS:
        raise ValueError(f"one picture shows at most {plot.MOST_RUNS} runs, got {len(options.runs)}")
    found = [plot.read_run(folder, options.first) for folder in options.runs]
    for folder, each in zip(options.runs, found, strict=True):
        if not len(each.loss.steps) and not len(each.validation.steps):
            after = f" from step {options.first} on" if options.first else " yet"
            raise ValueError(f"{shown(folder / 'metrics.jsonl')} has no loss{after}: there is nothing to draw")
    if len(found) == 1:
        plot.draw_run(figure, found[0], options.x)
    else:
        if len({each.name for each in found}) < len(found):  # runs/a and old/a
            found = [
                each._replace(name=os.path.normpath(folder)) for folder, each in zip(options.runs, found, strict=True)
            ]
        plot.compare(figure, found, options.x)
    target = options.out or (options.runs[0] / "loss.png" if len(found) == 1 else Path("comparison.png"))
    save(figure, target)
    print(target)
    return 0

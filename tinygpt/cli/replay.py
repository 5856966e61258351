"""`tinygpt replay`: a step of a run again, to the last bit."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from tinygpt.cli.parser import Parser
from tinygpt.cli.shared_options import add_json, add_quiet, add_threads, file_to_write, path, positive

if TYPE_CHECKING:
    import numpy as np

    from tinygpt.study.replay import Replay

_ABOUT = """\
A step is computed again from the nearest checkpoint before it: that of
"tinygpt train --keep-every N", or the beginning. Loss, learning rate and
gradient norm must be the digits of the log; the exit status is 1 if they are
not, as on another kind of processor. Nothing of the run is written.

--values names what is shown, or saved with --save; * stands for any letters:
  inputs, targets                     the tokens of the batch
  weight.h.0.mlp.c_fc.bias            a parameter before the step
  gradient.h.0.mlp.c_fc.bias          its gradient before the clip
  forward.h.0.attn.c_proj.linear      what an operation returns
  backward.h.0.attn.c_proj.linear.0   the gradient for its first input

examples:
  tinygpt replay runs/tiny --step 137
  tinygpt replay runs/tiny --step 137 --values "gradient.h.0.*"
  tinygpt replay runs/tiny --step 137 --values "*" --save step.npz
"""


def add_arguments(parser: Parser) -> None:
    """The arguments."""
    parser.describe(run, _ABOUT)
    add = parser.add_argument
    add("run_folder", type=path, metavar="RUN", help="the folder of a run")
    add("--step", type=positive, required=True, metavar="K", help="required: which step, as the log counts them")
    add("--values", action="append", default=[], metavar="NAME", help="show these; may be repeated (default: none)")
    add("--save", type=file_to_write, metavar="FILE", help="a .npz file for them, or for all (default: none)")
    add_threads(parser)
    add_quiet(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Announce the cost, compute the step, and print its figures beside the log's."""
    import numpy as np

    from tinygpt.files.atomic import atomic_open
    from tinygpt.files.locate import named_run
    from tinygpt.runtime.streams import print_json, say
    from tinygpt.study.replay import FIGURES, Rerun, cost

    if options.save and options.save.suffix != ".npz":
        raise ValueError(f"--save must be a .npz file, got {options.save.name}")
    rerun = Rerun(named_run(options.run_folder), progress=not options.quiet)
    step = rerun.checked(options.step)
    if not options.quiet:
        say(f"tinygpt: replay: {cost(rerun, step)}")
    found = rerun.replay(step, options.values or (["*"] if options.save else []))
    if options.save:
        with atomic_open(options.save) as file:
            np.savez(file, allow_pickle=False, **found.values)
    if options.json:
        figures = {name: getattr(found, name) for name in ("step", "start", *FIGURES, "logged", "differing")}
        print_json(figures | {"values": {name: _figures(array) for name, array in found.values.items()}}, indent=1)
        return int(bool(found.differing))
    lines = _table(found)
    if options.values:
        width = max(map(len, found.values))
        lines += [f"{'':{width}} {'shape':>14} {'min':>12} {'max':>12} {'norm':>12}"]
        lines += [_line(name, array, width) for name, array in found.values.items()]
    print("\n".join(lines))
    if options.save:
        print(options.save)
    return int(bool(found.differing))


def _table(found: Replay) -> list[str]:
    """The figures of the step, and of the log."""
    from tinygpt.study.replay import FIGURES

    lines = [f"step {found.step:<10} {'replayed':24} {'in the log':24}".rstrip()]
    for name in FIGURES:
        in_the_log = "no line" if found.logged is None else repr(found.logged[name])
        note = "differs" if name in found.differing else "equal" if found.logged else ""
        lines.append(f"{name.replace('_', ' '):15} {getattr(found, name)!r:24} {in_the_log:24} {note}".rstrip())
    if found.differing:
        lines.append("the log was written on another kind of processor, by another version of tinygpt, or was changed")
    return lines


def _line(name: str, array: np.ndarray, width: int) -> str:
    figures = _figures(array)
    shape = "x".join(map(str, array.shape)) or "number"
    sizes = " ".join("-".rjust(12) if (f := figures[each]) is None else f"{f:12.5g}" for each in ("min", "max", "norm"))
    note = f" {figures['not_finite']} not finite" if figures["not_finite"] else ""
    return f"{name:{width}} {shape:>14} {sizes}{note}"


def _figures(array: np.ndarray) -> dict[str, Any]:
    """What is said of a value; min, max and norm are those of its finite numbers."""
    import numpy as np

    finite = array[np.isfinite(array)].astype(np.float64)
    least, most, norm = (finite.min(), finite.max(), np.sqrt(np.square(finite).sum())) if finite.size else [np.nan] * 3
    return {"shape": list(array.shape), "dtype": str(array.dtype), "not_finite": int(array.size - finite.size),
            **{name: float(figure) if finite.size else None
               for name, figure in (("min", least), ("max", most), ("norm", norm))}}  # fmt: skip

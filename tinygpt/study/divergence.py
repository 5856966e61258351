"""
The first operation where two implementations differ.

One batch goes through a model under each. A watch keeps every result of every operation, forward and backward, and the
two lists are compared from the beginning:

    numpy       the reference in float32          float64     the reference, the model in float64
    kernels     the compiled kernels              bfloat16    the kernels with products of bfloat16 operands
    transformers   GPT2LMHeadModel in float32, where it is installed: the outputs of its modules, and the gradients
                   of its parameters; they are compared where both sides have them

Both run the same operations in the same order, so that the first place where the gap is beyond rounding is the
operation to look at: later ones only propagate the difference.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from tinygpt.autograd.rounding import relative_gap
from tinygpt.autograd.watch import watching
from tinygpt.gpt2.model import GPT
from tinygpt.runtime import settings
from tinygpt.study import transformers_twin
from tinygpt.study.recorder import Recorder
from tinygpt.study.trace_result import Result

SIDES = ("kernels", "numpy", "float64", "bfloat16", "transformers")
ROUNDING = {"bfloat16": 1e-1}  # the allowed difference as a share of the largest number, where it is not FLOAT32
FLOAT32 = 1e-3


class Gap(NamedTuple):
    """The gap between two sides at one operation, as a share of the largest number there."""

    where: str
    direction: str
    gap: float
    allowed: float

    @property
    def differs(self) -> bool:
        """Whether the gap is more than rounding explains."""
        return not self.gap <= self.allowed


def trace(model: GPT, tokens: Any, targets: Any, side: str) -> list[Result]:
    """
    All results of a forward and a backward pass of the loss, in the order in which they were computed.

    Raises
    ------
    ValueError
        If there is no such side.
    """
    if side not in SIDES:
        raise ValueError(f"diff: an implementation must be one of {', '.join(SIDES)}, got {side!r}")
    if side == "transformers":
        return transformers_twin.trace(model, np.asarray(tokens), np.asarray(targets))
    ours = GPT(model.config, dtype=np.float64 if side == "float64" else np.float32).eval()
    ours.load_state_dict({name: array.astype(ours.wte.weight.dtype) for name, array in model.state_dict().items()})
    precision = settings.float32_matmul_precision("medium" if side == "bfloat16" else "highest")
    implementation = settings.implementation("kernels" if side in ("kernels", "bfloat16") else "numpy")
    recorder = Recorder(ours)
    with precision, implementation, watching(recorder):
        ours.loss(tokens, targets).backward()
    return recorder.results + [Result(name, "gradient", [np.asarray(p.grad)]) for name, p in ours.named_parameters()]


def compare(a: list[Result], b: list[Result], allowed: float) -> list[Gap]:
    """The gap at each operation that both sides have, up to the first at which it is beyond what is allowed."""
    gaps = []
    others = dict(_numbered(b))
    for place, mine in _numbered(a):
        theirs = others.get(place)
        if theirs is None:
            continue
        pairs = zip(mine.arrays, theirs.arrays, strict=True)
        gap = max((_gap(np.asarray(x, np.float64), np.asarray(y, np.float64)) for x, y in pairs), default=0.0)
        gaps.append(Gap(mine.where, mine.direction, gap, allowed))
        if gaps[-1].differs:
            break
    return gaps


def _numbered(results: list[Result]) -> Iterator[tuple[tuple[str, str, int], Result]]:
    """Each result with its place: a block adds twice, and these are two places."""
    seen: Counter[tuple[str, str]] = Counter()
    for result in results:
        place = (result.where, result.direction)
        seen[place] += 1
        yield (*place, seen[place]), result


def allowed_between(a: str, b: str) -> float:
    """What rounding may explain between two sides."""
    return max(ROUNDING.get(side, FLOAT32) for side in (a, b))


def _gap(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.max(relative_gap(x, y), initial=0)) if x.shape == y.shape else np.inf

"""
Where two implementations part: one batch goes through a model under each, every result of every operation is kept,
forward and backward, and the two lists are compared from the beginning.

    numpy       the reference in float32          float64     the reference, the model in float64
    kernels     the compiled kernels              bfloat16    the kernels with products of bfloat16 factors
    transformers   GPT2LMHeadModel in float32, where it is installed: what its modules give forward, and the gradients
                   of its parameters; they are compared where both sides have them

Both run the same operations in the same order, so that the first place where the gap is beyond rounding is the
operation to look at: what comes after only carries it on.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from tinygpt import nn
from tinygpt.autograd import tensor
from tinygpt.autograd.dispatch import Rule, rule_of
from tinygpt.autograd.graph import WRITTEN, Op
from tinygpt.autograd.rounding import relative_gap
from tinygpt.gpt2.model import GPT
from tinygpt.runtime import settings
from tinygpt.runtime.memory import Slot
from tinygpt.study import transformers_twin
from tinygpt.study.trace_result import Result

SIDES = ("kernels", "numpy", "float64", "bfloat16", "transformers")
ROUNDING = {"bfloat16": 1e-1}  # what two sides may differ by, as a share of the largest number, unless a side is here
FLOAT32 = 1e-3


class Gap(NamedTuple):
    """How far two sides are apart at one operation, as a share of the largest number there."""

    where: str
    direction: str
    gap: float
    allowed: float

    @property
    def parted(self) -> bool:
        """Whether that is more than rounding."""
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
    with precision, implementation, _recording(ours) as results:
        ours.loss(tokens, targets).backward()
        results += [Result(name, "gradient", [np.asarray(p.grad)]) for name, p in ours.named_parameters()]
    return results


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
        if gaps[-1].parted:
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


@contextlib.contextmanager
def _recording(model: GPT) -> Iterator[list[Result]]:
    """Keep a copy of what every operation gives, and know in which part of the model it runs."""
    names = {id(module): name for name, module in _modules(model)}
    results: list[Result] = []
    inside: list[str] = []
    call, original = nn.Module.__call__, tensor.rule_of

    def named_call(module: Any, *args: Any, **kwargs: Any) -> Any:
        inside.append(names.get(id(module), ""))
        try:
            return call(module, *args, **kwargs)
        finally:
            inside.pop()

    def recorded(op: Op, arrays: Any, attrs: Any) -> Rule:
        where = f"{inside[-1]}: {op.name}" if inside and inside[-1] else op.name
        return _recorded(rule_of(op, arrays, attrs), where, results)

    nn.Module.__call__, tensor.rule_of = named_call, recorded  # type: ignore[method-assign,assignment]
    try:
        yield results
    finally:
        nn.Module.__call__, tensor.rule_of = call, original  # type: ignore[method-assign]


def _modules(module: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, child in module.children():
        yield prefix + name, child
        yield from _modules(child, f"{prefix}{name}.")


def _recorded(rule: Rule, where: str, results: list[Result]) -> Rule:
    inputs: list[np.ndarray] = []

    def forward(arrays: Any, attrs: Any, parents: Any) -> tuple[Any, Any]:
        inputs.extend(arrays)
        out, saved = rule.forward(arrays, attrs, parents)
        results.append(Result(where, "forward", [np.array(out)]))
        return out, saved

    def backward(dout: np.ndarray, saved: Any, destinations: Any) -> list[Any]:
        memory = [np.full(array.shape, np.nan, array.dtype) for array in inputs]
        slots = [
            None if slot is None else (lambda i=i: Slot(memory[i], add=False)) for i, slot in enumerate(destinations)
        ]
        written = rule.backward(dout, saved, slots)
        gradients = [memory[i] if gradient is WRITTEN else gradient for i, gradient in enumerate(written)]
        kept = [i for i, slot in enumerate(slots) if slot is not None]
        results.append(Result(where, "backward", [np.array(gradients[i]) for i in kept]))
        return gradients

    return Rule(forward, backward)

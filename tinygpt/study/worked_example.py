"""
A worked example of an operation: what each statement of its reference computes for small inputs, forward and backward,
and the check of the gradients against differences of the loss.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tinygpt.autograd.gradient_check import numeric_gradient
from tinygpt.autograd.graph import Op
from tinygpt.files.one_line import described
from tinygpt.study.checks import BOUNDS, farthest, input_names
from tinygpt.study.examples import dout_for
from tinygpt.study.layout import named, titled, wrapped
from tinygpt.study.samples import Sample
from tinygpt.study.statements import Statement, numbered, plain, statements

_STEP = 1e-6
_MARGIN = 8  # columns for the number of a step


def worked_example(op: Op, sample: Sample) -> Iterator[str]:
    """What each statement computes for small inputs and a random `dout`, the gradients, and whether they are right."""
    names = input_names(op, len(sample.arrays))
    given = [named(name, value) for name, value in (*zip(names, sample.arrays, strict=True), *sample.attrs.items())]
    yield titled("Example, forward", "\n".join(given))
    dout_name = next(iter(inspect.signature(op.backward).parameters), "dout")
    out_name = dout_name[1:] if dout_name.startswith("d") and len(dout_name) > 1 else "out"
    direction, seen = "forward", dict[str, Any]()
    try:
        (out, saved), said = _traced(op.forward, lambda: op.forward(*sample.arrays, **sample.attrs), seen)
        yield from said
        if not said or named(out_name, out, _MARGIN) not in said[-1]:
            yield titled("Result", named(out_name, out))
        direction, dout = "backward", dout_for(out)
        yield titled(f"Example, backward, for a random gradient of {out_name}", named(dout_name, dout))
        result, said = _traced(op.backward, lambda: op.backward(dout, saved), seen)
        yield from said
        if len(result) != len(names):
            raise ValueError(f"must return one gradient for each input, {len(names)} in all, got {len(result)}")
        gradients = dict(zip((f"d{name}" for name in names), result, strict=True))
        yield titled("Gradients", "\n".join(named(name, gradient) for name, gradient in gradients.items()))
        yield _differences(op, sample, dout, gradients, f"sum({dout_name} * {out_name})")
    except Exception as error:  # a user's op may do anything
        yield f"{op.name}, {direction}: {described(error)}"


def _traced(function: Callable, run: Callable[[], Any], seen: dict[str, Any]) -> tuple[Any, list[str]]:
    """
    Run a function; what it returns, and what each of its statements computed, if they have numbers.

    `seen` holds the values that were shown before, by name, which are not shown again; those shown now are added.
    """
    said: list[str] = []
    if not numbered(function):
        return run(), said
    by_line = {line: each for each in statements(function) for line in range(each.first, each.last + 1)}
    before: dict[str, Any] = {}
    last: list[Statement | None] = [None]

    def look(frame: Any, event: str, _: Any) -> Any:
        if frame.f_code is not plain(function).__code__:
            return None
        statement = by_line.get(frame.f_lineno)
        if event in ("line", "return") and last[0] is not None and (statement is not last[0] or event == "return"):
            said.extend(_told(last[0], before, frame.f_locals, seen))
        if statement is not last[0] or event == "call":
            before.clear()
            before.update({name: _kept(value) for name, value in frame.f_locals.items()})
        last[0] = statement
        return look

    previous = sys.gettrace()
    sys.settrace(look)
    try:
        return run(), said
    finally:
        sys.settrace(previous)


def _told(statement: Statement, before: dict[str, Any], now: dict[str, Any], seen: dict[str, Any]) -> list[str]:
    """The names that a statement changed; none for one that only unpacks `saved`, or returns without a step number."""
    returns = statement.text.startswith("return")
    if statement.text.endswith("= saved") or (returns and not statement.steps):
        return []
    lines = []
    for name, value in now.items():
        if name != "_" and (name not in before or _differ(before[name], value)):
            if isinstance(value, np.ndarray) and name in seen and not _differ(seen[name], value):
                lines.append(f"{' ' * _MARGIN}{name} {value.shape} as in forward")
            else:
                lines.append(named(name, value, _MARGIN))
            seen[name] = _kept(value)
    if not lines and not returns:
        return []
    return ["\n".join([*wrapped(f"{statement.label:<{_MARGIN}}", statement.text), *lines])]


def _kept(value: Any) -> Any:
    return value.copy() if isinstance(value, np.ndarray) else value


def _differ(a: Any, b: Any) -> bool:
    if isinstance(b, np.ndarray) or isinstance(a, np.ndarray):
        return np.shape(a) != np.shape(b) or np.asarray(a).tobytes() != np.asarray(b).tobytes()
    return a is not b


def _differences(op: Op, sample: Sample, dout: np.ndarray, gradients: dict[str, Any], loss_is: str) -> str:
    """The example's gradients beside central differences of its loss."""
    arrays = [np.array(array, np.float64) for array in sample.arrays]

    def loss() -> float:
        return float(np.sum(op.forward(*arrays, **sample.attrs)[0] * dout))

    lines = []
    for array, (name, gradient) in zip(arrays, gradients.items(), strict=True):
        if np.shape(gradient) != array.shape:
            lines.append(f"    {name:16}  WRONG: shape {np.shape(gradient)}, required {array.shape}")
            continue
        numeric = numeric_gradient(loss, array, _STEP)
        error, _ = farthest(gradient, numeric, floor=1e-3)
        right = error <= BOUNDS["reference"]
        at = np.unravel_index(np.argmax(np.abs(gradient if right else gradient - numeric)), array.shape)
        index = f"[{', '.join(map(str, at))}]" if at else ""
        lines.append(f"    {name + index:16}  {gradient[at]:12.8f}  {numeric[at]:12.8f}    "
                     f"largest error of {array.size}: {error:.1e}, {'right' if right else 'WRONG'}")  # fmt: skip
    return titled(
        "Check: is each gradient the slope of the loss?",
        f"    The loss is {loss_is}. Each element of each input is moved up and down by h = {_STEP:.0e};\n"
        "    its difference is (loss above - loss below) / 2h. For each gradient: its largest element, or one\n"
        "    that is wrong, beside its difference, and the largest error of all elements, as a share of the\n"
        "    largest element.\n\n"
        f"    {'':16}  {'backward':>12}  {'difference':>12}\n" + "\n".join(lines),
    )

"""
Where the time of a training step goes: a watch that times every operation, forward and backward, and what a step does
outside of the graph.

Every time is what a function took itself, without those that it called: an operation's kernel or reference; AdamW's
update, and the Python around it. So the rows add up to the whole, and what is in none of them, the engine and the
model's Python between two operations, is the last row, "everything else". With `implementation("numpy")` the engine's
own sums of gradients are there, too.

A row has the rate at which its work (work.py) was done: of a kernel that computes gradients in its forward, all of it
forward. Threads of the kernels work inside of their kernel's time; other threads of Python are not watched.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from tinygpt.autograd.graph import Op
from tinygpt.autograd.watch import Watch, replace_functions, watching
from tinygpt.runtime import settings
from tinygpt.study.work import FUNCTIONS, Work, work

KINDS = {"kernel": "kernel", "numpy": "NumPy", "python": "Python"}  # of code, and how the table has them


class Row(NamedTuple):
    """
    What one function did, per step.

    Attributes
    ----------
    name : str
        "linear forward", the kernel; "linear_forward", the reference; "Optimizer.step".
    operation, direction : str
        "linear" and "forward" or "backward"; both empty for what is no operation.
    code : {"kernel", "numpy", "python"}
    calls, ms, share : float
        Of a step; `share` is that of its time.
    rate : float or None
        Operations or bytes per second, as `unit` says; None where the work is not known.
    unit : {"flops", "bytes", ""}
    of_peak : float or None
        The rate as a share of the machine's peak, where that was measured.
    """

    name: str
    operation: str
    direction: str
    code: str
    calls: float
    ms: float
    share: float
    rate: float | None = None
    unit: str = ""
    of_peak: float | None = None


_Key = tuple[str, str, str, str]  # the first fields of a row


class _Sum:
    """Calls, time and work of one function so far."""

    __slots__ = ("calls", "ns", "unit", "work")

    def __init__(self) -> None:
        self.calls = self.ns = 0
        self.work, self.unit = 0.0, ""


class Profile(Watch):
    """
    What `profile` has measured.

    Attributes
    ----------
    steps : int
        How often `step` was called; 0: the block counts as one.
    peak : dict or None
        Set it to `kernels.rates.rates()`, which takes some seconds, and the rows have their share of it.
    """

    def __init__(self) -> None:
        self.steps = 0
        self.peak: dict[str, float] | None = None
        self._sums: dict[_Key, _Sum] = {}
        self._total = 0
        self._inner: list[int] = []  # per function that runs: the time of those that it called; empty: nothing runs
        self._thread = 0
        self._precision = "highest"

    def step(self) -> None:
        """A step has ended: figures are per step."""
        self.steps += 1

    @property
    def ms(self) -> float:
        """Milliseconds of a step."""
        return self._total / max(self.steps, 1) / 1e6

    @property
    def python_share(self) -> float:
        """The share of the time that is neither inside a kernel nor inside a NumPy function of an operation."""
        return sum(row.share for row in self.rows() if row.code == "python")

    def rows(self) -> list[Row]:
        """One row for each function: operations, the most expensive first; then the rest of a step."""
        groups: dict[str, int] = {}
        for (_, operation, _, _), total in self._sums.items():
            groups[operation] = groups.get(operation, 0) + total.ns

        def place(key: _Key) -> tuple[Any, ...]:
            _, operation, direction, _ = key
            return not operation, -groups[operation], operation, direction != "forward", -self._sums[key].ns

        order = sorted(self._sums, key=place)
        rows = [self._row(key, self._sums[key]) for key in order]
        rest = _Sum()
        rest.ns = self._total - sum(total.ns for total in self._sums.values())
        return [*rows, self._row(("everything else", "", "", "python"), rest)]

    def _row(self, key: _Key, total: _Sum) -> Row:
        steps, rate, of_peak = max(self.steps, 1), None, None
        if total.work and total.ns:
            rate = total.work / total.ns * 1e9
        if rate is not None and self.peak is not None:
            product = "bfloat16_gflops" if self._precision == "medium" and key[3] == "kernel" else "float32_gflops"
            of_peak = rate / 1e9 / self.peak["read_gbytes" if total.unit == "bytes" else product]
        return Row(*key, total.calls / steps, total.ns / steps / 1e6, total.ns / (self._total or 1), rate,
                   total.unit if rate is not None else "", of_peak)  # fmt: skip

    def __str__(self) -> str:
        rows = self.rows()
        peak = f"{'of peak':>10}" if self.peak is not None else ""
        lines = [f"{'':30}{'code':6}{'calls':>5}{'ms':>10}{'share':>7}{'rate':>9}{peak}"]
        lines += [_line(row) for row in rows]
        lines.append(f"{'a step' if self.steps else 'the block':41}{self.ms:10.3f}{1:7.1%}")
        parts = dict.fromkeys(("forward", "backward", "optimizer", "Python"), 0.0)
        for row in rows:
            parts["Python" if row.code == "python" else row.direction or "optimizer"] += row.share
        lines += ["", ", ".join(f"{part} {share:.1%}" for part, share in parts.items())]
        if any((row.of_peak or 0) > 1 and row.unit == "bytes" for row in rows):
            lines.append("Above 100%: the data was still in the caches, which are faster than memory.")
        return "\n".join(lines)

    # The watch: what runs is replaced by the same, timed.

    def operation(self, op: Op) -> Op:
        """`op`, whose reference is timed; its backward may run without a kernel's."""
        cost: Work | None = None

        def forward(*arrays: Any, **attrs: Any) -> Any:
            nonlocal cost
            cost = _work(op, str(getattr(op.forward, "__module__", "")), arrays, attrs)
            key = (_reference_name(op, op.forward, "forward"), op.name, "forward", "numpy")
            return self._run(key, _forward(cost), op.forward, arrays, attrs)

        def backward(dout: np.ndarray, saved: Any) -> Any:
            key = (_reference_name(op, op.backward, "backward"), op.name, "backward", "numpy")
            return self._run(key, _backward(cost), op.backward, (dout, saved), {})

        return op._replace(forward=forward, backward=backward)

    def kernel(self, op: Op, kernel: Any) -> Any:
        """`kernel`, timed."""
        cost: Work | None = None

        def forward(*arrays: Any, **attrs: Any) -> Any:
            nonlocal cost
            cost = _work(op, str(op.kernel), arrays, attrs)
            amount, unit = _forward(cost)
            if "reserved" in attrs:  # it computes gradients as well
                amount += _backward(cost, attrs["reserved"])[0]
                cost = None
            key = (f"{op.name} forward", op.name, "forward", "kernel")
            return self._run(key, (amount, unit), kernel.forward, arrays, attrs)

        def backward(dout: np.ndarray, saved: Any, into: Any) -> None:
            key = (f"{op.name} backward", op.name, "backward", "kernel")
            self._run(key, _backward(cost, into), kernel.backward, (dout, saved, into), {})

        return replace_functions(kernel, forward, backward)

    def function(self, function: Callable[..., Any], code: str) -> Callable[..., Any]:
        """`function`, timed."""
        where, name = (str(getattr(function, each, function)) for each in ("__module__", "__qualname__"))
        passes = FUNCTIONS.get(f"{where}.{name}", 0)
        name = name.partition(".<locals>")[0].lstrip("_")
        key = (f"{where.rpartition('.')[2]} {name}" if code == "kernel" else name, "", "", code)

        def run(*args: Any, **kwargs: Any) -> Any:
            amount = (float(passes * args[0].nbytes), "bytes") if passes else (0.0, "")
            return self._run(key, amount, function, args, kwargs)

        return run

    def _run(
        self, key: _Key, amount: tuple[float, str], function: Callable[..., Any], args: Any, kwargs: dict[str, Any]
    ) -> Any:
        if not self._inner or threading.get_ident() != self._thread:
            return function(*args, **kwargs)
        self._inner.append(0)
        start = time.perf_counter_ns()
        try:
            return function(*args, **kwargs)
        finally:
            taken, inner = time.perf_counter_ns() - start, self._inner.pop()
            self._inner[-1] += taken
            if inner and key[3] == "numpy":
                key = (*key[:3], "python")  # an operation around others, such as `recompute`
            total = self._sums.get(key) or self._sums.setdefault(key, _Sum())
            total.calls += 1
            total.ns += taken - inner
            total.work += amount[0]
            total.unit = amount[1] or total.unit


@contextlib.contextmanager
def profile(into: Profile | None = None) -> Iterator[Profile]:
    """
    Measure where the time of this block goes, in this thread and asyncio task.

    The first run of a kernel compiles it: run a step or two before.

    Parameters
    ----------
    into : Profile, optional
        One that goes on, in place of a new one.

    Yields
    ------
    Profile
        Print it, or take its `rows`. Call its `step` after each step, and the figures are per step.

    Examples
    --------
    >>> from tinygpt import GPT, AdamW, GPTConfig
    >>> model = GPT(GPTConfig(vocab_size=11, n_positions=8, n_embd=4, n_layer=3, n_head=2))
    >>> optimizer = AdamW(model.parameters())
    >>> with profile() as found:
    ...     for _ in range(20):
    ...         model.loss([[1, 2, 3]], [[2, 3, 4]]).backward()
    ...         optimizer.step()
    ...         optimizer.zero_grad()
    ...         found.step()
    >>> {row.direction: row.calls for row in found.rows() if row.operation == "attention"}  # one for each layer
    {'forward': 3.0, 'backward': 3.0}
    """
    found = Profile() if into is None else into
    if found._inner:
        raise ValueError("profile: this Profile is measuring already; give each block its own, or one after the other")
    found._precision, found._thread = settings.get_float32_matmul_precision(), threading.get_ident()
    with watching(found):
        found._inner.append(0)
        start = time.perf_counter_ns()
        try:
            yield found
        finally:
            found._total += time.perf_counter_ns() - start
            found._inner.clear()


def _line(row: Row) -> str:
    calls = "" if not row.calls else f"{row.calls:.0f}" if row.calls == int(row.calls) else f"{row.calls:.1f}"
    text = f"{row.name:29} {KINDS[row.code]:6}{calls:>5}{row.ms:10.3f}{row.share:7.1%}"
    if row.rate is not None:
        rate = row.rate / 1e9
        digits = 0 if rate >= 10 else 1 if rate >= 1 else 2
        text += f"{rate:>6,.{digits}f} {'GB/s' if row.unit == 'bytes' else 'GFLOP/s':7}"
    if row.of_peak is not None:
        text += f"{row.of_peak:5.0%}"
    return text.rstrip()


def _reference_name(op: Op, function: Callable[..., Any], direction: str) -> str:
    """The function's own name, if it says which operation it is of."""
    name = getattr(function, "__name__", "")
    return name if op.name in name else f"{op.name} {direction}"


def _work(op: Op, where: str, arrays: Sequence[Any], attrs: dict[str, Any]) -> Work | None:
    """None for an operation of the user's own, of whatever name, and for other numbers than those of the peak."""
    if not where.startswith("tinygpt.") or arrays[0].dtype != np.float32:
        return None
    return work(op.name, [array.shape for array in arrays], attrs)


def _forward(cost: Work | None) -> tuple[float, str]:
    return (0.0, "") if cost is None else (cost.forward, cost.unit)


def _backward(cost: Work | None, wanted: Sequence[Any] | None = None) -> tuple[float, str]:
    if cost is None:
        return 0.0, ""
    wanted = cost.gradients if wanted is None else wanted
    return sum(amount for amount, slot in zip(cost.gradients, wanted, strict=False) if slot is not None), cost.unit

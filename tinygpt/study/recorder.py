"""What the operations of a model compute while it runs, forward and backward, in the order in which they do."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tinygpt.autograd.graph import Op
from tinygpt.autograd.watch import Watch, replace_functions
from tinygpt.runtime.memory import Slot
from tinygpt.study.trace_result import Result


class Recorder(Watch):
    """
    Keeps a copy of the results of operations, with the module of the model in which each runs.

    Parameters
    ----------
    model : Module
        Whose modules give the places their names.
    wanted : callable
        Of the place and the direction of a result: whether to keep it. All are kept without it.

    Attributes
    ----------
    results : list of Result

    Examples
    --------
    >>> from tinygpt import GPT, GPTConfig
    >>> from tinygpt.autograd.watch import watching
    >>> model = GPT(GPTConfig(vocab_size=11, n_positions=8, n_embd=4, n_layer=1, n_head=2)).eval()
    >>> recorder = Recorder(model, lambda where, direction: direction == "forward" and "mlp" in where)
    >>> with watching(recorder):
    ...     model.loss([[1, 2]], [[2, 3]]).backward()
    >>> [result.where for result in recorder.results]
    ['h.0.mlp.c_fc: linear', 'h.0.mlp.c_proj: gelu_linear']
    """

    def __init__(self, model: Any, wanted: Callable[[str, str], bool] = lambda where, direction: True) -> None:
        self.results: list[Result] = []
        self._wanted = wanted
        self._names = {id(module): name for name, module in model.named_modules()}
        self._inside: list[str] = []

    @contextlib.contextmanager
    def module(self, module: Any) -> Iterator[None]:
        """The block of a module's forward."""
        self._inside.append(self._names.get(id(module), ""))
        try:
            yield
        finally:
            self._inside.pop()

    def operation(self, op: Op) -> Op:
        """`op`, whose reference is recorded."""
        where = self._place(op)

        def forward(*arrays: Any, **attrs: Any) -> Any:
            out, saved = op.forward(*arrays, **attrs)
            self._keep(where, "forward", [out])
            return out, saved

        def backward(dout: np.ndarray, saved: Any) -> Any:
            gradients = op.backward(dout, saved)
            self._keep(where, "backward", gradients)
            return gradients

        return op._replace(forward=forward, backward=backward)

    def kernel(self, op: Op, kernel: Any) -> Any:
        """`kernel`, recorded: its backward writes into memory of its own, which the slots then receive."""
        where = self._place(op)

        def forward(*arrays: Any, **attrs: Any) -> Any:
            out, saved = kernel.forward(*arrays, **attrs)
            self._keep(where, "forward", [out])
            return out, saved

        def backward(dout: np.ndarray, saved: Any, into: Any) -> None:
            own = [None if slot is None else Slot(np.full_like(slot.array, np.nan), add=False) for slot in into]
            kernel.backward(dout, saved, own)
            self._keep(where, "backward", [slot.array for slot in own if slot is not None])
            for slot, written in zip(into, own, strict=True):
                if slot is not None and written is not None:
                    slot.write(written.array)

        return replace_functions(kernel, forward, backward)

    def _place(self, op: Op) -> str:
        return f"{self._inside[-1]}: {op.name}" if self._inside and self._inside[-1] else op.name

    def _keep(self, where: str, direction: str, arrays: Any) -> None:
        if self._wanted(where, direction):
            self.results.append(Result(where, direction, [np.array(array) for array in arrays]))

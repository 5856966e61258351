"""
The record of a computation, and the walk back through it: the chain rule.

An operation is a pair of plain NumPy functions, and nothing else:

    forward(*arrays, **attrs) -> out, saved          what it computes, and what its backward will need
    backward(dout, saved)     -> one gradient per array

Running a forward leaves a `Node` behind. The nodes form the graph: each knows the nodes of its inputs, and none knows
its tensor or its consumers, so there is no reference cycle and memory dies with the last tensor that uses it.

`walk_back` is the chain rule over that graph. If L depends on x through the outputs y1, y2, ... then

    dL/dx = sum over consumers k of  (dL/dyk) (dyk/dx)

so a node's gradient is complete once every consumer has added its share. A consumer is always created after what it
consumes: going through the nodes from the newest to the oldest, with a heap, visits each exactly when it is complete.
No recursion, so a chain of 100,000 operations is no deeper than one of ten.
"""

from __future__ import annotations

import heapq
import itertools
import zlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from tinygpt import runtime
from tinygpt.buffers import GradientCell, Holders, Slot


class Op(NamedTuple):
    """
    An operation: its name, its definition, its derivation, and the fast twin of both where there is one.

    Attributes
    ----------
    name : str
        What errors and reports call it.
    forward : callable
        ``forward(*arrays, **attrs) -> (out, saved)``; mutates nothing, takes float32 and float64.
    backward : callable
        ``backward(dout, saved) -> (dinput_0, dinput_1, ...)``, each with its input's shape and dtype. Results may be
        `dout` itself or a view of it; the engine never writes into what two gradients share.
    kernel : optional
        An object with a `forward` and a `backward` of its own, taken when the implementation is "kernels".
    """

    name: str
    forward: Callable[..., tuple[Any, Any]]
    backward: Callable[[np.ndarray, Any], tuple[Any, ...]]
    kernel: Any = None


_creation = itertools.count()
_FREED = object()


class Node:
    """What backward needs to know about one tensor. `op` is None for a leaf, which keeps its gradient instead."""

    __slots__ = ("backward", "checksum", "dtype", "grad", "hooks", "keeps_grad", "memory", "op", "order", "parents",
                 "saved", "shape")  # fmt: skip

    def __init__(self, array: np.ndarray, op: Op | None = None, parents: tuple[Node | None, ...] = ()) -> None:
        self.order = next(_creation)
        self.shape, self.dtype = array.shape, array.dtype
        self.op, self.parents = op, parents
        self.saved: Any = None
        self.backward: Any = None  # the rule that made it: that of the op, or of its kernel
        self.checksum = 0
        self.hooks: list[Callable[[np.ndarray], np.ndarray | None]] = []
        self.grad: np.ndarray | None = None
        self.keeps_grad = op is None
        self.memory: np.ndarray | None = None  # where the gradient must live: a parameter's slice of the flat array

    @property
    def name(self) -> str:
        """The op's name."""
        return "leaf" if self.op is None else self.op.name

    def deposit(self, cell: GradientCell) -> None:
        """Add a finished gradient to `grad`: into `memory` if there is one, else into an array of our own."""
        if self.memory is not None:
            Slot(self.memory, add=self.grad is not None).write(cell.array)
            self.grad = self.memory
        elif self.grad is None:
            self.grad = cell.take()
        else:
            np.add(self.grad, cell.array, out=self.grad)


def walk_back(root: Node, dout: np.ndarray, retain_graph: bool) -> None:
    """The chain rule, from the newest node to the oldest."""
    pending = {root: GradientCell(dout, Holders(1))}
    newest_first = [(-root.order, root)]
    while newest_first:
        node = heapq.heappop(newest_first)[1]
        cell = _run_hooks(node, pending.pop(node))
        if node.keeps_grad:
            node.deposit(cell if node.op is None else GradientCell(cell.array, Holders(2)))  # 2: op.backward needs it
        if node.op is None:
            continue
        for parent, share in _shares(node, cell):
            if parent.op is None and not parent.hooks:
                parent.deposit(share)  # a leaf needs no completion: write straight into its gradient
                share.release()
            elif parent in pending:
                pending[parent].add(share.array)
                share.release()
            else:
                pending[parent] = share
                heapq.heappush(newest_first, (-parent.order, parent))
        if not retain_graph:
            node.saved, node.parents = _FREED, ()


def _shares(node: Node, cell: GradientCell) -> list[tuple[Node, GradientCell]]:
    """Run one backward and give each parent its gradient, counting who holds the memory behind it."""
    name = node.name
    if node.saved is _FREED:
        raise ValueError(
            f"Tensor.backward: the graph through '{name}' (shape {node.shape}) was freed by an earlier backward; "
            "run the forward again, or pass retain_graph=True the first time"
        )
    if runtime.DEBUG and node.checksum != checksum(node.saved):
        raise RuntimeError(f"{name}: an array saved for backward was changed in place after the forward; copy it first")
    gradients = node.backward(cell.array, node.saved)
    got = len(gradients) if isinstance(gradients, (tuple, list)) else type(gradients).__name__
    if got != len(node.parents):
        raise ValueError(f"{name}.backward: must return a tuple of {len(node.parents)} gradients, got {got}")
    # Saved arrays are pinned by a holder of their own: a backward may return one, and nobody may write into it.
    holders = {_memory(array): Holders(1) for array in _arrays_in(node.saved)}
    holders[_memory(cell.array)] = cell.holders
    shares = []
    for index, (parent, gradient) in enumerate(zip(node.parents, gradients, strict=True)):
        if parent is not None:
            gradient = np.asarray(gradient)
            check_gradient(f"{name}.backward: input {index}", gradient, parent)
            shares.append((parent, GradientCell(gradient, holders.setdefault(_memory(gradient), Holders())).hold()))
    cell.release()
    return shares


def _arrays_in(saved: Any) -> Iterator[np.ndarray]:
    if isinstance(saved, np.ndarray):
        yield saved
    elif isinstance(saved, (tuple, list)):
        for item in saved:
            yield from _arrays_in(item)


def _memory(array: np.ndarray) -> int:
    """Names the block of memory behind an array: a view and its base have the same."""
    owner: Any = array
    while getattr(owner, "base", None) is not None:  # not always an array: as_strided puts an object in between
        owner = owner.base
    return id(owner)


def _run_hooks(node: Node, cell: GradientCell) -> GradientCell:
    for hook in list(node.hooks):
        replacement = hook(cell.array)
        cell.hold()  # the hook may have kept the array: from now on nobody writes into it
        if replacement is not None:
            array = np.asarray(replacement)
            check_gradient("hook", array, node)
            cell = GradientCell(array, Holders(2))
    return cell


def check_gradient(who: str, gradient: Any, node: Node) -> None:
    """Raise ValueError unless a gradient has the shape and dtype of the tensor that it belongs to."""
    if getattr(gradient, "shape", None) != node.shape or gradient.dtype != node.dtype:
        got = f"{gradient.dtype} {gradient.shape}" if hasattr(gradient, "shape") else type(gradient).__name__
        raise ValueError(f"{who}: the gradient must be {node.dtype} {node.shape}, like its tensor, got {got}")


def rule_of(op: Op) -> Op | Any:
    """The pair of functions that the current implementation runs for `op`."""
    implementation = runtime.current_implementation()
    if op.kernel is None or implementation == "numpy":
        return op
    return op.kernel if implementation == "kernels" else _both(op)


def _both(op: Op) -> Op:
    """Kernel and reference side by side, each with its own `saved`; an error where they part."""

    def forward(*arrays: np.ndarray, **attrs: Any) -> tuple[Any, Any]:
        out, kernel_saved = op.kernel.forward(*arrays, **attrs)
        reference_out, saved = op.forward(*arrays, **attrs)
        _compare(op.name, "forward", [out], [reference_out])
        return out, (kernel_saved, saved)

    def backward(dout: np.ndarray, saved: Any) -> tuple[Any, ...]:
        gradients = op.kernel.backward(dout, saved[0])
        _compare(op.name, "backward", gradients, op.backward(dout, saved[1]))
        return gradients

    return Op(op.name, forward, backward)


def _compare(name: str, direction: str, ours: Any, theirs: Any) -> None:
    kinds = [[f"{np.asarray(result).dtype} {np.shape(result)}" for result in results] for results in (ours, theirs)]
    if kinds[0] != kinds[1]:
        raise ValueError(f"{name}.{direction}: kernel gives {', '.join(kinds[0])}, reference {', '.join(kinds[1])}")
    for index, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        scale = np.max(np.abs(b), initial=0, where=np.isfinite(b))
        tolerance = (1e-4 if np.asarray(b).dtype == np.float32 else 1e-10) * scale
        if not np.allclose(a, b, rtol=0, atol=tolerance, equal_nan=True):
            gap = np.max(np.abs(np.asarray(a, np.float64) - b))
            raise ValueError(
                f"{name}.{direction}: kernel and reference disagree on result {index} by {gap:.3g}, "
                f"where {tolerance:.3g} is allowed; implementation('numpy') runs the reference alone"
            )


def checksum(saved: Any) -> int:
    """A number that changes when an array inside `saved` is edited in place."""
    if isinstance(saved, np.ndarray):
        return zlib.crc32(saved.tobytes())
    if isinstance(saved, (tuple, list)):
        return hash(tuple(checksum(item) for item in saved))
    return 0

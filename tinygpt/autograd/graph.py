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
import weakref
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from tinygpt.runtime import memory, settings
from tinygpt.runtime.memory import GradientCell, Holders, Loan, Slot


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
        The module that holds the fast twin of both, or its name (then it is imported when it is first needed), taken
        when the implementation is "kernels". See `autograd/dispatch.py` for what it offers.
    least : int
        Below so many numbers in its first input, the kernel is not worth its call, or its import.
    check : callable, optional
        ``check(*arrays, **attrs) -> attrs``: raises ValueError or TypeError unless forward and kernel can take these
        inputs, and returns the attributes in the form that they take. Kernels check no index, so every way to the op
        passes it; arrays that it returns must not be the caller's, who may change them before backward.
    """

    name: str
    forward: Callable[..., tuple[Any, Any]]
    backward: Callable[[np.ndarray, Any], tuple[Any, ...]]
    kernel: Any = None
    least: int = 0
    check: Callable[..., dict[str, Any]] | None = None

    def settled(self, arrays: Sequence[np.ndarray], attrs: dict[str, Any]) -> dict[str, Any]:
        """The attributes, checked, and with copies of the caller's arrays among them: backward must find them again."""
        if self.check is not None:
            return self.check(*arrays, **attrs)
        return {name: _own(value) for name, value in attrs.items()} if attrs else attrs


def _own(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.copy()
    if type(value) in (tuple, list):
        return type(value)(_own(item) for item in value)
    if isinstance(value, slice):
        return slice(_own(value.start), _own(value.stop), _own(value.step))
    return value


_creation = itertools.count()
_FREED = object()
WRITTEN = object()  # what a backward returns in place of a gradient that it has written into its slot


class Node:
    """What backward needs to know about one tensor. `op` is None for a leaf, which keeps its gradient instead."""

    __slots__ = ("__weakref__", "backward", "checksum", "dtype", "grad", "hooks", "keeps_grad", "memory", "op", "order",
                 "parents", "saved", "shape", "tenant")  # fmt: skip

    def __init__(self, array: np.ndarray, op: Op | None = None, parents: tuple[Node | None, ...] = ()) -> None:
        self.order = next(_creation)
        self.shape, self.dtype = array.shape, array.dtype
        self.op, self.parents = op, parents
        self.saved: Any = None
        self.backward: Any = None  # of the rule that made it, (dout, saved, destinations) -> gradients: see dispatch.py
        self.checksum = 0
        self.hooks: list[Callable[[np.ndarray], np.ndarray | None]] = []
        self.grad: np.ndarray | None = None
        self.keeps_grad = op is None
        self.memory: np.ndarray | None = None  # where the gradient must live: a parameter's slice of the flat array
        self.tenant: Callable[[], Loan | None] | None = None  # to whom `memory` is lent until backward comes

    @property
    def name(self) -> str:
        """The op's name."""
        return "leaf" if self.op is None else self.op.name

    def lend(self) -> Loan:
        """Memory for a share of this gradient that is computed ahead: its own place if that is free."""
        if self.memory is None or self.grad is not None or (self.tenant is not None and self.tenant() is not None):
            return Loan(memory.empty(self.shape, self.dtype))
        loan = Loan(self.memory)
        self.tenant = weakref.ref(loan)  # weak: a loss that nobody differentiates frees the place again
        return loan

    def reclaim(self, returned: Loan | None = None) -> None:
        """End the loan of `memory`; what it holds moves out, unless it is `returned` to be the gradient itself."""
        loan = None if self.tenant is None else self.tenant()
        if loan is not None and loan is not returned:
            loan.move_out()
        self.tenant = None

    def slot(self) -> Slot:
        """Memory for one more share of a leaf's gradient: from now on it counts as written."""
        self.reclaim()
        if self.grad is not None:
            return Slot(self.grad, add=True)
        self.grad = memory.empty(self.shape, self.dtype) if self.memory is None else self.memory
        return Slot(self.grad, add=False)

    def deposit(self, cell: GradientCell) -> None:
        """Add a finished gradient to `grad`: into `memory` if there is one, else into an array of our own."""
        self.reclaim()
        if self.memory is not None:
            Slot(self.memory, add=self.grad is not None).write(cell.array)
            self.grad = self.memory
        elif self.grad is None:
            self.grad = cell.take()
        else:
            np.add(self.grad, cell.array, out=self.grad)


def walk_back(root: Node, dout: np.ndarray, retain_graph: bool) -> None:
    """The chain rule, from the newest node to the oldest."""
    frontier = _Frontier()
    frontier.add(root, GradientCell(dout, Holders(1)))
    while frontier.newest_first:
        node, cell = frontier.next()
        cell = _run_hooks(node, cell)
        if node.keeps_grad:
            node.deposit(cell if node.op is None else GradientCell(cell.array, Holders(2)))  # 2: op.backward needs it
        if node.op is None:
            continue
        if retain_graph:
            for parent in node.parents:
                if parent is not None:
                    parent.reclaim()  # another backward will ask for what was computed ahead
        for parent, share in _shares(node, cell, frontier):
            frontier.add(parent, share)
        if not retain_graph:
            node.saved, node.parents = _FREED, ()


class _Frontier:
    """The nodes that some consumer has given a gradient to, and that wait for the others."""

    def __init__(self) -> None:
        self.pending: dict[Node, GradientCell] = {}
        self.newest_first: list[tuple[int, Node]] = []

    def next(self) -> tuple[Node, GradientCell]:
        """The newest node: all its consumers have been visited, so its gradient is complete."""
        node = heapq.heappop(self.newest_first)[1]
        return node, self.pending.pop(node)

    def add(self, node: Node, share: GradientCell) -> None:
        """Add one consumer's share to a node's gradient."""
        if _needs_no_completion(node):
            node.deposit(share)
            share.release()
        elif node in self.pending:
            self.pending[node].add(share.array)
            share.release()
        else:
            self._wait(node, share)

    def slot(self, node: Node) -> Slot:
        """Memory that a consumer may write or add its share to itself, in place of `add`."""
        if _needs_no_completion(node):
            return node.slot()
        if node not in self.pending:
            self._wait(node, GradientCell(memory.empty(node.shape, node.dtype), Holders(1)))
            return Slot(self.pending[node].array, add=False)
        cell = self.pending[node]
        before, cell.array = cell.array, cell.owned()
        if cell.array is not before:
            np.copyto(cell.array, before)
        return Slot(cell.array, add=True)

    def _wait(self, node: Node, cell: GradientCell) -> None:
        self.pending[node] = cell
        heapq.heappush(self.newest_first, (-node.order, node))


def _needs_no_completion(node: Node) -> bool:
    return node.op is None and not node.hooks  # a leaf: every share goes straight into its gradient


def _shares(node: Node, cell: GradientCell, frontier: _Frontier) -> list[tuple[Node, GradientCell]]:
    """Run one backward and give each parent its gradient, counting who holds the memory behind it."""
    name = node.name
    if node.saved is _FREED:
        raise ValueError(
            f"Tensor.backward: the graph through '{name}' (shape {node.shape}) was freed by an earlier backward; "
            "run the forward again, or pass retain_graph=True the first time"
        )
    if settings.DEBUG and node.checksum != checksum(node.saved):
        raise RuntimeError(f"{name}: an array saved for backward was changed in place after the forward; copy it first")
    destinations = [None if parent is None else partial(frontier.slot, parent) for parent in node.parents]
    before = checksum(cell.array) if settings.DEBUG else 0
    gradients = node.backward(cell.array, node.saved, destinations)
    if settings.DEBUG:
        _check_unchanged(node, cell.array, before)
    got = len(gradients) if isinstance(gradients, (tuple, list)) else type(gradients).__name__
    if got != len(node.parents):
        raise ValueError(f"{name}.backward: must return a tuple of {len(node.parents)} gradients, got {got}")
    # Saved arrays are pinned by a holder of their own: a backward may return one, and nobody may write into it.
    holders = {_memory(array): Holders(1) for array in arrays_in(node.saved)}
    holders[_memory(cell.array)] = cell.holders
    shares = []
    for index, (parent, gradient) in enumerate(zip(node.parents, gradients, strict=True)):
        if parent is not None and gradient is not WRITTEN:
            gradient = np.asarray(gradient)
            check_gradient(f"{name}.backward: input {index}", gradient, parent)
            shares.append((parent, GradientCell(gradient, holders.setdefault(_memory(gradient), Holders())).hold()))
    cell.release()
    return shares


def _check_unchanged(node: Node, dout: np.ndarray, before: int) -> None:
    """Raise RuntimeError where a backward has written into what others hold too."""
    for what, changed in (("dout", checksum(dout) != before), ("saved", checksum(node.saved) != node.checksum)):
        if changed:
            raise RuntimeError(
                f"{node.name}.backward: writes into {what}, which others hold too; compute into a new array"
            )


def arrays_in(saved: Any) -> Iterator[np.ndarray]:
    """The arrays in what a forward saved: an array, or tuples, lists and dicts of them."""
    if isinstance(saved, np.ndarray):
        yield saved
    elif isinstance(saved, (tuple, list, dict)):
        for item in saved.values() if isinstance(saved, dict) else saved:
            yield from arrays_in(item)


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


def checksum(saved: Any) -> int:
    """A number that changes when an array inside `saved` is edited in place."""
    if isinstance(saved, np.ndarray):
        return zlib.crc32(saved.tobytes())
    if isinstance(saved, (tuple, list, dict)):
        return hash(tuple(checksum(item) for item in (saved.values() if isinstance(saved, dict) else saved)))
    return 0

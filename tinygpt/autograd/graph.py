"""
The engine: what `reference.py` computes, for models whose memory counts.

The graph is made of nodes. Each knows the nodes of its inputs, and none knows its tensor or its consumers: there is no
reference cycle, and memory is freed with the last tensor that needs it. `walk_back` is the loop of
`reference.backward`: newest node first, its operation's backward, shares added in the same order, for as long as the
gradients of the leaves are empty when it begins. This file adds to the reference:

    memory     What a node saved, and its gradient, are freed once its backward has run, so that the memory of a step
               falls while backward goes on. A heap finds the newest node. An output that is quickly computed again,
               such as that of a layer norm, is not saved by those who read it: see `recomputed_outputs.py`.
    slots      A kernel writes its share, or adds it, into the array of the gradient itself, instead of returning an
               array that is added and thrown away.
    sharing    One array may be the gradient of several nodes, as long as it is only read: see `gradients.py`.
    hooks      `register_hook` sees a complete gradient and may replace it; `retain_grad` keeps that of an inner tensor;
               `retain_graph` keeps what was saved for another backward.
    errors     An error names the operation where a share has the wrong shape or dtype, where a freed graph is walked
               again, and where an array that backward needs was changed in place after the forward.

A leaf without hooks (a parameter) does not wait for its other consumers: each share is added at once to its `grad`,
which may hold the sum of earlier backwards.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from tinygpt.autograd.gradients import Accumulator, RefCount, SharedGradient
from tinygpt.autograd.hooks import Hooks
from tinygpt.autograd.recomputed_outputs import drop_outputs, restore_outputs
from tinygpt.runtime import memory, settings
from tinygpt.runtime.capture import run
from tinygpt.runtime.memory import Slot


class Op(NamedTuple):
    """
    An operation: its name, its forward, its backward, and a kernel for both where there is one.

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
    min_size : int
        The kernel runs only where the first input has at least so many elements: below, its call costs more than it
        saves, and a program that adds a few numbers need not import Numba.
    check : callable, optional
        ``check(*arrays, **attrs) -> attrs``: raises ValueError or TypeError unless forward and kernel can take these
        inputs, and returns the attributes in the form that they take. Every call of the op goes through it, since
        kernels check no index. It returns copies of the caller's arrays, which may change before backward.
    uses : tuple of tuples, optional
        For each input, the inputs whose values its gradient depends on: ``((1,), (0,))`` for a product. What no
        gradient that is computed depends on may change before backward. By default all inputs count.
    """

    name: str
    forward: Callable[..., tuple[Any, Any]]
    backward: Callable[[np.ndarray, Any], tuple[Any, ...]]
    kernel: Any = None
    min_size: int = 0
    check: Callable[..., dict[str, Any]] | None = None
    uses: tuple[tuple[int, ...], ...] | None = None

    def checked(self, arrays: Sequence[np.ndarray], attrs: dict[str, Any]) -> dict[str, Any]:
        """What `check` returns; without one, the attributes with their arrays copied, so that backward finds them."""
        if self.check is not None:
            return self.check(*arrays, **attrs)
        return {name: _copy_arrays(value) for name, value in attrs.items()} if attrs else attrs


def _copy_arrays(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.copy()
    if type(value) in (tuple, list):
        return type(value)(_copy_arrays(item) for item in value)
    if isinstance(value, slice):
        return slice(_copy_arrays(value.start), _copy_arrays(value.stop), _copy_arrays(value.step))
    return value


_clock = itertools.count()  # one number per node: no two have the same
_FREED = object()
WRITTEN = object()  # returned by a backward in place of a share that it has written into a slot


class Node(Accumulator):
    """The record of one tensor for backward. `op` is None for a leaf, which keeps its gradient."""

    __slots__ = (
        "__weakref__",
        "backward",
        "checksums",
        "exposed",
        "hooks",
        "keeps_grad",
        "needed",
        "op",
        "output",
        "parents",
        "saved",
        "time",
    )

    def __init__(self, array: np.ndarray, op: Op | None = None, parents: tuple[Node | None, ...] = ()) -> None:
        Accumulator.__init__(self, array.shape, array.dtype)  # super() takes longer, and there is a node per operation
        self.time = next(_clock)
        self.op, self.parents = op, parents
        self.saved: Any = None  # this and backward: set by `apply` in tensor.py
        self.backward: Any = None  # (dout, saved, destinations) -> shares; see dispatch.py
        self.output: Any = None  # saved -> the output again, or None: see recomputed_outputs.py
        self.exposed = False  # whether others have had the output's array, and may have written into it: see there
        self.needed: list[Any] = []  # the arrays of saved that must not change, and what they were
        self.checksums: list[int] = []
        self.hooks: Hooks = {}
        self.keeps_grad = op is None

    @property
    def name(self) -> str:
        """The op's name."""
        return "leaf" if self.op is None else self.op.name

    def remember(self, inputs: Sequence[np.ndarray]) -> None:
        """Remember what `saved` is now, for `_check_saved`, without the inputs that no gradient will depend on."""
        self.needed = arrays_in(self.saved)
        if self.op is not None and self.op.uses is not None and None in self.parents:
            pairs = zip(self.parents, self.op.uses, strict=True)
            used = {id(inputs[i]) for parent, uses in pairs if parent is not None for i in uses}
            unused = {id(array) for array in inputs} - used
            self.needed = [array for array in self.needed if id(array) not in unused]
        self.checksums = checksums(self.needed)
        drop_outputs(self, inputs)

    def check_not_freed(self) -> None:
        """Raise ValueError if a backward has run and nothing is saved any more."""
        if self.saved is _FREED:
            raise ValueError(
                f"Tensor.backward: the graph through '{self.name}' (shape {self.shape}) was freed by an earlier "
                "backward; run the forward again, or pass retain_graph=True the first time"
            )


def walk_back(root: Node, dout: np.ndarray, retain_graph: bool) -> None:
    """The chain rule, newest node first: `reference.backward`. `dout` must not be the caller's own array."""
    waiting = _Waiting()
    waiting.add(root, SharedGradient(dout, RefCount(1)))
    while waiting.heap:
        node, gradient = waiting.pop()
        if node.hooks:
            gradient = _run_hooks(node, gradient)
        if node.op is None:
            node.accumulate(gradient)
            continue
        if node.keeps_grad:
            node.accumulate(SharedGradient(gradient.array, RefCount(2)))  # 2: node.backward reads it, too
        if retain_graph:
            for parent in node.parents:
                if parent is not None:
                    parent.release()  # what a kernel computed during the forward is used again by the next backward
        for parent, share in _shares(node, gradient, waiting):
            waiting.add(parent, share)
        if not retain_graph:
            node.saved, node.needed, node.parents = _FREED, [], ()


class _Waiting:
    """The nodes that have a share from some consumer and wait for the others: `waiting` of the reference."""

    def __init__(self) -> None:
        self.gradients: dict[Node, SharedGradient] = {}
        self.heap: list[tuple[int, Node]] = []

    def pop(self) -> tuple[Node, SharedGradient]:
        """The newest node: all its consumers have been visited, so its gradient is complete."""
        node = heapq.heappop(self.heap)[1]
        return node, self.gradients.pop(node)

    def add(self, node: Node, share: SharedGradient) -> None:
        """Add one consumer's share to a node's gradient."""
        if _needs_no_wait(node):
            node.accumulate(share)
            share.decref()
        elif node in self.gradients:
            self.gradients[node].add(share.array)
            share.decref()
        else:
            self._push(node, share)

    def slot(self, node: Node) -> Slot:
        """Memory that a consumer writes its share into, in place of `add`."""
        if _needs_no_wait(node):
            return node.slot()
        if node not in self.gradients:
            self._push(node, SharedGradient(memory.empty(node.shape, node.dtype), RefCount(1)))
            return Slot(self.gradients[node].array, add=False)
        gradient = self.gradients[node]
        own = gradient.own_memory()
        if own is not gradient.array:
            run(np.copyto, own, gradient.array)
            gradient.array = own
        return Slot(own, add=True)

    def _push(self, node: Node, gradient: SharedGradient) -> None:
        self.gradients[node] = gradient
        heapq.heappush(self.heap, (-node.time, node))


def _needs_no_wait(node: Node) -> bool:
    return node.op is None and not node.hooks  # a leaf: every share is added to its gradient at once


def _shares(node: Node, gradient: SharedGradient, waiting: _Waiting) -> list[tuple[Node, SharedGradient]]:
    """Run one backward. Returns the parents with their shares, whose owners are counted."""
    name = node.name
    node.check_not_freed()
    restore_outputs(node)
    _check_saved(node)
    destinations = [None if parent is None else partial(waiting.slot, parent) for parent in node.parents]
    read = [gradient.array, *arrays_in(node.saved)] if settings.DEBUG else []
    before = checksums(read)
    results = node.backward(gradient.array, node.saved, destinations)
    if settings.DEBUG:
        _check_unchanged(node.name, before, checksums(read))
    if not isinstance(results, (tuple, list)) or len(results) != len(node.parents):
        got = len(results) if isinstance(results, (tuple, list)) else type(results).__name__
        raise ValueError(f"{name}.backward: must return a tuple of length {len(node.parents)}, got {got}")
    owners: dict[int, RefCount] | None = None
    shares = []
    for index, (parent, result) in enumerate(zip(node.parents, results, strict=True)):
        if parent is not None and result is not WRITTEN:
            array = np.asarray(result)
            check_gradient(f"{name}.backward: input {index}", array, parent)
            owners = _owners(node, gradient) if owners is None else owners
            shares.append((parent, SharedGradient(array, owners.setdefault(_block_of(array), RefCount())).incref()))
    gradient.decref()
    return shares


def _owners(node: Node, gradient: SharedGradient) -> dict[int, RefCount]:
    """The owners of each block of memory that a backward has read."""
    # What was saved counts as an owner: a backward may return a saved array, which must not be written into.
    owners = {_block_of(array): RefCount(1) for array in arrays_in(node.saved)}
    owners[_block_of(gradient.array)] = gradient.owners
    return owners


def _check_saved(node: Node) -> None:
    """Raise RuntimeError if an array that backward needs was edited since the forward."""
    now = checksums(node.needed)
    if now != node.checksums:
        array = next(array for array, one, other in zip(node.needed, now, node.checksums, strict=True) if one != other)
        raise RuntimeError(
            f"{node.name}.backward: has saved an array of shape {array.shape} that was changed in place after the "
            "forward, by an optimizer's step or a write into data; change a copy, or run the forward again"
        )


def _check_unchanged(name: str, before: list[int], after: list[int]) -> None:
    """Raise RuntimeError if a backward has written into dout, the first of these, or into what was saved."""
    if before != after:
        what = "dout" if before[0] != after[0] else "saved"
        raise RuntimeError(f"{name}.backward: writes into {what}, which others hold too; compute into a new array")


def arrays_in(saved: Any) -> list[np.ndarray]:
    """The arrays in what a forward saved: an array, or tuples, lists and dicts of them."""
    if isinstance(saved, np.ndarray):
        return [saved]
    found: list[np.ndarray] = []
    for item in saved.values() if isinstance(saved, dict) else saved if isinstance(saved, (tuple, list)) else ():
        if type(item) is np.ndarray:  # first what there is most, and without a call: this runs for each operation
            found.append(item)
        elif type(item) not in _NO_ARRAYS:
            found += arrays_in(item)
    return found


_NO_ARRAYS = {int, float, bool, str, type(None)}


def _block_of(array: np.ndarray) -> int:
    """An id of the block of memory behind an array: a view and its base have the same id."""
    owner: Any = array
    while getattr(owner, "base", None) is not None:  # not always an array: as_strided puts an object in between
        owner = owner.base
    return id(owner)


def _run_hooks(node: Node, gradient: SharedGradient) -> SharedGradient:
    for hook in list(node.hooks.values()):
        replacement = hook(gradient.array)
        gradient.incref()  # the hook may have kept the array: it must not be written into from now on
        if replacement is not None:
            array = np.asarray(replacement)
            check_gradient("hook", array, node)
            gradient = SharedGradient(array, RefCount(2))
    return gradient


def check_gradient(who: str, gradient: Any, node: Node) -> None:
    """Raise ValueError unless a gradient has the shape and dtype of the tensor that it belongs to."""
    if getattr(gradient, "shape", None) != node.shape or gradient.dtype != node.dtype:
        got = f"{gradient.dtype} {gradient.shape}" if hasattr(gradient, "shape") else type(gradient).__name__
        raise ValueError(f"{who}: the gradient must be {node.dtype} {node.shape}, like its tensor, got {got}")


_SAMPLE = 64  # elements


def checksums(arrays: Sequence[np.ndarray]) -> list[int]:
    """
    One number per array, which changes when the array is edited in place.

    Of an array with more than 64 elements it depends on about 64, evenly spaced, unless TINYGPT_DEBUG=1: an edit of the
    whole array is found, one of few elements not always. Cost: 0.1 to 0.3 microseconds for an array of up to 64
    elements, 0.9 for one of any other size (Intel Granite Rapids).
    """
    return [hash(array.tobytes() if array.size <= _SAMPLE else _sample(array).tobytes()) for array in arrays]


def _sample(array: np.ndarray) -> np.ndarray:
    if settings.DEBUG:
        return array
    step = array.size // _SAMPLE | 1  # odd, for rows of an even length: not one column alone
    return (array.ravel() if array.flags.c_contiguous else array.flat)[::step]

"""
A training step's loss and gradients, captured once and replayed without the engine: for small models, whose kernels
are short.

    first call      as always: kernels are compiled
    second          as always, while `runtime/capture.py` keeps its calls of kernels
    third           replayed, then done as always: loss and all gradients must have the same bits, or the capture is
                    dropped for good
    from then on    replayed, for as long as nothing has changed that a step depends on

What a step depends on is compared before each: the modules, their attributes, hooks and parameters; where gradients
stay, and whether there are some; the settings, such as the number of threads; the shape of the batch. If something has
changed, or is out of the ordinary, the step is done as always. The random numbers of dropout are those of a step that
is done as always, and so are errors about ids.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tinygpt.autograd.graph import Node, walk_back
from tinygpt.autograd.tensor import recording
from tinygpt.autograd.watch import current_watch
from tinygpt.gpt2.model import GPT, MLP, Block, CausalSelfAttention, GELULinear
from tinygpt.nn import Dropout, Embedding, LayerNorm, Linear
from tinygpt.nn.layers import dropout_is_on
from tinygpt.nn.module import Module
from tinygpt.nn.module_snapshot import ModuleSnapshot
from tinygpt.runtime import settings
from tinygpt.runtime.capture import Capture, Recorder
from tinygpt.runtime.launch import launches_are_free
from tinygpt.runtime.memory import PrivatePool, SquareSum, pool

_LIMIT = 2**28  # bytes of a capture's memory: a step that needs more takes so long that Python does not count
_MOST_KINDS = 32  # of steps: by shape, for instance
_MOST_CHANGES = 16  # of the model: one that changes all the time is not captured
_OURS = (GPT, Block, CausalSelfAttention, MLP, GELULinear, Linear, Embedding, LayerNorm, Dropout)
_WRITTEN = {each: dict(vars(each)) for each in (*_OURS, Module)}  # as they are in the source: none is replaced


class CapturedStep:
    """
    The loss of a model and its gradients: ``model.loss(tokens, targets)`` and ``backward()``, in less time.

    Parameters
    ----------
    model : GPT
        With modules of tinygpt alone, none of whose methods was replaced; for others each step is done as always.
    enabled : bool
        False: do each step as always. So does ``TINYGPT_CAPTURE=0``.

    Examples
    --------
    >>> from tinygpt import GPT, CapturedStep, GPTConfig
    >>> model = GPT(GPTConfig(vocab_size=11, n_positions=8, n_embd=4, n_layer=1, n_head=2)).eval()  # without dropout
    >>> step = CapturedStep(model)
    >>> tokens, targets = np.array([[1, 2, 3]]), np.array([[2, 3, 4]])
    >>> for _ in range(5):
    ...     loss = step(tokens, targets)
    ...     gradient = model.wte.weight.grad.copy()
    ...     model.zero_grad()
    >>> expected = model.loss(tokens, targets)
    >>> expected.backward()
    >>> loss == expected.item(), bool((gradient == model.wte.weight.grad).all())
    (True, True)
    """

    def __init__(self, model: GPT, enabled: bool = True) -> None:
        self.model = model
        self._enabled = enabled and settings.CAPTURE and not settings.DEBUG and not settings.GUARD
        self._lock = threading.Lock()
        self._seen: _Seen | None = None
        self._changes = 0
        self._plans: dict[Any, _Plan] = {}

    def __call__(self, tokens: Any, targets: Any, ignore_index: int = -100, parts: int = 1) -> float:
        """
        Add the gradient of the loss to that of each parameter.

        Parameters
        ----------
        tokens, targets, ignore_index
            As `GPT.loss` takes them.
        parts : int
            The loss and its gradients are divided by it: how many calls make one step of the optimizer.

        Returns
        -------
        float
            The loss, divided by `parts`.

        Raises
        ------
        TypeError, ValueError
            What `GPT.loss` raises.
        """
        if not self._enabled or not self._lock.acquire(blocking=False):  # another thread, or a handler of a signal
            return _as_always(self.model, tokens, targets, ignore_index, parts)
        try:
            plan = self._plan(tokens, ignore_index, parts)
            return (plan or _Plan(self.model, ignore_index, parts)).step(tokens, targets)
        finally:
            self._lock.release()

    def _plan(self, tokens: Any, ignore_index: int, parts: int) -> _Plan | None:
        """What was captured for such a step, as far as it is; None where the step must be done as always."""
        unusual = settings.current_implementation() != "kernels" or current_watch() is not None or not recording.get()
        if unusual or not launches_are_free() or any(vars(each) != _WRITTEN[each] for each in _WRITTEN):
            return None
        if self._seen is None or not self._seen.is_unchanged():
            self._plans.clear()
            if self._changes == _MOST_CHANGES:
                return None
            self._changes += 1
            self._seen = _Seen(self.model)
        accumulate = self._seen.have_gradients() if self._seen.usual else None
        if accumulate is None:
            return None
        try:
            key = (np.shape(tokens), ignore_index, type(ignore_index), parts, accumulate, settings.num_threads(),
                   settings.get_float32_matmul_precision(), dropout_is_on())  # fmt: skip
            plan = self._plans.get(key)
        except (TypeError, ValueError):  # an error in what was given, for `GPT.loss` to name
            return None
        if plan is None:
            if len(self._plans) == _MOST_KINDS:
                del self._plans[next(iter(self._plans))]  # the oldest
            plan = self._plans[key] = _Plan(self.model, ignore_index, parts, self._seen)
        plan.limit = _LIMIT - sum(each.nbytes for each in self._plans.values())
        return plan


def _as_always(model: GPT, tokens: Any, targets: Any, ignore_index: int, parts: int) -> float:
    loss = model.loss(tokens, targets, ignore_index)
    if parts != 1:
        loss = loss / parts
    loss.backward()
    return float(loss.item())


class _Seen:
    """What a model was when its steps were captured."""

    def __init__(self, model: GPT) -> None:
        self._process = os.getpid()
        self._snapshot = ModuleSnapshot(model)
        modules, self.arrays = self._snapshot.modules, self._snapshot.arrays
        self._nodes_of_all = [parameter.node for parameter in self._snapshot.parameters]
        self.nodes: list[Node] = [node for node in self._nodes_of_all if node is not None]
        self.storages: list[Any] = [node.storage for node in self.nodes]
        self._hooks = [hooks for module in modules for hooks in module._hooks or ()]
        self._hooks += [node.hooks for node in self.nodes]
        self.usual = (
            all(type(module) in _WRITTEN and _methods_are_its_class(module) for module in modules)
            and isinstance(model.generator, np.random.Generator)
            and not model.recompute
            and bool(self.nodes)
            and all(storage is not None for storage in self.storages)
            and all(a.size > 1 and a.dtype == np.float32 and a.flags.carray for a in self.arrays)
        )

    def is_unchanged(self) -> bool:
        """Whether all of it is as it was, but for numbers in arrays."""
        return (
            self._snapshot.is_unchanged()
            and [parameter.node for parameter in self._snapshot.parameters] == self._nodes_of_all
            and all(node.storage is storage for node, storage in zip(self.nodes, self.storages, strict=True))
            and os.getpid() == self._process
        )

    def have_gradients(self) -> bool | None:
        """Whether the parameters have gradients; None where only some have, or something is out of the ordinary."""
        if any(self._hooks):
            return None
        count = 0
        for node in self.nodes:
            if node.pending_scale != 1 or (node.reserved is not None and node.reserved() is not None):
                return None
            count += node.grad is not None
        return None if 0 < count < len(self.nodes) else count > 0


def _methods_are_its_class(module: Module) -> bool:
    """Whether no method was replaced in the object itself."""
    return not any(callable(getattr(type(module), name, None)) for name in vars(module))


class _Captured(NamedTuple):
    """A capture, where its batch and its loss are, and what it leaves at the nodes of the parameters."""

    capture: Capture
    tokens: np.ndarray
    targets: np.ndarray
    loss: np.ndarray
    squares: list[SquareSum | None]


class _Plan:
    """The steps of one kind: as always, captured, verified, and from then on replayed."""

    def __init__(self, model: GPT, ignore_index: int, parts: int, seen: _Seen | None = None) -> None:
        self._model, self._ignore_index, self._parts = model, ignore_index, parts
        self._seen = seen
        self._captured: _Captured | None = None
        self.nbytes = 0  # of the capture
        self.limit = _LIMIT  # of it: what the captures of other kinds of steps leave
        self.step: Callable[[Any, Any], float] = self._first

    def _first(self, tokens: Any, targets: Any) -> float:
        loss = self._as_always(tokens, targets)
        if self._seen is not None:
            self.step = self._capture
        return loss

    def _as_always(self, tokens: Any, targets: Any) -> float:
        return _as_always(self._model, tokens, targets, self._ignore_index, self._parts)

    def _capture(self, tokens: Any, targets: Any) -> float:
        assert self._seen is not None
        batch = self._model.check_batch(tokens, targets, self._ignore_index)
        seen, self.step = self._seen, self._as_always
        recorder = Recorder(PrivatePool(), [*seen.arrays, *seen.storages, *batch], self.limit, self._model.generator)
        with recorder:
            loss = self._model.loss(*batch, self._ignore_index)
            assert loss.node is not None
            walk_back(loss.node, np.array(np.float32(1) / np.float32(self._parts)), retain_graph=False)
        if not recorder.failure:
            squares = [node.squares for node in seen.nodes]
            self._captured = _Captured(recorder.finish(), *batch, recorder.kept(loss._data), squares)
            self.nbytes = self._captured.capture.nbytes
            self.step = self._verify
        return self._part_of(loss._data)

    def _part_of(self, loss: np.ndarray) -> float:
        return float(loss / np.float32(self._parts))

    def _replay(self, tokens: Any, targets: Any) -> float:
        assert self._captured is not None and self._seen is not None
        capture, static_tokens, static_targets, loss, squares = self._captured
        tokens, targets = self._model.check_batch(tokens, targets, self._ignore_index)
        static_tokens[...], static_targets[...] = tokens, targets
        for node in self._seen.nodes:
            node.squares = None  # Ctrl-C may end the replay
        capture.replay(self._model.generator)
        for node, sum_of_squares in zip(self._seen.nodes, squares, strict=True):
            node.grad, node.reserved = node.storage, None
            node.squares = sum_of_squares if node.private else None
        return self._part_of(loss)

    def _verify(self, tokens: Any, targets: Any) -> float:
        """Replay the step, then do it as always: both must agree in every bit."""
        assert self._seen is not None
        self.step, source = self._as_always, self._model.generator.bit_generator
        nodes, state = self._seen.nodes, source.state
        before = [(node.grad, node.squares, None if node.grad is None else node.grad.copy()) for node in nodes]
        replayed = _digest(self._replay(tokens, targets), nodes)
        source.state = state
        for node, (gradient, squares, numbers) in zip(nodes, before, strict=True):
            node.grad, node.squares = gradient, squares
            if numbers is not None:
                node.storage[...] = numbers  # type: ignore[index]
        loss = self._as_always(tokens, targets)
        if _digest(loss, nodes) == replayed:
            self.step = self._replay
            pool.clear()  # of what such a step took there
        else:
            self._captured, self.nbytes = None, 0
        return loss


def _digest(loss: float, nodes: list[Node]) -> list[Any]:
    """What loss, gradients and the sums of their squares are, bit for bit, in few bytes."""
    of_gradients = [hashlib.blake2b(memoryview(node.storage).cast("B")).digest() for node in nodes]  # type: ignore[arg-type]
    return [loss.hex(), *of_gradients, *[float(node.sum_of_squares() or 0).hex() for node in nodes]]

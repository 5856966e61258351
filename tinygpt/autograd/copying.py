"""
Copies of tensors: `copy.copy`, `copy.deepcopy` and pickle, with PyTorch's rules.

    copy.copy        another handle on the same values and the same gradient
    copy.deepcopy    a leaf of its own, and a copy of the gradient
    pickle           a leaf of its own, without the gradient

Hooks of tensors are not copied, those of modules are. The result of an operation has a history, and backward through
its copy would reach the parameters of the original: `deepcopy` and pickle refuse it, and say what to write. Modules and
optimizers lay out their arrays contiguously again, so that copies are as fast as originals.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np

from tinygpt.autograd.graph import Node


class Copying:
    """How a tensor is copied. A subclass's own attributes come along."""

    __slots__ = ()
    data: np.ndarray
    node: Node | None

    def __copy__(self) -> Any:
        return _with_attributes(_rebuilt(type(self), self.data, self.node), _own_attributes(self))

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        _check_leaf(self, "copy.deepcopy")
        data = copy.deepcopy(self.data, memo)
        node = None if self.node is None else Node(data)
        if node is not None and self.node is not None and self.node.grad is not None:
            node.grad = self.node.apply_pending_scale().copy()
        twin = memo[id(self)] = _rebuilt(type(self), data, node)
        return _with_attributes(twin, copy.deepcopy(_own_attributes(self), memo))

    def __reduce_ex__(self, protocol: Any) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        _check_leaf(self, "pickle")
        return _unpickled, (type(self), self.data, self.node is not None, _own_attributes(self))


def _unpickled(kind: type, data: np.ndarray, requires_grad: bool, attributes: dict[str, Any]) -> Any:
    return _with_attributes(_rebuilt(kind, data, Node(data) if requires_grad else None), attributes)


def _rebuilt(kind: Any, data: np.ndarray, node: Node | None) -> Any:
    tensor = kind.__new__(kind)
    tensor.node, tensor.data = node, data  # in this order: whoever sets data looks at node
    return tensor


def _own_attributes(tensor: Any) -> dict[str, Any]:
    slots = {slot for base in type(tensor).__mro__ for slot in getattr(base, "__slots__", ())}
    known = {"__weakref__", "__dict__", "_data", "node"}
    found = {slot: getattr(tensor, slot) for slot in slots - known if hasattr(tensor, slot)}
    return {**found, **getattr(tensor, "__dict__", {})}


def _with_attributes(tensor: Any, attributes: dict[str, Any]) -> Any:
    for name, value in attributes.items():
        setattr(tensor, name, value)
    return tensor


def _check_leaf(tensor: Any, who: str) -> None:
    if not tensor.is_leaf:
        raise ValueError(
            f"{who}: a tensor that '{tensor.node.name}' has made cannot be copied with its history; "
            "copy x.detach(), or the parameters that it was computed from"
        )

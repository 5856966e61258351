"""
How to observe a computation: a `Watch` sees every operation, kernel and module before it runs.

Nothing is patched: the gradient check, check mode and `tinygpt diff` are watches. A watch
holds for a block, in this thread and asyncio task only.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from tinygpt.autograd.graph import Op
from tinygpt.runtime.scope import Block, Setting

_watch = Setting("watch", None)
_OFFERS = ("accepts", "forward", "backward", "GRADIENTS_IN_FORWARD")  # what a kernel may have: see dispatch.py


class Watch:
    """
    An observer, which changes nothing; subclasses override its methods.

    Examples
    --------
    >>> class Names(Watch):
    ...     def operation(self, op):
    ...         print(op.name)
    ...         return op
    >>> from tinygpt import Tensor
    >>> with watching(Names()):
    ...     x = Tensor([1.0]) + Tensor([2.0])
    add
    """

    def operation(self, op: Op) -> Op:
        """The operation to use in place of `op`; what `forward` and `backward` of it do is its reference."""
        return op

    def kernel(self, op: Op, kernel: Any) -> Any:
        """The kernel to use in place of `kernel`; called just before the kernel of `op` runs."""
        return kernel

    def module(self, module: Any) -> contextlib.AbstractContextManager[Any]:
        """The block in which the forward of a module of `nn.py` runs."""
        return contextlib.nullcontext()


class watching(Block):
    """The block, or the decorated function, that a watch observes."""

    def __init__(self, watch: Watch) -> None:
        super().__init__(_watch, watch)


def current_watch() -> Watch | None:
    """The watch of the innermost block, or None."""
    return _watch.get()


def replace_functions(kernel: Any, forward: Callable[..., Any], backward: Callable[..., Any]) -> Any:
    """A kernel with another forward, and with another backward if it has one at all."""
    offers = {name: getattr(kernel, name) for name in _OFFERS if hasattr(kernel, name)}
    functions = {"forward": forward, "backward": backward}
    return SimpleNamespace(**{name: functions.get(name, offer) for name, offer in offers.items()})

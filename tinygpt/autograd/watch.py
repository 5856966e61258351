"""
How to observe a computation: a `Watch` sees every operation, kernel and module before it runs, and what a training step
does outside of the graph, such as AdamW's update.

Nothing is patched: the gradient check, check mode, `tinygpt diff` and `tinygpt train --profile` are watches. A watch
holds for a block, in this thread and asyncio task only.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, TypeVar, cast

from tinygpt.autograd.graph import Op
from tinygpt.runtime.scope import Block, Setting

_Function = TypeVar("_Function", bound=Callable[..., Any])
_watch = Setting("watch", None)
# What a kernel may have: see dispatch.py. Without its `output`, what a watch made of its forward's result is kept.
_OFFERS = ("accepts", "forward", "backward", "GRADIENTS_IN_FORWARD")


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
        """The block in which the forward of a module of `tinygpt.nn` runs."""
        return contextlib.nullcontext()

    def function(self, function: Callable[..., Any], code: str) -> Callable[..., Any]:
        """
        The function to use in place of one that runs outside of the graph; called just before it runs.

        Parameters
        ----------
        function : callable
            A part of a training step, such as `Optimizer.step`, or inside of it the one that computes.
        code : {"kernel", "numpy", "python"}
            What computes is a kernel, or else its reference; a part of a step is Python.
        """
        return function


class watching(Block):
    """The block, or the decorated function, that a watch observes."""

    def __init__(self, watch: Watch) -> None:
        super().__init__(_watch, watch)


def current_watch() -> Watch | None:
    """The watch of the innermost block, or None."""
    return _watch.get()


def observed(function: Callable[..., Any], code: str) -> Callable[..., Any]:
    """What the watch makes of a function outside of the graph: see `Watch.function`. Unwatched, the function itself."""
    watch = current_watch()
    return function if watch is None else watch.function(function, code)


def observable(function: _Function) -> _Function:
    """
    A decorator for a part of a training step outside of the graph: a watch sees each call of it.

    Examples
    --------
    >>> class Names(Watch):
    ...     def function(self, function, code):
    ...         print(function.__name__, code)
    ...         return function
    >>> @observable
    ... def read_batch():
    ...     return [1, 2]
    >>> with watching(Names()):
    ...     batch = read_batch()
    read_batch python
    """

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        return observed(function, "python")(*args, **kwargs)

    return cast(_Function, run)


def replace_functions(kernel: Any, forward: Callable[..., Any], backward: Callable[..., Any]) -> Any:
    """A kernel with another forward, and with another backward if it has one at all."""
    offers = {name: getattr(kernel, name) for name in _OFFERS if getattr(kernel, name, None) is not None}
    functions = {"forward": forward, "backward": backward}
    return SimpleNamespace(**{name: functions.get(name, offer) for name, offer in offers.items()})

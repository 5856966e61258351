"""Hooks: functions of the user that run when a gradient is complete, or when a module computes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Hooks = dict[object, Callable[..., Any]]


class HookHandle:
    """
    The handle of a registered hook, which removes it: by `remove()`, a call, or the end of a `with` block.

    Examples
    --------
    >>> hooks = {}
    >>> handle = HookHandle(hooks, print)
    >>> handle.remove()
    >>> len(hooks)
    0
    """

    def __init__(self, hooks: Hooks, hook: Callable[..., Any]) -> None:
        if not callable(hook):
            raise TypeError(f"a hook must be a function, got {hook!r}")
        self._hooks, self._key = hooks, object()  # one hook may be registered twice
        hooks[self._key] = hook

    def remove(self) -> None:
        """Remove the hook; a second call does nothing."""
        self._hooks.pop(self._key, None)

    def __call__(self) -> None:
        self.remove()

    def __enter__(self) -> HookHandle:
        return self

    def __exit__(self, *exception: object) -> None:
        self.remove()

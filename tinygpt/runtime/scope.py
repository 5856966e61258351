"""
Settings that hold for a block of code, in this thread and asyncio task; in a generator, while the generator runs.

A value is kept in a context variable, so that each thread and each task has its own; `asyncio.to_thread` and tasks that
are started inside a block inherit its value, a new `threading.Thread` and `run_in_executor` start with the default.

Context variables do not isolate generators: what a generator's `with` block sets would stay set in its consumer while
the generator is suspended at a yield. A block whose `with` statement stands in a generator therefore belongs to that
generator's frame, and is in force only while this frame is on the call stack, whichever thread resumes it. Generators
that contextlib or pytest run are the exception: they yield in order to pass their block to the `with` statement, or the
test, that uses them.
"""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable
from contextvars import ContextVar
from types import FrameType
from typing import Any, TypeVar, cast

_Function = TypeVar("_Function", bound=Callable[..., Any])
_GENERATORS = 0x20 | 0x200  # inspect.CO_GENERATOR and CO_ASYNC_GENERATOR; importing it takes longer than all of this
_HAND_OVER = {"contextlib", "_pytest", "pluggy"}  # their generators are blocks of the code that use them

_lock = threading.RLock()  # the garbage collector may close a generator while this thread holds it


class _Entry:
    """One block that has begun: the value that it sets, and the frame whose `with` statement it is."""

    __slots__ = ("frame", "value")

    def __init__(self, value: Any, frame: FrameType) -> None:
        self.value, self.frame = value, frame


class Setting:
    """
    A value with a default, which blocks replace.

    Examples
    --------
    >>> depth = Setting("depth", 0)
    >>> with Block(depth, 1):
    ...     depth.get()
    1
    >>> depth.get()
    0
    """

    __slots__ = ("_entries", "_in_generators", "default")

    def __init__(self, name: str, default: Any) -> None:
        self.default = default
        self._entries: ContextVar[tuple[_Entry, ...]] = ContextVar(name, default=())
        self._in_generators: tuple[_Entry, ...] = ()  # of all threads: a generator may be resumed by another one

    def get(self) -> Any:
        """The current value: the innermost block's, else the default."""
        if self._in_generators:
            return self._search()
        entries = self._entries.get()
        return entries[-1].value if entries else self.default

    def _search(self) -> Any:
        entries = self._entries.get()
        frame: FrameType | None = sys._getframe(2)
        while frame is not None:
            for entry in (*reversed(self._in_generators), *reversed(entries)):
                if entry.frame is frame:
                    return entry.value
            frame = frame.f_back
        return entries[-1].value if entries else self.default  # of a task's or a thread's parent

    def _begin(self, entry: _Entry) -> None:
        if entry.frame.f_code.co_flags & _GENERATORS:
            with _lock:
                self._in_generators = (*self._in_generators, entry)
        else:
            self._entries.set((*self._entries.get(), entry))

    def _end(self, entry: _Entry) -> None:
        """Take back this block's value, and no other's: blocks may end in another order than they began."""
        if entry in self._in_generators:
            with _lock:
                self._in_generators = _without(self._in_generators, entry)
        else:
            self._entries.set(_without(self._entries.get(), entry))


def _without(entries: tuple[_Entry, ...], entry: _Entry) -> tuple[_Entry, ...]:
    return tuple(other for other in entries if other is not entry)


class Block:
    """
    A `with` block, or a decorated function of any kind, in which a setting has another value.

    One object may be entered several times. Generator functions, coroutine functions and async generator functions
    may be decorated too: the setting holds whenever their body runs, and only then.
    """

    def __init__(self, setting: Setting, value: Any) -> None:
        self._setting, self._value = setting, value
        self._begun: list[_Entry] = []

    def __enter__(self) -> Any:
        entry = _Entry(self._value, _owner(sys._getframe(1)))
        self._begun.append(entry)
        self._setting._begin(entry)
        return self

    def __exit__(self, *exception: object) -> None:
        frame = _owner(sys._getframe(1))
        mine = [entry for entry in self._begun if entry.frame is frame]  # other tasks may be in the same object's block
        entry = (mine or self._begun)[-1]
        self._begun.remove(entry)
        self._setting._end(entry)

    def _again(self) -> Block:
        """A new block of the same kind: a decorated function may run several times at once."""
        return Block(self._setting, self._value)

    def __call__(self, function: _Function) -> _Function:
        import inspect

        if inspect.isgeneratorfunction(function):
            wrapper: Any = _around_generator(self, function)
        elif inspect.isasyncgenfunction(function):
            wrapper = _around_async_generator(self, function)
        elif inspect.iscoroutinefunction(function):
            wrapper = _around_coroutine(self, function)
        else:
            wrapper = _around_function(self, function)
        return cast(_Function, functools.wraps(function)(wrapper))


def _owner(frame: FrameType) -> FrameType:
    """The frame whose block begins: that of the `with` statement, also where contextlib stands in between."""
    while True:
        module = frame.f_globals.get("__name__", "").partition(".")[0]
        resumed_by = frame.f_back
        if resumed_by is None:
            return frame
        by_others = resumed_by.f_globals.get("__name__", "").partition(".")[0] in _HAND_OVER
        generator = frame.f_code.co_flags & _GENERATORS
        if module not in _HAND_OVER and not (generator and by_others):
            return frame
        frame = resumed_by


def _around_function(block: Block, function: Callable[..., Any]) -> Callable[..., Any]:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        with block._again():
            return function(*args, **kwargs)

    return wrapper


def _around_coroutine(block: Block, function: Callable[..., Any]) -> Callable[..., Any]:
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        with block._again():
            return await function(*args, **kwargs)

    return wrapper


def _around_generator(block: Block, function: Callable[..., Any]) -> Callable[..., Any]:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        with block._again():
            return (yield from function(*args, **kwargs))

    return wrapper


def _around_async_generator(block: Block, function: Callable[..., Any]) -> Callable[..., Any]:
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        inner = function(*args, **kwargs)
        with block._again():
            try:
                item = await inner.__anext__()
                while True:
                    try:
                        sent = yield item
                    except GeneratorExit:
                        raise
                    except BaseException as error:  # what was thrown in belongs to the body
                        item = await inner.athrow(error)
                    else:
                        item = await inner.asend(sent)
            except StopAsyncIteration:
                return
            finally:
                await inner.aclose()

    return wrapper

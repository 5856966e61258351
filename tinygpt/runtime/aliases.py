"""
Other names of keyword arguments: `x.sum(dim=1, keepdim=True)` is `x.sum(axis=1, keepdims=True)`.

For an argument that a function does not take, the error says what to write: for PyTorch's see `torch_names.py`, for
others it lists those that there are.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

_Result = TypeVar("_Result")


def aliases(**names: str) -> Callable[[Callable[..., _Result]], Callable[..., _Result]]:
    """
    A decorator: let a function take keyword arguments by other names, too, such as PyTorch's, and explain unknown ones.

    Parameters
    ----------
    **names : str
        The function's own name of an argument, by the other name. Both must mean exactly the same.

    Examples
    --------
    >>> @aliases(dim="axis")
    ... def total(rows, axis=0):
    ...     return f"along {axis}"
    >>> total([[1]], dim=1)
    'along 1'
    >>> total([[1]], axis=0, dim=1)
    Traceback (most recent call last):
    ...
    TypeError: total: dim is another name of axis; give one of them
    """

    def decorate(function: Callable[..., _Result]) -> Callable[..., _Result]:
        described: Any = function
        who = function.__name__ if function.__name__ != "__init__" else function.__qualname__.split(".")[-2]
        code = described.__code__
        takes = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        taken, all_known = {*takes}, not code.co_flags & inspect.CO_VARKEYWORDS

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> _Result:
            if kwargs:
                for other in names.keys() & kwargs.keys():
                    own = names[other]
                    if own in kwargs:
                        raise TypeError(f"{who}: {other} is another name of {own}; give one of them")
                    kwargs[own] = kwargs.pop(other)
                if not kwargs.keys() <= taken:
                    refuse(who, kwargs.keys() - taken, takes if all_known else ())
            return function(*args, **kwargs)

        return call

    return decorate


def refuse(who: str, unknown: Iterable[str], takes: Iterable[str] = ()) -> None:
    """
    Raise TypeError for the first argument that a function does not have.

    Parameters
    ----------
    who : str
        The function.
    unknown : iterable of str
        What it was given.
    takes : iterable of str
        Its arguments. Where there are none, it passes arguments on: only those of PyTorch's table are refused.

    Examples
    --------
    >>> refuse("total", ["axs"], ["rows", "axis"])
    Traceback (most recent call last):
    ...
    TypeError: total: has no argument 'axs'; its arguments are rows, axis
    """
    from tinygpt.runtime.torch_names import instead_of_argument

    known = ", ".join(name for name in takes if name != "self" and not name.startswith("_"))
    for name in sorted(unknown):
        remedy = instead_of_argument(who, name) or (f"; its arguments are {known}" if known else "")
        if remedy:
            raise TypeError(f"{who}: has no argument {name!r}{remedy}")

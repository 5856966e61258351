"""
Other names of keyword arguments: `x.sum(dim=1, keepdim=True)` is `x.sum(axis=1, keepdims=True)`.

For an argument of PyTorch's that a function does not take, the error says what to write: see `torch_names.py`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
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
        taken = {*code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]}

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> _Result:
            for other in names.keys() & kwargs.keys():
                own = names[other]
                if own in kwargs:
                    raise TypeError(f"{who}: {other} is another name of {own}; give one of them")
                kwargs[own] = kwargs.pop(other)
            if not kwargs.keys() <= taken:
                _explain(who, kwargs.keys() - taken)
            return function(*args, **kwargs)

        return call

    return decorate


def _explain(function: str, arguments: set[str]) -> None:
    """Raise TypeError for the first of these that PyTorch has; else Python's own error will name one."""
    from tinygpt.runtime.torch_names import instead_of_argument

    for name in sorted(arguments):
        if remedy := instead_of_argument(function, name):
            raise TypeError(f"{function}: has no argument {name!r}{remedy}")

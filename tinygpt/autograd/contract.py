"""
The rules that an operation must follow besides computing the right numbers, and a watch that checks them.

* Neither forward nor backward writes into its arguments: inputs, attributes, `dout`, `saved` are used elsewhere too.
* No later call writes into what it returned. It may work in a buffer that is used again, but must not return or save
  that buffer.
* The same input gives the same result: there is no state but the attributes and `saved`.

Each call alone may give the right numbers, so that a gradient check does not find a violation; in a graph it corrupts
the gradients of other operations. A `Contract` runs each operation twice, and compares inputs and results.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from types import FunctionType, ModuleType
from typing import Any

import numpy as np

from tinygpt.autograd.graph import Op
from tinygpt.autograd.rounding import largest
from tinygpt.autograd.watch import Watch, replace_functions
from tinygpt.files.one_line import described

_ADD_TO_GRADIENTS = {"recompute"}  # their backward runs a graph of its own, which must run once


class Contract(Watch):
    """A watch that raises `error` where an operation breaks the contract."""

    def __init__(self, error: Callable[[str], Exception]) -> None:
        self.error = error

    def operation(self, op: Op) -> Op:
        """
        `op`, raising `error` where forward or backward break the contract.

        Examples
        --------
        >>> def backward(dout, saved):
        ...     dout *= 2
        ...     return (dout,)
        >>> op = Contract(ValueError).operation(Op("double", lambda x: (2 * x, None), backward))
        >>> op.backward(np.ones(2), None)
        Traceback (most recent call last):
        ...
        ValueError: double.backward: writes into dout, which others hold too; compute into a new array
        """
        if op.name in _ADD_TO_GRADIENTS:
            return op

        def forward(*arrays: Any, **attrs: Any) -> Any:
            given = {"its inputs": arrays, "its attributes": attrs}
            return run_twice(f"{op.name}.forward", lambda: op.forward(*arrays, **attrs), given, self.error)

        def backward(dout: np.ndarray, saved: Any) -> Any:
            given = {"dout": dout, "saved": saved}
            return run_twice(f"{op.name}.backward", lambda: op.backward(dout, saved), given, self.error)

        return op._replace(forward=forward, backward=backward)

    def kernel(self, op: Op, kernel: Any) -> Any:
        """`kernel`, which must not write into its arguments. Its backward adds into slots, so it runs once."""

        def forward(*arrays: Any, **attrs: Any) -> Any:
            given = {"its inputs": arrays, "its attributes": attrs}
            run = partial(kernel.forward, *arrays, **attrs)
            return run_twice(f"{op.name}.forward", run, given, self.error, compared=lambda result: result[0])

        def backward(dout: np.ndarray, saved: Any, into: Any) -> Any:
            given = {"dout": dout, "saved": saved}
            return run_once(f"{op.name}.backward", lambda: kernel.backward(dout, saved, into), given, self.error)

        return replace_functions(kernel, forward, backward)


def run_twice(
    who: str,
    run: Callable[[], Any],
    given: Mapping[str, Any],
    error: Callable[[str], Exception],
    compared: Callable[[Any], Any] = lambda result: result,
) -> Any:
    """
    The result of `run()`, after a second call has shown that it depends on `given` alone, and changes none of it.

    Parameters
    ----------
    who : str
        What an error calls it.
    run : callable
    given : mapping of str to array, or tuple, list or dict of arrays
        What it may read, by the name that an error gives it.
    error : callable
        From a message to the exception to raise.
    compared : callable, optional
        The part of a result that must be the same in both calls; all of it by default.
    """
    first = run_once(who, run, given, error)
    kept, expected = _copies(first), _numbers(compared(first))
    try:
        second = run_once(who, run, given, error)
    except Exception as failure:
        if isinstance(failure, type(error(""))):
            raise
        raise error(f"{who}: fails when it is called again with the same input ({described(failure)}); it "
                    "must not change its arguments") from failure  # fmt: skip
    if not _same_bits(_arrays_in(first), kept):
        raise error(_rewritten(who))
    if not _close(_numbers(compared(second)), expected):
        raise error(f"{who}: gives another result the second time, for the same input; what a call must remember "
                    "belongs into attributes and `saved`")  # fmt: skip
    _check_handed_out(who, run, first, second, given, error)
    return first


def run_once(who: str, run: Callable[[], Any], given: Mapping[str, Any], error: Callable[[str], Exception]) -> Any:
    """The result of `run()`, or `error` if it has changed `given`."""
    before = {name: _copies(value) for name, value in given.items()}
    result = run()
    for name, value in given.items():
        if not _same_bits(_arrays_in(value), before[name]):
            raise error(f"{who}: writes into {name}, which others hold too; compute into a new array")
    return result


def _check_handed_out(who: str, run: Any, first: Any, second: Any, given: Mapping[str, Any], error: Any) -> None:
    """Raise where two results share memory that a third call writes into: a buffer, not a constant that is kept."""
    inputs = [array for value in given.values() for array in _arrays_in(value)]
    later = list(_arrays_in(second))
    suspects = [
        array
        for array in _arrays_in(first)
        if array.dtype.kind == "f" and array.size and array.flags.writeable
        if any(np.may_share_memory(array, other) for other in later)
        if not any(np.may_share_memory(array, other) for other in inputs)
    ]
    kept = [array.copy() for array in suspects]
    try:
        for array in suspects:
            array.fill(np.nan)
        if suspects:
            _run_quietly(run)
        rewritten = any(not np.isnan(array).all() for array in suspects)
    finally:
        for array, values in zip(suspects, kept, strict=True):
            np.copyto(array, values)
    if rewritten:
        raise error(_rewritten(who))


def _run_quietly(run: Callable[[], Any]) -> None:
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        with contextlib.suppress(Exception):  # it found NaN in place of its numbers; only its writes matter
            run()


def _rewritten(who: str) -> str:
    return f"{who}: returns memory that a later call writes into; return a new array, or a copy"


def _arrays_in(value: Any) -> Iterator[np.ndarray]:
    """The arrays in a value, in containers, and in attributes of objects such as dataclasses."""
    pending, seen = [value], set()
    while pending:
        value = pending.pop()
        if isinstance(value, np.ndarray):
            yield value
        elif id(value) not in seen and not isinstance(value, (type, FunctionType, ModuleType)):
            seen.add(id(value))
            pending += _parts(value)


def _parts(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return list(value) if isinstance(value, (tuple, list)) else list(getattr(value, "__dict__", {}).values())


def _copies(value: Any) -> list[np.ndarray]:
    return [array.copy() for array in _arrays_in(value)]


def _same_bits(arrays: Any, copies: list[np.ndarray]) -> bool:
    now = list(arrays)
    return len(now) == len(copies) and all(a.tobytes() == b.tobytes() for a, b in zip(now, copies, strict=True))


def _numbers(value: Any) -> list[np.ndarray]:
    """Arrays and NumPy scalars in `value`, as arrays of their own."""
    if isinstance(value, (np.ndarray, np.generic)):
        return [np.array(value)]
    parts = _parts(value) if isinstance(value, (dict, tuple, list)) else []
    return [array for part in parts for array in _numbers(part)]


def _close(ours: list[np.ndarray], theirs: list[np.ndarray]) -> bool:
    if [(a.shape, a.dtype) for a in ours] != [(b.shape, b.dtype) for b in theirs]:
        return False
    for a, b in zip(ours, theirs, strict=True):
        if a.dtype.kind != "f":
            if a.tobytes() != b.tobytes():
                return False
            continue
        few_roundings = 100 * float(np.finfo(a.dtype).eps) * largest(b)  # a library may sum in another order
        if not np.allclose(a, b, rtol=0, atol=few_roundings, equal_nan=True):
            return False
    return True

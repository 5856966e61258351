"""
What compiled code depends on where a function lies outside of the files that name the cache's folder: a user's kernel.

Compiled code holds the functions that it calls and the global values that it reads, so an edit of any of them must
compile it again. `digest` follows a function to all of them: the text of each file that it comes to, and each value,
count. NumPy, Numba, LLVM and Python's own modules are told by their versions, which are part of the folder's name.
"""

from __future__ import annotations

import dis
import enum
import hashlib
import numbers
import os
import sys
from collections.abc import Container, Iterator
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any

import llvmlite
import numba
import numpy as np

# Libraries whose versions the folder's name tells; what others install beside Python's own modules is none of them.
_LIBRARIES = tuple(os.path.dirname(module.__file__ or "") + os.sep for module in (np, numba, llvmlite))
_PYTHON = os.path.dirname(os.__file__) + os.sep
_INSTALLED = tuple(os.path.join(_PYTHON, name) + os.sep for name in ("site-packages", "dist-packages"))
_PLAIN = (numbers.Number, np.generic, np.dtype, numba.types.Type, str, bytes, type(None), enum.Enum)


def digest(function: Any, known: Container[str]) -> str | None:
    """
    Tell what a function's compiled code depends on, besides the files that are `known`.

    Parameters
    ----------
    function : function
    known : container of str
        Paths of files that are looked after otherwise.

    Returns
    -------
    str or None
        "" where nothing else matters; None where it cannot be told, as of a function that was typed in, or one that
        calls through an object of an unknown kind. Such code must not be kept.

    Examples
    --------
    >>> digest(digest, known=[digest.__code__.co_filename])
    ''
    >>> len(digest(digest, known=[]))
    64
    >>> digest(eval("lambda x: x"), known=[]) is None
    True
    """
    if function.__code__.co_filename in known:
        return ""
    found, seen = hashlib.sha256(), set()
    pending: list[tuple[Any, frozenset[str]]] = [(function, frozenset())]  # values, and the attributes read of them
    while pending:
        value, attributes = pending.pop()
        value = getattr(value, "py_func", getattr(value, "_defn", value))  # compiled functions, intrinsics
        if isinstance(value, (BuiltinFunctionType, np.ufunc)) or (id(value), attributes) in seen:
            continue
        if isinstance(value, (FunctionType, ModuleType, type)):
            seen.add((id(value), attributes))
            file = _file_of(value)
            if file in known or _told_by_version(file):
                continue
            try:
                found.update(hashlib.sha256(Path(file).read_bytes()).digest())
            except OSError:
                return None
            pending += _reached(value, attributes)
        elif isinstance(value, (tuple, list)):
            found.update(f"{type(value).__name__} of {len(value)}".encode())
            pending += [(item, frozenset()) for item in value]
        elif isinstance(value, np.ndarray) and not value.dtype.hasobject:
            found.update(f"{value.dtype.descr} {value.shape} {value.strides}".encode() + value.tobytes())
        elif isinstance(value, _PLAIN):
            found.update(f"{type(value)} {value!r}".encode())
        else:
            return None
    return found.hexdigest()


def _told_by_version(file: str) -> bool:
    """Whether a file, "" for what is built into Python, belongs to a library above or to Python itself."""
    python = not file or (file.startswith(_PYTHON) and not file.startswith(_INSTALLED))
    return python or file.startswith(_LIBRARIES)


def _file_of(value: Any) -> str:
    if isinstance(value, FunctionType):
        return value.__code__.co_filename
    module = value if isinstance(value, ModuleType) else sys.modules.get(value.__module__)
    built_in = module is not None and module.__name__ in (*sys.builtin_module_names, "math")
    return getattr(module, "__file__", None) or ("" if built_in else "<unknown>")


def _reached(value: Any, attributes: frozenset[str]) -> Iterator[tuple[Any, frozenset[str]]]:
    """What a function reads from outside, a class's numbers, or what of a module somebody reads."""
    if isinstance(value, ModuleType):
        yield from ((vars(value)[name], attributes) for name in sorted(attributes & vars(value).keys()))
    if isinstance(value, type):  # the numbers in it may come from another file
        members = list(value) if issubclass(value, enum.Enum) else getattr(value, "_field_defaults", {}).values()
        yield from ((member, frozenset()) for member in members)
    if not isinstance(value, FunctionType):
        return
    codes = [value.__code__]
    for code in codes:  # grows while it is walked
        codes += [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    attributes = frozenset(name for code in codes for name in code.co_names)
    read = [step.argval for code in codes for step in dis.get_instructions(code) if step.opname == "LOAD_GLOBAL"]
    for name in dict.fromkeys(read):
        if name in value.__globals__:
            yield value.__globals__[name], attributes
    for cell in value.__closure__ or ():
        yield cell.cell_contents, attributes
    for default in value.__defaults__ or ():
        yield default, attributes

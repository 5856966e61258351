"""The errors for attributes that do not exist. For PyTorch's names they say what to write: see `torch_names.py`."""

from __future__ import annotations

import sys
from opcode import opmap
from typing import Any


def missing_name(module: str, name: str, elsewhere: str = "") -> Exception:
    """
    The error for a name that a module lacks, to be raised by its `__getattr__`.

    It is an AttributeError. In ``from module import name`` Python replaces the words of an AttributeError by its own,
    so that there it is an ImportError, if the table knows what to write.

    Parameters
    ----------
    module, name : str
    elsewhere : str, optional
        What to write if the table does not have the name.

    Examples
    --------
    >>> print(missing_name("tinygpt", "cuda"))
    module 'tinygpt' has no attribute 'cuda': for torch.cuda.is_available() write False; everything computes on the CPU
    """
    elsewhere = f": write {elsewhere}" if elsewhere else ""
    if _is_imported_from_a_module() and (remedy := _remedy(module, name, elsewhere)):
        return ImportError(f"cannot import name {name!r} from {module!r}{remedy}", name=module)
    return _error(f"module {module!r} has no attribute {name!r}", module, name, sys.modules.get(module), elsewhere)


def missing_module(name: str) -> ModuleNotFoundError | None:
    """
    The error for a module of PyTorch's that is not here, in an import line; None if nobody knows what to write.

    Examples
    --------
    >>> print(missing_module("tinygpt.cuda"))
    No module named 'tinygpt.cuda': for torch.cuda.is_available() write False; everything computes on the CPU
    """
    parent, _, last = name.rpartition(".")
    remedy = _remedy(parent, last)
    return ModuleNotFoundError(f"No module named {name!r}{remedy}", name=name) if remedy else None


def missing_attribute(instance: Any, kind: str, name: str) -> AttributeError:
    """
    The error for an attribute that an object lacks, which is a "Tensor" or a "Module" of the table.

    Examples
    --------
    >>> print(missing_attribute([], "Tensor", "cuda"))
    'list' object has no attribute 'cuda': for x.cuda() write x; everything computes on the CPU
    """
    return _error(f"{type(instance).__name__!r} object has no attribute {name!r}", kind, name, instance)


def _error(text: str, owner: str, name: str, holder: Any, elsewhere: str = "") -> AttributeError:
    if remedy := _remedy(owner, name, elsewhere):
        return AttributeError(text + remedy, name=None, obj=None)  # None: Python adds no "Did you mean"
    return AttributeError(text, name=name, obj=holder)  # from these Python suggests the nearest name


def _remedy(owner: str, name: str, elsewhere: str = "") -> str:
    if name.startswith("_"):  # what NumPy, copy and notebooks look for is not in the table
        return ""
    from tinygpt.runtime.torch_names import as_method, instead_of

    return instead_of(owner, name) or elsewhere or as_method(owner, name)


def _is_imported_from_a_module() -> bool:
    """Whether the code that looks for the name, behind each `__getattr__`, is an import statement."""
    frame = sys._getframe(2)
    while frame.f_code.co_name == "__getattr__" and frame.f_back is not None:
        frame = frame.f_back
    return frame.f_code.co_code[frame.f_lasti] == opmap["IMPORT_FROM"]

"""The errors for attributes that do not exist. For PyTorch's names they say what to write: see `torch_names.py`."""

from __future__ import annotations

import sys
from typing import Any


def missing_name(module: str, name: str, elsewhere: str = "") -> AttributeError:
    """
    The error for a name that a module lacks.

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
    text = f"module {module!r} has no attribute {name!r}"
    return _error(text, module, name, sys.modules.get(module), f": write {elsewhere}" if elsewhere else "")


def missing_attribute(instance: Any, kind: str, name: str) -> AttributeError:
    """
    The error for an attribute that an object lacks, which is a "Tensor" or a "Module" of the table.

    Examples
    --------
    >>> print(missing_attribute([], "Tensor", "cuda"))
    'list' object has no attribute 'cuda': for x.cuda() write x; everything computes on the CPU
    """
    return _error(f"{type(instance).__name__!r} object has no attribute {name!r}", kind, name, instance)


def _error(text: str, owner: str, name: str, holder: Any, remedy: str = "") -> AttributeError:
    if not name.startswith("_"):  # what NumPy, copy and notebooks look for is not in the table
        from tinygpt.runtime.torch_names import instead_of

        remedy = instead_of(owner, name) or remedy
        if remedy:
            return AttributeError(text + remedy)
    return AttributeError(text, name=name, obj=holder)  # from these Python suggests the nearest name

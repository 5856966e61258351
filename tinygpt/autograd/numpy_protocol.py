"""
How NumPy sees a tensor: as values where it reads, and with its gradient where it computes.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np


class NumPyProtocol:
    """
    What a tensor answers when NumPy meets it. What `np.f(tensor)` does is in `numpy_dispatch.py`.

    `np.asarray`, `np.array` (also of a list of one-element tensors), `float` and `int` read the values: what is made
    of them is detached.
    """

    __slots__ = ()
    data: np.ndarray

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.data, dtype, copy=copy)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        return importlib.import_module("tinygpt.ops.numpy_dispatch").array_function(function, args, kwargs)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        return importlib.import_module("tinygpt.ops.numpy_dispatch").array_ufunc(ufunc, method, inputs, kwargs)

    def __float__(self) -> float:
        return float(self.item())  # type: ignore[attr-defined]

    def __int__(self) -> int:
        return int(self.item())  # type: ignore[attr-defined]


def check_detached(data: Any) -> None:
    """Raise TypeError where a list holds tensors that require gradients: an array of them would lose these."""
    if isinstance(data, NumPyProtocol) and data.requires_grad:  # type: ignore[attr-defined]
        raise TypeError("Tensor: got a list of tensors that require gradients, which would be lost; "
                        "use stack([a, b]) of tinygpt.functional, or detach() them")  # fmt: skip
    if isinstance(data, (list, tuple)):
        for item in data:
            if isinstance(item, (NumPyProtocol, list, tuple)):
                check_detached(item)

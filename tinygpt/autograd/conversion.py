"""What PyTorch's `to` asks for: another dtype, the only device that there is, or both."""

from __future__ import annotations

from typing import Any

import numpy as np


def device_and_dtype(name: str, args: tuple[Any, ...], device: Any, dtype: Any) -> np.dtype | None:
    """
    The dtype that ``name.to(*args, device=device, dtype=dtype)`` asks for, or None; ValueError for another device.

    Examples
    --------
    >>> device_and_dtype("x", ("cpu", "float64"), None, None)
    dtype('float64')
    """
    for arg in args:
        if _is_dtype(arg):
            dtype = arg
        else:
            device = arg
    if device is not None and str(device).partition(":")[0] != "cpu":
        raise ValueError(
            f"{name}.to: needs 'cpu' or a dtype of NumPy, got {device!r}: for {name}.to({str(device)!r}) write {name}; "
            "everything computes on the CPU"
        )
    return None if dtype is None else numpy_dtype(f"{name}.to", dtype)


def numpy_dtype(who: str, dtype: Any) -> np.dtype:
    """
    A dtype of NumPy, or TypeError.

    Examples
    --------
    >>> numpy_dtype("astype", "float32")
    dtype('float32')
    """
    try:
        return np.dtype(dtype)
    except TypeError:
        raise TypeError(f"{who}: needs a dtype of NumPy, such as np.float32, got {dtype!r}") from None


def _is_dtype(value: Any) -> bool:
    """Whether NumPy takes it for a dtype; a tensor, which has one, stands for its own."""
    try:
        return value is not None and np.dtype(value) is not None
    except TypeError:
        return False

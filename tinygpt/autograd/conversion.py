"""
A tensor in another dtype or memory, by PyTorch's names; and its device, which is the CPU.

They do what `x.astype(np.float64)` does. As in PyTorch, a tensor that already has the dtype is returned as it is, not
copied.
"""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np

Self = TypeVar("Self", bound="Conversion")


class Conversion:
    """The conversions of a tensor that have PyTorch's names."""

    __slots__ = ()

    @property
    def device(self) -> str:
        """Always "cpu"."""
        return "cpu"

    def to(self: Self, *args: Any, dtype: Any = None, device: Any = "cpu", non_blocking: Any = False) -> Self:
        """
        In another dtype.

        Parameters
        ----------
        *args
            "cpu", a dtype of NumPy, or both; or a tensor, whose dtype is meant.
        dtype, device
            The same by name.
        non_blocking
            Without a meaning on the CPU.

        Raises
        ------
        ValueError
            If another device than the CPU is asked for.
        TypeError
            If the dtype is not one of a tensor's.

        Examples
        --------
        >>> from tinygpt import Tensor
        >>> x = Tensor([1.0, 2.0])
        >>> x.to("cpu") is x, x.to("cpu", np.float64).dtype
        (True, dtype('float64'))
        """
        dtype = device_and_dtype("x", args, device, dtype)
        return self if dtype is None else _converted(self, dtype)

    def cpu(self: Self) -> Self:
        """The tensor itself."""
        return self

    def clone(self: Self) -> Self:
        """A copy, through which gradients flow back."""
        return _copied(self)

    def contiguous(self: Self) -> Self:
        """The tensor itself: every operation takes any layout in memory, `reshape` too."""
        return self

    # Last in the class: below these, `float` and the others are no longer Python's.

    def double(self: Self) -> Self:
        """In float64."""
        return _converted(self, np.float64)

    def long(self: Self) -> Self:
        """In int64, rounded towards zero."""
        return _converted(self, np.int64)

    def float(self: Self) -> Self:
        """In float32."""
        return _converted(self, np.float32)

    def int(self: Self) -> Self:
        """In int32, rounded towards zero."""
        return _converted(self, np.int32)

    def bool(self: Self) -> Self:
        """True where an element is not 0."""
        return _converted(self, np.bool_)


def device_and_dtype(name: str, args: tuple[Any, ...], device: Any, dtype: Any) -> Any:
    """
    The dtype that ``name.to(*args, device=device, dtype=dtype)`` asks for, or None; ValueError for another device.

    Examples
    --------
    >>> device_and_dtype("x", ("cpu", "float64"), None, None)
    'float64'
    """
    for arg in args:
        if isinstance(arg, Conversion):
            dtype = _dtype_of(arg)
        elif _is_dtype(arg):
            dtype = arg
        else:
            device = arg
    if device is not None and str(device).partition(":")[0] != "cpu":
        raise ValueError(
            f"{name}.to: needs 'cpu' or a dtype of NumPy, got {device!r}: for {name}.to({str(device)!r}) write {name}; "
            "everything computes on the CPU"
        )
    return dtype


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


def _dtype_of(tensor: Any) -> Any:
    return tensor.dtype


def _is_dtype(value: Any) -> bool:
    try:
        return value is not None and np.dtype(value) is not None
    except TypeError:
        return False


def _converted(tensor: Any, dtype: Any) -> Any:
    return tensor if tensor.dtype == np.dtype(dtype) else tensor.astype(dtype)


def _copied(tensor: Any) -> Any:
    return tensor.astype(tensor.dtype)

"""Where a module computes: on the CPU, in the dtype that it was made with. PyTorch's methods that move it say so."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from tinygpt.autograd.conversion import device_and_dtype
from tinygpt.runtime.missing import missing_attribute

Self = TypeVar("Self", bound="Placement")


class Placement:
    """The methods of a module that PyTorch moves it with."""

    def to(self: Self, *args: Any, device: Any = "cpu", dtype: Any = None) -> Self:
        """
        The module itself, where that is what is asked for.

        Parameters
        ----------
        *args
            "cpu", a dtype, or both.
        device, dtype
            The same by name.

        Raises
        ------
        ValueError
            If another device than the CPU is asked for, or another dtype than that of the parameters.

        Examples
        --------
        >>> from tinygpt.nn import LayerNorm
        >>> layer = LayerNorm(3)
        >>> layer.to("cpu") is layer
        True
        """
        dtype = device_and_dtype("model", args, device, dtype)
        if dtype is not None and any(parameter.dtype != np.dtype(dtype) for parameter in _parameters(self)):
            found = ", ".join(sorted({str(parameter.dtype) for parameter in _parameters(self)}))
            raise ValueError(
                f"{type(self).__name__}.to: the parameters are {found} and stay so, got {np.dtype(dtype)}; make the "
                "module with dtype= and load_state_dict into it"
            )
        return self

    def cpu(self: Self) -> Self:
        """The module itself."""
        return self

    if not TYPE_CHECKING:

        def __getattr__(self, name):
            raise missing_attribute(self, "Module", name)


def _parameters(module: Any) -> Any:
    return module.parameters()

"""
What a module and its parts were at some time: whoever has derived something from them, such as a capture or the arrays
of a decoder, notices in microseconds that something else was put in their place.
"""

from __future__ import annotations

from tinygpt.nn.module import Module


class ModuleSnapshot:
    """
    The attributes of a module and of all its parts, their classes, and the arrays of the parameters.

    The numbers in arrays may change, and so may hooks.

    Parameters
    ----------
    module : Module

    Attributes
    ----------
    modules : list of Module
    parameters : list of Parameter
    arrays : list of ndarray
        Their data.

    Examples
    --------
    >>> import numpy as np
    >>> from tinygpt.nn import Linear
    >>> layer = Linear(2, 3, np.random.default_rng(0))
    >>> snapshot = ModuleSnapshot(layer)
    >>> layer.weight.data[0, 0] = 1
    >>> snapshot.is_unchanged()
    True
    >>> layer.weight.data = np.ones((2, 3), np.float32)
    >>> snapshot.is_unchanged()
    False
    """

    def __init__(self, module: Module):
        self.modules = list(module.modules())
        self._attributes = [vars(each) for each in self.modules]
        self._lists = [value for each in self._attributes for value in each.values() if isinstance(value, list)]
        self._former_attributes = [dict(each) for each in self._attributes]
        self._former_lists = [list(each) for each in self._lists]
        self._types = list(map(type, self.modules))
        self.parameters = module.parameters()
        self.arrays = [parameter._data for parameter in self.parameters]

    def is_unchanged(self) -> bool:
        """Whether all of it is as it was."""
        try:
            return (
                self._attributes == self._former_attributes  # of each value, whether it is the same object, first
                and self._lists == self._former_lists
                and list(map(type, self.modules)) == self._types
                and all(p._data is array for p, array in zip(self.parameters, self.arrays, strict=True))
            )
        except (TypeError, ValueError):  # arrays and tensors that are not the same object cannot be compared so
            return False

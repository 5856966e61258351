"""Arrays from what may be a tensor: of tinygpt, or of PyTorch, which is not imported for it."""

from __future__ import annotations

from typing import Any

import numpy as np


def plain_array(value: Any) -> np.ndarray:
    """
    An array, a list, or the values of a tensor, whether it requires gradients or not; not copied if possible.

    Raises
    ------
    TypeError
        With the reason: a tensor on a GPU or of bfloat16, or no array.

    Examples
    --------
    >>> plain_array([1.0, 2.0])
    array([1., 2.])
    """
    try:
        return np.asarray(value.detach() if hasattr(value, "detach") else value)
    except Exception as error:  # PyTorch's own kinds
        remedy = "; write tensor.float()" if "BFloat16" in str(error) else ""
        raise TypeError(f"{error}{remedy}") from None

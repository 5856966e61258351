"""The result of an implementation at one place."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Result(NamedTuple):
    """
    One operation's results.

    Attributes
    ----------
    where : str
        The part of the model and the operation, or the name of a parameter.
    direction : {"forward", "backward", "gradient"}
    arrays : list of ndarray
    """

    where: str
    direction: str
    arrays: list[np.ndarray]

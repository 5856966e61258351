"""JSON with a checksum of its values, so that a flipped bit or an accidental edit is found when the file is read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

_CHECKSUM = "checksum"


def seal(values: Mapping[str, Any]) -> dict[str, Any]:
    """
    Add the checksum of some values to them.

    Parameters
    ----------
    values : dict
        What JSON can hold; without NaN and infinities, which it cannot.

    Returns
    -------
    dict
        The same, and "checksum": the SHA-256 of all others, however the file is laid out.

    Examples
    --------
    >>> sealed = seal({"step": 20})
    >>> unseal(sealed, "training_state.json", "use a copy")
    {'step': 20}
    >>> unseal(sealed | {"step": 21}, "training_state.json", "use a copy")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: training_state.json is damaged: its checksum says that it was written otherwise; use a copy, or ...
    """
    return {**values, _CHECKSUM: _checksum(values)}


def unseal(values: Mapping[str, Any], where: str, remedy: str) -> dict[str, Any]:
    """
    Check what `seal` made, and take the checksum off.

    Parameters
    ----------
    values : dict
        As read from a file. Without a checksum, as older files are, nothing is checked.
    where : str
        The file.
    remedy : str
        What to do if it is damaged.

    Returns
    -------
    dict

    Raises
    ------
    ValueError
        If the values are not those that the checksum was made of.
    """
    plain = {name: value for name, value in values.items() if name != _CHECKSUM}
    if _CHECKSUM in values and values[_CHECKSUM] != _checksum(plain):
        raise ValueError(f"{where} is damaged: its checksum says that it was written otherwise; {remedy}, or delete "
                         f'its "{_CHECKSUM}" if it was edited on purpose')  # fmt: skip
    return plain


def _checksum(values: Mapping[str, Any]) -> str:
    text = json.dumps(dict(values), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()

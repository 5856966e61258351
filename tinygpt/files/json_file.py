"""
Reading untrusted JSON within limits, so that no file hangs the program or ends it in a traceback.

    bytes       at most as many as the kind of file can need
    depth       at most 32 values inside each other: code that walks them afterwards may be recursive
    numbers     integers of at most 256 bits (the state of a random generator has 128); NaN and infinity, which are
                not JSON, only on request
    names       each once in an object: of two it would not be clear which counts
    text        UTF-8, with or without a byte order mark; no lone surrogates, which UTF-8 cannot hold
"""

from __future__ import annotations

import json
import math
import os
import re
from collections import Counter
from typing import Any

from tinygpt.files.input_file import MEGABYTE, read_bytes
from tinygpt.files.one_line import brief, shown

DEPTH = 32
BITS = 256
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def read_object(
    path: str | os.PathLike[str],
    who: str = "",
    remedy: str = "check the name",
    limit: int = MEGABYTE,
    finite: bool = True,
) -> dict[str, Any]:
    """
    Read a file that holds one JSON object.

    Parameters
    ----------
    path : path
    who : str
        The function that errors name.
    remedy : str
        What to do if the file is not there.
    limit : int
        The most bytes that a file of this kind has.
    finite : bool
        Whether every number must be finite; otherwise NaN and Infinity are read as Python writes them.

    Returns
    -------
    dict
        The object.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not an ordinary file, too large, not UTF-8, not JSON within the limits above, or not an object.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder) / "config.json"
    ...     _ = path.write_text('{"n_layer": 12}')
    ...     read_object(path, "example")
    {'n_layer': 12}
    """
    start = f"{who}: " if who else ""
    return parse_object(read_bytes(path, limit, who, remedy, "JSON"), f"{start}{shown(path)}", finite)


def parse_object(data: bytes | str, where: str, finite: bool = True) -> dict[str, Any]:
    """
    Do the same with the contents of a file, or with a part of it.

    Parameters
    ----------
    data : bytes or str
    where : str
        What errors begin with.
    finite : bool
        As `read_object` takes it.

    Examples
    --------
    >>> parse_object('{"step": 20, "step": 30}', "training_state.json")
    Traceback (most recent call last):
    ValueError: training_state.json must hold each name once, 'step' is there twice; use another copy
    """
    value = parse(data, where, finite)
    if not isinstance(value, dict):
        raise ValueError(f"{where} must hold a JSON object, got a {type(value).__name__}; use another copy")
    return value


def parse(data: bytes | str, where: str, finite: bool = True) -> Any:
    """
    Do the same with any JSON value, such as one line of a log.

    Examples
    --------
    >>> parse("[1, 2.5, null]", "example")
    [1, 2.5, None]
    """

    def once(entries: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(entries)
        if len(found) < len(entries):
            twice = next(name for name, count in Counter(name for name, _ in entries).items() if count > 1)
            raise _NotAllowed(f"must hold each name once, {brief(twice)} is there twice")
        return found

    try:
        text = data if isinstance(data, str) else data.decode("utf-8")
        value = json.loads(text.removeprefix("\ufeff"), object_pairs_hook=once)
        _check(value, finite, _SURROGATE.search(text) is not None)
    except _NotAllowed as error:
        raise ValueError(f"{where} {error}; use another copy") from None
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}: {error.msg}"
        raise ValueError(f"{where} must be JSON, and is truncated or corrupt ({place}); use another copy") from None
    except UnicodeDecodeError as error:
        place = f"byte {error.start} is not UTF-8"
        raise ValueError(f"{where} must be JSON, and is truncated or corrupt ({place}); use another copy") from None
    except RecursionError:
        raise ValueError(f"{where} must be JSON, and is truncated or corrupt ({_TOO_DEEP}); use another copy") from None
    except ValueError:  # an integer of thousands of digits
        raise ValueError(
            f"{where} must be JSON, and is truncated or corrupt ({_TOO_LARGE}); use another copy"
        ) from None
    return value


class _NotAllowed(Exception):
    """JSON outside of the limits; not a ValueError, which the parser would take for its own."""


_TOO_DEEP = f"values are nested more than {DEPTH} deep"
_TOO_LARGE = f"it holds an integer of more than {BITS} bits"


def _check(value: Any, finite: bool, surrogates: bool) -> None:
    """Walk through all values, a level at a time and so without recursion."""
    level, depth = [value], 0
    while level:
        if depth > DEPTH:
            raise _NotAllowed(f"must be JSON, and is truncated or corrupt ({_TOO_DEEP})")
        below: list[Any] = []
        for item in level:
            kind = type(item)
            if kind is dict:
                below.extend(item.values())
                if surrogates:
                    below.extend(item)
            elif kind is list:
                below.extend(item)
            elif kind is int:
                if item.bit_length() > BITS:
                    raise _NotAllowed(f"must be JSON, and is truncated or corrupt ({_TOO_LARGE})")
            elif kind is float:
                if finite and not math.isfinite(item):
                    raise _NotAllowed(f"must hold finite numbers only, got {item}")
            elif kind is str and surrogates and not is_utf8(item):
                raise _NotAllowed(f"must hold characters only, got the lone surrogate in {brief(item)}")
        level, depth = below, depth + 1


def is_utf8(text: str) -> bool:
    """Whether a text holds characters only: no lone surrogate, which no file can hold."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True

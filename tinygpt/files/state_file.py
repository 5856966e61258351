"""
A state in one file: `save_state` and `load_state`, in place of `torch.save` and `torch.load`.

A state is what checkpoints are made of: dictionaries, lists and tuples, nested, of numbers, texts and arrays. The file
is a safetensors file. Its arrays are the arrays of the state, each named after its place; all else is JSON in the
header's metadata, under `tinygpt_state`:

    {"step": 20, "model": {"wte": array}, "shapes": [(2, 3), None]}

    arrays      model.wte
    JSON        {"keys": ["step", "model", "shapes"],
                 "values": [20, {"keys": ["wte"], "values": [{"array": "model.wte"}]},
                            {"list": [{"tuple": [2, 3]}, null]}]}

Every dictionary, list and tuple is an object that says which it is, so that nothing in a state can be taken for another
thing, keys may be integers, and a tuple comes back as a tuple. Nothing is pickled: a pickle is a program, and opening
one runs it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tinygpt.files.input_file import open_input
from tinygpt.files.json_file import BITS, DEPTH, is_utf8, parse
from tinygpt.files.one_line import brief, shown
from tinygpt.files.safetensors_file import (
    DTYPES,
    LONGEST_HEADER,
    read_arrays,
    read_header,
    require_dtypes,
    write_tensors,
)
from tinygpt.runtime.aliases import aliases
from tinygpt.runtime.plain_array import plain_array

_METADATA = "tinygpt_state"
_DEEPEST = DEPTH // 2 - 1  # dictionaries, lists and tuples inside each other; each is two of JSON's, an array one more
_Path = tuple[Any, ...]  # the keys and places that lead to a value

_PICKLE = (
    "a pickle, or a zip archive with one, as torch.save writes; pickles are never opened here, because they run code. "
    "Where PyTorch is, write tinygpt.save_state(torch.load(path, weights_only=True), new_path), or, for tensors by "
    "name, safetensors.torch.save_file(tensors, new_path), and load that file"
)


def save_state(state: Any, path: str | os.PathLike[str]) -> None:
    """
    Write a state to one file, atomically: the old file stays until the new one is whole and on the disk.

    Parameters
    ----------
    state : dict, list, tuple, array or scalar
        Dictionaries with keys of str or int, lists and tuples, up to 15 inside each other, of numbers, bool, str, None,
        and arrays of booleans, integers or floats. A tensor, also one of PyTorch, is an array here.
    path : path
        The file, usually ``*.safetensors``. Its folder must exist.

    Raises
    ------
    TypeError, ValueError
        If a value cannot be saved; the error names its place in the state. No file is written.
    OSError
        If the disk is full, or the folder is missing or cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> from tinygpt import GPT, AdamW, GPTConfig
    >>> model = GPT(GPTConfig(vocab_size=11, n_positions=8, n_embd=4, n_layer=1, n_head=2))
    >>> optimizer = AdamW(model.parameters(), lr=1e-3)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     checkpoint = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": 20}
    ...     save_state(checkpoint, f"{folder}/checkpoint.safetensors")
    ...     checkpoint = load_state(f"{folder}/checkpoint.safetensors")
    >>> _ = model.load_state_dict(checkpoint["model"])
    >>> optimizer.load_state_dict(checkpoint["optimizer"])
    >>> checkpoint["step"]
    20
    >>> save_state({"hooks": [print]}, "checkpoint.safetensors")
    Traceback (most recent call last):
    ...
    TypeError: save_state: state['hooks'][0] must be a dict, list, tuple, array, number, bool, str or None, got builtin_function_or_method
    """  # noqa: E501
    target = _checked("save_state", path)
    arrays: dict[str, np.ndarray] = {}
    text = json.dumps(_described(state, (), arrays))
    write_tensors(target, arrays, {_METADATA: text})


@aliases()
def load_state(path: str | os.PathLike[str]) -> Any:
    """
    Read what `save_state` wrote. Nothing in the file is run.

    Parameters
    ----------
    path : path
        A file of `save_state`, or any other safetensors file, which is a dict of arrays by name.

    Returns
    -------
    state
        Equal to what was saved, with the same types of keys, containers and numbers, and the same dtypes and shapes.
        Subclasses of dict, list and tuple come back as these, tensors as arrays. Each array has memory of its own.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is damaged or of another kind, such as a pickle.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_state({0: np.ones(2, np.float32), "betas": (0.9, 0.95)}, f"{folder}/a.safetensors")
    ...     load_state(f"{folder}/a.safetensors")
    {0: array([1., 1.], dtype=float32), 'betas': (0.9, 0.95)}
    """
    who, path = "load_state", _checked("load_state", path)
    with open_input(path, who, "give a file that save_state wrote") as file:
        if _begins_like_a_pickle(file.read(8)):
            raise ValueError(f"{who}: {shown(path)} must be a safetensors file, got {_PICKLE}")
        file.seek(0)
        header = read_header(who, path, file)
        own = _METADATA in header.metadata
        require_dtypes(who, path, header.entries, DTYPES if own else (*DTYPES, "BF16"))
        described = parse(header.metadata[_METADATA], f"{who}: {shown(path)}", finite=False) if own else None
        arrays = dict(read_arrays(who, path, file, header.entries))
    if not own:
        return dict(sorted(arrays.items()))
    try:
        state = _restored(described, arrays)
        if arrays:
            raise ValueError(f"the array {brief(min(arrays))} is not in the state")
    except ValueError as error:
        raise ValueError(f"{who}: {shown(path)} is damaged: {error}; use another copy") from None
    return state


def _checked(who: str, path: Any) -> Path:
    try:
        return Path(path)
    except TypeError:
        form = "save_state(state, path)" if who == "save_state" else "load_state(path)"
        raise TypeError(f"{who}: path must be a str or a Path, got {type(path).__name__}; write {form}") from None


def _begins_like_a_pickle(start: bytes) -> bool:
    """Whether a file is a zip archive or a pickle: as a header's length, its first bytes would be beyond the limit."""
    protocol = start[:1] == b"\x80" and start[1:2] in (b"\2", b"\3", b"\4", b"\5")
    return start[:4] == b"PK\3\4" or (protocol and int.from_bytes(start, "little") > LONGEST_HEADER)


def _described(value: Any, path: _Path, arrays: dict[str, np.ndarray]) -> Any:
    """A value as JSON; its arrays are added to `arrays`."""
    if len(path) > _DEEPEST:
        raise ValueError(
            f"save_state: {_place(path[:3])}... must be nested at most {_DEEPEST} deep, and is nested deeper; if it "
            "holds itself, save a copy that does not"
        )
    if isinstance(value, np.generic):
        return {"scalar": _added(np.asarray(value), path, arrays)}
    if value is None or isinstance(value, (bool, int, float, str)):
        _require_json(value, path)
        return value
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, (str, int)):
                got = f"{type(key).__name__} {brief(key)}"
                raise TypeError(f"save_state: the keys of {_place(path)} must be str or int, got {got}")
            _require_json(key, (*path, key))
        values = [_described(item, (*path, key), arrays) for key, item in value.items()]
        return {"keys": list(value), "values": values}
    if isinstance(value, (list, tuple)):
        items = [_described(item, (*path, number), arrays) for number, item in enumerate(value)]
        return {"tuple" if isinstance(value, tuple) else "list": items}
    if hasattr(value, "__array__") and not isinstance(value, np.ma.MaskedArray):
        return {"array": _added(value, path, arrays)}
    remedy = "; save its state_dict()" if hasattr(value, "state_dict") else ""
    remedy = "; write sorted(...)" if isinstance(value, (set, frozenset)) else remedy
    raise TypeError(
        f"save_state: {_place(path)} must be a dict, list, tuple, array, number, bool, str or None, got "
        f"{type(value).__name__}{remedy}"
    )


def _require_json(value: Any, path: _Path) -> None:
    """Raise ValueError for what `json_file.py` does not read."""
    if isinstance(value, int) and value.bit_length() > BITS:
        raise ValueError(f"save_state: {_place(path)} must have at most {BITS} bits, got {value.bit_length()}")
    if isinstance(value, str) and not is_utf8(value):
        raise ValueError(
            f"save_state: {_place(path)} must hold characters only, got the lone surrogate in {brief(value)}"
        )


def _added(value: Any, path: _Path, arrays: dict[str, np.ndarray]) -> str:
    """Add an array, under the name that is returned: its place, `model.wte`."""
    try:
        array = plain_array(value)
    except TypeError as error:
        raise TypeError(f"save_state: {_place(path)} must be convertible to an array, and is not: {error}") from None
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        raise TypeError(f"save_state: {_place(path)} must be of booleans, integers or floats, got dtype {array.dtype}")
    name = ".".join(map(str, path)) or "state"
    while name in arrays or name == "__metadata__":
        name += "_"
    arrays[name] = array
    return name


def _place(path: _Path) -> str:
    return "state" + "".join(f"[{brief(key)}]" for key in path)


def _restored(described: Any, arrays: dict[str, np.ndarray]) -> Any:
    """The value that `_described` wrote; its arrays are taken out of `arrays`."""
    if not isinstance(described, (dict, list)):
        return described
    match described:
        case {"keys": list(keys), "values": list(values)} if _are_keys(keys, len(values)):
            return {key: _restored(value, arrays) for key, value in zip(keys, values, strict=True)}
        case {"list": list(items)}:
            return [_restored(item, arrays) for item in items]
        case {"tuple": list(items)}:
            return tuple(_restored(item, arrays) for item in items)
        case {"array": str(name)} if name in arrays:
            return arrays.pop(name)
        case {"scalar": str(name)} if name in arrays and not arrays[name].ndim:
            return arrays.pop(name)[()]
    raise ValueError(f"{brief(described)} is no part of a state")


def _are_keys(keys: list[Any], count: int) -> bool:
    return all(isinstance(key, (str, int)) for key in keys) and len(keys) == len(set(keys)) == count

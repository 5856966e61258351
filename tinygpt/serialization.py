"""
Arrays to safetensors files, settings to JSON files, and back, with every bit kept and every damage named.

Nothing is pickled: opening a file never runs code that came with it.

Source: the safetensors format, https://github.com/huggingface/safetensors#format. Its library reads the files here.
Writing takes the few lines of `write_tensors` instead: the library's `save_file` leaves files that only their owner
may read, and reports a full disk as text that is no OSError; its `save` needs all bytes in memory once more.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from tinygpt import bfloat16
from tinygpt.durable import atomic_open, atomic_write, one_writer
from tinygpt.swap import read_whole

_NAMES = {  # safetensors' name of a dtype, by NumPy's
    **{"float64": "F64", "float32": "F32", "float16": "F16", "bool": "BOOL"},
    **{f"{kind}{bits}": f"{kind[0].upper()}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)},
}


def save_training_state(
    directory: str | os.PathLike[str], tensors: Mapping[str, np.ndarray], info: Mapping[str, Any]
) -> None:
    """
    Write what resuming needs, as ``training_state.safetensors`` and, for people, ``training_state.json``.

    The first file holds `info` too, so that one file is one moment: a copy of the folder that is made while a save
    replaces it can hold files of two saves.

    Parameters
    ----------
    directory : path
        Where to write; created if missing.
    tensors : dict of str to array
        Arrays of booleans, integers or floats, of any shape; each keeps its dtype and every bit.
    info : dict
        Whatever JSON can hold, e.g. the step and the settings. Floats, infinities included, and integers of any size
        come back exactly; tuples come back as lists.

    Raises
    ------
    TypeError
        If an array is of a dtype that safetensors lacks, or `info` holds what JSON does not know.
    OSError
        If the disk is full, or the folder cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_training_state(folder, {"wte.weight.m": np.zeros((4, 2))}, {"step": 20})
    ...     print(sorted(os.listdir(folder)))
    ['training_state.json', 'training_state.safetensors']
    """
    directory = Path(directory)
    text = json.dumps(dict(info), indent=2, sort_keys=True) + "\n"
    with one_writer(directory):
        write_tensors(directory / "training_state.safetensors", tensors, {"info": text})
        atomic_write(directory / "training_state.json", text)


def load_training_state(directory: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """
    Read what `save_training_state` wrote.

    Parameters
    ----------
    directory : path
        The checkpoint folder. A swap that was cut short there is completed first.

    Returns
    -------
    tensors : dict of str to array
        With the dtypes that they were saved with.
    info : dict
        As it was saved.

    Raises
    ------
    FileNotFoundError
        If the folder holds no training state, as ``best`` does not.
    ValueError
        If a file is truncated or corrupt.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_training_state(folder, {"m": np.ones(2, np.float16)}, {"best": float("inf")})
    ...     load_training_state(folder)
    ({'m': array([1., 1.], dtype=float16)}, {'best': inf})
    """
    return read_whole(directory, _read_training_state)


def _read_training_state(directory: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    remedy = "training resumes from the `last` folder of a run"
    info = read_json("load_training_state", directory / "training_state.json", remedy)
    path = directory / "training_state.safetensors"
    tensors = read_tensors("load_training_state", path, remedy)
    with safe_open(path, framework="numpy") as file:
        inside = (file.metadata() or {}).get("info")  # older files have none
    return tensors, info if inside is None else _parse_object("load_training_state", path, inside)


def write_tensors(path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None) -> None:
    """
    Write named arrays to a safetensors file. The same arrays give the same bytes, in whatever order they come.

    Parameters
    ----------
    path : path
        The file, which appears under its name only once it is whole.
    tensors : dict of str to array
        Arrays of booleans, integers or floats, of any shape and memory layout.
    metadata : dict of str to str, optional
        Words for the header.

    Raises
    ------
    TypeError
        If an array is of a dtype that safetensors lacks.
    OSError
        As `atomic_open` does.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_tensors(Path(folder) / "a.safetensors", {"a": np.eye(2, dtype=np.float32)})
    ...     (Path(folder) / "a.safetensors").read_bytes()[8:62]
    b'{"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16'
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    # Wide elements first: then each array starts at a multiple of its element size, however the widths are mixed.
    names = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    end = 0
    for name in names:
        array = tensors[name]
        if array.dtype.name not in _NAMES:
            raise TypeError(f"{path.name}: {name} must be of booleans, integers or floats, got dtype {array.dtype}")
        start, end = end, end + array.nbytes
        dtype = _NAMES[array.dtype.name]
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [start, end]}
    head = json.dumps(header, separators=(",", ":")).encode("utf-8")
    head += b" " * (-len(head) % 8)
    with atomic_open(path) as file:
        file.write(struct.pack("<Q", len(head)) + head)
        for name in names:
            little_endian = tensors[name].dtype.newbyteorder("<")
            file.write(np.ascontiguousarray(tensors[name], little_endian).data)


def read_tensors(
    who: str, path: Path, remedy: str, dtypes: tuple[str, ...] = tuple(_NAMES.values()), ignore: tuple[str, ...] = ()
) -> dict[str, np.ndarray]:
    """
    Read a safetensors file into arrays of their own memory.

    Parameters
    ----------
    who : str
        The function that errors name.
    path : path
        The file.
    remedy : str
        What to do if it is not there.
    dtypes : tuple of str
        The dtypes that are allowed, under safetensors' names; "BF16", which NumPy lacks, becomes float32.
    ignore : tuple of str
        Tensors whose names end so are not read.

    Returns
    -------
    dict of str to array
        In the order of their names.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is truncated or corrupt, or holds a dtype that is not allowed.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_tensors(Path(folder) / "a.safetensors", {"a": np.eye(2, dtype=np.int8)})
    ...     read_tensors("example", Path(folder) / "a.safetensors", remedy="look elsewhere")
    {'a': array([[1, 0],
           [0, 1]], dtype=int8)}
    """
    if not path.is_file():
        raise FileNotFoundError(f"{who}: {path} must be a file, and is not there; {remedy}")
    tensors = {}
    try:
        with safe_open(path, framework="numpy") as file:
            for name in sorted(file.keys()):
                if name.endswith(ignore):
                    continue
                dtype = file.get_slice(name).get_dtype()
                if dtype not in dtypes:
                    raise ValueError(f"{who}: {name} in {path} must be one of {', '.join(dtypes)}, got {dtype}")
                tensors[name] = _bfloat16(path, name) if dtype == "BF16" else file.get_tensor(name)
    except SafetensorError as error:
        size = path.stat().st_size
        raise ValueError(
            f"{who}: {path} must be a whole safetensors file, got {size} bytes that are truncated or corrupt ({error});"
            " use another copy or another checkpoint"
        ) from error
    return tensors


def _bfloat16(path: Path, name: str) -> np.ndarray:
    """A tensor of bfloat16 as float32, from a file whose header safetensors has found right."""
    with path.open("rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        entry = json.loads(file.read(size))[name]
        start, end = entry["data_offsets"]
        file.seek(8 + size + start)
        return bfloat16.widened(np.frombuffer(file.read(end - start), "<u2")).reshape(entry["shape"])


def read_json(who: str, path: Path, remedy: str) -> dict[str, Any]:
    """
    Read a file that holds one JSON object.

    Parameters
    ----------
    who : str
        The function that errors name.
    path : path
        The file.
    remedy : str
        What to do if it is not there.

    Returns
    -------
    dict
        The object.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not UTF-8, not JSON, or another JSON value than an object.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     atomic_write(Path(folder) / "config.json", '{"n_layer": 12}')
    ...     read_json("example", Path(folder) / "config.json", remedy="look elsewhere")
    {'n_layer': 12}
    """
    if not path.is_file():
        raise FileNotFoundError(f"{who}: {path} must be a file, and is not there; {remedy}")
    return _parse_object(who, path, path.read_bytes())


def _parse_object(who: str, path: Path, text: bytes | str) -> dict[str, Any]:
    try:
        value = json.loads(text if isinstance(text, str) else text.decode("utf-8-sig"))  # without a byte order mark
    except ValueError as error:  # bad UTF-8 or bad JSON
        raise ValueError(
            f"{who}: {path} must be JSON, and is truncated or corrupt ({error}); use another copy"
        ) from error
    if not isinstance(value, dict):
        raise ValueError(f"{who}: {path} must hold a JSON object, got a {type(value).__name__}; use another copy")
    return value

"""
The safetensors format: arrays to disk and back, bit for bit; an error names the damaged part.

Nothing is pickled: opening a file never runs code that came with it.

    bytes 0-7      N, the length of the header, uint64, little-endian
    bytes 8-7+N    the header, JSON: {name: {"dtype": "F32", "shape": [V, C], "data_offsets": [start, end]}, ...},
                   and perhaps {"__metadata__": {name: text, ...}}
    the rest       the arrays, without a gap between them, in the order of their offsets

The header says what the file must hold to the last byte, so it is checked as a whole before any array is read.

Source: the safetensors format, https://github.com/huggingface/safetensors#format. Tests compare with its library,
which is not used here: it maps the file into memory, so that a file that shrinks meanwhile ends the process, and
the arrays are in memory twice; its `save_file` leaves files that only their owner may read, and a full disk is not
an OSError.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Callable, Collection, Iterator, Mapping
from io import BufferedReader
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tinygpt.files.atomic import atomic_open, atomic_write
from tinygpt.files.directory_swap import read_whole
from tinygpt.files.input_file import MEGABYTE, open_input
from tinygpt.files.json_file import parse_object, read_object
from tinygpt.files.locks import one_writer
from tinygpt.files.one_line import brief, shown
from tinygpt.runtime import bfloat16

_NAMES = {  # safetensors' name of a dtype, by NumPy's
    **{"float64": "F64", "float32": "F32", "float16": "F16", "bool": "BOOL"},
    **{f"{kind}{bits}": f"{kind[0].upper()}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)},
}
DTYPES = tuple(_NAMES.values())
"""Those that NumPy has, under safetensors' names."""

_DTYPES = {name: np.dtype(dtype).newbyteorder("<") for dtype, name in _NAMES.items()}
_DTYPES["BF16"] = np.dtype("<u2")  # NumPy lacks it: its bits
_SIZES = {name: dtype.itemsize for name, dtype in _DTYPES.items()}  # bytes of an element
_SIZES |= {"F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "C64": 8}  # which are known, so that they are refused by name
LONGEST_HEADER = 16 * MEGABYTE  # GPT-2 XL's has 60 kB
_MOST_AXES = 32  # NumPy allows 32 or, since 2.0, 64


class Entry(NamedTuple):
    """The entry of one array in the header of a safetensors file; `start` and `end` are bytes of the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


class Header(NamedTuple):
    """The arrays of a safetensors file, and its metadata."""

    entries: dict[str, Entry]
    metadata: dict[str, str]


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


def load_training_state(
    directory: str | os.PathLike[str], check: Callable[[dict[str, Any], str], object] = lambda info, where: None
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """
    Read what `save_training_state` wrote.

    Parameters
    ----------
    directory : path
        The checkpoint folder. A swap that was cut short there is completed first.
    check : callable
        Called with `info`, as each of the two files has it, and the file's name, before an array is read.

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
    return read_whole(directory, lambda folder: _read_training_state(folder, check))


def _read_training_state(
    directory: Path, check: Callable[[dict[str, Any], str], object]
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    who, remedy = "load_training_state", "training resumes from the `last` folder of a run"
    text, path = directory / "training_state.json", directory / "training_state.safetensors"
    info = read_object(text, who, remedy, finite=False)
    check(info, shown(text))
    with open_input(path, who, remedy) as file:
        header = read_header(who, path, file)
        if "info" in header.metadata:  # older files have none
            info = parse_object(header.metadata["info"], f"{who}: {shown(path)}", finite=False)
            check(info, shown(path))
        require_dtypes(who, path, header.entries, DTYPES)
        tensors = dict(read_arrays(who, path, file, header.entries))
    return dict(sorted(tensors.items())), info


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
    ValueError
        If names and metadata are longer than what is read.
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
    if len(head) > LONGEST_HEADER:
        raise ValueError(
            f"{path.name}: all that is not in arrays must have at most {LONGEST_HEADER:,} bytes, got {len(head):,}; "
            "put long lists of numbers into arrays"
        )
    with atomic_open(path) as file:
        file.write(struct.pack("<Q", len(head)) + head)
        for name in names:
            little_endian = tensors[name].dtype.newbyteorder("<")
            file.write(np.ascontiguousarray(tensors[name], little_endian).data)


def read_tensors(
    who: str, path: Path, remedy: str, dtypes: tuple[str, ...] = DTYPES, ignore: tuple[str, ...] = ()
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
    with open_input(path, who, remedy) as file:
        entries = read_header(who, path, file).entries
        chosen = {name: entry for name, entry in sorted(entries.items()) if not name.endswith(ignore)}
        require_dtypes(who, path, chosen, dtypes)
        read = dict(read_arrays(who, path, file, chosen))
    return {name: read[name] for name in chosen}


def require_dtypes(who: str, path: Path, entries: Mapping[str, Entry], dtypes: Collection[str]) -> None:
    """Raise ValueError unless all arrays are of one of these dtypes, under safetensors' names."""
    for name, entry in entries.items():
        if entry.dtype not in dtypes:
            allowed = ", ".join(dtypes)
            raise ValueError(f"{who}: {_name(name)} in {shown(path)} must be one of {allowed}, got {entry.dtype}")


def read_arrays(
    who: str, path: Path, file: BufferedReader, entries: Mapping[str, Entry]
) -> Iterator[tuple[str, np.ndarray]]:
    """
    Give out arrays of a file, one after the other in the order of the file, each in memory of its own.

    Parameters
    ----------
    who : str
        The function that errors name.
    path : path
    file : binary file
        Open for reading.
    entries : dict of str to Entry
        Which arrays, as `read_header` has found them right.

    Yields
    ------
    name : str
    array : ndarray
        That of "BF16", which NumPy lacks, is float32.

    Raises
    ------
    ValueError
        If the file has become shorter.
    MemoryError
        If an array does not fit into memory.
    """
    for name, entry in sorted(entries.items(), key=lambda item: item[1].start):
        try:
            array = np.empty(entry.shape, _DTYPES[entry.dtype])
        except MemoryError:
            size = f"{entry.end - entry.start:,} bytes"
            raise MemoryError(f"{who}: {_name(name)} in {shown(path)} takes {size}: no memory is left") from None
        file.seek(entry.start)
        if file.readinto(array.reshape(-1).view(np.uint8).data) != array.nbytes:
            raise _damaged(who, path, file, f"{_name(name)} is cut short")
        native = array.astype(array.dtype.newbyteorder("="), copy=False)
        yield name, bfloat16.to_float32(native) if entry.dtype == "BF16" else native


def read_header(who: str, path: Path, file: BufferedReader) -> Header:
    """
    Read the header of a safetensors file and compare it with the file: every byte must belong to one array.

    Parameters
    ----------
    who : str
        The function that errors name.
    path : path
    file : binary file
        Open for reading, at its start.

    Returns
    -------
    Header

    Raises
    ------
    ValueError
        If it is truncated or corrupt, or longer than 16 MiB.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "a.safetensors"
    ...     write_tensors(path, {"a": np.eye(2, dtype=np.int8)})
    ...     with open_input(path) as file:
    ...         read_header("example", path, file).entries
    {'a': Entry(dtype='I8', shape=(2, 2), start=64, end=68)}
    """
    size = os.fstat(file.fileno()).st_size
    start = file.read(8)
    length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
    if not 2 <= length <= min(size - 8, LONGEST_HEADER):
        limit = f" and at most {LONGEST_HEADER:,} bytes" if length <= size - 8 else ""
        raise _damaged(who, path, file, f"the header must be within the file{limit}, got {length:,} bytes")
    text = file.read(length)
    try:
        found = parse_object(text, "the header")
        metadata = found.pop("__metadata__", {})
        if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
            raise ValueError(f"__metadata__ must map names to text, got {brief(metadata)}")
        entries = {name: _entry(name, value, 8 + length) for name, value in found.items()}
        _require_no_gaps(entries, 8 + length, size)
    except ValueError as error:
        raise _damaged(who, path, file, str(error).removesuffix("; use another copy")) from None
    return Header(entries, metadata)


def _entry(name: str, value: Any, data: int) -> Entry:
    """One entry of the header, checked for consistency; `data` is where the arrays begin."""
    fields = value if isinstance(value, dict) else {}
    shape: Any = fields.get("shape")
    offsets: Any = fields.get("data_offsets")
    dtype = fields.get("dtype")
    if len(fields) != 3 or not _is_sizes(shape) or not _is_sizes(offsets) or len(offsets) != 2:
        raise ValueError(f"{_name(name)} must have dtype, shape and data_offsets, got {brief(value)}")
    if not isinstance(dtype, str) or dtype not in _SIZES:
        raise ValueError(f"{_name(name)} must have a known dtype, got {brief(dtype)}")
    if len(shape) > _MOST_AXES:
        raise ValueError(f"{_name(name)} must have at most {_MOST_AXES} axes, got {len(shape)}")
    count = math.prod(shape)
    # NumPy makes no array of size 0 either whose other axes would be too large.
    if count * 8 >= 1 << 62 or math.prod(size or 1 for size in shape) * 8 >= 1 << 62:
        raise ValueError(f"{_name(name)} must have a possible shape, got {brief(shape)}")
    if offsets[1] - offsets[0] != count * _SIZES[dtype]:
        raise ValueError(f"{_name(name)} of {dtype} and shape {brief(shape)} cannot take bytes {brief(offsets)}")
    return Entry(dtype, tuple(shape), data + offsets[0], data + offsets[1])


def _is_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(size) is int and 0 <= size < 1 << 60 for size in value)


def _require_no_gaps(entries: Mapping[str, Entry], data: int, size: int) -> None:
    places = sorted((entry.start, entry.end) for entry in entries.values())
    for (_, end), (start, _) in pairwise([(data, data), *places, (size, size)]):
        if end != start:
            trouble = "a gap between arrays" if end < start else "arrays that overlap, or end behind the file"
            raise ValueError(f"the header must give each byte to one array, got {trouble} at byte {min(end, start):,}")


def _damaged(who: str, path: Path, file: BufferedReader, reason: str) -> ValueError:
    size = os.fstat(file.fileno()).st_size
    return ValueError(
        f"{who}: {shown(path)} must be a whole safetensors file, got {size} bytes that are truncated or corrupt "
        f"({reason}); use another copy or another checkpoint"
    )


def _name(name: str) -> str:
    """The name of an array in an error."""
    return name if len(name) <= 80 and name.isprintable() else brief(name)


def read_json(who: str, path: Path, remedy: str, limit: int = MEGABYTE) -> dict[str, Any]:
    """As `json_file.read_object`, for the files of a checkpoint."""
    return read_object(path, who, remedy, limit)

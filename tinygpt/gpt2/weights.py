"""
The weights of a model folder: one safetensors file, or several shards that an index lists.

    model.safetensors                    all weights
    model.safetensors.index.json         {"weight_map": {"wte.weight": "model-00001-of-00002.safetensors", ...}}

A shard is a file in the folder of its index. An index cannot name a file in another folder, neither by a path nor by a
symbolic link, because it may be untrusted. (The cache of the Hugging Face hub is the exception: there, each
file is a link to one in `../../blobs`.)

Where a model has one array under two names, safetensors' `save_model` stores it once, and the file's metadata has
{"the other name": "the name that is stored"}. Such an array is returned under both names.

The headers of all files are read first. The arrays are read only if the caller's check accepts the shapes.

Source: https://huggingface.co/docs/safetensors, https://huggingface.co/docs/transformers/big_models
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from tinygpt.files.input_file import MEGABYTE, open_input
from tinygpt.files.json_file import read_object
from tinygpt.files.one_line import brief, one_line, shown
from tinygpt.files.safetensors_file import Entry, read_arrays, read_header, require_dtypes

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
Shapes = Mapping[str, tuple[int, ...]]
_DTYPES = ("F16", "BF16", "F32", "F64")
_OTHER_FORMATS = {"pytorch_model*.bin*": "pickled", "*.pt": "pickled", "*.ckpt*": "pickled", "*.h5": "of TensorFlow",
                "*.msgpack": "of Flax", "*.gguf": "of llama.cpp"}  # fmt: skip
_LONGEST_INDEX = 16 * MEGABYTE


def read_weights(
    who: str,
    directory: Path,
    remedy: str,
    ignore: tuple[str, ...] = (),
    check: Callable[[Shapes], object] = lambda shapes: None,
) -> dict[str, np.ndarray]:
    """
    Read all weights of a folder.

    Parameters
    ----------
    who : str
        The function that errors name.
    directory : Path
    remedy : str
        What the error proposes if there are no weights.
    ignore : tuple of str
        Suffixes of the names of tensors that are not read.
    check : callable
        Called with the shapes of all tensors, by name, before any tensor is read; may raise.

    Returns
    -------
    dict of str to float32 array
        Half precision is converted exactly, float64 is rounded to the nearest float32.

    Raises
    ------
    FileNotFoundError
        If there is neither of the two files, or a shard is missing.
    ValueError
        If a file is damaged, the index does not fit its shards, or the weights are in a format that is not read.

    Examples
    --------
    >>> import tempfile
    >>> from tinygpt.files.safetensors_file import write_tensors
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_tensors(Path(folder) / "model.safetensors", {"a": np.ones(2, np.float16)})
    ...     read_weights("example", Path(folder), "look elsewhere", check=print)
    {'a': (2,)}
    {'a': array([1., 1.], dtype=float32)}
    """
    files, other_names = _headers(who, directory, remedy, ignore)
    shapes = {name: entry.shape for entries in files.values() for name, entry in entries.items()}
    check(shapes | {other: shapes[name] for other, name in other_names.items()})
    tensors: dict[str, np.ndarray] = {}
    for path, entries in files.items():
        with open_input(path, who, remedy) as file:
            if _wanted(who, path, read_header(who, path, file).entries, ignore) != entries:
                raise ValueError(
                    f"{who}: {shown(path)} must stay as it is while it is read, and has changed; try again"
                )
            for name, array in read_arrays(who, path, file, entries):
                tensors[name] = _as_float32(who, array, f"{one_line(name)} in {shown(directory)}")
    tensors |= {other: tensors[name] for other, name in other_names.items()}
    return dict(sorted(tensors.items()))


def _headers(
    who: str, directory: Path, remedy: str, ignore: tuple[str, ...]
) -> tuple[dict[Path, dict[str, Entry]], dict[str, str]]:
    """The tensors of each file, and a dictionary from second names to the names that are stored."""
    if not (directory / WHOLE).exists():
        if (directory / INDEX).exists():
            return _headers_of_shards(who, directory, ignore), {}
        _refuse_other_formats(who, directory)
    path = directory / WHOLE
    with open_input(path, who, remedy) as file:  # says what is missing
        header = read_header(who, path, file)
    entries = _wanted(who, path, header.entries, ignore)
    others = {
        other: name
        for other, name in header.metadata.items()
        if name in entries and other not in entries and not other.endswith(ignore)
    }
    return {path: entries}, others


def _wanted(who: str, path: Path, entries: Mapping[str, Entry], ignore: tuple[str, ...]) -> dict[str, Entry]:
    wanted = {name: entry for name, entry in entries.items() if not name.endswith(ignore)}
    require_dtypes(who, path, wanted, _DTYPES)
    return wanted


def _headers_of_shards(who: str, directory: Path, ignore: tuple[str, ...]) -> dict[Path, dict[str, Entry]]:
    path = directory / INDEX
    places = read_object(path, who, "use another copy", _LONGEST_INDEX).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(shard, str) for shard in places.values()):
        raise ValueError(f"{who}: weight_map in {shown(path)} must name a file for each tensor; use another copy")
    shards = defaultdict(set)
    for name, shard in places.items():
        if shard in ("", ".", "..") or "/" in shard or "\\" in shard or "\0" in shard:
            raise ValueError(
                f"{who}: a shard in {shown(path)} must be the name of a file beside it, got {brief(shard)}"
            )
        shards[shard].add(name)
    files = {}
    for shard, names in sorted(shards.items()):
        found = _header_of_shard(who, directory, directory / shard, ignore)
        expected = {name for name in names if not name.endswith(ignore)}
        if found.keys() != expected:
            odd = one_line(min(found.keys() ^ expected))
            raise ValueError(f"{who}: {shown(directory / shard)} must hold what {INDEX} says, and {odd} is in one of "
                             "them only; use another copy")  # fmt: skip
        files[directory / shard] = found
    return files


def _header_of_shard(who: str, directory: Path, path: Path, ignore: tuple[str, ...]) -> dict[str, Entry]:
    folder, real = os.path.realpath(directory), os.path.realpath(path)
    blobs = os.path.join(os.path.dirname(os.path.dirname(folder)), "blobs")  # where the hub's cache has them
    if os.path.dirname(real) not in (folder, blobs):
        raise ValueError(
            f"{who}: a shard in {shown(directory / INDEX)} must be a file beside it, got {shown(path.name)}, a link to "
            "another folder; put the file itself there"
        )
    with open_input(path, who, f"{INDEX} lists it: fetch the model again") as file:
        return _wanted(who, path, read_header(who, path, file).entries, ignore)


def _refuse_other_formats(who: str, directory: Path) -> None:
    """Raise ValueError with the remedy if the folder has weights in a format that we do not read."""
    variants = sorted([*directory.glob("model.*.safetensors"), *directory.glob("model.safetensors.index.*.json")])
    if variants:
        remedy = "rename it" if variants[0].suffix == ".safetensors" else "save the model again without variant="
        raise ValueError(
            f"{who}: {shown(directory)} must hold {WHOLE}, got {_name(variants[0])}, a variant that is never read by "
            f"itself; {remedy}"
        )
    for pattern, format_ in _OTHER_FORMATS.items():
        found = sorted(directory.glob(pattern))
        if found:
            raise ValueError(
                f"{who}: {shown(directory)} must hold {WHOLE}, got {_name(found[0])}, which is {format_} and never "
                "opened; save the model again with transformers, which writes safetensors"
            )


def _name(path: Path) -> str:
    """For a message: the name of a file without its folder."""
    return shown(path.name)


def _as_float32(who: str, array: np.ndarray, shown: str) -> np.ndarray:
    try:
        with np.errstate(over="raise"):
            return array.astype(np.float32, copy=False)
    except FloatingPointError:
        raise ValueError(f"{who}: {shown} must fit float32, got numbers beyond 3.4e38; scale them") from None

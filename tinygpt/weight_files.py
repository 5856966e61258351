"""
The weights of a model folder: one safetensors file, or several that an index lists.

    model.safetensors                    all of them
    model.safetensors.index.json         {"weight_map": {"wte.weight": "model-00001-of-00002.safetensors", ...}}

A shard is a file beside its index, under a plain name: an index from elsewhere cannot name a file of another folder.

Where a model uses one array under two names, safetensors' `save_model` stores it once, and its metadata says
{"the other name": "the name that is stored"}; such a tensor is read under both names.

Source: https://huggingface.co/docs/safetensors, https://huggingface.co/docs/transformers/big_models
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import safe_open

from tinygpt.serialization import read_json, read_tensors

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_DTYPES = ("F16", "BF16", "F32", "F64")
_OTHER_FORMS = {"pytorch_model*.bin*": "pickled", "*.pt": "pickled", "*.ckpt*": "pickled", "*.h5": "of TensorFlow",
                "*.msgpack": "of Flax", "*.gguf": "of llama.cpp"}  # fmt: skip


def read_weights(who: str, directory: Path, remedy: str, ignore: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
    """
    Read all weights of a folder.

    Parameters
    ----------
    who : str
        The function that errors name.
    directory : Path
    remedy : str
        What to do if there are none.
    ignore : tuple of str
        Tensors whose names end so are not read.

    Returns
    -------
    dict of str to float32 array

    Raises
    ------
    FileNotFoundError
        If a file is missing.
    ValueError
        If a file is damaged, the index does not fit its shards, or the weights are in a form that is not read.

    Examples
    --------
    >>> import tempfile
    >>> from tinygpt.serialization import write_tensors
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_tensors(Path(folder) / "model.safetensors", {"a": np.ones(2, np.float16)})
    ...     read_weights("example", Path(folder), "look elsewhere")
    {'a': array([1., 1.], dtype=float32)}
    """
    if (directory / WHOLE).exists():
        tensors = read_tensors(who, directory / WHOLE, remedy, _DTYPES, ignore)
        tensors |= _aliases(directory / WHOLE, tensors)
    elif (directory / INDEX).exists():
        tensors = _read_shards(who, directory, ignore)
    else:
        _refuse_other_forms(who, directory)
        tensors = read_tensors(who, directory / WHOLE, remedy)  # says what is missing
    return {name: _as_float32(who, array, f"{name} in {directory}") for name, array in tensors.items()}


def _read_shards(who: str, directory: Path, ignore: tuple[str, ...]) -> dict[str, np.ndarray]:
    path = directory / INDEX
    places = read_json(who, path, "").get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(shard, str) for shard in places.values()):
        raise ValueError(f"{who}: weight_map in {path} must name a file for each tensor; use another copy")
    shards = defaultdict(set)
    for name, shard in places.items():
        if shard in ("", ".", "..") or "/" in shard or "\\" in shard or "\0" in shard:
            raise ValueError(f"{who}: a shard in {path} must be the name of a file beside it, got {shard!r}")
        shards[shard].add(name)
    tensors: dict[str, np.ndarray] = {}
    for shard, names in sorted(shards.items()):
        found = read_tensors(who, directory / shard, f"{INDEX} lists it: fetch the model again", _DTYPES, ignore)
        expected = {name for name in names if not name.endswith(ignore)}
        if found.keys() != expected:
            odd = sorted(found.keys() ^ expected)
            raise ValueError(f"{who}: {directory / shard} must hold what {INDEX} says, and {odd[0]} is in one of them "
                             "only; use another copy")  # fmt: skip
        tensors |= found
    return tensors


def _aliases(path: Path, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors that are stored under another name, by the name that they have in the model."""
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata() or {}
    return {name: tensors[kept] for name, kept in metadata.items() if kept in tensors and name not in tensors}


def _refuse_other_forms(who: str, directory: Path) -> None:
    """Name the remedy if the weights are there in a form that we do not read."""
    variants = sorted([*directory.glob("model.*.safetensors"), *directory.glob("model.safetensors.index.*.json")])
    if variants:
        remedy = "rename it" if variants[0].suffix == ".safetensors" else "save the model again without variant="
        raise ValueError(
            f"{who}: {directory} must hold {WHOLE}, got {variants[0].name}, a variant that is never read by itself;"
            f" {remedy}"
        )
    for pattern, form in _OTHER_FORMS.items():
        found = sorted(directory.glob(pattern))
        if found:
            raise ValueError(
                f"{who}: {directory} must hold {WHOLE}, got {found[0].name}, which is {form} and never opened; save the"
                " model again with transformers, which writes safetensors"
            )


def _as_float32(who: str, array: np.ndarray, shown: str) -> np.ndarray:
    try:
        with np.errstate(over="raise"):
            return array.astype(np.float32, copy=False)
    except FloatingPointError:
        raise ValueError(f"{who}: {shown} must fit float32, got numbers beyond 3.4e38; scale them") from None

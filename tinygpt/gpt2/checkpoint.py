"""
Checkpoints: a folder as the Hugging Face ecosystem lays out a GPT-2, and the state that training needs to resume.

    config.json              sizes and settings, with Hugging Face's field names
    model.safetensors        the weights; or shards, which model.safetensors.index.json lists
    vocab.json, merges.txt, tokenizer_config.json        the tokenizer
    training_state.safetensors, training_state.json      in `last` only: optimizer state, counters, generators

So `transformers.GPT2LMHeadModel.from_pretrained("runs/x/best")` loads what we trained, and we load what it saved.
`load_model` and `load_tokenizer` take any name that files/locate.py knows; `read_model` and `read_tokenizer` read a
folder that was found. This file reads and writes dictionaries of arrays and knows no model class: the model checks that
each weight is present and has its shape. Atomic writes are in files/atomic.py and files/directory_swap.py, the
safetensors format is in files/safetensors_file.py; this file exports their functions for callers.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tinygpt.files import locate
from tinygpt.files.atomic import atomic_open, atomic_write
from tinygpt.files.directory_swap import recover, swap_in
from tinygpt.files.locks import one_writer
from tinygpt.files.one_line import brief, shown
from tinygpt.files.safetensors_file import load_training_state, read_json, save_training_state, write_tensors
from tinygpt.gpt2.hugging_face import (
    ADAPTER,
    ARCHITECTURE,
    BUFFERS,
    PREFIX,
    check_architecture,
    names_in_gpt2,
    state_of,
)
from tinygpt.gpt2.parameter_shapes import shapes_of_gpt2
from tinygpt.gpt2.weights import Shapes, read_weights

if TYPE_CHECKING:
    from tinygpt.tokenizer import Tokenizer

__all__ = ["load_model", "load_tokenizer", "read_model", "read_tokenizer", "save_model"]
__all__ += ["load_training_state", "save_training_state"]
__all__ += ["atomic_open", "atomic_write", "recover", "swap_in"]

_GPT2_VOCABULARY, _GPT2_END_OF_TEXT = 50257, 50256  # its size, and the id of <|endoftext|>


def save_model(
    directory: str | os.PathLike[str],
    config: Mapping[str, Any],
    state: Mapping[str, np.ndarray],
    tokenizer: Tokenizer | None,
) -> None:
    """
    Write a model as a Hugging Face GPT-2 folder.

    Parameters
    ----------
    directory : path
        Where to write; created if missing. Each file is written atomically; only `swap_in` does so for the folder. Of
        two processes that save there at once, the second waits for the first.
    config : dict
        The fields of ``config.json``, with Hugging Face's names. Where they are missing, `model_type`, the architecture
        and the ids that begin and end a text are filled in. These ids are the tokenizer's, or null if there is none,
        because transformers' default is 50256; GPT-2's own vocabulary has that id with or without a tokenizer.
    state : dict of str to array
        The weights, float32 or float64, with GPT-2's names (``wte.weight``), without a tied ``lm_head.weight``.
    tokenizer : Tokenizer or None
        Written beside the model, unless None.

    Raises
    ------
    ValueError
        If `config` is not of a model that tinygpt computes, or the tokenizer has more ids than the model.
    TypeError
        If a weight is neither float32 nor float64, or a value in `config` cannot be written as JSON.
    OSError
        If the disk is full, or the folder cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_model(folder, {"vocab_size": 4}, {"wte.weight": np.ones((4, 2), np.float32)}, None)
    ...     print(sorted(os.listdir(folder)))
    ['config.json', 'model.safetensors']
    """
    directory = Path(directory)
    fields = {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", **ARCHITECTURE}
    fields |= dict.fromkeys(("bos_token_id", "eos_token_id"), _end_of_text(config, tokenizer))
    fields |= config
    check_architecture("save_model", fields, "config")
    if fields["tie_word_embeddings"] is not True:
        raise ValueError("save_model: tie_word_embeddings in config must be True, got False: not supported")
    if tokenizer is not None:
        _check_vocabulary("save_model", tokenizer, fields, directory)
    _check_ends("save_model", fields)
    for name, array in state.items():
        if array.dtype not in (np.float32, np.float64):
            raise TypeError(f"save_model: {name} must be float32 or float64, got {array.dtype}; convert it first")
    text = json.dumps(fields, indent=2, sort_keys=True) + "\n"
    tensors = {PREFIX + name: array for name, array in state.items()}
    with one_writer(directory):
        atomic_write(directory / "config.json", text)
        write_tensors(directory / "model.safetensors", tensors, {"format": "pt"})  # transformers demands this entry
        if tokenizer is not None:
            tokenizer.save_pretrained(directory)


def load_model(
    name: str | os.PathLike[str], check: Callable[[dict[str, Any], Shapes], object] = lambda config, shapes: None
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """
    Read the configuration and the weights of a GPT-2, ours or transformers'.

    Parameters
    ----------
    name : path or str
        A run, a checkpoint, a Hugging Face folder, or a name of the hub; see files/locate.py.
    check : callable
        Called with the configuration and the shapes of the weights, by GPT-2's names, before any weight is read; may
        raise.

    Returns
    -------
    config : dict
        The fields of ``config.json``.
    state : dict of str to float32 array
        The weights by GPT-2's names, without ``transformer.`` and the prefixes of PyTorch's wrappers. Half precision is
        converted exactly, float64 is rounded to the nearest float32. Mask buffers and an ``lm_head.weight`` equal to
        ``wte.weight`` are left out; where only the head is stored, it becomes ``wte.weight``.

    Raises
    ------
    FileNotFoundError
        If there is no such model, or one of the two files is missing.
    ValueError
        If a file is truncated or corrupt, the model is not one that tinygpt computes, or the weights are in a format
        that is not read: pickled, or with a dtype other than float16, bfloat16, float32 and float64.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_model(folder, {"vocab_size": 4}, {"wte.weight": np.ones((4, 2), np.float32)}, None)
    ...     config, state = load_model(folder)
    >>> config["vocab_size"], state["wte.weight"].shape
    (4, (4, 2))
    """
    return locate.read(name, lambda folder: read_model(folder, check))


def read_model(
    directory: Path, check: Callable[[dict[str, Any], Shapes], object]
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Do what `load_model` does, from this folder as it is."""
    remedy = "give the folder of a GPT-2 checkpoint"
    if (directory / ADAPTER).exists():
        raise ValueError(
            f"load_model: {shown(directory)} must hold a whole model, got an adapter ({ADAPTER}): not supported; merge "
            "it into its model first (merge_and_unload) and save that"
        )
    config = read_json("load_model", directory / "config.json", remedy)
    check_architecture("load_model", config, directory / "config.json")

    def check_header(shapes: Shapes) -> None:
        names_in_gpt2("load_model", shapes, config, directory)
        check(config, shapes_of_gpt2(shapes))

    weights = read_weights("load_model", directory, remedy, BUFFERS, check_header)
    return config, state_of("load_model", weights, config, directory)


def _end_of_text(config: Mapping[str, Any], tokenizer: Tokenizer | None) -> int | None:
    """The id that begins and ends a text; None if it is not known."""
    if tokenizer is not None:
        return tokenizer.eot_token
    return _GPT2_END_OF_TEXT if config.get("vocab_size") == _GPT2_VOCABULARY else None


def _check_ends(who: str, fields: Mapping[str, Any]) -> None:
    """Raise ValueError unless the ids that begin and end a text are None or ids of the model."""
    for name in ("bos_token_id", "eos_token_id"):
        ids = fields[name] if isinstance(fields[name], list) else [fields[name]]
        for id in ids:
            if id is not None and not (type(id) is int and 0 <= id < fields.get("vocab_size", id + 1)):
                raise ValueError(f"{who}: {name} in config must be a token below vocab_size = "
                                 f"{fields.get('vocab_size')}, or None, got {brief(id)}")  # fmt: skip


def load_tokenizer(name: str | os.PathLike[str]) -> Tokenizer | None:
    """
    Read the tokenizer of a model, if it has one.

    Parameters
    ----------
    name : path or str
        A run, a checkpoint, a Hugging Face folder, a tokenizer's own folder, or a name of the hub; see files/locate.py.

    Returns
    -------
    Tokenizer or None
        None if there is a model without a tokenizer.

    Raises
    ------
    FileNotFoundError
        If there is neither, or one of the tokenizer's files is missing.
    ValueError
        If a file is damaged, or the tokenizer has more ids than the model beside it.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_model(folder, {"vocab_size": 4}, {"wte.weight": np.ones((4, 2), np.float32)}, None)
    ...     print(load_tokenizer(folder))
    None
    """
    return locate.read(name, read_tokenizer, "tokenizer")


def read_tokenizer(directory: Path) -> Tokenizer | None:
    """Do what `load_tokenizer` does, from this folder as it is."""
    from tinygpt.tokenizer import Tokenizer  # here, because loading weights alone does not need it
    from tinygpt.tokenizer.files import folder

    if not locate.has_tokenizer(directory):
        return None
    tokenizer = Tokenizer(*folder.load(directory))
    if (directory / "config.json").exists():
        config = read_json("load_tokenizer", directory / "config.json", "check the name")
        _check_vocabulary("load_tokenizer", tokenizer, config, directory)
    return tokenizer


def _check_vocabulary(who: str, tokenizer: Tokenizer, config: Mapping[str, Any], directory: Path) -> None:
    size = config.get("vocab_size", tokenizer.n_vocab)
    if type(size) is not int:
        raise TypeError(f"{who}: vocab_size of {shown(directory)} must be an integer, got {brief(size)}")
    if tokenizer.n_vocab > size:  # fewer is fine: vocabularies are padded to round numbers
        raise ValueError(
            f"{who}: the tokenizer of {shown(directory)} must fit its model, got {tokenizer.n_vocab} ids for"
            f" vocab_size = {size}; they do not belong together"
        )

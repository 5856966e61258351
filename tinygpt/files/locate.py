"""
From the name of a model or of a tokenizer to a folder, for commands and `from_pretrained`.

    a folder that holds one                 that folder
    a run                                   the checkpoint in it, `best` or `last`
    gpt2, for a tokenizer                   where `tinygpt tokenizer fetch gpt2` has put it
    gpt2, gpt2-medium, ..., owner/name      the repository of the Hugging Face hub; see `hub.py`

A name that exists on disk is never looked up on the hub.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from tinygpt.files import hub
from tinygpt.files.one_line import shown
from tinygpt.files.published import PUBLISHED
from tinygpt.files.user_cache import cache_folder

_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
_PARTS_OF_A_MODEL = ("config.json", "adapter_config.json")  # without weights: loading raises the error
_TOKENIZER = ("vocab.json", "merges.txt", "encoder.json", "vocab.bpe", "tokenizer.json")


def locate(name: str | os.PathLike[str], prefer: Literal["best", "last"] = "best") -> Path:
    """
    Find the checkpoint folder of a model.

    Parameters
    ----------
    name : path or str
        A run (a folder with ``best`` or ``last`` in it), a checkpoint folder, or, where there is no such folder, the
        name of a model of the Hugging Face hub.
    prefer : {"best", "last"}
        Which checkpoint of a run to take if it has both; if it has one, that one is taken.

    Returns
    -------
    Path
        The checkpoint folder. A directory swap that was interrupted there is completed.

    Raises
    ------
    FileNotFoundError
        If there is no checkpoint.
    OSError
        If the hub does not give the model.
    ValueError
        If `prefer` is neither of the two.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as run:
    ...     (Path(run) / "last").mkdir()
    ...     _ = (Path(run) / "last" / "config.json").write_text("{}")
    ...     print(locate(run).name)
    last
    """
    if prefer not in ("best", "last"):
        raise ValueError(f"locate: prefer must be 'best' or 'last', got {prefer!r}")
    folder = Path(name)
    if not folder.exists() and (repository := hub.repository_of(name)):
        folder = hub.fetch(name, repository, hub.MODEL_FILES)
    _complete_swap(folder)
    if _has(folder, _WEIGHTS):
        return folder
    checkpoint = _checkpoint_of_run(folder, prefer)
    if checkpoint is not None:
        return checkpoint
    if _has(folder, _PARTS_OF_A_MODEL):
        return folder
    found = "has neither" if folder.is_dir() else "is a file" if folder.exists() else "does not exist"
    raise FileNotFoundError(
        f"{shown(folder)} must be a checkpoint folder, or a run with a `best` or `last` folder, and {found};"
        " check the name, or train the run first"
    )


def locate_tokenizer(name: str | os.PathLike[str]) -> Path:
    """
    Find the folder of a tokenizer.

    Parameters
    ----------
    name : path or str
        A folder with the files of a tokenizer, or a run; where there is no such folder, the name of a tokenizer that
        was fetched, or of a repository of the Hugging Face hub, of which only the tokenizer is fetched.

    Returns
    -------
    Path
        The folder. A path that is none of these is returned as it is: reading it raises the error.

    Raises
    ------
    FileNotFoundError
        If it is the name of a published tokenizer that has not been fetched.
    OSError
        If the hub does not give the tokenizer.

    Examples
    --------
    >>> locate_tokenizer("/no/such/folder").name
    'folder'
    """
    folder = Path(name)
    if not folder.exists():
        if os.fspath(name) in PUBLISHED:
            return _fetched(os.fspath(name))
        if repository := hub.repository_of(name):
            return hub.fetch(name, repository, hub.TOKENIZER_FILES)
    if not _has(folder, _TOKENIZER):
        _complete_swap(folder)
    return folder if _has(folder, _TOKENIZER) else _checkpoint_of_run(folder, "best") or folder


def _complete_swap(folder: Path) -> None:
    from tinygpt.files.directory_swap import recover  # late: a tokenizer in a folder of its own does not need it

    recover(folder)


def _has(folder: Path, names: tuple[str, ...]) -> bool:
    return any((folder / name).exists() for name in names)


def _checkpoint_of_run(run: Path, prefer: Literal["best", "last"]) -> Path | None:
    for name in (prefer, "last" if prefer == "best" else "best"):
        _complete_swap(run / name)
        if (run / name / "config.json").exists():
            return run / name
    return None


def _fetched(name: str) -> Path:
    cached = cache_folder("tokenizers") / name
    if all((cached / file).is_file() for file in PUBLISHED[name]):
        return cached
    raise FileNotFoundError(
        f'from_pretrained: {name} must be a folder, or have been fetched, and is neither; run "tinygpt tokenizer '
        f'fetch {name}" where there is a network, or put {" and ".join(PUBLISHED[name])} in a folder and name that'
    )

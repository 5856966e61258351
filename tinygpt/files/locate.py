"""
From the name of a model or of a tokenizer to a folder: one function, for every command and each `from_pretrained`.

    a folder that holds one                 that folder
    a file in such a folder                 the folder: config.json, model.safetensors, tokenizer.json, ...
    a run                                   the checkpoint in it, `best`, else `last`
    tiny, where there is no such folder     the run runs/tiny
    gpt2, for a tokenizer                   where `tinygpt tokenizer fetch gpt2` has put it
    gpt2, gpt2-medium, ..., owner/name      the repository of the Hugging Face hub; see `hub.py`

What exists on disk is never looked up on the hub, and a name of the hub never means a run in `runs`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path
from typing import Literal, TypeAlias, TypeVar

from tinygpt.files import hub
from tinygpt.files.one_line import shown
from tinygpt.files.published import PUBLISHED
from tinygpt.files.user_cache import cache_folder

T = TypeVar("T")
What: TypeAlias = Literal["model", "config", "tokenizer"]
RUNS = Path("runs")  # where `tinygpt train` puts runs, and where a bare name is looked for
MODEL = "a run, a checkpoint, a Hugging Face GPT-2 folder, or a name on its hub, such as gpt2"
TOKENIZER = "a run, a checkpoint, a folder with a tokenizer's files, gpt2 once it is fetched, or a name on the hub"

_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
_PARTS_OF_A_MODEL = ("config.json", "adapter_config.json")  # without weights: loading raises the error
_TOKENIZER = ("vocab.json", "merges.txt", "encoder.json", "vocab.bpe", "tokenizer.json")
_INSIDE = (*hub.MODEL_FILES, *_TOKENIZER, "pytorch_model*.bin", "settings.json")  # files that mean their folder
_PICKLED = ("*.pt", "*.pth", "*.ckpt", "*.bin", "*.pkl")
_OF_THE_HUB = {"model": hub.MODEL_FILES, "config": hub.CONFIG_FILES, "tokenizer": hub.TOKENIZER_FILES}
_MANY = 1000  # entries of a folder that an error looks through for a better name


def locate(name: str | os.PathLike[str], what: What = "model") -> Path:
    """
    Find the folder that a name means.

    Parameters
    ----------
    name : path or str
        As the table at the top of this file has it.
    what : {"model", "config", "tokenizer"}
        What is wanted: from the hub, only its files are downloaded. A run that has files of a tokenizer itself is a
        tokenizer's folder.

    Returns
    -------
    Path
        The folder. A directory swap that was interrupted there is completed.

    Raises
    ------
    FileNotFoundError
        If there is none; the message says what would be accepted, and which names are near.
    OSError
        If the hub does not give it.
    TypeError, ValueError
        If the name is none, is empty, or no file can have it.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as run:
    ...     (Path(run) / "last").mkdir()
    ...     _ = (Path(run) / "last" / "config.json").write_text("{}")
    ...     print(locate(run).name)
    last
    """
    if not isinstance(name, (str, os.PathLike)):
        raise TypeError(f"locate: the name of a {what} must be a str or a path, got {type(name).__name__}")
    if not os.fspath(name):
        raise ValueError(f"locate: the name of a {what} must not be empty")
    folder = Path(name)
    if "\0" in str(folder):
        raise ValueError(f"locate: the name of a {what} must not hold a NUL character, got {shown(folder)}")
    if folder.is_file() and any(fnmatchcase(folder.name, pattern) for pattern in _INSIDE):
        folder = folder.parent
    if not folder.exists():
        _complete_swap(folder)
    if not folder.exists():
        folder = _by_name(name, folder, what)
    return _inside(folder, what, _complete_swap) or _refuse(folder, what)


def read(name: str | os.PathLike[str], reader: Callable[[Path], T], what: What = "model") -> T:
    """
    Find a folder, once, and read several of its files as they were at one moment.

    Parameters
    ----------
    name, what
        As `locate` takes them.
    reader : callable
        Reads from the folder that it is given. Where a run is being trained, it is called again if its checkpoint was
        replaced meanwhile.

    Returns
    -------
    object
        What `reader` returns.

    Raises
    ------
    Exception
        What `locate` and `reader` raise.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as run:
    ...     (Path(run) / "best").mkdir()
    ...     _ = (Path(run) / "best" / "config.json").write_text("{}")
    ...     print(read(run, os.listdir))
    ['config.json']
    """
    from tinygpt.files.directory_swap import read_whole  # late: help pages need the words above alone

    return read_whole(locate(name, what), reader)


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder has a file of a tokenizer."""
    return _has(folder, _TOKENIZER)


def _by_name(name: str | os.PathLike[str], folder: Path, what: What) -> Path:
    """The folder of a name that is not on disk, as it stands; the path itself where it means nothing else."""
    if what == "tokenizer" and os.fspath(name) in PUBLISHED:
        return _fetched(os.fspath(name))
    if repository := hub.repository_of(name):
        try:
            return hub.fetch(name, repository, _OF_THE_HUB[what])
        except OSError as error:
            raise type(error)(f"{error}{did_you_mean(folder, what)}") from error.__cause__
    return named_run(folder)


def named_run(path: Path) -> Path:
    """
    The run in `runs` that a bare name means; other paths, and names of files, of folders and of the hub, as they are.

    Examples
    --------
    >>> import tempfile
    >>> named_run(Path(tempfile.gettempdir())) == Path(tempfile.gettempdir())
    True
    """
    run = RUNS / path
    bare = _is_bare(path) and path.name not in hub.OFFICIAL
    return run if bare and not path.exists() and run.is_dir() else path


def _is_bare(path: Path) -> bool:
    return len(path.parts) == 1 and path.name != ""  # neither / nor ..


def _inside(folder: Path, what: What, recover: Callable[[Path], object] = lambda folder: None) -> Path | None:
    """The folder itself or the checkpoint in it, if there is one; `recover` is called before each is looked at."""
    wanted = _TOKENIZER if what == "tokenizer" else _WEIGHTS
    if what == "tokenizer" and _has(folder, wanted):
        return folder
    recover(folder)
    if _has(folder, wanted):
        return folder
    for name in ("best", "last"):
        recover(folder / name)
        if (folder / name / "config.json").exists():
            return folder / name
    return folder if _has(folder, _PARTS_OF_A_MODEL) or (what == "tokenizer" and _has(folder, _WEIGHTS)) else None


def _holds(folder: Path, what: What) -> bool:
    """Whether there is one in a folder beside others; not in one that may not be read."""
    try:
        return _inside(folder, what) is not None
    except OSError:
        return False


def _complete_swap(folder: Path) -> None:
    from tinygpt.files.directory_swap import recover

    recover(folder)


def _has(folder: Path, names: tuple[str, ...]) -> bool:
    return any((folder / name).exists() for name in names)


def _fetched(name: str) -> Path:
    """The folder of a published tokenizer: fetched by itself, or with the model of that name."""
    cached = cache_folder("tokenizers") / name
    if all((cached / file).is_file() for file in PUBLISHED[name]):
        return cached
    with_model = hub.cached(name)
    if with_model is not None and has_tokenizer(with_model):
        return with_model
    raise FileNotFoundError(
        f'from_pretrained: {name} must be a folder, or have been fetched, and is neither; run "tinygpt tokenizer '
        f'fetch {name}" where there is a network, or put {" and ".join(PUBLISHED[name])} in a folder and name that'
    )


def _refuse(folder: Path, what: What) -> Path:
    required, article = (TOKENIZER, "tokenizer") if what == "tokenizer" else (MODEL, "model")
    remedy = did_you_mean(folder, what)
    if not folder.exists():
        found = "does not exist"
        remedy = remedy or "; check the name"
    elif inside := [path for path in _folders_in(folder) if _holds(path, what)]:
        found = f"is a folder with {len(inside)} of them"
        remedy = f"; name one, such as {shown(max(inside, key=_changed))}"
    elif (folder / "settings.json").exists():
        found = "is a run that has not saved a checkpoint yet"
        remedy = "; wait for its first validation, or train it"
    elif what != "tokenizer" and has_tokenizer(folder):
        found = "holds a tokenizer, and no weights"
        remedy = remedy or "; name the model's folder"
    elif _is_safetensors(folder):
        found = "is a file of arrays"
        remedy = remedy or f"; name the folder of a {article} (in Python, tinygpt.load_state reads the file)"
    elif what != "tokenizer" and (pickled := _pickled(folder)):
        found = f"{'is' if pickled == folder else f'holds {shown(pickled.name)}, which is'} pickled and never opened"
        remedy = "; save its weights as model.safetensors, beside a config.json"
    elif not folder.is_dir():
        found = "is another file"
        remedy = remedy or "; check the name"
    else:
        found = f"holds no {article}" if any(folder.iterdir()) else "is empty"
        remedy = remedy or "; check the name"
    raise FileNotFoundError(f"{shown(folder)} must be {required}, and {found}{remedy}")


def did_you_mean(path: Path, what: What = "model") -> str:
    """
    The end of an error about a wrong name: a name near it that would be accepted; empty if there is none.

    Parameters
    ----------
    path : Path
        The wrong name.
    what : {"model", "config", "tokenizer"}
        As `locate` takes it.

    Examples
    --------
    >>> did_you_mean(Path("gpt-2-medium"))
    '; did you mean gpt2-medium?'
    """
    import difflib  # late: few names are wrong

    folders = {str(each): each for place in (path.parent, RUNS) for each in _folders_in(place)}
    bare = {each.name: each for each in _folders_in(RUNS)} if _is_bare(path) else {}
    official = () if str(path) in hub.OFFICIAL else hub.OFFICIAL  # what is spelled rightly is not another one
    near = difflib.get_close_matches(str(path), [*folders, *bare, *official], n=5)
    for name in (str(RUNS / path), str(RUNS / path.name), *near):
        if name in official:
            return f"; did you mean {name}?"
        folder = bare.get(name, Path(name))
        if folder != path and _holds(folder, what):
            return f"; did you mean {shown(folder)}?"
    return ""


def _folders_in(folder: Path) -> list[Path]:
    """The folders in a folder, if it is one that can be read."""
    try:
        entries = list(islice(folder.iterdir(), _MANY))
        return [path for path in entries if not path.name.startswith(".") and path.is_dir()]
    except OSError:
        return []


def _pickled(path: Path) -> Path | None:
    """The file, or the first one in the folder, that PyTorch has pickled. By the name: opening it could run code."""
    files = sorted(islice(path.iterdir(), _MANY)) if path.is_dir() else [path]
    return next((file for file in files if any(fnmatchcase(file.name, pattern) for pattern in _PICKLED)), None)


def _is_safetensors(path: Path) -> bool:
    """Whether it is a file that begins as safetensors do: with the length of a header, then a JSON object."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(9)[8:] == b"{"


def _changed(folder: Path) -> float:
    return folder.stat().st_mtime

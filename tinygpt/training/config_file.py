"""
Settings as a TOML file: what `tinygpt train --config` reads, and what every run writes as config.toml.

Keys are the names of the settings, with underscores or dashes. What a file leaves out comes from the preset. A relative
path is looked for beside the file first, then in the current folder; a name such as gpt2 stays a name.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tinygpt.files.atomic import atomic_write
from tinygpt.files.input_file import MEGABYTE, read_bytes
from tinygpt.files.json_file import is_utf8
from tinygpt.files.one_line import brief, one_line, shown
from tinygpt.gpt2.config import PRESETS
from tinygpt.training.settings import PATHS, RECIPE_OF_FINE_TUNING, TrainingSettings, require_kind

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_GROUPS = {
    "what to learn": ("preset", "data", "tokenizer", "vocab_size", "init_from"),
    "the run": ("seed", "keep_every"),
    "batches": ("steps", "extended", "batch_size", "context", "grad_accumulation"),
    "AdamW and its schedule": (
        "lr", "min_lr", "warmup", "beta1", "beta2", "weight_decay", "clip", "dropout",
    ),
    "validation": ("eval_every", "eval_tokens"),
    "speed and memory": ("precision", "recompute"),
}  # fmt: skip
_COMMAND = "# $ "  # what a line with a command that was typed begins with


def read_config(path: str | os.PathLike[str]) -> dict[str, Any]:
    """
    Read the settings that a file names.

    Parameters
    ----------
    path : path
        A TOML file of at most a megabyte, without tables.

    Returns
    -------
    dict
        Settings by name, each of the type that it must have. Whether their values are possible is checked where they
        are used.

    Raises
    ------
    FileNotFoundError, ValueError, TypeError, OSError
        If the file cannot be read, is not TOML, or a key is not the name of a setting, is there twice, or has a value
        of another type. The error names the file and the key.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "book.toml"
    ...     _ = path.write_text('preset = "tiny"\\nbatch-size = 4  # small\\n')
    ...     read_config(path)
    {'preset': 'tiny', 'batch_size': 4}
    """
    where = f"train: {shown(path)}"
    data = read_bytes(path, MEGABYTE, "train", what="a TOML file")
    try:
        values = tomllib.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{where} must be TOML, and byte {error.start} is not UTF-8; save it as UTF-8") from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        reason = "values are nested too deep" if isinstance(error, RecursionError) else one_line(error)
        raise ValueError(f"{where} must be TOML: {reason}; write one setting per line, such as steps = 600") from None
    except ValueError:  # an integer of thousands of digits
        raise ValueError(f"{where} must be TOML, and holds a number that is too long; write it shorter") from None
    settings: dict[str, Any] = {}
    for key, value in values.items():
        name = key.replace("-", "_")
        _check(where, key, name, value)
        if name in settings:
            raise ValueError(f"{where} must have each setting once, and has {name} twice; delete one")
        settings[name] = _resolved(Path(path), value) if name in PATHS else value
    return settings


def _check(where: str, key: str, name: str, value: Any) -> None:
    names = [field.name for field in dataclasses.fields(TrainingSettings)]
    if name not in names:
        if isinstance(value, dict):
            raise ValueError(f"{where} must hold settings only, got the table {brief(key)}; write them without a table")
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.7)
        remedy = f"did you mean {near[0]}?" if near else "the config.toml of any run has them all"
        raise ValueError(f"{where}: there is no setting {brief(key)}; {remedy}")
    if name == "extended" and isinstance(value, list):
        return  # the settings look into it
    try:
        require_kind(name, value)
    except (TypeError, ValueError) as error:
        said, got, rest = str(error).removeprefix(f"train: {name} ").partition(", got ")
        said = said.replace(" or None", "").replace("True or False", "true or false")
        raise type(error)(f"{where}: {one_line(key)} {said}{got}{rest}") from None
    if name == "preset" and value not in (*PRESETS, RECIPE_OF_FINE_TUNING):
        raise ValueError(f"{where}: preset must be one of {', '.join(PRESETS)}, got {brief(value)}")
    if name in PATHS and not value:
        raise ValueError(f"{where}: {one_line(key)} must not be empty; leave it out for the default")


def _resolved(config: Path, name: str) -> str:
    """A path beside the file, if there is one; else the name as it is."""
    beside = os.path.join(os.path.dirname(config), name)
    return beside if os.path.lexists(beside) else name


def write_config(path: Path, settings: TrainingSettings, command: str = "") -> None:
    """
    Write settings as a file that `read_config` reads, unless it says the same already.

    Parameters
    ----------
    path : Path
        The file. Commands that it names already stay in it.
    settings : TrainingSettings
    command : str
        What was typed, for a comment.

    Raises
    ------
    OSError
        If it cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> settings = TrainingSettings.from_preset("tiny", seed=3, clip=math.inf)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_config(Path(folder) / "config.toml", settings, "tinygpt train --seed 3")
    ...     TrainingSettings(**read_config(Path(folder) / "config.toml")) == settings
    True
    """
    text = _read_text(path)
    if not _says(path, settings):
        commands = [line for line in text.splitlines() if line.startswith(_COMMAND)]
        commands += [_COMMAND + one_line(command)] if command else []
        atomic_write(path, _to_toml(settings, commands))


def _read_text(path: Path) -> str:
    try:
        return read_bytes(path, MEGABYTE).decode("utf-8")
    except (OSError, ValueError):
        return ""


def _says(path: Path, settings: TrainingSettings) -> bool:
    """Whether a file has these settings. Paths do not count: they can be written in more than one way."""
    try:
        values = read_config(path)
        return dataclasses.replace(settings, **{name: values[name] for name in values if name not in PATHS}) == settings
    except (OSError, ValueError, TypeError):
        return False


def _to_toml(settings: TrainingSettings, commands: Sequence[str]) -> str:
    from tinygpt import __version__

    lines = [f"# All settings of a run of tinygpt {__version__}. To train it again, to the same weights:"]
    lines += ["# tinygpt train --config THIS_FILE --out NEW_FOLDER", *commands]
    tokenizer = "trained on the text" if settings.init_from is None else "that of init_from"
    defaults = {"data": "the bundled stories", "tokenizer": tokenizer, "init_from": "random weights"}
    for title, names in _GROUPS.items():
        lines += ["", f"# {title}"]
        for name in names:
            value = getattr(settings, name)
            if name != "extended" or settings.extended:
                lines.append(f"# {name}: {defaults[name]}" if value is None else _line(name, value))
    return "\n".join(lines) + "\n"


def _line(name: str, value: Any) -> str:
    if name in PATHS:
        value = os.path.abspath(value) if os.path.exists(value) else os.fspath(value)
        if not is_utf8(value):
            return f"# {name}: {one_line(value)}, a name that is not UTF-8, as TOML must be"
    return f"{name} = {_value(value)}"


def _value(value: Any) -> str:
    """As TOML writes it, which for text and most else is how JSON does."""
    if isinstance(value, float) and math.isinf(value):
        return "inf"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")

"""
Models and tokenizers of the Hugging Face hub: downloaded once, into the cache of its own client.

`huggingface_hub` (extra `hub`) resolves names, keeps the files, and knows offline mode and mirrors: HF_HOME,
HF_HUB_OFFLINE and HF_ENDPOINT work as everywhere. Only the configuration, the safetensors files and the tokenizer are
downloaded. Nothing that is downloaded is run or unpickled.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from tinygpt.files.user_cache import cache_root

TOKENIZER_FILES = ("vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json", "added_tokens.json",
                   "special_tokens_map.json")  # fmt: skip
MODEL_FILES = ("config.json", "adapter_config.json", "model.safetensors", "model.safetensors.index.json",
               "model-*-of-*.safetensors", *TOKENIZER_FILES)  # fmt: skip
CONFIG_FILES = ("config.json",)
OFFICIAL = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")


def repository_of(name: str | os.PathLike[str]) -> str | None:
    """
    The repository of the hub that a name means, None if it means none.

    Parameters
    ----------
    name : path or str
        ``gpt2``, ``gpt2-medium``, ``gpt2-large`` and ``gpt2-xl`` are OpenAI's. ``owner/name`` is a repository, unless
        there is a file or folder ``owner`` here, or the owner is ``runs``, where our own models are.

    Examples
    --------
    >>> repository_of("gpt2-xl"), repository_of("/no/such/folder")
    ('openai-community/gpt2-xl', None)
    """
    text = os.fspath(name)
    if text in OFFICIAL:
        return f"openai-community/{text}"
    is_name = re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", text) is not None
    return text if is_name and not text.startswith("runs/") and not Path(Path(text).parts[0]).exists() else None


def fetch(name: str | os.PathLike[str], repository: str, files: Sequence[str]) -> Path:
    """
    Download the files of a repository that are not in the cache yet.

    Parameters
    ----------
    name : path or str
        What the user called it, for errors.
    repository : str
        As `repository_of` gives it.
    files : sequence of str
        Patterns of the names of the files: `MODEL_FILES`, `CONFIG_FILES` or `TOKENIZER_FILES`.

    Returns
    -------
    Path
        The folder that they are in.

    Raises
    ------
    OSError
        If they cannot be downloaded: there is no such repository, or no network, or `huggingface_hub` is not installed.
    """
    try:
        import huggingface_hub
    except ImportError:
        raise FileNotFoundError(
            f"from_pretrained: there is no folder {name}; if a model of the Hugging Face hub is meant: "
            'pip install "tinygpt[hub]"'
        ) from None
    cache = _cache_folder()
    try:
        return Path(huggingface_hub.snapshot_download(repository, allow_patterns=list(files), cache_dir=cache))
    except Exception as error:  # it raises many kinds, its own and those of its HTTP library
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise OSError(
            f"from_pretrained: there is no folder {name}, and the Hugging Face hub does not give {repository}: {reason}"
            f"; check the name and the network, or download the files of https://huggingface.co/{repository}/tree/main "
            "with a browser into a folder, and name that"
        ) from error


def cached(name: str) -> Path | None:
    """
    The folder of a name's repository in the cache, without asking the hub; None if there is none, or no client.

    Parameters
    ----------
    name : str
        As `repository_of` takes it.
    """
    try:
        import huggingface_hub

        repository = repository_of(name) or name
        return Path(huggingface_hub.snapshot_download(repository, cache_dir=_cache_folder(), local_files_only=True))
    except Exception:  # not installed, not in the cache, a cache that cannot be read: it only saves a download
        return None


def _cache_folder() -> Path | None:
    """The folder in which the hub's client keeps models: from the environment (None), else beside our own cache."""
    if any(os.environ.get(name) for name in ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE")):
        return None
    return cache_root().parent / "huggingface" / "hub"

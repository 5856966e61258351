"""
Models by name: downloaded once from the Hugging Face hub, into its own cache.

`huggingface_hub` (extra `hub`) resolves names, keeps the files, and knows offline mode and mirrors: HF_HOME,
HF_HUB_OFFLINE and HF_ENDPOINT work as everywhere. Only the configuration, the safetensors files and the tokenizer are
downloaded. Nothing that is downloaded is run or unpickled.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from tinygpt.files.user_cache import cache_root

_OFFICIAL = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")
_FILES = ("config.json", "model.safetensors", "model.safetensors.index.json", "model-*-of-*.safetensors", "vocab.json",
          "merges.txt", "tokenizer.json", "tokenizer_config.json", "added_tokens.json", "special_tokens_map.json",
          "adapter_config.json")  # fmt: skip


def local_folder(name: str | os.PathLike[str]) -> Path:
    """
    The folder of a model, given its path or its name on the hub.

    Parameters
    ----------
    name : path or str
        A folder that exists is that folder. Otherwise ``gpt2``, ``gpt2-medium``, ``gpt2-large`` and ``gpt2-xl`` are
        OpenAI's models, and ``owner/name`` is a repository of the hub, unless there is a folder ``owner`` here.

    Returns
    -------
    Path
        The folder with the model's files. A path that cannot be a name is returned as it is, existing or not.

    Raises
    ------
    OSError
        If the model cannot be downloaded: no model has this name, or there is no network, or `huggingface_hub` is not
        installed.

    Examples
    --------
    >>> local_folder("/no/such/folder").name
    'folder'
    """
    path = Path(name)
    text = os.fspath(name)
    repository = f"openai-community/{text}" if text in _OFFICIAL else text
    is_name = re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", repository) is not None
    if path.exists() or not is_name or (text == repository and path.parts and Path(path.parts[0]).is_dir()):
        return path
    try:
        import huggingface_hub
    except ImportError:
        raise FileNotFoundError(
            f"from_pretrained: there is no folder {text}; if a model of the Hugging Face hub is meant: "
            'pip install "tinygpt[hub]"'
        ) from None
    cache = _cache_folder()
    try:
        return Path(huggingface_hub.snapshot_download(repository, allow_patterns=list(_FILES), cache_dir=cache))
    except Exception as error:  # it raises many kinds, its own and those of its HTTP library
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise OSError(
            f"from_pretrained: there is no folder {text}, and the Hugging Face hub does not give {repository}: {reason}"
        ) from error


def _cache_folder() -> Path | None:
    """The folder in which the hub's client keeps models: as the environment says, else beside our own cache."""
    if any(os.environ.get(name) for name in ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE")):
        return None
    return cache_root().parent / "huggingface" / "hub"

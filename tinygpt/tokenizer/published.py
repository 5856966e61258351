"""
Tokenizers that have a name: GPT-2's, whose two files OpenAI published. `fetch.py` brings them into the user's cache.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from tinygpt.files.user_cache import cache_folder


class PublishedFile(NamedTuple):
    """What a file must be."""

    size: int
    sha256: str


PUBLISHED = {
    "gpt2": {
        "encoder.json": PublishedFile(1042301, "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783"),
        "vocab.bpe": PublishedFile(456318, "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"),
    }
}


def resolve(directory: str | os.PathLike[str]) -> Path:
    """
    Return the folder that is meant: one of that name if there is one, else where `fetch` has put that tokenizer.

    Raises
    ------
    FileNotFoundError
        If it is the name of a published tokenizer that has not been fetched.

    Examples
    --------
    >>> resolve("runs/tiny").as_posix()
    'runs/tiny'
    """
    folder = Path(directory)
    name = os.fspath(directory)
    if name not in PUBLISHED or folder.exists():
        return folder
    cached = cache_folder("tokenizers") / name
    missing = [file for file in PUBLISHED[name] if not (cached / file).is_file()]
    if missing:
        raise FileNotFoundError(
            f'from_pretrained: {name} must be a folder, or have been fetched, and is neither; run "tinygpt tokenizer '
            f'fetch {name}" where there is a network, or put {" and ".join(PUBLISHED[name])} in a folder and name that'
        )
    return cached

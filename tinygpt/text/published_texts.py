"""
Texts that language models are often trained on, with their addresses, sizes and checksums; fetched by `fetch.py`.

    shakespeare               40,000 lines of Shakespeare, the text of char-rnn and nanoGPT: public domain
    tinystories-validation    27,630 short stories with a vocabulary of small children, written by GPT-4 for Eldan and
    tinystories-train         Li (2023), and 2,717,699 more; a line <|endoftext|> ends each: CDLA-Sharing 1.0

Source: karpathy/char-rnn on GitHub; roneneldan/TinyStories on the Hugging Face hub (arXiv:2305.07759), at a fixed
revision, whose checksums are those that the hub keeps for it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from tinygpt.files.fetch import fetch_files
from tinygpt.files.published import PublishedFile
from tinygpt.files.user_cache import cache_folder

_SHAKESPEARE = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare"
_HUB = "https://huggingface.co"
_STORIES = "{hub}/datasets/roneneldan/TinyStories/resolve/f54c09fd23315a6f9c86f9dc80f725de7d8f9c64"


class PublishedText(NamedTuple):
    """The address of the folder, in which ``{hub}`` is the hub's; the name of the file, and what it must be."""

    base_url: str
    file: str
    published: PublishedFile


TEXTS = {
    "shakespeare": PublishedText(
        _SHAKESPEARE,
        "input.txt",
        PublishedFile(1115394, "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"),
    ),
    "tinystories-validation": PublishedText(
        _STORIES,
        "TinyStoriesV2-GPT4-valid.txt",
        PublishedFile(22502601, "6874bae9a4c1a4e7edcf0e53b86c17817e9cf881fc75ff2368da457b80c0585d"),
    ),
    "tinystories-train": PublishedText(
        _STORIES,
        "TinyStoriesV2-GPT4-train.txt",
        PublishedFile(2227753162, "6418d412de72888f52b5142c761ac21a582f7d1166f0bfbdb5f03ccfdec90443"),
    ),
}


def fetch_text(name: str, base_url: str | None = None, timeout: float = 30.0, progress: bool = True) -> Path:
    """
    Download a published text into the user's cache, unless it is there, whole and unchanged.

    Parameters
    ----------
    name : {"shakespeare", "tinystories-validation", "tinystories-train"}
    base_url : str, optional
        The address of the folder that holds the file, at a mirror. By default that of the publisher; for the stories
        on the hub's server, or the one that ``HF_ENDPOINT`` names.
    timeout : float
        Seconds without a byte, or with hardly any, after which the download fails.
    progress : bool
        Show a bar.

    Returns
    -------
    Path
        The file, in UTF-8.

    Raises
    ------
    FileNotFoundError, ConnectionError, TimeoutError, ValueError, OSError
        As `tinygpt.files.fetch.fetch_files` does; ValueError also if there is no text of that name.

    Examples
    --------
    >>> fetch_text("shakespeare")  # doctest: +SKIP
    PosixPath('/home/me/.cache/tinygpt/texts/shakespeare/input.txt')
    >>> fetch_text("goethe")
    Traceback (most recent call last):
    ValueError: fetch_text: the name must be one of shakespeare, tinystories-validation, tinystories-train, got 'goethe'
    """
    if name not in TEXTS:
        raise ValueError(f"fetch_text: the name must be one of {', '.join(TEXTS)}, got {name!r}")
    text = TEXTS[name]
    base_url = base_url or text.base_url.format(hub=(os.environ.get("HF_ENDPOINT") or _HUB).rstrip("/"))
    folder = cache_folder("texts") / name.partition("-")[0]
    by_hand = "download it with a browser, and use the file with --data"
    fetch_files(folder, base_url, {text.file: text.published}, by_hand, timeout, progress)
    return folder / text.file

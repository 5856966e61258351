"""
The tokenizer for who names none: GPT-2's if it is fetched, else the newest run's, else that of the bundled stories.

None of them needs a network, and the last is always there: it is learned when it is asked for, in a tenth of a second.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from tinygpt.files.locate import RUNS, locate
from tinygpt.text.corpus import bundled_stories, split_documents
from tinygpt.tokenizer import Tokenizer

STORY_TOKENS = 2048  # of the preset `tiny`


def default_tokenizer() -> tuple[Tokenizer, str]:
    """
    A tokenizer, and what it is.

    Returns
    -------
    tokenizer : Tokenizer
    what : str
        Its name, with the reason.

    Examples
    --------
    >>> tokenizer, what = default_tokenizer()
    >>> tokenizer.decode(tokenizer.encode("the hens"))
    'the hens'
    """
    with contextlib.suppress(OSError, ValueError):  # not fetched, or damaged
        return Tokenizer.from_pretrained("gpt2"), "gpt2"
    for run in _runs():
        with contextlib.suppress(OSError, ValueError):
            return Tokenizer.from_pretrained(run), f"{run}, the newest run"
    return story_tokenizer(), "that of the bundled stories"


def story_tokenizer() -> Tokenizer:
    """
    The tokenizer that `tinygpt train` learns from the bundled stories.

    Examples
    --------
    >>> story_tokenizer().n_vocab
    2048
    """
    return Tokenizer.train(iter(split_documents(bundled_stories())[0]), STORY_TOKENS, progress=False)


def _runs() -> list[Path]:
    """The runs of the folder `runs` that have a tokenizer, the newest first."""
    checkpoints = {}
    with contextlib.suppress(OSError):
        for run in RUNS.iterdir():
            with contextlib.suppress(OSError):
                checkpoints[run] = locate(run, "tokenizer").stat().st_mtime
    return sorted(checkpoints, key=lambda run: checkpoints[run], reverse=True)

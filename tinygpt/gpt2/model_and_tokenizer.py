"""
A model and the tokenizer it was trained with, read together: `tinygpt.load`.

Read one after the other, they could be of two moments of a run that is being trained, or trained anew.
"""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

from tinygpt.files import locate
from tinygpt.files.one_line import shown
from tinygpt.gpt2 import checkpoint, pretrained
from tinygpt.gpt2.model import GPT
from tinygpt.tokenizer import Tokenizer


def load(
    name: str | PathLike[str],
    tokenizer: str | PathLike[str] | None = None,
    *,
    seed: int = 1337,
    weights: str = "float32",
    **changes: Any,
) -> tuple[GPT, Tokenizer]:
    """
    Load a model and its tokenizer, which belong together.

    Parameters
    ----------
    name : path or str
        A run, a checkpoint, a Hugging Face folder, or a name of the hub; see files/locate.py.
    tokenizer : path or str, optional
        Another tokenizer than the model's own, for a model that has none beside its weights.
    seed, weights, **changes
        As for `GPT.from_pretrained`.

    Returns
    -------
    model : GPT
    tokenizer : Tokenizer
        Of the same checkpoint, also if a run saves a new one meanwhile.

    Raises
    ------
    FileNotFoundError
        If there is no such model, or no tokenizer beside it.
    ValueError
        If files are damaged, or not of a GPT-2, or the tokenizer has more tokens than the model.

    Examples
    --------
    >>> import tempfile
    >>> from tinygpt import GPT, GPTConfig, Tokenizer, load
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     tokenizer = Tokenizer([bytes([byte]) for byte in range(256)], [], {})
    ...     GPT(GPTConfig(256, n_positions=8, n_embd=4, n_layer=1, n_head=2)).save_pretrained(folder, tokenizer)
    ...     model, tokenizer = load(folder)
    >>> len(list(model.generate(tokenizer.encode("hen"), max_tokens=3)))
    3
    """
    named = None if tokenizer is None else Tokenizer.from_pretrained(tokenizer)

    def read(folder: Path) -> tuple[GPT, Tokenizer]:
        own = named or checkpoint.read_tokenizer(folder)
        if own is None:
            raise FileNotFoundError(
                f"load: {shown(folder)} has no tokenizer beside its weights: put vocab.json and merges.txt there, or "
                "name one with --tokenizer (in Python, tokenizer=...)"
            )
        return pretrained.read(GPT, folder, seed, weights, changes), own

    model, own = locate.read(name, read)
    if own.n_vocab > model.config.vocab_size:
        raise ValueError(
            f"load: the tokenizer has {own.n_vocab:,} tokens, {shown(name)} only {model.config.vocab_size:,}; use the "
            "tokenizer that the model was trained with"
        )
    return model, own

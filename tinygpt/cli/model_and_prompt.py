"""The model, the tokenizer and the prompt of `tinygpt generate`, `evaluate` and `inspect`."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tinygpt.gpt2.model import GPT
    from tinygpt.tokenizer import Tokenizer


def open_model(name: str, tokenizer_name: str | None = None, weights: str = "float32") -> tuple[GPT, Tokenizer]:
    """
    A model, and the tokenizer that --tokenizer names, or else the model's own.

    Parameters
    ----------
    name : str
        A run, a checkpoint's folder, or a name on the Hugging Face hub.
    tokenizer_name : str, optional
        What --tokenizer says.
    weights : {"float32", "bfloat16", "int8"}
        What the matrices are rounded to.

    Raises
    ------
    OSError
        If there is no such model, or no tokenizer.
    """
    from tinygpt.files.locate import locate
    from tinygpt.gpt2 import checkpoint
    from tinygpt.gpt2.model import GPT
    from tinygpt.tokenizer import Tokenizer

    folder = locate(name)
    model = GPT.from_pretrained(folder, weights=weights)
    tokenizer = Tokenizer.from_pretrained(tokenizer_name) if tokenizer_name else checkpoint.load_tokenizer(folder)
    if tokenizer is None:
        raise FileNotFoundError(f"{folder} has no tokenizer beside its weights: put vocab.json and merges.txt there")
    if tokenizer.n_vocab > model.config.vocab_size:
        warnings.warn(f"{folder}: the tokenizer has more tokens than the model", stacklevel=2)
    return model, tokenizer


def prompt_argument(given: str, remedy: str = "") -> str:
    """The text of --prompt: the bytes that the shell has passed, which Python keeps as surrogates, read as UTF-8."""
    from tinygpt.text.decoding import plain_text

    text = plain_text(given.encode("utf-8", "surrogateescape"), "--prompt")
    if not text:
        raise ValueError(f"the prompt must not be empty{remedy}")
    return text

"""The data of a run, from its settings: a text or a token file, the tokenizer, training and validation tokens."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tinygpt.text.corpus import bundled_stories, encode_documents, read_documents, split_documents
from tinygpt.text.token_file import is_token_file, open_token_file
from tinygpt.tokenizer import Tokenizer
from tinygpt.training.settings import TrainingSettings

GPT2_VOCAB_SIZE = 50257


class Dataset(NamedTuple):
    """Token ids to learn from and to validate on, and the tokenizer that made them."""

    train: np.ndarray
    validation: np.ndarray
    tokenizer: Tokenizer

    @property
    def fingerprint(self) -> str:
        """A hash of the data: a run can only be resumed on the same data. It reads all of it, so call it once."""
        digest = hashlib.sha256(self.tokenizer.fingerprint.encode())
        for tokens in (self.train, self.validation):
            digest.update(f"{tokens.dtype} {len(tokens)} ".encode())
            for start in range(0, len(tokens), 1 << 24):  # in pieces: a token file may be larger than memory
                digest.update(np.ascontiguousarray(tokens[start : start + (1 << 24)]).data)
        return digest.hexdigest()


def load_dataset(settings: TrainingSettings, tokenizer: Tokenizer | None = None, progress: bool = True) -> Dataset:
    """
    Read and encode what `settings` names.

    Parameters
    ----------
    settings : TrainingSettings
    tokenizer : Tokenizer, optional
        Instead of the one that the settings name or of training one: that was read with the model it belongs to.
    progress : bool
        Show a bar where a tokenizer is trained.

    Returns
    -------
    Dataset

    Raises
    ------
    FileNotFoundError, ValueError
        If the data or the tokenizer is missing, unreadable, too short, or one does not belong to the other.
    """
    tokenizer = tokenizer or named_tokenizer(settings)
    if settings.data is not None and is_token_file(settings.data):
        train, validation, tokenizer = _from_token_file(settings.data, tokenizer)
    else:
        documents = bundled_stories() if settings.data is None else read_documents(settings.data)
        train_documents, validation_documents = split_documents(documents)
        if tokenizer is None:
            tokenizer = _train_tokenizer(train_documents, settings, progress)
        train = encode_documents(train_documents, tokenizer)
        validation = encode_documents(validation_documents, tokenizer)
    if len(train) <= settings.context or len(validation) < 2:
        raise ValueError(
            f"train: the text must be longer than the context of {settings.context} tokens, got {len(train)} tokens "
            f"to train on and {len(validation)} to validate on; use a longer text or a smaller --context"
        )
    return Dataset(train, validation, tokenizer)


def named_tokenizer(settings: TrainingSettings) -> Tokenizer | None:
    """The tokenizer that `settings` names, or None if one is to be trained."""
    if (name := settings.tokenizer or settings.init_from) is not None:
        return Tokenizer.from_pretrained(name)
    if settings.vocab_size == GPT2_VOCAB_SIZE:
        raise ValueError(
            f"train: the preset {settings.preset!r} has GPT-2's {GPT2_VOCAB_SIZE:,} tokens, which need GPT-2's own "
            'tokenizer: run "tinygpt tokenizer fetch gpt2" and give --tokenizer gpt2, or give --tokenizer FOLDER with '
            "its vocab.bpe and encoder.json, or --vocab-size N to train a smaller vocabulary on your text"
        )
    return None


def _train_tokenizer(documents: list[str], settings: TrainingSettings, progress: bool) -> Tokenizer:
    if settings.vocab_size == 256:  # every byte a token, and no room for a special one
        return Tokenizer.train("", 256, special_tokens=(), byte_order="raw", progress=False)
    return Tokenizer.train(iter(documents), settings.vocab_size, progress=progress)


def _from_token_file(path: str, tokenizer: Tokenizer | None) -> tuple[np.ndarray, np.ndarray, Tokenizer]:
    if tokenizer is None:
        raise ValueError(f"train: {Path(path).name} holds tokens: name the tokenizer that made them with --tokenizer")
    tokens = open_token_file(path, tokenizer.fingerprint, tokenizer.ids).tokens
    cut = int(len(tokens) * 0.9)
    return tokens[:cut], tokens[cut:], tokenizer

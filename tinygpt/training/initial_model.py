"""The model that a run begins with: random weights of the preset's sizes, or those of a checkpoint."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from tinygpt.gpt2.config import GPTConfig
from tinygpt.gpt2.model import GPT
from tinygpt.training.dataset import Dataset
from tinygpt.training.settings import TrainingSettings


def initial_model(settings: TrainingSettings, data: Dataset) -> GPT:
    """
    A model ready for the data's vocabulary.

    Raises
    ------
    ValueError
        If --init-from names a model that the tokenizer, the context or the data do not fit.
    """
    if settings.init_from is None:
        return GPT(initial_config(settings, data.tokenizer.n_vocab), seed=settings.seed)
    model = GPT.from_pretrained(settings.init_from, seed=settings.seed, **_dropout(settings))
    if data.tokenizer.n_vocab > model.config.vocab_size:
        raise ValueError(
            f"train: the tokenizer has {data.tokenizer.n_vocab} tokens, {settings.init_from} only "
            f"{model.config.vocab_size}; use the tokenizer that the model was trained with"
        )
    if settings.context > model.config.n_positions:
        raise ValueError(
            f"train: --context must be at most the {model.config.n_positions} positions of {settings.init_from}, "
            f"got {settings.context}"
        )
    if np.max(data.train) >= model.config.vocab_size:
        raise ValueError(f"train: the data has token {np.max(data.train)}, the model only {model.config.vocab_size}")
    return model


def initial_config(settings: TrainingSettings, n_vocab: int) -> GPTConfig:
    """The preset's sizes with the settings' context and dropout, for so many tokens."""
    config = GPTConfig.preset(settings.preset)
    return dataclasses.replace(config, vocab_size=n_vocab, n_positions=settings.context, **_dropout(settings))


def _dropout(settings: TrainingSettings) -> dict[str, Any]:
    return dict.fromkeys(("embd_pdrop", "attn_pdrop", "resid_pdrop"), settings.dropout)

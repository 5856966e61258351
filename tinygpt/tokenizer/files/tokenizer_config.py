"""`tokenizer_config.json`: the class with which Hugging Face opens the folder, and the special tokens."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from tinygpt.files.atomic import atomic_write
from tinygpt.tokenizer.files.added_tokens import CONFIG_NAME
from tinygpt.tokenizer.special_tokens import END_OF_TEXT, Flags


def save_config(
    folder: Path,
    special_tokens: Mapping[str, int],
    tokenizer_class: str,
    special_flags: Mapping[str, Flags] | None = None,
) -> None:
    """Write `tokenizer_config.json`, from which Hugging Face's classes take the special tokens."""
    end_of_text = END_OF_TEXT if END_OF_TEXT in special_tokens else None  # None keeps readers from adding one
    in_order = sorted(special_tokens.items(), key=lambda entry: entry[1])
    listed = {str(id): {"content": text, **written_flags(text, special_flags)} for text, id in in_order}
    config = {
        "add_prefix_space": False,
        "added_tokens_decoder": listed,
        "bos_token": end_of_text,
        "clean_up_tokenization_spaces": False,
        "eos_token": end_of_text,
        "errors": "replace",
        "tokenizer_class": tokenizer_class,
        "unk_token": end_of_text,
    }
    atomic_write(folder / CONFIG_NAME, json.dumps(config, ensure_ascii=False, indent=2) + "\n")


def written_flags(text: str, special_flags: Mapping[str, Flags] | None) -> dict[str, bool]:
    """
    The flags of a special token as the files write them.

    Examples
    --------
    >>> written_flags("<pad>", {})
    {'lstrip': False, 'normalized': False, 'rstrip': False, 'single_word': False, 'special': True}
    """
    return dict(sorted(((special_flags or {}).get(text, Flags())._asdict() | {"special": True}).items()))

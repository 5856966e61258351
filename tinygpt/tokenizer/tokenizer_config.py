"""
`tokenizer_config.json`, which says what class of Hugging Face's opens a folder and which tokens are special.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from tinygpt.durable import atomic_write
from tinygpt.one_line import brief, shown
from tinygpt.tokenizer.reading import read_json
from tinygpt.tokenizer.special_tokens import END_OF_TEXT

CONFIG_NAME = "tokenizer_config.json"


def save_config(folder: Path, special_tokens: Mapping[str, int], tokenizer_class: str) -> None:
    """Write `tokenizer_config.json`, by which Hugging Face's classes know the special tokens."""
    end_of_text = END_OF_TEXT if END_OF_TEXT in special_tokens else None  # None keeps readers from adding one
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    in_order = sorted(special_tokens.items(), key=lambda entry: entry[1])
    config = {
        "add_prefix_space": False,
        "added_tokens_decoder": {str(id): {"content": text, **flags} for text, id in in_order},
        "bos_token": end_of_text,
        "clean_up_tokenization_spaces": False,
        "eos_token": end_of_text,
        "errors": "replace",
        "tokenizer_class": tokenizer_class,
        "unk_token": end_of_text,
    }
    atomic_write(folder / CONFIG_NAME, json.dumps(config, ensure_ascii=False, indent=2) + "\n")


def read_special_tokens(path: Path, ids: Mapping[str, int]) -> dict[str, int] | None:
    """Return what `added_tokens_decoder` lists, None if there is no such list."""
    if not path.exists():
        return None
    listed = read_json(path).get("added_tokens_decoder")
    if listed is None:
        return None
    tokens = {id: token for token, id in ids.items()}
    special_tokens = {}
    for number, entry in listed.items() if isinstance(listed, dict) else [("", listed)]:
        text = entry.get("content") if isinstance(entry, dict) else None
        if not (number.isdecimal() and len(number) < 20 and isinstance(text, str) and text):
            raise ValueError(
                f'{shown(path)}: added_tokens_decoder must hold {{"id": {{"content": text}}}}, got {brief(number)}: '
                f"{brief(entry)}"
            )
        id = int(number)
        if ids.get(text, id) != id or tokens.get(id, text) != text or text in special_tokens:
            raise ValueError(
                f"{shown(path)}: special token {brief(text)} with id {id} contradicts the vocabulary; use files "
                f"of one tokenizer"
            )
        special_tokens[text] = id
    return special_tokens

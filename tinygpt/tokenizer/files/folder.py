"""
A tokenizer's folder, as `save_pretrained` writes it and `from_pretrained` reads it: which files it has.

    GPT-2's pattern            vocab.json, merges.txt, tokenizer_config.json     (`gpt2.py`)
    any other, whole pieces    tokenizer.json, tokenizer_config.json             (`tokenizer_json.py`)

Both forms may be in one folder, since transformers writes both; then they must agree.
"""

from __future__ import annotations

import os
from pathlib import Path

from tinygpt.files.locks import one_writer
from tinygpt.files.one_line import shown
from tinygpt.tokenizer.files import gpt2, tokenizer_json
from tinygpt.tokenizer.files.added_tokens import check_config, read_added_tokens
from tinygpt.tokenizer.files.gpt2 import Contents
from tinygpt.tokenizer.files.tokenizer_config import save_config

_PAIR, _SINGLE = ("vocab.json", "merges.txt"), "tokenizer.json"


def save(directory: str | os.PathLike[str], contents: Contents) -> None:
    """Write the files of a tokenizer, and remove those of the other form; see `Tokenizer.save_pretrained`."""
    folder = Path(directory)
    with one_writer(folder):
        if contents.pattern is None and not contents.whole_pieces:
            gpt2.save(folder, contents.vocab, contents.merges, contents.special_tokens, contents.special_flags)
            outdated: tuple[str, ...] = (_SINGLE,)
        else:
            tokenizer_json.save(folder / _SINGLE, *contents)
            save_config(folder, contents.special_tokens, "PreTrainedTokenizerFast", contents.special_flags)
            outdated = (*_PAIR, "encoder.json", "vocab.bpe")
        for name in (*outdated, "added_tokens.json", "special_tokens_map.json"):
            (folder / name).unlink(missing_ok=True)


def load(directory: str | os.PathLike[str]) -> Contents:
    """
    Read the files of a tokenizer.

    Raises
    ------
    FileNotFoundError, ValueError
        If a file is missing, malformed, or contradicts another one of the folder: names the file.
    """
    folder = Path(directory)
    single, pair = folder / _SINGLE, gpt2.is_there(folder)
    if not single.exists():
        check_config(folder, pair=pair, pattern=False)
        return gpt2.load(folder)
    contents = tokenizer_json.load(single)
    check_config(folder, pair=False, pattern=contents.pattern is not None)
    if not pair:
        ids = gpt2.written_ids(contents.vocab, contents.special_tokens)
        added = read_added_tokens(folder, ids, gpt2.with_flags(contents))
        return contents._replace(special_tokens=added.ids, special_flags=added.flags)
    if contents.pattern is not None or contents.whole_pieces:
        raise ValueError(
            f"{shown(single)}: must split as GPT-2 does where vocab.json and merges.txt are beside it, and does not; "
            "transformers reads it before them: remove what is outdated"
        )
    return gpt2.load(folder, contents)

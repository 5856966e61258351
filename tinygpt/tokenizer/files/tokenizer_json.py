r"""
`tokenizer.json`, the single file of Hugging Face's tokenizers; here only for byte-level BPE.

    added_tokens      here special tokens, whether the file calls them special or not, with their flags
    pre_tokenizer     ByteLevel with its own pattern (GPT-2's), or Split by a pattern and ByteLevel without its own
    model             BPE: the vocabulary with the added tokens in it, and the merges as "a b" or as ["a", "b"]
    normalizer        must be null: here, a text is encoded as it is
    truncation, padding, post_processor, decoder
                      what is done with ids afterwards; ignored, since `encode` gives the ids of the text alone

Anything else that would change an id is refused by name. Source: files that tokenizers 0.23 reads and writes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tinygpt.files.atomic import atomic_write
from tinygpt.files.input_file import require_ordinary
from tinygpt.files.one_line import brief, shown
from tinygpt.tokenizer.files.added_tokens import check_id, read_flags
from tinygpt.tokenizer.files.gpt2 import (
    CHARACTER_BYTES,
    Contents,
    check_ids,
    check_merge,
    token_bytes,
    written,
    written_ids,
)
from tinygpt.tokenizer.files.onig_dialect import from_onig, to_onig
from tinygpt.tokenizer.files.reading import read_json, require_sizes
from tinygpt.tokenizer.files.tokenizer_config import written_flags
from tinygpt.tokenizer.pattern import Pattern, covering, require_size
from tinygpt.tokenizer.special_tokens import Flags

# Fields of the model that change ids, with the values that do not.
_INERT = {"dropout": (None, 0), "continuing_subword_prefix": (None, ""), "end_of_word_suffix": (None, ""),
          "byte_fallback": (None, False)}  # fmt: skip


def load(path: str | os.PathLike[str]) -> Contents:
    """
    Read a tokenizer from a `tokenizer.json`.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is damaged, or holds something that this kind of tokenizer does not do: names it.
    """
    path = Path(path)
    require_ordinary(path, "from_tokenizer_json")
    found = read_json(path)
    if found.get("normalizer") not in (None, {"type": "Sequence", "normalizers": []}):
        raise _unsupported(path, "normalizer", found["normalizer"], "null")
    pattern = _read_pattern(path, found.get("pre_tokenizer"))
    model = found.get("model")
    if not isinstance(model, dict) or model.get("type", "BPE") != "BPE":
        raise _unsupported(path, "model", model, "BPE")
    for name, inert in _INERT.items():
        if model.get(name) not in inert:
            raise ValueError(
                f"{shown(path)}: the model's {name} must be {json.dumps(inert[0])}, got {brief(model[name])}"
            )
    ids, listed = model.get("vocab"), model.get("merges")
    if not isinstance(ids, dict) or not isinstance(listed, list):
        raise ValueError(
            f"{shown(path)}: the model must hold an object vocab and a list merges; the file may be of another kind"
        )
    check_ids(path, ids)
    merges = _read_merges(path, listed, ids)
    special_tokens, flags = _read_added_tokens(path, found.get("added_tokens") or [], ids, merges)
    require_sizes(path, ids, special_tokens)
    for token, id in ids.items():
        if token not in special_tokens and not CHARACTER_BYTES.keys() >= set(token):
            raise ValueError(f"{shown(path)}: {brief(token)} (id {id}) is neither bytes nor one of added_tokens")
    vocab = {id: token_bytes(token) for token, id in ids.items() if token not in special_tokens}
    in_bytes = [(token_bytes(left), token_bytes(right)) for left, right in merges]
    return Contents(vocab, in_bytes, special_tokens, pattern, bool(model.get("ignore_merges")), flags)


def _unsupported(path: Path, what: str, got: Any, required: str) -> ValueError:
    kind = got.get("type", got) if isinstance(got, dict) else got
    return ValueError(
        f"{shown(path)}: the {what} must be {required}, got {brief(kind)}; only byte-level BPE as GPT-2, "
        f"tiktoken and Llama 3 have "
        "it can be read"
    )


def _read_pattern(path: Path, found: Any) -> str | None:
    """Return the split pattern, None for GPT-2's."""
    steps = found.get("pretokenizers") if isinstance(found, dict) and found.get("type") == "Sequence" else [found]
    steps = steps if isinstance(steps, list) else [steps]
    steps = [step if isinstance(step, dict) else {"type": step} for step in steps or [None]]
    required = "ByteLevel, or Split and ByteLevel"
    for step in steps:
        if step.get("type") not in ("Split", "ByteLevel"):
            raise _unsupported(path, "pre_tokenizer", step, required)
    *splits, last = steps
    if last["type"] != "ByteLevel" or [step["type"] for step in splits] not in ([], ["Split"]):
        raise _unsupported(path, "pre_tokenizer", " and ".join([step["type"] for step in steps[:9]]), required)
    if last.get("add_prefix_space", True):
        raise ValueError(
            f"{shown(path)}: add_prefix_space of ByteLevel must be false, as GPT-2's own is, got true: what is "
            f"decoded would "
            "not be what was encoded; set it to false in the file, and put the space before the text yourself"
        )
    own_pattern = last.get("use_regex", True)
    if own_pattern == bool(splits):
        wanted = "false after Split" if splits else "true where there is no Split"
        raise ValueError(f"{shown(path)}: use_regex of ByteLevel must be {wanted}, got {json.dumps(own_pattern)}")
    return _read_split(path, splits[0]) if splits else None


def _read_split(path: Path, step: dict[str, Any]) -> str:
    pattern = step.get("pattern")
    text = pattern.get("Regex") if isinstance(pattern, dict) else None
    way = (step.get("behavior"), step.get("invert", False))
    if not isinstance(text, str) or way not in (("Isolated", False), ("Removed", True)):
        raise ValueError(
            f"{shown(path)}: Split must be by a Regex, with the behavior Isolated, or Removed and inverted, got "
            f"{brief(step)}"
        )
    ours = step.get("python_regex")  # the pattern it was written from; used only if it still gives the same
    try:
        require_size(text)
        if isinstance(ours, str) and way[0] == "Removed" and len(ours) <= len(text) and to_onig(ours) == text:
            text = ours
        else:
            text = from_onig(text)
            if way[0] == "Isolated":
                # It keeps what no match covers: a piece of its own for each run of characters where no match begins.
                text = covering(text)
        Pattern(text)
    except ValueError as error:
        raise ValueError(f"{shown(path)}: {error}") from None
    return text


def _read_merges(path: Path, listed: Sequence[Any], ids: Mapping[str, int]) -> list[tuple[str, str]]:
    merges: dict[tuple[str, str], int] = {}
    for number, entry in enumerate(listed):
        where = f"{shown(path)}, merge {number}"
        pair = entry.split(" ") if isinstance(entry, str) else entry
        if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(token, str) and token for token in pair)):
            raise ValueError(f'{where}: must be "a b" or ["a", "b"], got {brief(entry)}')
        left, right = pair
        check_merge(where, left, right, ids)
        if (left, right) in merges:
            raise ValueError(f"{where}: must be a new merge, got merge {merges[left, right]} again")
        merges[left, right] = number
    return list(merges)


def _read_added_tokens(
    path: Path, listed: Any, ids: Mapping[str, int], merges: Sequence[tuple[str, str]]
) -> tuple[dict[str, int], dict[str, Flags]]:
    tokens = {id: token for token, id in ids.items()}
    ordinary = set(CHARACTER_BYTES).union(*merges, (left + right for left, right in merges))
    special_tokens: dict[str, int] = {}
    flags: dict[str, Flags] = {}
    highest = -1
    for entry in listed if isinstance(listed, list) else [listed]:
        text, id = (entry.get("content"), entry.get("id")) if isinstance(entry, dict) else (None, None)
        if not (isinstance(text, str) and text and type(id) is int):
            raise ValueError(
                f'{shown(path)}: added_tokens must hold {{"id": number, "content": text, ...}}, got {brief(entry)}'
            )
        if text in ordinary:
            raise ValueError(
                f"{shown(path)}: {brief(text)} is an ordinary token; it cannot be one of added_tokens as well"
            )
        if ids.get(text, id) != id or tokens.setdefault(id, text) != text or text in special_tokens:
            raise ValueError(
                f"{shown(path)}: the added token {brief(text)} with id {brief(id)} contradicts another entry"
            )
        check_id(path, text, id, ids, highest)
        special_tokens[text], flags[text] = id, read_flags(path, text, entry)
        highest = max(highest, id)
    return special_tokens, flags


def save(
    path: str | os.PathLike[str],
    vocab: Mapping[int, bytes],
    merges: Sequence[tuple[bytes, bytes]],
    special_tokens: Mapping[str, int],
    pattern: str | None,
    whole_pieces: bool,
    special_flags: Mapping[str, Flags] | None = None,
) -> None:
    """
    Write a `tokenizer.json`; the same tokenizer gives the same bytes.

    Raises
    ------
    ValueError
        If a special token reads like an ordinary one, or the pattern cannot be written in the dialect of such files.
    """
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": pattern is None}
    pre_tokenizer: dict[str, Any] = byte_level
    if pattern is not None:
        split = {"type": "Split", "pattern": {"Regex": to_onig(pattern)}, "behavior": "Removed", "invert": True,
                 "python_regex": pattern}  # fmt: skip
        pre_tokenizer = {"type": "Sequence", "pretokenizers": [split, byte_level]}
    in_order = sorted(special_tokens.items(), key=lambda entry: entry[1])
    model = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
             "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": whole_pieces,
             "vocab": written_ids(vocab, special_tokens),
             "merges": [f"{written(left)} {written(right)}" for left, right in merges]}  # fmt: skip
    contents = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": id, "content": text, **written_flags(text, special_flags)} for text, id in in_order],
        "normalizer": None,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": model,
    }
    atomic_write(path, json.dumps(contents, ensure_ascii=False, indent=1) + "\n")

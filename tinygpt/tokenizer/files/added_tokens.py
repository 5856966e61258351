"""
The added tokens of a Hugging Face folder: texts with an id of their own, which four files may name.

    tokenizer_config.json      added_tokens_decoder: all of them, by id, since transformers 4.34
                               pad_token and the like, additional_special_tokens: by role
    added_tokens.json          {token: id}, before 4.34: those that are not in vocab.json
    special_tokens_map.json    by role, before 4.34
    tokenizer.json             added_tokens: all of them, with their ids

All are read. If two of them contradict each other, versions of transformers make different ids, and the folder is
refused by name. An id is not chosen by the file: Hugging Face's tokenizers give a token that is not in the vocabulary
the next id that is free, and ignore the one in the file; so a file with another one is refused as well.

Source: `_from_pretrained` of tokenization_utils_base.py, transformers 5.24; `add_tokens` of added_vocabulary.rs,
tokenizers 0.23.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tinygpt.files.one_line import brief, one_line, shown
from tinygpt.tokenizer.files.reading import read_json, require_sizes
from tinygpt.tokenizer.special_tokens import Flags

CONFIG_NAME = "tokenizer_config.json"
_OLD_LIST, _OLD_ROLES = "added_tokens.json", "special_tokens_map.json"
_GPT2_CLASSES = ("GPT2Tokenizer", "GPT2TokenizerFast")
_LISTS_OF_NAMES = ("additional_special_tokens", "extra_special_tokens")


class AddedTokens(NamedTuple):
    """
    What the files of a folder say together.

    Attributes
    ----------
    ids : dict of str to int
        Of every added token.
    flags : dict of str to Flags
        How each is looked for.
    complete : bool
        Whether one of the files lists all of them: a token of the vocabulary that it does not list is none.
    """

    ids: dict[str, int]
    flags: dict[str, Flags]
    complete: bool


class _Entry(NamedTuple):
    text: str
    id: int | None  # None: the next free one
    flags: Flags | None  # None: not in the file
    path: Path


def check_config(folder: Path, pair: bool, pattern: bool) -> None:
    """
    Raise ValueError if tokenizer_config.json implies other ids than those of a byte-level BPE as it is read here.

    Parameters
    ----------
    folder : Path
    pair : bool
        Whether the vocabulary comes from vocab.json and merges.txt, with no tokenizer.json beside them.
    pattern : bool
        Whether tokenizer.json has a split pattern of its own.
    """
    path = folder / CONFIG_NAME
    config = read_json(path) if path.exists() else {}
    if config.get("add_prefix_space"):
        raise ValueError(
            f"{shown(path)}: add_prefix_space must be false, as GPT-2's own is, got "
            f"{brief(config['add_prefix_space'])}: what is decoded would not be what was encoded; set it to false in "
            "the file, and put the space before the text yourself"
        )
    if config.get("split_special_tokens"):
        raise ValueError(
            f"{shown(path)}: split_special_tokens must be false, got {brief(config['split_special_tokens'])}; here the "
            "caller of encode says what special tokens are text"
        )
    kind = config.get("tokenizer_class")
    if pair and kind not in (None, *_GPT2_CLASSES):
        raise ValueError(
            f"{shown(path)}: tokenizer_class must be {_GPT2_CLASSES[0]} where there is no tokenizer.json, got "
            f"{brief(kind)}, which may split a text otherwise; save the tokenizer with a tokenizer.json"
        )
    if pattern and kind in _GPT2_CLASSES:
        raise ValueError(
            f"{shown(path)}: tokenizer_class must not be {kind!r}, got it beside a tokenizer.json with another split "
            "pattern than GPT-2's, so that versions of transformers make different ids; write PreTrainedTokenizerFast"
        )


def read_added_tokens(folder: Path, ids: Mapping[str, int], listed: Mapping[str, Any] | None = None) -> AddedTokens:
    """
    Read the added tokens of a folder.

    Parameters
    ----------
    folder : Path
    ids : mapping of str to int
        The vocabulary, as its file writes the tokens.
    listed : mapping of str to (int, Flags), optional
        Those of the folder's tokenizer.json, in its order.

    Raises
    ------
    ValueError
        If files contradict each other or the vocabulary, or an id is another than Hugging Face's.
    """
    config_path = folder / CONFIG_NAME
    config = read_json(config_path) if config_path.exists() else {}
    decoder = config.get("added_tokens_decoder")
    numbered = [_Entry(text, id, flags, folder / "tokenizer.json") for text, (id, flags) in (listed or {}).items()]
    numbered += _from_decoder(config_path, decoder)
    numbered += _from_old_list(folder / _OLD_LIST)
    named = [*_from_roles(config_path, config), *_from_roles(folder / _OLD_ROLES)]
    found = AddedTokens({}, {}, complete=decoder is not None or listed is not None)
    highest = -1
    for entry in sorted(numbered, key=lambda entry: entry.id or 0):
        highest = _add(found, entry, ids, highest)
    if decoder is not None:
        _demand_listed(config_path, [*numbered, *named], decoder)
    for entry in named:
        highest = _add(found, entry._replace(id=found.ids.get(entry.text)), ids, highest)
    if entries := [*numbered, *named]:
        require_sizes(entries[-1].path, ids, found.ids)
    return found


def next_id(text: str, ids: Mapping[str, int], highest: int) -> int:
    """
    The id that Hugging Face's tokenizers give to one more added token, those before it having ids up to `highest`.

    Examples
    --------
    >>> next_id("[PAD]", {"a": 0, "b": 1}, -1), next_id("b", {"a": 0, "b": 1}, -1), next_id("x", {"a": 0}, 7)
    (2, 1, 8)
    """
    return ids[text] if text in ids else max(len(ids), 1 + highest)


def check_id(path: Path, text: str, id: int, ids: Mapping[str, int], highest: int) -> None:
    """Raise ValueError unless an added token has the id that Hugging Face's tokenizers would give to it."""
    expected = next_id(text, ids, highest)
    if id != expected:
        raise ValueError(
            f"{shown(path)}: special token {brief(text)} with id {brief(id)} contradicts the vocabulary, by which "
            f"Hugging Face's tokenizers give it {expected}; use files of one tokenizer"
        )


def _add(found: AddedTokens, entry: _Entry, ids: Mapping[str, int], highest: int) -> int:
    """Take one more token; returns the highest id so far."""
    text, flags = entry.text, entry.flags
    if text not in found.ids or text in ids:
        id = next_id(text, ids, highest) if entry.id is None else entry.id
        check_id(entry.path, text, id, ids, highest)
        found.ids[text] = id
    elif entry.id not in (None, found.ids[text]):
        raise ValueError(
            f"{shown(entry.path)}: special token {brief(text)} with id {brief(entry.id)} contradicts another file of "
            f"the folder, where it has {found.ids[text]}; use files of one tokenizer"
        )
    if flags is not None and flags[:3] != found.flags.setdefault(text, flags)[:3]:  # all but `normalized`
        raise ValueError(
            f"{shown(entry.path)}: lstrip, rstrip and single_word of {brief(text)} contradict another file of the "
            "folder; use files of one tokenizer"
        )
    return max(highest, found.ids[text])


def _demand_listed(path: Path, entries: list[_Entry], decoder: Mapping[str, Any]) -> None:
    """Where there is an added_tokens_decoder, whether transformers ignores the older files depends on its version."""
    known = {token["content"] for token in decoder.values()}
    for entry in entries:
        if entry.path != path and entry.text not in known:
            raise ValueError(
                f"{shown(entry.path)}: the added token {brief(entry.text)} is not in added_tokens_decoder of "
                f"{path.name}, so that versions of transformers make different ids; save the tokenizer again"
            )


def _from_decoder(path: Path, decoder: Any) -> Iterator[_Entry]:
    if decoder is None:
        return
    for number, entry in decoder.items() if isinstance(decoder, dict) else [("", decoder)]:
        text = entry.get("content") if isinstance(entry, dict) else None
        if not (number.isdecimal() and len(number) < 20 and isinstance(text, str) and text):
            raise ValueError(
                f'{shown(path)}: added_tokens_decoder must hold {{"id": {{"content": text}}}}, got '
                f"{brief(number)}: {brief(entry)}"
            )
        yield _Entry(text, int(number), read_flags(path, text, entry), path)


def _from_old_list(path: Path) -> Iterator[_Entry]:
    for text, id in (read_json(path) if path.exists() else {}).items():
        if not text or type(id) is not int or id < 0:
            raise ValueError(f'{shown(path)}: must hold {{"token": id}}, got {brief(text)}: {brief(id)}')
        yield _Entry(text, id, None, path)


def _from_roles(path: Path, fields: Mapping[str, Any] | None = None) -> Iterator[_Entry]:
    """Tokens by role: "pad_token": "[PAD]" or {"content": "[PAD]", "lstrip": false, ...}, and lists of such."""
    if fields is None:
        fields = read_json(path) if path.exists() else {}
    for role, value in fields.items():
        if role in _LISTS_OF_NAMES:
            values = list(value.values()) if isinstance(value, dict) else value or []
            if not isinstance(values, list):
                raise ValueError(f"{shown(path)}: {one_line(role)[:80]} must be a list of tokens, got {brief(value)}")
        elif role.endswith("_token") and (isinstance(value, str) or (isinstance(value, dict) and "content" in value)):
            values = [value]
        else:
            continue
        for token in values:
            text = token.get("content") if isinstance(token, dict) else token
            if not isinstance(text, str):
                raise ValueError(f"{shown(path)}: {one_line(role)[:80]} must name tokens, got {brief(token)}")
            if text:
                yield _Entry(text, None, read_flags(path, text, token) if isinstance(token, dict) else None, path)


def read_flags(path: Path, text: str, entry: Mapping[str, Any]) -> Flags:
    """The flags of an added token; `normalized` is, where missing, the opposite of `special`, as in transformers."""
    values = {name: entry.get(name, False) for name in Flags._fields}
    values["normalized"] = entry.get("normalized", not entry.get("special", False))
    for name, value in values.items():
        if not isinstance(value, bool):
            raise ValueError(
                f"{shown(path)}: {name} of the added token {brief(text)} must be true or false, got {brief(value)}"
            )
    return Flags(**values)

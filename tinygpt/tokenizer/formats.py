"""
The files that hold a tokenizer: as the Hugging Face ecosystem lays them out, and as OpenAI published GPT-2's.

    vocab.json, encoder.json      {token: id}, special tokens included
    merges.txt, vocab.bpe         a "#version" line, then one merge a line, its two tokens separated by a space
    tokenizer_config.json         which class opens the folder, and which tokens are special

In the first two, each byte of a token is written as one visible character (`BYTE_CHARACTERS` in reference.py), so a
token never holds a space or a line end. Special tokens stand there as they are.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tinygpt.durable import atomic_write
from tinygpt.tokenizer.reference import BYTE_CHARACTERS

END_OF_TEXT = "<|endoftext|>"
_FILE_NAMES = (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"))
_CONFIG_NAME = "tokenizer_config.json"
CHARACTER_BYTES = {character: byte for byte, character in BYTE_CHARACTERS.items()}


class _AsLatin1(dict):
    """For `str.translate`: each character as the one of Latin-1 that is its byte, any other as one that is in none."""

    def __missing__(self, code: int) -> int:
        return 0x100


_AS_LATIN1 = _AsLatin1({ord(character): byte for character, byte in CHARACTER_BYTES.items()})


class Contents(NamedTuple):
    """What the files say: the arguments of `Tokenizer`."""

    vocab: dict[int, bytes]
    merges: list[tuple[bytes, bytes]]
    special_tokens: dict[str, int]
    pattern: str | None = None
    whole_pieces: bool = False


def written(token: bytes) -> str:
    r"""
    Return a token as the files write it.

    Examples
    --------
    >>> written(" é\n".encode("utf-8"))
    'ĠÃ©Ċ'
    """
    return "".join([BYTE_CHARACTERS[byte] for byte in token])


def save(
    directory: str | os.PathLike[str],
    vocab: Mapping[int, bytes],
    merges: Sequence[tuple[bytes, bytes]],
    special_tokens: Mapping[str, int],
) -> None:
    """
    Write `vocab.json`, `merges.txt` and `tokenizer_config.json`; the same tokenizer gives the same bytes.

    Parameters
    ----------
    directory : path
        Created if it does not exist. Files of these names in it are replaced, one by one.
    vocab, merges, special_tokens
        As `Tokenizer` takes them.

    Raises
    ------
    ValueError
        If a special token reads like an ordinary one, so that `vocab.json` cannot hold both.
    """
    in_order = written_ids(vocab, special_tokens)
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write(folder / "vocab.json", json.dumps(in_order, ensure_ascii=False, indent=0) + "\n")
    lines = [f"{written(left)} {written(right)}\n" for left, right in merges]
    atomic_write(folder / "merges.txt", "#version: 0.2\n" + "".join(lines))
    save_config(folder, special_tokens, "GPT2Tokenizer")


def written_ids(vocab: Mapping[int, bytes], special_tokens: Mapping[str, int]) -> dict[str, int]:
    """Return all ids by the tokens as the files write them, the lowest id first; ValueError if two read the same."""
    ids = {written(token): id for id, token in vocab.items()}
    for text in special_tokens:
        if text in ids:
            raise ValueError(
                f"save_pretrained: vocab.json writes the ordinary token {vocab[ids[text]]!r} as {text!r}, "
                "so no special token can have that name; rename it"
            )
    return dict(sorted((ids | dict(special_tokens)).items(), key=lambda entry: entry[1]))


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
    atomic_write(folder / _CONFIG_NAME, json.dumps(config, ensure_ascii=False, indent=2) + "\n")


def load(directory: str | os.PathLike[str]) -> Contents:
    """
    Read a tokenizer from `vocab.json` and `merges.txt`, or from OpenAI's `encoder.json` and `vocab.bpe`.

    Special are the tokens that `added_tokens_decoder` of `tokenizer_config.json` lists. Where there is no such list,
    they are the entries that are not bytes and that no merge makes.

    Raises
    ------
    FileNotFoundError
        If a file is missing.
    ValueError
        If a file is malformed or cut off, or the files do not belong together: names the file and, for merges, the
        line.
    """
    folder = Path(directory)
    vocab_path, merges_path = _find(folder)
    ids = read_json(vocab_path)
    check_ids(vocab_path, ids)
    merges = _read_merges(merges_path, ids)
    listed = _read_special_tokens(folder / _CONFIG_NAME, ids)
    ordinary = set(BYTE_CHARACTERS.values()).union(*merges, ("".join(pair) for pair in merges))
    special_tokens = dict(listed or {})
    if both := ordinary & special_tokens.keys():
        raise ValueError(f"{folder / _CONFIG_NAME}: {min(both)!r} is an ordinary token; it cannot be special as well")
    for token, id in sorted(ids.items(), key=lambda entry: entry[1]):
        if token in ordinary or token in special_tokens:
            continue
        if any(token[:cut] in ordinary and token[cut:] in ordinary for cut in range(1, len(token))):
            raise ValueError(
                f"{merges_path}: must make {token!r}, id {id} in {vocab_path.name}, and does not; the file is cut off "
                f"or of another vocabulary: copy it again, or list the token in {_CONFIG_NAME} if it is special"
            )
        if listed is None:
            special_tokens[token] = id
        elif not CHARACTER_BYTES.keys() >= set(token):
            raise ValueError(
                f"{vocab_path}: {token!r} (id {id}) is neither bytes nor special; list it in {_CONFIG_NAME} if it is"
            )
    in_bytes = {token: token_bytes(token) for token in ids if token not in special_tokens}
    vocab = {ids[token]: value for token, value in in_bytes.items()}
    return Contents(vocab, [(in_bytes[left], in_bytes[right]) for left, right in merges], special_tokens)


def is_there(folder: Path) -> bool:
    """Whether a folder has any file that `load` reads the vocabulary or the merges from."""
    return any((folder / name).exists() for names in _FILE_NAMES for name in names)


def _find(folder: Path) -> tuple[Path, Path]:
    for vocab_name, merges_name in _FILE_NAMES:
        if (folder / vocab_name).exists() or (folder / merges_name).exists():
            return folder / vocab_name, folder / merges_name
    raise FileNotFoundError(
        f"from_pretrained: {folder} must hold vocab.json and merges.txt, or encoder.json and vocab.bpe, or "
        "tokenizer.json; "
        "name a folder that save_pretrained has written, or one with GPT-2's two files"
    )


def token_bytes(token: str) -> bytes:
    r"""
    Return the token that the files write so.

    Examples
    --------
    >>> token_bytes("ĠÃ©Ċ").decode("utf-8")
    ' é\n'
    """
    return token.translate(_AS_LATIN1).encode("latin-1")


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise FileNotFoundError(
            f"from_pretrained: {path} is missing; the vocabulary and the merges go together"
        ) from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: must be UTF-8 text, byte {error.start} is not; copy the file again") from None


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object, or raise ValueError if the file is damaged or a name is there twice."""

    def without_repeats(entries: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(entries)
        if len(found) < len(entries):
            keys = [key for key, _ in entries]
            repeated = next(key for key in keys if keys.count(key) > 1)
            raise ValueError(f"{path}: must hold each name once, {repeated!r} is there twice")
        return found

    try:
        found = json.loads(_read_text(path), object_pairs_hook=without_repeats)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path}, line {error.lineno}: must be JSON, got {error.msg} at column {error.colno}; "
            "the file is damaged or cut off: copy it again"
        ) from None
    if not isinstance(found, dict):
        raise ValueError(f"{path}: must hold a JSON object, got {type(found).__name__}")
    return found


def check_ids(path: Path, ids: Mapping[str, Any]) -> None:
    """Raise ValueError unless these are the ids of different tokens, all bytes among them."""
    tokens: dict[int, str] = {}
    for token, id in ids.items():
        if type(id) is not int or id < 0:
            raise ValueError(f"{path}: the id of {token!r} must be a non-negative integer, got {id!r}")
        if id in tokens:
            raise ValueError(f"{path}: ids must be unique, {tokens[id]!r} and {token!r} both have id {id}")
        if not token:
            raise ValueError(f"{path}: a token must not be empty, the one with id {id} is")
        tokens[id] = token
    for byte, character in BYTE_CHARACTERS.items():
        if character not in ids:
            raise ValueError(f"{path}: must hold all 256 bytes, {character!r} (byte {byte}) is missing")


def _read_merges(path: Path, ids: Mapping[str, int]) -> list[tuple[str, str]]:
    lines = _read_text(path).split("\n")  # not splitlines, which also cuts at characters that are no line ends here
    if lines[-1] == "":
        lines.pop()
    first = 1 if lines and lines[0].startswith("#version") else 0  # other lines that begin with # are merges
    plain = {token for token in ids if CHARACTER_BYTES.keys() >= set(token)}
    line_of: dict[tuple[str, str], int] = {}
    for number, line in enumerate(lines[first:], start=first + 1):
        left, _, right = line.partition(" ")
        if left in plain and right in plain and left + right in plain and (left, right) not in line_of:
            line_of[left, right] = number
            continue
        where = f"{path}, line {number}"
        if not (left and right) or " " in right:
            raise ValueError(f"{where}: needs two tokens with a space between, got {line!r}; the file may be cut off")
        check_merge(where, left, right, ids)
        if (left, right) in line_of:
            raise ValueError(f"{where}: must be a new merge, got that of line {line_of[left, right]} again")
        line_of[left, right] = number
    return list(line_of)


def check_merge(where: str, left: str, right: str, ids: Mapping[str, int]) -> None:
    """Raise ValueError unless both tokens and the one they make are in the vocabulary and stand for bytes."""
    for token in (left, right, left + right):
        if token not in ids:
            raise ValueError(f"{where}: names {token!r}, which is not in the vocabulary; the two must be one pair")
        if not CHARACTER_BYTES.keys() >= set(token):
            raise ValueError(f"{where}: {token!r} must be written in the 256 characters that stand for bytes")


def _read_special_tokens(path: Path, ids: Mapping[str, int]) -> dict[str, int] | None:
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
        if not (number.isdecimal() and isinstance(text, str) and text):
            raise ValueError(
                f'{path}: added_tokens_decoder must hold {{"id": {{"content": text}}}}, got {number!r}: {entry!r}'
            )
        id = int(number)
        if ids.get(text, id) != id or tokens.get(id, text) != text or text in special_tokens:
            raise ValueError(
                f"{path}: special token {text!r} with id {id} contradicts the vocabulary; use files of one tokenizer"
            )
        special_tokens[text] = id
    return special_tokens

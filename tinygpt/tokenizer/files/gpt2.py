"""
GPT-2's two files, the vocabulary and the merges, under Hugging Face's names and under OpenAI's.

    vocab.json, encoder.json      {token: id}, special tokens included
    merges.txt, vocab.bpe         a "#version" line, then one merge per line, its two tokens separated by a space

In the first two, each byte of a token is written as one visible character (`BYTE_CHARACTERS` in reference.py), so a
token never holds a space or a line end. Special tokens stand there as they are.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, chain
from pathlib import Path
from typing import Any, NamedTuple

from tinygpt.files.atomic import atomic_write
from tinygpt.files.one_line import brief, shown
from tinygpt.tokenizer.files.added_tokens import CONFIG_NAME, read_added_tokens
from tinygpt.tokenizer.files.reading import read_json, read_text, require_sizes
from tinygpt.tokenizer.files.tokenizer_config import save_config
from tinygpt.tokenizer.reference import BYTE_CHARACTERS
from tinygpt.tokenizer.special_tokens import Flags

_FILE_NAMES = (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"))
CHARACTER_BYTES = {character: byte for byte, character in BYTE_CHARACTERS.items()}


class _AsLatin1(dict):
    """For `str.translate`: each character to the Latin-1 character of its byte, any other to one outside of Latin-1."""

    def __missing__(self, code: int) -> int:
        return 0x100


_AS_LATIN1 = _AsLatin1({ord(character): byte for character, byte in CHARACTER_BYTES.items()})


class Contents(NamedTuple):
    """The contents of the files: the arguments of `Tokenizer`."""

    vocab: dict[int, bytes]
    merges: list[tuple[bytes, bytes]]
    special_tokens: dict[str, int]
    pattern: str | None = None
    whole_pieces: bool = False
    special_flags: Mapping[str, Flags] | None = None


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
    special_flags: Mapping[str, Flags] | None = None,
) -> None:
    """
    Write `vocab.json`, `merges.txt` and `tokenizer_config.json`; the same tokenizer gives the same bytes.

    Parameters
    ----------
    directory : path
        Created if it does not exist. Files of these names in it are replaced, one by one.
    vocab, merges, special_tokens, special_flags
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
    save_config(folder, special_tokens, "GPT2Tokenizer", special_flags)


def written_ids(vocab: Mapping[int, bytes], special_tokens: Mapping[str, int]) -> dict[str, int]:
    """Return the id of each token, as the files write it, the lowest id first; ValueError if two are written alike."""
    ids = {written(token): id for id, token in vocab.items()}
    for text in special_tokens:
        if text in ids:
            raise ValueError(
                f"save_pretrained: vocab.json writes the ordinary token {vocab[ids[text]]!r} as {text!r}, "
                "so no special token can have that name; rename it"
            )
    return dict(sorted((ids | dict(special_tokens)).items(), key=lambda entry: entry[1]))


def load(directory: str | os.PathLike[str], beside: Contents | None = None) -> Contents:
    """
    Read a tokenizer from `vocab.json` and `merges.txt`, or from OpenAI's `encoder.json` and `vocab.bpe`.

    Special are the tokens that the files which `added_tokens.py` names list. Where none of them lists all, the entries
    that are not bytes and that no merge makes are special, too.

    Parameters
    ----------
    directory : path
    beside : Contents, optional
        What the folder's `tokenizer.json` says; it must say the same.

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
    added = read_added_tokens(folder, ids, None if beside is None else with_flags(beside))
    ordinary = {*BYTE_CHARACTERS.values(), *chain.from_iterable(merges), *map("".join, merges)}
    special_tokens = dict(added.ids)
    if both := ordinary & special_tokens.keys():
        raise ValueError(
            f"{shown(folder / CONFIG_NAME)}: {brief(min(both))} is an ordinary token; it cannot be special as well"
        )
    lengths = {*map(len, ordinary)}
    for token in sorted(ids.keys() - ordinary - special_tokens.keys(), key=ids.__getitem__):
        id, cuts = ids[token], [cut for cut in lengths if len(token) - cut in lengths]
        if any(token[:cut] in ordinary and token[cut:] in ordinary for cut in cuts):
            raise ValueError(
                f"{shown(merges_path)}: must make {brief(token)}, id {id} in {vocab_path.name}, and does not; "
                f"the file is cut off "
                f"or of another vocabulary: copy it again, or list the token in {CONFIG_NAME} if it is special"
            )
        if not added.complete:
            special_tokens[token] = id
        elif not _is_plain(token):
            raise ValueError(
                f"{shown(vocab_path)}: {brief(token)} (id {id}) is neither bytes nor special; list it in "
                f"{CONFIG_NAME} if it is"
            )
    require_sizes(folder / CONFIG_NAME if added.complete else vocab_path, ids, special_tokens)
    tokens = [token for token in ids if token not in special_tokens]
    in_bytes = dict(zip(tokens, _all_bytes(tokens), strict=True))
    vocab = {ids[token]: value for token, value in in_bytes.items()}
    pairs = [(in_bytes[left], in_bytes[right]) for left, right in merges]
    if beside is not None and (beside.vocab != vocab or beside.merges != pairs):
        raise ValueError(
            f"{shown(folder / 'tokenizer.json')}: must be of the same tokenizer as {vocab_path.name} and "
            f"{merges_path.name} beside it, and is not; transformers reads it before them: remove what is outdated"
        )
    return Contents(vocab, pairs, special_tokens, special_flags=added.flags)


def with_flags(contents: Contents) -> dict[str, tuple[int, Flags]]:
    """The special tokens of a `tokenizer.json`, as `read_added_tokens` takes them."""
    flags = contents.special_flags or {}
    return {text: (id, flags.get(text, Flags())) for text, id in contents.special_tokens.items()}


def is_there(folder: Path) -> bool:
    """Whether a folder has any file that `load` reads the vocabulary or the merges from."""
    return any((folder / name).exists() for names in _FILE_NAMES for name in names)


def _find(folder: Path) -> tuple[Path, Path]:
    for vocab_name, merges_name in _FILE_NAMES:
        if (folder / vocab_name).exists() or (folder / merges_name).exists():
            return folder / vocab_name, folder / merges_name
    raise FileNotFoundError(
        f"from_pretrained: {shown(folder)} must hold vocab.json and merges.txt, or encoder.json and vocab.bpe, or "
        "tokenizer.json; "
        "name the folder of a checkpoint or of a tokenizer, or one with GPT-2's two files"
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


def _all_bytes(tokens: Sequence[str]) -> Iterator[bytes]:
    """The bytes of many tokens, faster than one by one: they are converted as one text, then cut by their lengths."""
    data, start = token_bytes("".join(tokens)), 0
    for end in accumulate(map(len, tokens)):
        yield data[start:end]
        start = end


def check_ids(path: Path, ids: Mapping[str, Any]) -> None:
    """Raise ValueError unless these are the ids of different tokens, all bytes among them."""
    require_sizes(path, ids)
    tokens: dict[int, str] = {}
    for token, id in ids.items():
        if type(id) is not int or id < 0:
            raise ValueError(f"{shown(path)}: the id of {brief(token)} must be a non-negative integer, got {brief(id)}")
        if id >= 1 << 32:
            raise ValueError(f"{shown(path)}: the id of {brief(token)} must be below 2**32, got {brief(id)}")
        if id in tokens:
            raise ValueError(
                f"{shown(path)}: ids must be unique, {brief(tokens[id])} and {brief(token)} both have id {id}"
            )
        if not token:
            raise ValueError(f"{shown(path)}: a token must not be empty, the one with id {id} is")
        tokens[id] = token
    for byte, character in BYTE_CHARACTERS.items():
        if character not in ids:
            raise ValueError(f"{shown(path)}: must hold all 256 bytes, {character!r} (byte {byte}) is missing")


def _read_merges(path: Path, ids: Mapping[str, int]) -> list[tuple[str, str]]:
    lines = read_text(path).split("\n")  # not splitlines, which also cuts at characters that are no line ends here
    if lines[-1] == "":
        lines.pop()
    first = 1 if lines and lines[0].startswith("#version") else 0  # other lines that begin with # are merges
    pairs: list[Any] = [tuple(line.split(" ")) for line in lines[first:]]
    known = ids.keys() if CHARACTER_BYTES.keys() >= set("".join(ids)) else set(filter(_is_plain, ids))
    named = chain(chain.from_iterable(pairs), map("".join, pairs))
    if {*map(len, pairs)} <= {2} and len({*pairs}) == len(pairs) and all(map(known.__contains__, named)):
        return pairs  # all is right: the rest finds the fault
    line_of: dict[tuple[str, ...], int] = {}
    for number, pair in enumerate(pairs, start=first + 1):
        where = f"{shown(path)}, line {number}"
        if len(pair) != 2 or not all(pair):
            raise ValueError(
                f"{where}: needs two tokens with a space between, got {brief(lines[number - 1])}; the file may "
                f"be cut off"
            )
        check_merge(where, pair[0], pair[1], ids)
        if pair in line_of:
            raise ValueError(f"{where}: must be a new merge, got that of line {line_of[pair]} again")
        line_of[pair] = number
    raise AssertionError(f"{shown(path)}: the merges are right one by one, but not all together")


def _is_plain(token: str) -> bool:
    """Whether a token is written in the 256 characters that stand for bytes."""
    return CHARACTER_BYTES.keys() >= set(token)


def check_merge(where: str, left: str, right: str, ids: Mapping[str, int]) -> None:
    """Raise ValueError unless both tokens and the one they make are in the vocabulary and stand for bytes."""
    for token in (left, right, left + right):
        if token not in ids:
            raise ValueError(f"{where}: names {brief(token)}, which is not in the vocabulary; the two must be one pair")
        if not _is_plain(token):
            raise ValueError(f"{where}: {brief(token)} must be written in the 256 characters that stand for bytes")

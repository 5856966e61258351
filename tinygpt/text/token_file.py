"""
Token ids on disk: a header that says what they are, then the ids, ready to be memory-mapped.

    bytes   what                                                        type
    0-7     "TGTOKENS"                                                  8 characters
    8-11    version of this format, 1                                   uint32
    12-15   bytes per token, 2 or 4                                     uint32
    16-23   number of tokens N                                          uint64
    24-55   SHA-256 of the tokenizer that made them: its fingerprint    32 bytes
    56-     the tokens                                                  N times uint16 or uint32

All numbers are little-endian. The fingerprint is there because ids mean nothing without their tokenizer: training on
ids of another vocabulary would run and learn nothing.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tinygpt.files.atomic import atomic_open
from tinygpt.files.input_file import open_input
from tinygpt.files.one_line import shown

HEADER = struct.Struct("<8sIIQ32s")
MAGIC = b"TGTOKENS"
VERSION = 1
_BLOCK = 1 << 22  # tokens
_TABLE = 1 << 24  # ids; more are looked up one by one
TOKEN_TYPES: dict[int, np.dtype] = {2: np.dtype("<u2"), 4: np.dtype("<u4")}


class TokenFile(NamedTuple):
    """Token ids of shape (N,), uint16 or uint32, mapped from disk, and their tokenizer's fingerprint."""

    tokens: np.ndarray
    fingerprint: str


def write_token_file(path: str | os.PathLike[str], tokens: np.ndarray, fingerprint: str) -> None:
    """
    Write token ids, atomically.

    Parameters
    ----------
    path : path of the file
    tokens : integer array, shape (N,), N >= 1
        uint16 and uint32 are kept; other integers take the smaller of the two that holds them.
    fingerprint : str
        ``tokenizer.fingerprint``: 64 hexadecimal digits.

    Raises
    ------
    TypeError
        If the ids are not integers.
    ValueError
        If the shape, an id or the fingerprint is not as said above.
    """
    tokens = np.asarray(tokens)
    if tokens.ndim != 1 or not tokens.size:
        raise ValueError(f"write_token_file: tokens must have shape (N,), N >= 1, got {tokens.shape}; encode some text")
    if tokens.dtype.kind not in "iu":
        raise TypeError(
            f"write_token_file: tokens must be integers, got {tokens.dtype}; give ids as encode returns them"
        )
    lowest, highest = int(tokens.min()), int(tokens.max())
    if lowest < 0 or highest >= 2**32:
        got = lowest if lowest < 0 else highest
        raise ValueError(f"write_token_file: ids must be in 0..{2**32 - 1}, got {got}; encode the text again")
    digest = _digest(fingerprint)
    size = tokens.dtype.itemsize if tokens.dtype in (np.uint16, np.uint32) else 2 if highest < 2**16 else 4
    with atomic_open(path) as file:
        file.write(HEADER.pack(MAGIC, VERSION, size, tokens.size, digest))
        file.write(np.ascontiguousarray(tokens, TOKEN_TYPES[size]).data)


def write_token_parts(path: str | os.PathLike[str], parts: Iterable[np.ndarray], size: int, fingerprint: str) -> int:
    """
    Write token ids that come in parts, atomically, and return how many there were.

    Parameters
    ----------
    path : path of the file
    parts : iterable of integer arrays, shape (N,)
        Ids that fit into `size` bytes.
    size : {2, 4}
        Bytes per token.
    fingerprint : str
        ``tokenizer.fingerprint``.

    Raises
    ------
    ValueError
        If there is no token at all.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "corpus.bin")
    >>> write_token_parts(path, [np.array([15496]), np.array([995])], 2, "ab" * 32)
    2
    >>> open_token_file(path).tokens.tolist()
    [15496, 995]
    """
    digest, count = _digest(fingerprint), 0
    with atomic_open(path) as file:
        file.write(HEADER.pack(MAGIC, VERSION, size, 0, digest))
        for part in parts:
            file.write(np.ascontiguousarray(part, TOKEN_TYPES[size]).data)
            count += len(part)
        if not count:
            raise ValueError("write_token_parts: needs at least one token, got none; encode some text")
        file.seek(0)
        file.write(HEADER.pack(MAGIC, VERSION, size, count, digest))
    return count


def _digest(fingerprint: str) -> bytes:
    try:
        digest = bytes.fromhex(fingerprint)
    except ValueError:
        digest = b""
    if len(digest) != 32:
        raise ValueError(f"fingerprint: must be 64 hexadecimal digits, got {fingerprint!r}; give tokenizer.fingerprint")
    return digest


def is_token_file(path: str | os.PathLike[str]) -> bool:
    """
    Whether `path` is a file that begins like a token file; its contents may still be damaged.

    Parameters
    ----------
    path : path of anything, existing or not

    Returns
    -------
    bool
    """
    path = Path(path)
    if not path.is_file():
        return False
    with open_input(path) as file:
        return file.read(len(MAGIC)) == MAGIC


def open_token_file(
    path: str | os.PathLike[str], fingerprint: str | None = None, known: Collection[int] | None = None
) -> TokenFile:
    """
    Map a token file into memory; no token is read before it is used, unless `known` is given.

    Parameters
    ----------
    path : path of a file that `write_token_file` wrote
    fingerprint : str, optional
        ``tokenizer.fingerprint`` of the tokenizer that the ids must have come from.
    known : collection of int, optional
        ``tokenizer.ids``: read all tokens once, and require that each is one of these. A flipped bit is found now, not
        after hours of training.

    Returns
    -------
    TokenFile

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is not a token file, is truncated or too long, is of another tokenizer, or has an id that the
        tokenizer does not have.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "corpus.bin")
    >>> write_token_file(path, np.array([15496, 995]), fingerprint="ab" * 32)
    >>> open_token_file(path, fingerprint="ab" * 32).tokens.tolist()
    [15496, 995]
    """
    path = Path(path)
    dtype, count, digest = _read_header(path)
    if fingerprint is not None and digest != _digest(fingerprint):
        raise ValueError(
            f"{shown(path)}: came from tokenizer {digest.hex()[:12]}, but this run uses {fingerprint[:12]}; "
            "use the tokenizer that made the file, or encode the text again"
        )
    tokens = np.memmap(path, dtype, "r", HEADER.size, (count,))
    if known is not None:
        _require_known(path, tokens, np.unique(np.fromiter(known, np.int64)))
    return TokenFile(tokens, digest.hex())


def _require_known(path: Path, tokens: np.ndarray, known: np.ndarray) -> None:
    """`known` are sorted; if they have no gaps, only the largest token is compared."""
    limit = int(known[-1]) + 1 if len(known) else 0
    table = None
    if len(known) < limit <= _TABLE:
        table = np.zeros(limit, bool)
        table[known] = True
    for start in range(0, len(tokens), _BLOCK):  # in pieces: the file may be larger than memory
        block = tokens[start : start + _BLOCK]
        wrong = block >= limit if int(block.max()) >= limit else np.zeros(0, bool)
        if not wrong.any() and len(known) < limit:
            wrong = ~(np.isin(block, known) if table is None else table[block])
        if wrong.any():
            place = int(np.argmax(wrong))
            raise ValueError(
                f"{shown(path)}: token {start + place:,} must be an id of the tokenizer, all of which are below "
                f"{limit:,}, got {int(block[place]):,}; the file is damaged: make it again with: tinygpt "
                f"tokenizer encode"
            )


def _read_header(path: Path) -> tuple[np.dtype, int, bytes]:
    """Type and number of the tokens, and the digest of their tokenizer, once they agree with the file's length."""
    with open_input(path, "open_token_file", "make it with: tinygpt tokenizer encode") as file:
        raw = file.read(HEADER.size)
        length = os.fstat(file.fileno()).st_size
    remedy = "make it again with: tinygpt tokenizer encode"
    if raw[: len(MAGIC)] != MAGIC:
        raise ValueError(
            f"{shown(path)}: must be a token file, got a file that begins with {raw[: len(MAGIC)]!r}; {remedy}"
        )
    if len(raw) < HEADER.size:
        raise ValueError(f"{shown(path)}: is cut short: a header takes {HEADER.size} bytes, got {len(raw)}; {remedy}")
    _, version, size, count, digest = HEADER.unpack(raw)
    if version != VERSION:
        raise ValueError(f"{shown(path)}: this tinygpt reads version {VERSION} of token files, got {version}; {remedy}")
    if size not in TOKEN_TYPES:
        raise ValueError(f"{shown(path)}: a token must take 2 or 4 bytes, got {size}; {remedy}")
    if not count:
        raise ValueError(f"{shown(path)}: must hold tokens, got none; {remedy}")
    expected = HEADER.size + count * size
    if length != expected:
        trouble = "is cut short" if length < expected else "has bytes after its end"
        raise ValueError(f"{shown(path)}: {trouble}: {count} tokens make {expected} bytes, got {length}; {remedy}")
    return TOKEN_TYPES[size], count, digest

"""
Reading the text and JSON files of tokenizers within limits; errors name the fault.

The limits are several times what the largest vocabularies in use need (tokens: a million; bytes of one token: 512).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from tinygpt.files.input_file import MEGABYTE, read_bytes
from tinygpt.files.json_file import read_object
from tinygpt.files.one_line import shown

LARGEST_FILE = 64 * MEGABYTE
MOST_TOKENS = 1 << 20
MOST_SPECIAL_TOKENS = 1 << 14  # each text is searched for all of them
LONGEST_TOKEN = 4096  # characters of a token as a file writes it
_MISSING = "the vocabulary and the merges go together"


def read_text(path: Path) -> str:
    """
    Read UTF-8 with any kind of line ends, with or without a byte order mark.

    Raises FileNotFoundError or ValueError, naming the file.
    """
    data = read_bytes(path, LARGEST_FILE, "from_pretrained", _MISSING, "a text")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{shown(path)}: must be UTF-8 text, byte {error.start} is not; copy the file again") from None
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object, or raise ValueError if the file is damaged or a name is there twice."""
    return read_object(path, "", _MISSING, LARGEST_FILE)


def require_sizes(path: Path, ids: Mapping[str, Any], special_tokens: Collection[str] = ()) -> None:
    """
    Raise ValueError if there are more tokens, or a longer one, than any vocabulary has.

    Examples
    --------
    >>> require_sizes(Path("vocab.json"), {"a" * 5000: 0})
    Traceback (most recent call last):
    ValueError: vocab.json: a token must have at most 4,096 characters, got one of 5,000; use another copy
    """
    for what, count, most in (
        ("tokens", len(ids), MOST_TOKENS),
        ("special tokens", len(special_tokens), MOST_SPECIAL_TOKENS),
    ):
        if count > most:
            raise ValueError(f"{shown(path)}: must hold at most {most:,} {what}, got {count:,}; use another copy")
    longest = max(map(len, [*ids, *special_tokens]), default=0)
    if longest > LONGEST_TOKEN:
        raise ValueError(
            f"{shown(path)}: a token must have at most {LONGEST_TOKEN:,} characters, got one of {longest:,}; "
            "use another copy"
        )

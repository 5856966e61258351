"""Text and JSON files of tokenizers, read so that what is wrong with them is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read_text(path: Path) -> str:
    """
    Read UTF-8 with any kind of line ends, with or without a byte order mark.

    Raises FileNotFoundError or ValueError, naming the file.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
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
        found = json.loads(read_text(path), object_pairs_hook=without_repeats)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path}, line {error.lineno}: must be JSON, got {error.msg} at column {error.colno}; "
            "the file is damaged or cut off: copy it again"
        ) from None
    if not isinstance(found, dict):
        raise ValueError(f"{path}: must hold a JSON object, got {type(found).__name__}")
    return found

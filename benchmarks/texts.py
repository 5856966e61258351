"""The texts that models are compared on: stories, documentation and code, which every machine with tinygpt has."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Any

from tinygpt.text.corpus import bundled_stories

_CODE = ("argparse", "ast", "dataclasses", "difflib", "inspect", "pathlib", "statistics", "textwrap", "typing")


def _stories() -> str:
    return "\n\n".join(bundled_stories())


def _documentation() -> str:
    topics = importlib.import_module("pydoc_data.topics").topics
    return "\n\n".join(topics[name] for name in sorted(topics))


def _code() -> str:
    return "\n\n".join(inspect.getsource(importlib.import_module(name)) for name in _CODE)


TEXTS: dict[str, Callable[[], str]] = {
    "the bundled stories": _stories,
    "Python's documentation": _documentation,
    "Python's library": _code,
}


def ids_of(name: str, tokenizer: Any, count: int) -> list[int]:
    """The first tokens of a text, so many of them."""
    return tokenizer.encode_ordinary(TEXTS[name]())[:count]

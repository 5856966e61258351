"""
Text becomes documents, documents become token ids, token ids become batches.

    bundled_stories, read_documents    texts, each a document
    split_documents                    documents for training, and for validation
    encode_documents                   one array of ids, the id of <|endoftext|> after each document
    sample_batch                       random windows of that array: the batch of a training step
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tinygpt.files.input_file import read_bytes, require_ordinary
from tinygpt.files.one_line import shown
from tinygpt.runtime.plural import counted
from tinygpt.runtime.seeds import check_seed
from tinygpt.text.decoding import decode_text
from tinygpt.tokenizer.validation import list_of_texts

if TYPE_CHECKING:
    from tinygpt.tokenizer import Tokenizer

SEPARATOR = "<|endoftext|>"
LARGEST_TEXT = 1 << 32  # bytes that are read into memory at once; `tinygpt tokenizer encode` has no limit
SEPARATOR_LINE = re.compile(rf"^{re.escape(SEPARATOR)}$\n?", re.MULTILINE)


def bundled_stories() -> list[str]:
    """
    Return the stories that come with tinygpt, in the order of their file names.

    Returns
    -------
    list of str
        Each begins with its title.

    Examples
    --------
    >>> len(bundled_stories())
    100
    """
    try:
        folder = resources.files("tinygpt.stories")
    except ModuleNotFoundError:
        folder = Path(__file__).resolve().parents[2] / "data"  # a clone that was never installed
        if not folder.is_dir():
            raise FileNotFoundError(f"bundled_stories: no folder {folder}; install tinygpt again") from None
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".txt")), key=lambda file: file.name)
    return [decode_text(file.read_bytes(), file.name) for file in files]


def read_documents(path: str | os.PathLike[str]) -> list[str]:
    """
    Read the documents of a text file, or of all ``.txt`` files in a folder in the order of their names.

    A line that is exactly ``<|endoftext|>`` ends a document; everything between such lines is kept as it is.

    Parameters
    ----------
    path : path of a UTF-8 text file or of a folder

    Returns
    -------
    list of str
        Documents that hold more than white space; at least one.

    Raises
    ------
    FileNotFoundError
        If there is no such file or folder, or no ``.txt`` file in it.
    ValueError
        If a file is empty, binary or not UTF-8; names the file and the byte.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "two.txt")
    >>> _ = path.write_text("A fox.\\n<|endoftext|>\\nA crow.\\n", encoding="utf-8")
    >>> read_documents(path)
    ['A fox.\\n', 'A crow.\\n']
    """
    return [document for file in text_files(path) for document in _documents_of(file)]


def _documents_of(file: Path) -> list[str]:
    text = decode_text(read_bytes(file, LARGEST_TEXT, "read_documents", what="a text"), shown(file))
    documents = [document for document in SEPARATOR_LINE.split(text) if document.strip()]
    if not documents:
        raise ValueError(f"{shown(file)}: must hold text, holds only {SEPARATOR} lines; fill it or leave it out")
    return documents


def text_files(path: str | os.PathLike[str]) -> list[Path]:
    """
    The file itself, or the ``.txt`` files of a folder in the order of their names.

    Raises FileNotFoundError if there is none, ValueError if it is a pipe or a device: a text is read more than once.
    """
    path = Path(path)
    if path.is_dir():
        files = sorted(file for file in path.glob("*.txt") if file.is_file())
        if not files:
            raise FileNotFoundError(f"read_documents: no .txt file in folder {shown(path)}; put your texts there")
        return files
    if not path.exists():
        known = next((name for name in ("shakespeare", "tinystories") if name in path.name.lower()), None)
        fetch = f'; "tinygpt data {known}" downloads that text' if known else ""
        raise FileNotFoundError(
            f"read_documents: no file or folder {shown(path)}; give a .txt file or a folder of them{fetch}"
        )
    require_ordinary(path, "read_documents", "give a .txt file or a folder of them")
    return [path]


def split_documents(documents: Sequence[str]) -> tuple[list[str], list[str]]:
    """
    Split documents into those for training and those for validation.

    Of ten or more, the last tenth is for validation. Fewer are cut after 90 % of all their characters, as nanoGPT cuts
    tinyshakespeare; the document in which the cut falls is then on both sides.

    Parameters
    ----------
    documents : sequence of str

    Returns
    -------
    train, validation : list of str

    Raises
    ------
    ValueError
        If one side would be empty.

    Examples
    --------
    >>> split_documents(["abcdefghijkl"])
    (['abcdefghij'], ['kl'])
    """
    documents = list_of_texts("split_documents: documents", documents)
    if len(documents) >= 10:
        cut = len(documents) - len(documents) // 10
        return documents[:cut], documents[cut:]
    remaining = int(sum(map(len, documents)) * 0.9)
    train, validation = [], []
    for document in documents:
        train.append(document[:remaining])
        validation.append(document[remaining:])
        remaining = max(0, remaining - len(document))
    train, validation = [part for part in train if part], [part for part in validation if part]
    if not train or not validation:
        size = sum(map(len, documents))
        raise ValueError(
            f"split_documents: needs text for both sides, got {counted(size, 'character')}; use a longer text"
        )
    return train, validation


def encode_documents(documents: Sequence[str], tokenizer: Tokenizer) -> np.ndarray:
    """
    Turn all documents into one array of token ids.

    The *id* of ``<|endoftext|>`` follows each document; the same characters inside a text stay ordinary text. A
    tokenizer without that token gets the documents joined by a blank line instead.

    Parameters
    ----------
    documents : sequence of str
    tokenizer : Tokenizer

    Returns
    -------
    ndarray, shape (N,), uint16 or uint32
        The smaller type that holds every id of the tokenizer.
    """
    documents = list_of_texts("encode_documents: documents", documents)
    dtype = np.uint16 if tokenizer.n_vocab <= 65536 else np.uint32
    if tokenizer.eot_token is None:
        return tokenizer.encode_to_numpy("\n\n".join(documents), disallowed_special=()).astype(dtype)
    eot = np.array([tokenizer.eot_token], dtype)
    parts = [eot[:0]]  # gives the result its type even if there is no document
    for document in documents:
        parts += [tokenizer.encode_to_numpy(document, disallowed_special=()).astype(dtype), eot]
    return np.concatenate(parts)


def sample_batch(
    tokens: np.ndarray, batch_size: int, context: int, seed: int, step: int
) -> tuple[np.ndarray, np.ndarray]:
    """
    Draw windows that start at random places: one batch of training.

    A pure function of its arguments: a run that resumes at step `k` needs no state to get the same batches.

    Parameters
    ----------
    tokens : integer array, shape (N,), N > context
    batch_size, context : int
        B windows per batch, T tokens per window.
    seed, step : int
        Both at least 0.

    Returns
    -------
    inputs, targets : ndarray, shape (B, T), int64
        `targets` is one token ahead of `inputs`.

    Raises
    ------
    ValueError
        If the text is too short for one window, or a number is out of its range.

    Examples
    --------
    >>> inputs, targets = sample_batch(np.arange(100), batch_size=2, context=4, seed=0, step=7)
    >>> inputs.shape, bool((targets == inputs + 1).all())
    ((2, 4), True)
    """
    _require_positive("sample_batch", batch_size=batch_size, context=context)
    check_seed("sample_batch", seed)
    if step < 0:
        raise ValueError(f"sample_batch: step must be at least 0, got {step}; the first step is 0")
    if np.ndim(tokens) != 1 or np.asarray(tokens).dtype.kind not in "iu":
        got = f"{np.asarray(tokens).dtype} {np.shape(tokens)}"
        if np.asarray(tokens).dtype.kind in "US":
            got = "text: encode it with encode_documents first"
        raise TypeError(f"sample_batch: tokens must be integers of shape (N,), got {got}")
    if len(tokens) <= context:
        raise ValueError(
            f"sample_batch: needs more tokens than the context, got {counted(len(tokens), 'token')}, context = "
            f"{context}; use a longer text or a shorter context"
        )
    starts = np.random.default_rng((seed, step)).integers(len(tokens) - context, size=batch_size)
    # One gather of T + 1 tokens per row: a memory-mapped corpus is read in these places only.
    rows = np.asarray(tokens)[starts[:, None] + np.arange(context + 1)].astype(np.int64)  # (B, T + 1)
    return np.ascontiguousarray(rows[:, :-1]), np.ascontiguousarray(rows[:, 1:])


def _require_positive(who: str, **sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{who}: {name} must be at least 1, got {name} = {size}; choose a larger one")

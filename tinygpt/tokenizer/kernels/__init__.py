"""
The tokenizer's loops, compiled by Numba: each does what a function of `reference.py` does, on arrays.

    hashing.py       eight bytes at a time; keys and slots of the hash tables
    splitter.py      text to pieces                     `split`
    merging.py       a piece's tokens to fewer          `merge`, `merge_long`
    encoder.py       pieces to ids, remembered          `Encoder.encode_by_reference` in tokenizer/encoder.py
    compiled_encoder.py    its tables and buffers, and how several threads share them
    decoder.py       ids to bytes                       `Tokenizer.decode_bytes`
    counting.py      the words of a corpus              `Counter(split(text))`
    trainer.py       merges from words                  `learn_merges`

Importing this package imports Numba, which takes half a second: only do so when there is enough to encode.

What to know before changing anything here
    No index is checked, so whatever comes from outside is validated before a kernel sees it.
    uint64 with int64 gives float64 in Numba: bit patterns and hashes are uint64 throughout, all else int64, and nothing
    mixes them without a cast.
    Kernels allocate nothing: they are compiled without Numba's reference counts, which would cost as much as the work.
    NUMBA_DISABLE_JIT=1 makes all of it plain Python, to be stepped through.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import llvmlite.binding
import numba

Function = TypeVar("Function", bound=Callable)


def _cache_folder() -> Path | None:
    """
    Where compiled kernels are kept: a folder of their own for each state of these files, Numba and processor.

    Numba would keep a kernel as long as its own file is the same, although it holds the code of functions from other
    files, too. Returns None where nothing can be written: then kernels are compiled anew in each process.
    """
    digest = hashlib.sha256(f"{numba.__version__} {llvmlite.binding.get_host_cpu_name()}".encode())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    caches = numba.config.CACHE_DIR or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(caches) / "tinygpt" / f"tokenizer-{digest.hexdigest()[:16]}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return folder if os.access(folder, os.W_OK) else None


_FOLDER = None if numba.config.DISABLE_JIT else _cache_folder()


def kernel(function: Function) -> Function:
    """
    Compile a function when it is first called, without the global interpreter lock; keep the result on disk.

    Numba reads the name of its cache folder while it decorates, so the name is ours only for that moment.
    """
    before = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = str(_FOLDER or before)
    try:
        return numba.njit(cache=_FOLDER is not None, nogil=True, error_model="numpy", _nrt=False)(function)
    finally:
        numba.config.CACHE_DIR = before


def inlined(function: Function) -> Function:
    """Like `kernel`, for what must not cost a call: the function becomes part of each kernel that calls it."""
    return numba.njit(inline="always", nogil=True, error_model="numpy", _nrt=False)(function)


def announce(work: str) -> None:
    """Say on stderr that a first compilation begins, for it takes seconds; say nothing if the result is on disk."""
    if _FOLDER is not None and not (_FOLDER / work).exists():
        print(f"tinygpt: compiling the tokenizer's kernels for {work}, once; this takes some seconds", file=sys.stderr)
        (_FOLDER / work).touch()

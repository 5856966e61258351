"""
The tokenizer's loops, compiled by Numba: each does the same as a function of `reference.py`, on arrays.

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

from pathlib import Path

from tinygpt.kernels.compiler import Compiler

compiler = Compiler("tokenizer", [Path(__file__).parent], subject="the tokenizer's kernels")
kernel, inlined = compiler.kernel, compiler.inlined

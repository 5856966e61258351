"""What each subcommand of `tinygpt tokenizer` does, once its arguments are read."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from tinygpt.files.atomic import atomic_write
from tinygpt.files.fetch import fetch as fetch_published
from tinygpt.files.one_line import one_line
from tinygpt.files.published import PUBLISHED
from tinygpt.runtime.streams import Stream, bar, tell
from tinygpt.text.streaming import Part, joined, size_of, stream_documents
from tinygpt.text.token_file import open_token_file, write_token_parts
from tinygpt.tokenizer import Tokenizer
from tinygpt.tokenizer.explain import explain, shown
from tinygpt.tokenizer.pattern import PATTERNS

_BLOCK = 1 << 20  # tokens


def train(options: argparse.Namespace) -> int:
    """tinygpt tokenizer train"""
    pattern = PATTERNS.get(options.pattern, options.pattern)
    parts = stream_documents(options.text, whole=pattern is not None)
    tokenizer = Tokenizer.train((text for text, _ in parts), options.vocab_size, byte_order=options.byte_order,
                                pattern=pattern, progress=not options.quiet)  # fmt: skip
    tokenizer.save_pretrained(options.out)
    tell(f"{options.out}: {tokenizer.n_vocab:,} tokens, {len(tokenizer.merges):,} merges")
    return 0


def encode(options: argparse.Namespace) -> int:
    """tinygpt tokenizer encode"""
    tokenizer = Tokenizer.from_pretrained(options.tokenizer)
    size = 2 if tokenizer.n_vocab <= 2**16 else 4
    shown_bar = bar(desc="encoding", total=size_of(options.text), unit="B", unit_scale=True, disable=options.quiet)
    with shown_bar:
        parts = stream_documents(options.text, whole=tokenizer.pattern is not None, advance=shown_bar.update)
        count = write_token_parts(options.out, _encoded(parts, tokenizer), size, tokenizer.fingerprint)
    tell(f"{options.out}: {count:,} tokens (uint{8 * size})")
    return 0


def _encoded(parts: Iterable[Part], tokenizer: Tokenizer) -> Iterator[np.ndarray]:
    """The ids of `corpus.encode_documents`, in parts."""
    if tokenizer.eot_token is None:
        for text in joined(parts, whole=tokenizer.pattern is not None):
            yield tokenizer.encode_to_numpy(text, disallowed_special=())
        return
    for text, ends in parts:
        yield tokenizer.encode_to_numpy(text, disallowed_special=())
        if ends:
            yield np.array([tokenizer.eot_token])


def decode(options: argparse.Namespace) -> int:
    """tinygpt tokenizer decode"""
    tokenizer = Tokenizer.from_pretrained(options.tokenizer)
    if all(given.isdecimal() for given in options.tokens):
        data = tokenizer.decode_bytes([int(given) for given in options.tokens])
    elif len(options.tokens) == 1:
        tokens = open_token_file(options.tokens[0], tokenizer.fingerprint, tokenizer.ids).tokens
        blocks = range(0, len(tokens), _BLOCK)
        data = b"".join([tokenizer.decode_bytes(tokens[start : start + _BLOCK]) for start in blocks])
    else:
        raise ValueError(f"decode: needs one token file, or ids, got {' '.join(options.tokens)[:60]!r}")
    if options.out:
        atomic_write(options.out, data)
        tell(f"{options.out}: {len(data):,} bytes")
        return 0
    # As bytes: a token may be part of a character, and line ends stay as they are.
    Stream(sys.stdout, required=True).write_bytes(data if data.endswith(b"\n") else data + b"\n")
    return 0


def info(options: argparse.Namespace) -> int:
    """tinygpt tokenizer info"""
    tokenizer = Tokenizer.from_pretrained(options.tokenizer)
    longest = max(tokenizer.vocab.values(), key=len)
    special = ", ".join(f"{one_line(text)} {id}" for text, id in tokenizer.special_tokens.items()) or "none"
    lengths = sum(len(token) for token in tokenizer.vocab.values()) / len(tokenizer.vocab)
    print(f"tokens          {len(tokenizer.vocab) + len(tokenizer.special_tokens):,}, ids below {tokenizer.n_vocab:,}")
    print(f"merges          {len(tokenizer.merges):,}")
    print(f"special tokens  {special}")
    print(f"token length    {lengths:.2f} bytes on average, the longest {len(longest)}: {shown(longest)}")
    print(f"split pattern   {one_line(tokenizer.pattern or 'that of GPT-2')}")
    if tokenizer.whole_pieces:
        print("whole pieces    a piece that is a token is that token, whatever the merges say")
    print(f"fingerprint     {tokenizer.fingerprint}")
    return 0


def fetch(options: argparse.Namespace) -> int:
    """tinygpt tokenizer fetch"""
    folder = fetch_published(options.name, options.base_url, progress=not options.quiet)
    tell(f"{folder}: {' and '.join(PUBLISHED[options.name])}; --tokenizer {options.name} now means these")
    if Path(options.name).exists():
        tell(f"but here it means the folder {Path(options.name).resolve()}")
    return 0


def explain_text(options: argparse.Namespace) -> int:
    """tinygpt tokenizer explain"""
    print(explain(options.text, Tokenizer.from_pretrained(options.tokenizer)))
    return 0

"""`tinygpt tokenizer`: train a tokenizer, use it, or see what it does."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tinygpt.cli.escapes import unescape
from tinygpt.cli.parser import Parser
from tinygpt.cli.shared_options import (
    TOKENIZER,
    add_allow_special,
    add_escape,
    add_quiet,
    add_tokenizer,
    file_to_write,
    folder_to_write,
    name,
    positive,
)
from tinygpt.runtime.plural import counted

if TYPE_CHECKING:
    import numpy as np

    from tinygpt.text.streaming import Part
    from tinygpt.tokenizer import Tokenizer
    from tinygpt.tokenizer.special_tokens import Names

_TEXT = "a .txt file or a folder of them, of any size"
_DEFAULT = "gpt2 if it is fetched, else the newest run's, else that of the bundled stories"
_BLOCK = 1 << 20  # tokens


def add_arguments(parser: Parser) -> None:
    """The commands below this one, and their arguments."""
    _add_train(parser)
    _add_encode(parser)
    _add_decode(parser)
    _add_info(parser)
    _add_explain(parser)
    _add_fetch(parser)


def _add_train(tokenizer: Parser) -> None:
    example = "example:\n  tinygpt tokenizer train tales.txt --vocab-size 4096 -o tales-tokenizer\n"
    parser = tokenizer.add_command("train", "Train a byte-pair encoding on a text.", run_train, example)
    parser.add_argument("text", type=name, metavar="TEXT", help=_TEXT)
    parser.add_argument(
        "-o",
        "--out",
        required=True,
        type=folder_to_write,
        metavar="DIR",
        help="required: folder of the tokenizer",
    )
    parser.add_argument(
        "--vocab-size",
        type=positive,
        default=4096,
        metavar="N",
        help="256 bytes, merges and <|endoftext|> together (default: 4096)",
    )
    parser.add_argument(
        "--pattern",
        type=name,
        default="gpt2",
        metavar="PATTERN",
        help="how text is split before it is merged: gpt2, cl100k, or a regular expression; all but "
        "gpt2 hold one document at a time in memory (default: gpt2)",
    )
    parser.add_argument(
        "--byte-order",
        choices=["gpt2", "raw"],
        default="gpt2",
        help="ids of single bytes: as GPT-2 and Hugging Face number them, or 0 to 255 (default: gpt2)",
    )
    add_quiet(parser)


def run_train(options: argparse.Namespace) -> int:
    """tinygpt tokenizer train"""
    from tinygpt.runtime.streams import tell
    from tinygpt.text.streaming import stream_documents
    from tinygpt.tokenizer import Tokenizer
    from tinygpt.tokenizer.pattern import PATTERNS

    pattern = PATTERNS.get(options.pattern, options.pattern)
    parts = stream_documents(options.text, whole=pattern is not None)
    tokenizer = Tokenizer.train(
        (text for text, _ in parts),
        options.vocab_size,
        byte_order=options.byte_order,
        pattern=pattern,
        progress=not options.quiet,
    )
    tokenizer.save_pretrained(options.out)
    tell(f"{options.out}: {counted(tokenizer.n_vocab, 'token')}, {counted(len(tokenizer.merges), 'merge')}")
    return 0


def _add_encode(tokenizer: Parser) -> None:
    example = "example:\n  tinygpt tokenizer encode tales.txt --tokenizer tales-tokenizer -o tales.bin\n"
    parser = tokenizer.add_command("encode", "Write a text's token ids to a token file.", run_encode, example)
    parser.add_argument("text", type=name, metavar="TEXT", help=_TEXT)
    add_tokenizer(parser)
    parser.add_argument(
        "-o", "--out", required=True, type=file_to_write, metavar="FILE", help="required: the token file to write"
    )
    add_allow_special(parser, "they are text, except on a line of their own, where <|endoftext|> ends a document")
    add_quiet(parser)


def run_encode(options: argparse.Namespace) -> int:
    """tinygpt tokenizer encode"""
    from tinygpt.runtime.streams import bar, tell
    from tinygpt.text.streaming import size_of, stream_documents
    from tinygpt.text.token_file import write_token_parts
    from tinygpt.tokenizer import Tokenizer

    tokenizer = Tokenizer.from_pretrained(options.tokenizer)
    size = 2 if tokenizer.n_vocab <= 2**16 else 4
    next(stream_documents(options.text))  # what is wrong with the beginning of a text is said before there is a bar
    shown_bar = bar(desc="encoding", total=size_of(options.text), unit="B", unit_scale=True, disable=options.quiet)
    with shown_bar:
        whole = tokenizer.pattern is not None or (options.allow_special and _can_be_cut(tokenizer))
        parts = stream_documents(options.text, whole=whole, advance=shown_bar.update)
        ids = _encoded(parts, tokenizer, whole, "all" if options.allow_special else ())
        count = write_token_parts(options.out, ids, size, tokenizer.fingerprint)
    tell(f"{options.out}: {counted(count, 'token')} (uint{8 * size})")
    return 0


def _can_be_cut(tokenizer: Tokenizer) -> bool:
    """Whether a special token can have white space in it or take it from next to it, where parts of a text are cut."""
    return bool(tokenizer.special_flags) or any(len(name.split()) > 1 for name in tokenizer.special_tokens)


def _encoded(parts: Iterable[Part], tokenizer: Tokenizer, whole: bool, allowed: Names) -> Iterator[np.ndarray]:
    """The ids of `corpus.encode_documents`, in parts."""
    import numpy as np

    from tinygpt.text.streaming import joined

    if tokenizer.eot_token is None:
        for text in joined(parts, whole):
            yield tokenizer.encode_to_numpy(text, allowed_special=allowed, disallowed_special=())
        return
    for text, ends in parts:
        yield tokenizer.encode_to_numpy(text, allowed_special=allowed, disallowed_special=())
        if ends:
            yield np.array([tokenizer.eot_token])


def _add_decode(tokenizer: Parser) -> None:
    example = "example:\n  tinygpt tokenizer decode 15496 995 --tokenizer gpt2     Hello world\n"
    parser = tokenizer.add_command("decode", "Turn token ids back into text.", run_decode, example)
    parser.add_argument("tokens", type=name, nargs="+", metavar="TOKENS", help="a token file, or ids")
    add_tokenizer(parser)
    parser.add_argument(
        "-o", "--out", type=file_to_write, metavar="FILE", help="the text file to write (default: standard output)"
    )


def run_decode(options: argparse.Namespace) -> int:
    """tinygpt tokenizer decode"""
    from tinygpt.files.atomic import atomic_write
    from tinygpt.runtime.streams import Stream, tell
    from tinygpt.text.token_file import open_token_file
    from tinygpt.tokenizer import Tokenizer

    tokenizer = Tokenizer.from_pretrained(options.tokenizer)
    ids = [id for given in options.tokens for id in given.replace(",", " ").split()]  # "15496 995" may be quoted
    if all(id.isdecimal() for id in ids):
        data = tokenizer.decode_bytes([int(id) for id in ids])
    elif len(options.tokens) == 1 and os.path.exists(options.tokens[0]):
        tokens = open_token_file(options.tokens[0], tokenizer.fingerprint, tokenizer.ids).tokens
        blocks = range(0, len(tokens), _BLOCK)
        data = b"".join([tokenizer.decode_bytes(tokens[start : start + _BLOCK]) for start in blocks])
    else:
        got = " ".join(options.tokens)[:60]
        raise ValueError(f"needs one token file, or ids, got {got!r}; for the ids of a text: tinygpt tokenizer explain")
    if options.out:
        atomic_write(options.out, data)
        tell(f"{options.out}: {counted(len(data), 'byte')}")
        return 0
    # As bytes: a token may be part of a character, and line ends stay as they are.
    Stream(sys.stdout, required=True).write_bytes(data if data.endswith(b"\n") else data + b"\n")
    return 0


def _add_info(tokenizer: Parser) -> None:
    example = "example:\n  tinygpt tokenizer info runs/tiny\n"
    parser = tokenizer.add_command("info", "Say what a tokenizer holds.", run_info, example)
    shown = f"{TOKENIZER} (default: {_DEFAULT})"
    parser.add_argument("tokenizer", type=name, nargs="?", metavar="NAME", help=shown)


def run_info(options: argparse.Namespace) -> int:
    """tinygpt tokenizer info"""
    from tinygpt.files.one_line import one_line
    from tinygpt.tokenizer.explain import shown

    tokenizer, what = _named_or_default(options.tokenizer)
    longest = max(tokenizer.vocab.values(), key=len)
    special = ", ".join(f"{one_line(text)} {id}" for text, id in tokenizer.special_tokens.items()) or "none"
    lengths = sum(len(token) for token in tokenizer.vocab.values()) / len(tokenizer.vocab)
    print(f"tokenizer       {what}")
    print(f"tokens          {len(tokenizer.vocab) + len(tokenizer.special_tokens):,}, ids below {tokenizer.n_vocab:,}")
    print(f"merges          {len(tokenizer.merges):,}")
    print(f"special tokens  {special}")
    print(f"token length    {lengths:.2f} bytes on average, the longest {len(longest)}: {shown(longest)}")
    print(f"split pattern   {one_line(tokenizer.pattern or 'that of GPT-2')}")
    if tokenizer.whole_pieces:
        print("whole pieces    a piece that is a token is that token, whatever the merges say")
    print(f"fingerprint     {tokenizer.fingerprint}")
    return 0


def _add_explain(tokenizer: Parser) -> None:
    example = (
        'examples:\n  tinygpt tokenizer explain "the hens"\n'
        '  tinygpt tokenizer explain "the hens" --tokenizer runs/tiny\n'
    )
    summary = "Draw the pieces of a text and the merges that make its tokens."
    parser = tokenizer.add_command("explain", summary, run_explain, example)
    parser.add_argument("text", metavar="TEXT", help="a few words; special tokens in it take effect")
    add_escape(parser, "TEXT")
    add_tokenizer(parser, default=_DEFAULT)


def run_explain(options: argparse.Namespace) -> int:
    """tinygpt tokenizer explain"""
    from tinygpt.tokenizer.explain import explain

    tokenizer, what = _named_or_default(options.tokenizer)
    print(f"tokenizer: {what} ({tokenizer.n_vocab:,} tokens)")
    print(explain(unescape("TEXT", options.text) if options.escape else options.text, tokenizer))
    return 0


def _named_or_default(name: str | None) -> tuple[Tokenizer, str]:
    """A tokenizer, and what to call it."""
    from tinygpt.files.one_line import shown
    from tinygpt.text.default_tokenizer import default_tokenizer
    from tinygpt.tokenizer import Tokenizer

    return default_tokenizer() if name is None else (Tokenizer.from_pretrained(name), shown(name))


def _add_fetch(tokenizer: Parser) -> None:
    about = (
        "Its two files come from openaipublic.blob.core.windows.net, where OpenAI keeps\n"
        "them, or from the folder that $TINYGPT_TOKENIZER_URL names; they are checked.\n"
        "\nexample:\n  tinygpt tokenizer fetch gpt2\n"
    )
    summary = "Download a published tokenizer, for --tokenizer gpt2 to mean it."
    parser = tokenizer.add_command("fetch", summary, run_fetch, about)
    parser.add_argument("name", choices=["gpt2"], metavar="NAME", help="gpt2")
    parser.add_argument("--base-url", type=name, metavar="URL", help="folder of the files (default: OpenAI's)")
    add_quiet(parser)


def run_fetch(options: argparse.Namespace) -> int:
    """tinygpt tokenizer fetch"""
    from tinygpt.files.fetch import fetch
    from tinygpt.files.published import PUBLISHED
    from tinygpt.runtime.streams import tell

    folder = fetch(options.name, options.base_url, progress=not options.quiet)
    tell(f"{folder}: {' and '.join(PUBLISHED[options.name])}; --tokenizer {options.name} now means these")
    if Path(options.name).exists():
        tell(f"but here it means the folder {Path(options.name).resolve()}")
    return 0

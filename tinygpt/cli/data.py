"""`tinygpt data`: texts to train on."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from tinygpt.cli.parser import Parser
from tinygpt.cli.shared_options import add_quiet, file_to_write, folder_to_write, name, path, positive
from tinygpt.files.one_line import shown
from tinygpt.runtime.plural import counted

_GUTENBERG = """\
A number is a book to download, also if there is a file of that name: write
./2591 for the file. Books that are given as files need no network.

examples:
  tinygpt data gutenberg 2591 1597 -o tales.txt     the Grimms and Andersen
  tinygpt data gutenberg pg*.txt -o tales.txt       books on this machine
"""
_SHAKESPEARE = """\
1.1 MB, the text of char-rnn and nanoGPT, in the public domain. What arrives is
checked, and kept in the user's cache; a download that broke off is resumed.
Then: tinygpt train --preset shakespeare-char --data tinyshakespeare.txt

example:
  tinygpt data shakespeare
"""
_TINYSTORIES = """\
Stories of GPT-4 in a small child's words (Eldan and Li, 2023; licence CDLA-
Sharing 1.0), divided by lines <|endoftext|>. The file for validation has 27,630
stories, 23 MB, enough for small models; that for training 2.7 million, 2.2 GB,
and the cache keeps as much again. What arrives is checked; a download that
broke off is resumed. $HF_ENDPOINT may name a mirror of the hub.

examples:
  tinygpt data tinystories
  tinygpt data tinystories --split train -o stories.txt
"""


def add_arguments(parser: Parser) -> None:
    """A command for each source of texts, and its arguments."""
    _add_published(parser, "shakespeare", "Download 40,000 lines of Shakespeare.", _SHAKESPEARE)
    summary = "Download stories for small models."
    stories = _add_published(parser, "tinystories", summary, _TINYSTORIES)
    stories.add_argument(
        "--split", choices=["validation", "train"], default="validation", help="which file (default: validation)"
    )
    _add_gutenberg(parser)


def _add_published(parser: Parser, text: str, summary: str, about: str) -> Parser:
    command = parser.add_command(text, summary, run_published, about)
    command.set_defaults(text=text)
    default = "tinyshakespeare.txt" if text == "shakespeare" else "tinystories-SPLIT.txt"
    command.add_argument(
        "-o", "--out", type=file_to_write, metavar="FILE", help=f"the file to write (default: {default})"
    )
    command.add_argument("--base-url", type=name, metavar="URL", help="folder of the file (default: the publisher's)")
    add_quiet(command)
    return command


def run_published(options: argparse.Namespace) -> int:
    """tinygpt data shakespeare, tinygpt data tinystories"""
    import filecmp
    import shutil

    from tinygpt.files.atomic import atomic_open
    from tinygpt.runtime.streams import tell
    from tinygpt.text.published_texts import TEXTS, fetch_text

    stories = options.text == "tinystories"
    text = f"tinystories-{options.split}" if stories else options.text
    out = options.out or Path(f"{text}.txt" if stories else f"tiny{text}.txt")
    if not options.out and out.exists() and out.stat().st_size != TEXTS[text].published.size:
        raise ValueError(f"{out} is there already, and is another text: name the file to write with -o")
    kept = fetch_text(text, options.base_url, progress=not options.quiet)
    if not out.exists() or not filecmp.cmp(kept, out, shallow=False):
        with kept.open("rb") as source, atomic_open(out) as target:
            shutil.copyfileobj(source, target, 1 << 20)
    tell(f"{out}: {out.stat().st_size:,} bytes, with the published checksum")
    recipe = f"--data {shlex.quote(str(out))}" + (" --out runs/tinystories" if stories else "")
    tell(f"to train on it: tinygpt train {'' if stories else '--preset shakespeare-char '}{recipe}")
    return 0


def _add_gutenberg(parser: Parser) -> None:
    summary = "Download books of Project Gutenberg, split into stories."
    gutenberg = parser.add_command("gutenberg", summary, run_gutenberg, _GUTENBERG)
    gutenberg.add_argument("books", metavar="BOOK", type=_book, nargs="+", help="its number, or a file that holds it")
    gutenberg.add_argument(
        "-o",
        "--out",
        required=True,
        type=file_to_write,
        metavar="FILE",
        help="required: the .txt file to write, without the licence texts",
    )
    gutenberg.add_argument("--base-url", type=name, metavar="URL", help="a mirror (default: https://www.gutenberg.org)")
    gutenberg.add_argument(
        "--cache",
        type=folder_to_write,
        metavar="DIR",
        help="folder in which downloads are kept (default: tinygpt/gutenberg in the user's cache)",
    )


def _book(text: str) -> int | Path:
    """A number of ASCII digits, or else a file."""
    return positive(text) if text.isascii() and text.isdigit() else path(text)


def run_gutenberg(options: argparse.Namespace) -> int:
    """tinygpt data gutenberg"""
    from tinygpt.runtime.streams import tell
    from tinygpt.text import gutenberg

    books = list(dict.fromkeys(options.books))
    for book in books:
        if not isinstance(book, Path):
            continue
        if not book.exists():
            raise FileNotFoundError(f"{shown(book)} must be the number of a book, or a file, and there is none")
        if options.out.exists() and options.out.samefile(book):
            raise ValueError(f"--out must be another file than the book {shown(book)}, which would be lost")
    numbers = [book for book in books if isinstance(book, int)]
    paths = {}
    if numbers:
        places = {"base_url": options.base_url, "cache_dir": options.cache}
        places = {key: value for key, value in places.items() if value}
        paths = dict(zip(numbers, gutenberg.download_books(numbers, **places), strict=True))
    documents = [
        story for book in books for story in gutenberg.split_stories(gutenberg.read_book(paths.get(book, book)))
    ]
    gutenberg.write_corpus(options.out, documents)
    tell(f"{options.out}: {counted(len(documents), 'document')} from {counted(len(books), 'book')}")
    tell(f"to train on it: tinygpt train --data {shlex.quote(str(options.out))} --out runs/books")
    return 0

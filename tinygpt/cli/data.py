"""`tinygpt data`: texts to train on."""

from __future__ import annotations

import argparse

from tinygpt.cli.parser import Parser
from tinygpt.cli.shared_options import file_to_write, folder_to_write, name, positive
from tinygpt.runtime.plural import counted

_EXAMPLES = """\
example:
  tinygpt data gutenberg 2591 1597 -o tales.txt     the Grimms and Andersen
"""


def add_arguments(parser: Parser) -> None:
    """A command for each source of texts, and its arguments."""
    summary = "Download books of Project Gutenberg, split into stories."
    gutenberg = parser.add_command("gutenberg", summary, run_gutenberg, _EXAMPLES)
    gutenberg.add_argument("books", metavar="NUMBER", type=positive, nargs="+", help="number of a book")
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


def run_gutenberg(options: argparse.Namespace) -> int:
    """tinygpt data gutenberg"""
    from tinygpt.runtime.streams import tell
    from tinygpt.text import gutenberg

    places = {"base_url": options.base_url, "cache_dir": options.cache}
    paths = gutenberg.download_books(options.books, **{key: value for key, value in places.items() if value})
    documents = [story for book in paths for story in gutenberg.split_stories(gutenberg.read_book(book))]
    gutenberg.write_corpus(options.out, documents)
    tell(f"{options.out}: {counted(len(documents), 'document')} from {counted(len(paths), 'book')}")
    return 0

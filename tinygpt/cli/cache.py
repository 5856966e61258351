"""`tinygpt cache`: compiled kernels and downloads, and their removal."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from tinygpt.cli.parser import Parser
from tinygpt.cli.shared_options import add_json
from tinygpt.runtime.plural import counted

if TYPE_CHECKING:
    from tinygpt.files.cache_contents import Entry

WHAT = ("old", "kernels", "downloads", "all")
_ABOUT = """\
Everything in the cache can be removed: kernels are compiled again, downloads
fetched again. It is $XDG_CACHE_HOME/tinygpt or ~/.cache/tinygpt; kernels are in
$NUMBA_CACHE_DIR/tinygpt if that variable is set. Relative paths are ignored.

examples:
  tinygpt cache
  tinygpt cache --clear old         kernels of other versions and processors
"""


def add_arguments(parser: Parser) -> None:
    """The arguments."""
    parser.describe(run, _ABOUT)
    parser.add_argument(
        "--clear",
        nargs="?",
        const="kernels",
        choices=WHAT,
        metavar="WHAT",
        help="remove files that tinygpt made: old (kernels of other versions), kernels, downloads or "
        "all (default: kernels)",
    )
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Print the contents of the cache, or remove some of them."""
    from tinygpt.files import cache_contents
    from tinygpt.files.user_cache import cache_root, kernel_root

    root, kernels = cache_root(), kernel_root()  # first: without a home this is an error
    from tinygpt.kernels.jit import compiler as of_operations
    from tinygpt.runtime.streams import print_json
    from tinygpt.tokenizer.kernels import compiler as of_tokenizer

    groups = (of_operations, of_tokenizer)
    entries = cache_contents.contents({group.folder_name for group in groups})
    if options.clear:
        return _clear(cache_contents.chosen(entries, options.clear), options.json)
    entries = [entry for entry in entries if entry.files]
    trouble = next((text for group in groups if (text := group.trouble())), "")
    if options.json:
        shown = [entry._asdict() | {"path": str(entry.path)} for entry in entries]
        print_json(
            {"folder": str(root), "kernel_folder": str(kernels), "trouble": trouble, "contents": shown}, indent=2
        )
        return 0
    print(f"folder {root}" + ("" if kernels == root else f"; of kernels {kernels}"))
    for entry in entries:
        note = "" if entry.current else "  (old)"
        print(f"{entry.bytes / 1e6:8.1f} MB {counted(entry.files, 'file'):>11}   {entry.path.name}{note}")
    if not all(entry.current for entry in entries):
        print("old: of another version or processor; to remove them: tinygpt cache --clear old")
    if trouble:
        print(f"compiled kernels are not kept: {trouble}")
    return 0


def _clear(entries: list[Entry], as_json: bool) -> int:
    from tinygpt.files import cache_contents
    from tinygpt.runtime.streams import tell, to_json

    removed = cache_contents.clear(entries)
    if as_json:
        tell(to_json(removed._asdict() | {"left": [str(path) for path in removed.left]}, indent=2))
        return 0
    tell(f"removed {counted(removed.files, 'file')}, {removed.bytes / 1e6:.1f} MB")
    for path in removed.left:
        tell(f"left {path}: tinygpt did not make it, or may not remove it")
    return 0

"""
Documents of text files that may be larger than memory, read in parts.

`corpus.read_documents` reads a whole file; this gives the same documents in parts of about a million characters:

    bytes, a block at a time -> characters, as `decode_text` reads them            `_characters`
    -> pieces of documents, cut at lines that are exactly <|endoftext|>              `_pieces`
    -> parts that end where GPT-2's pattern always cuts                               `stream_documents`

So the ids of the parts, one after the other, are those of the documents. Another pattern may match across any place:
then each part is a whole document, and memory grows with the longest one.
"""

from __future__ import annotations

import codecs
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from tinygpt.files.input_file import open_input
from tinygpt.files.one_line import shown
from tinygpt.text.corpus import SEPARATOR, SEPARATOR_LINE, text_files
from tinygpt.tokenizer.reference import last_cut

BLOCK = 1 << 20  # bytes read at a time


class Part(NamedTuple):
    """Text of a document, and whether the document ends with it."""

    text: str
    ends: bool


def stream_documents(
    path: str | os.PathLike[str],
    *,
    whole: bool = False,
    block: int = BLOCK,
    advance: Callable[[int], object] = lambda count: None,
) -> Iterator[Part]:
    r"""
    Give out the documents of a text file, or of all ``.txt`` files in a folder, in parts.

    Parameters
    ----------
    path : path of a UTF-8 text file or of a folder
    whole : bool
        Whether each part is a whole document, which tokenizers with a pattern of their own need.
    block : int
        How many bytes are read at a time, at least 1.
    advance : callable
        Told how many bytes were read, for a progress bar.

    Returns
    -------
    iterator of Part
        Documents that hold more than white space, as `corpus.read_documents` gives them.

    Raises
    ------
    FileNotFoundError, ValueError
        As `corpus.read_documents`: at once if there is no such file; one that is not UTF-8 is found when the reading
        gets there.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "two.txt")
    >>> _ = path.write_text("A fox.\n<|endoftext|>\nA crow.\n", encoding="utf-8")
    >>> [part.text for part in stream_documents(path)]
    ['A fox.\n', 'A crow.\n']
    """
    return _documents_in(text_files(path), whole, block, advance)


def _documents_in(files: Iterable[Path], whole: bool, block: int, advance: Callable[[int], object]) -> Iterator[Part]:
    for file in files:
        held, found = "", False  # text before the next certain border; whether the file has any document
        begun = False  # whether a part of the current document was given out
        for text, ends in _pieces(_characters(file, block, advance)):
            held += text
            if not begun and not held.strip():
                held = "" if ends else held
                continue
            found = True
            if ends:
                yield Part(held, True)
                held, begun = "", False
            elif not whole and len(held) >= block and (cut := last_cut(held)):
                yield Part(held[:cut], False)
                held, begun = held[cut:], True
        if not found:
            raise ValueError(f"{shown(file)}: must hold text, holds only white space and {SEPARATOR} lines; fill it or "
                             "leave it out")  # fmt: skip


def size_of(path: str | os.PathLike[str]) -> int:
    """How many bytes `stream_documents` will read."""
    return sum(file.stat().st_size for file in text_files(path))


def joined(parts: Iterable[Part], whole: bool) -> Iterator[str]:
    """One text of all documents with a blank line between them, in parts: for tokenizers without <|endoftext|>."""
    held, between = "", ""
    for text, ends in parts:
        held += between + text
        between = "\n\n" if ends else ""
        if not whole and len(held) >= BLOCK and (cut := last_cut(held)):
            yield held[:cut]
            held = held[cut:]
    yield held


def _characters(file: Path, block: int, advance: Callable[[int], object]) -> Iterator[str]:
    """The text of a file, byte order mark off, every line end a "\\n"; or an error that names the byte."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    read, held, first = 0, "", True
    with open_input(file, "stream_documents") as stream:
        while True:
            raw = stream.read(block)
            if b"\0" in raw:
                raise ValueError(f"{shown(file)}: must be UTF-8 text, got a NUL byte at offset {read + raw.index(0)}; "
                                 "save it as UTF-8 plain text")  # fmt: skip
            waiting = len(decoder.getstate()[0])
            try:
                text = held + decoder.decode(raw, final=not raw)
            except UnicodeDecodeError as error:
                place = read - waiting + error.start
                raise ValueError(f"{shown(file)}: must be UTF-8 text, got byte "
                                 f"0x{error.object[error.start]:02x} at offset "
                                 f"{place}; save it as UTF-8") from None  # fmt: skip
            read += len(raw)
            advance(len(raw))
            held = "\r" if text.endswith("\r") and raw else ""  # the "\n" that belongs to it may come next
            text = text.removesuffix(held)
            if first and text:
                text, first = text.removeprefix("\ufeff"), False
            yield text.replace("\r\n", "\n").replace("\r", "\n")
            if not raw:
                return


def _pieces(texts: Iterable[str]) -> Iterator[Part]:
    """Cut at lines that are exactly the separator; a line that may become one is held until it is complete."""
    held, at_line_start = "", True
    for text in texts:
        held += text
        line = held.rfind("\n") + 1
        certain = line if SEPARATOR.startswith(held[line:]) and (line or at_line_start) else len(held)
        yield from _cut(held[:certain], at_line_start)
        at_line_start = held[certain - 1] == "\n" if certain else at_line_start
        held = held[certain:]
    yield from _cut(held, at_line_start)
    yield Part("", True)


def _cut(text: str, at_line_start: bool) -> Iterator[Part]:
    start = 0
    for match in SEPARATOR_LINE.finditer(text):
        if match.start() or at_line_start:
            yield Part(text[start : match.start()], True)
            start = match.end()
    yield Part(text[start:], False)

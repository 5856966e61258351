"""
Books of Project Gutenberg: freed of everything that is not the book, and cut into stories.

    download_books   numbers -> files in a cache folder (see download.py)
    read_book        such a file -> the text of the book (`clean_book` does it on bytes)
    split_stories    that text -> one document a story, where headings can be recognised
    write_corpus     documents -> one text file, as `tinygpt train --data` and `read_documents` read it

Source: the wording of licence, START and END lines as it stands in Project Gutenberg's plain text files.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from tinygpt.files.atomic import atomic_write
from tinygpt.files.input_file import read_bytes
from tinygpt.files.one_line import shown
from tinygpt.text.corpus import SEPARATOR, SEPARATOR_LINE
from tinygpt.text.download import END, LARGEST_BOOK, START, decode_book
from tinygpt.text.download import default_cache_dir as default_cache_dir
from tinygpt.text.download import download_books as download_books
from tinygpt.tokenizer.validation import list_of_texts

CREDIT = re.compile(
    r"\s*(?:This e-?(?:book|text) was )?(?:Produced|E-?text prepared|Transcribed) (?:by|from)\b.*(?:\n.+)*",
    re.IGNORECASE,
)
CLOSING = re.compile(r"^[^\S\n]*End of (?:the |this )?Project Gutenberg", re.IGNORECASE | re.MULTILINE)
PICTURE = re.compile(r"^ *\[Illustration[^\]]{0,500}\](?:\n\n?|\Z)", re.MULTILINE | re.IGNORECASE)

# Headings of what is in a book beside its stories.
MATTER = re.compile(
    r"(?:THE |TABLE OF )?CONTENTS|(?:LIST OF )?ILLUSTRATIONS|PREFACE|FOREWORD|(?:AN )?INTRODUCTION|DEDICATION"
    r"|(?:FOOT)?NOTES?(?: AND REFERENCES)?|\w+['’]S NOTES?|APPENDIX|GLOSSARY|BIBLIOGRAPHY|ERRATA|INDEX"
    r"|ADVERTISEMENTS?|FINIS|THE END"
)


def read_book(path: str | os.PathLike[str]) -> str:
    """
    Read a downloaded book without what Project Gutenberg put around it.

    Parameters
    ----------
    path : path of a file as `download_books` leaves it, or as gutenberg.org offers it

    Returns
    -------
    str
        As `clean_book` returns it.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no such file; as `clean_book`, with the file named.
    """
    try:
        return clean_book(read_bytes(Path(path), 2 * LARGEST_BOOK, "read_book", what="a book"))
    except ValueError as error:
        raise ValueError(f"{shown(path)}: {error}") from None


def clean_book(raw: bytes) -> str:
    r"""
    Take off byte order mark, CRLF, licence, the volunteers' credit lines and the marks of missing pictures.

    Text without the START and END lines is an error rather than returned as it is: nothing would tell the book from
    its licence, and a model that recites legal text is worse than a message. It also finds files that were cut short.

    Parameters
    ----------
    raw : bytes
        A plain text file of Project Gutenberg.

    Returns
    -------
    str
        The book, from its title page to its last line, with a line end after it.

    Raises
    ------
    ValueError
        If the encoding is unknown, the START or END line is missing, or nothing is between them.

    Examples
    --------
    >>> book = b"Licence\r\n*** START OF THE PROJECT GUTENBERG EBOOK X ***\r\n\r\nA fox.\r\n\r\n"
    >>> clean_book(book + b"*** END OF THE PROJECT GUTENBERG EBOOK X ***\r\nMore licence\r\n")
    'A fox.\n'
    """
    text = "\n".join(line.rstrip() for line in decode_book(raw, "clean_book").split("\n"))
    start = START.search(text)
    end = END.search(text, start.end()) if start else None
    if not start or not end:
        line = "*** END" if start else "*** START"
        raise ValueError(
            f"clean_book: must have a line '{line} OF THE PROJECT GUTENBERG EBOOK', got none; "
            "download the book again, or take off the licence by hand and use the text with --data"
        )
    text, begin = _without_closing(text[start.end() : end.start()]), 0
    while credit := CREDIT.match(text, begin):
        begin = credit.end()
    text = text[begin:]
    text = PICTURE.sub("", text).strip("\n")
    if not text.strip():
        raise ValueError("clean_book: must have text between its START and END lines, got none; choose another book")
    return text + "\n"


def _without_closing(text: str) -> str:
    """Take off the last paragraph from where it says that the book ends."""
    end = len(text.rstrip())
    closing = CLOSING.search(text, text.rfind("\n\n", 0, end) + 1, end)
    return text[: closing.start()] if closing else text


def split_stories(text: str) -> list[str]:
    """
    Cut a book into its stories, where their headings can be recognised.

    A heading is a line or two in capitals that stands alone, with at least two blank lines above it. Books set the
    headings of stories further apart than those of the parts of a story, so the cuts are made at the largest distance
    (up to four blank lines) that two headings, and a fifth of all, have. What stands before the first story is
    dropped, and so is what follows a heading such as CONTENTS or PREFACE, or has no prose in it: less than 20 words
    that begin small, or fewer of these than of others (a list of titles).

    If that leaves fewer than two stories, or less than half of the text, the headings were not understood: then the
    book is one document. A publisher's note at a book's very end stays with the last story.

    Parameters
    ----------
    text : str
        A book as `clean_book` returns it.

    Returns
    -------
    list of str
        Stories in order; each begins with its heading and ends with one line end.

    Examples
    --------
    >>> prose = "and then the fox went on " * 5
    >>> book = "\\n\\n\\n".join(["FABLES", "CONTENTS", " The Fox", "THE FOX\\n\\n" + prose, "THE VINE\\n\\n" + prose])
    >>> [story.split("\\n")[0] for story in split_stories(book)]
    ['THE FOX', 'THE VINE']
    """
    lines = text.split("\n")
    headings = _headings(lines)
    gaps = [gap for _, gap in headings]
    usual = max(2, len(gaps) / 5)
    level = max((gap for gap in set(gaps) if sum(other >= gap for other in gaps) >= usual), default=0)
    starts = [start for start, gap in headings if gap >= level]
    stops = [*starts, len(lines)][1:]
    sections = ["\n".join(lines[start:stop]).rstrip() + "\n" for start, stop in zip(starts, stops, strict=True)]
    stories = [section for section in sections if _is_story(section)]
    if len(stories) < 2 or 2 * sum(map(len, stories)) < len(text):
        return [text]
    return stories


def _headings(lines: list[str]) -> list[tuple[int, int]]:
    """Where each heading begins, and the number of blank lines above it, at most 4; a book's first line has 4."""
    headings = []
    gap, start = 4, 0
    for number, line in enumerate([*lines, ""]):
        if line.strip():
            continue
        block = " ".join(lines[start:number])
        if block:
            if gap >= 2 and number - start <= 2 and len(block) <= 120 and block.isupper():
                headings.append((start, min(gap, 4)))
            gap = 0
        gap += 1
        start = number + 1
    return headings


def _is_story(section: str) -> bool:
    heading, _, body = section.partition("\n\n")
    if MATTER.fullmatch(heading.strip(" .:=_")):
        return False
    words = re.findall(r"[^\W\d_][\w'’]*", body)
    small = sum(word[0].islower() for word in words)
    return small >= 20 and 2 * small >= len(words)


def write_corpus(path: str | os.PathLike[str], documents: Sequence[str]) -> None:
    """
    Write documents into one text file, a line ``<|endoftext|>`` between them, whole or not at all.

    Parameters
    ----------
    path : path of the file to write or replace, in a folder that exists
    documents : sequence of str
        At least one; a document that does not end its last line gets a line end.

    Raises
    ------
    ValueError
        If there is nothing to write, or a document itself has such a line and would be read back as two.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "corpus.txt")
    >>> write_corpus(path, ["A fox.\\n", "A crow.\\n"])
    >>> path.read_text(encoding="utf-8")
    'A fox.\\n<|endoftext|>\\nA crow.\\n'
    """
    documents = list_of_texts("write_corpus: documents", documents)
    if not documents:
        raise ValueError("write_corpus: needs at least one document, got none; name at least one book")
    for number, document in enumerate(documents, 1):
        if SEPARATOR_LINE.search(document):
            raise ValueError(f"write_corpus: document {number} must have no line {SEPARATOR}; split or change it there")
    whole = (document if document.endswith("\n") else document + "\n" for document in documents)
    atomic_write(path, f"{SEPARATOR}\n".join(whole))

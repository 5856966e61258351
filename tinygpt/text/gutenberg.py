"""
Books of Project Gutenberg: downloaded by number, stripped of everything that is not the book, and cut into stories.

    download_books   numbers -> files in a cache folder: slowly, once, and complete or not at all
    read_book        such a file -> the text of the book (`clean_book` does it on bytes)
    split_stories    that text -> one document per story, where headings can be recognised
    write_corpus     documents -> one text file, as `tinygpt train --data` and `read_documents` read it

Every answer of a server is checked before it is kept: its length against the one announced (a truncated answer is
requested again), its encoding (old books are Latin-1; the cache holds UTF-8), and the START and END lines of Project
Gutenberg: a web page has none, and half a book lacks the second. Files in the cache are checked again when they
are used.

Source: addresses, licence, START and END lines as gutenberg.org and its mirrors have them; two seconds between requests
is the rule of https://www.gutenberg.org/policy/robot_access.html.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tinygpt.files.atomic import atomic_write
from tinygpt.files.http_client import AnswerRefused, BrokeOff, StatusError, Unreachable, detail_of, get, require_address
from tinygpt.files.input_file import MEGABYTE, read_bytes
from tinygpt.files.one_line import brief, shown
from tinygpt.files.user_cache import cache_folder
from tinygpt.runtime.streams import bar
from tinygpt.text.corpus import SEPARATOR, SEPARATOR_LINE
from tinygpt.text.decoding import decode_text
from tinygpt.tokenizer.validation import list_of_texts

BASE_URL = "https://www.gutenberg.org"
ADDRESSES = ("cache/epub/{n}/pg{n}.txt", "files/{n}/{n}-0.txt", "files/{n}/{n}.txt")  # newest form first
USER_AGENT = "tinygpt (a GPT-2 for learning; fetches single books by number)"
LONGEST_WAIT = 60.0  # seconds, even if a server says more
LARGEST_BOOK = 32 * MEGABYTE  # the largest texts have some 10 MB

# A marker takes the rest of its paragraph with it: long titles run on to a second line.
START = re.compile(r"^\*\*\* ?START OF (?:THE|THIS) PROJECT GUTENBERG EBOOK\b.*(?:\n.+)*", re.MULTILINE | re.IGNORECASE)
END = re.compile(r"^\*\*\* ?END OF (?:THE|THIS) PROJECT GUTENBERG EBOOK\b", re.MULTILINE | re.IGNORECASE)
# Encodings of text, as servers and books name them: Python's other codecs are no encodings, or take quadratic time.
_ENCODING = re.compile(r"(?:utf|us|ascii|iso|latin|l\d|windows|cp|mac|koi|big|gb|euc|shift|sjis|johab|tis)[\w-]{0,20}")

_WEB_PAGE = re.compile(rb"(\xef\xbb\xbf)?\s*<(!doctype\s+html|html|\?xml)", re.IGNORECASE)

CREDIT = re.compile(
    r"\s*(?:This e-?(?:book|text) was )?(?:Produced|E-?text prepared|Transcribed) (?:by|from)\b.*(?:\n.+)*",
    re.IGNORECASE,
)
CLOSING = re.compile(r"^[^\S\n]*End of (?:the |this )?Project Gutenberg", re.IGNORECASE | re.MULTILINE)
PICTURE = re.compile(r"^ *\[Illustration[^\]]{0,500}\](?:\n\n?|\Z)", re.MULTILINE | re.IGNORECASE)

# Headings of parts of a book that are no stories.
MATTER = re.compile(
    r"(?:THE |TABLE OF )?CONTENTS|(?:LIST OF )?ILLUSTRATIONS|PREFACE|FOREWORD|(?:AN )?INTRODUCTION|DEDICATION"
    r"|(?:FOOT)?NOTES?(?: AND REFERENCES)?|\w+['’]S NOTES?|APPENDIX|GLOSSARY|BIBLIOGRAPHY|ERRATA|INDEX"
    r"|ADVERTISEMENTS?|FINIS|THE END"
)


def default_cache_dir() -> Path:
    """
    Name the folder in which downloaded books are kept: ``$XDG_CACHE_HOME`` or ``~/.cache``, then ``tinygpt/gutenberg``.

    Returns
    -------
    Path
        It need not exist yet.
    """
    return cache_folder("gutenberg")


def download_books(
    numbers: Iterable[int],
    cache_dir: str | os.PathLike[str] | None = None,
    base_url: str = BASE_URL,
    delay: float = 2.0,
    retries: int = 3,
    timeout: float = 30.0,
    progress: bool = True,
) -> list[Path]:
    """
    Fetch books by their Project Gutenberg numbers, except those that are in the cache already.

    Parameters
    ----------
    numbers : iterable of int
        As in the address of a book's page, ``/ebooks/2591``. A number given twice counts once.
    cache_dir : path, optional
        Folder for the books, made if need be; `default_cache_dir()` if None. A book is stored there as UTF-8,
        and only once it is whole.
    base_url : str
        A server laid out as gutenberg.org, such as one of its mirrors.
    delay : float
        Seconds between two requests. Before the second, third, ... attempt: twice, four times, ... as long.
    retries : int
        How many more attempts follow if the server is busy (429, 5xx), does not answer, or breaks off.
    timeout : float
        Seconds without a byte, or with hardly any, after which an attempt fails. A whole book may take twenty times as
        long.
    progress : bool
        Show a bar.

    Returns
    -------
    list of Path
        One file per book, in the order of the numbers.

    Raises
    ------
    FileNotFoundError
        If there is no such book.
    ConnectionError, TimeoutError
        If there is no network, or the server refuses, breaks off or does not answer.
    ValueError
        If a number, the address or a setting is not valid, or an answer is not a book: a web page, half a book, or an
        unknown encoding.

    Examples
    --------
    >>> download_books([2591])  # doctest: +SKIP
    [PosixPath('/home/me/.cache/tinygpt/gutenberg/pg2591.txt')]
    """
    numbers = list(dict.fromkeys(numbers))
    for number in numbers:
        if not isinstance(number, int) or number < 1:
            raise ValueError(f"gutenberg: a book's number must be an integer >= 1, got {number!r}; e.g. 2591 is Grimm")
    require_address("gutenberg", base_url, BASE_URL)
    if delay < 0 or retries < 0 or timeout <= 0:
        got = f"delay = {delay}, retries = {retries}, timeout = {timeout}"
        raise ValueError(f"gutenberg: needs delay >= 0, retries >= 0 and timeout > 0, got {got}; leave them out")
    folder = default_cache_dir() if cache_dir is None else Path(cache_dir)
    folder.mkdir(parents=True, exist_ok=True)
    server = _Server(base_url.rstrip("/"), delay, retries, timeout)
    paths = [folder / f"pg{number}.txt" for number in numbers]
    with bar(desc="Project Gutenberg", total=len(numbers), unit="book", disable=not progress) as shown_bar:
        for number, path in zip(numbers, paths, strict=True):
            shown_bar.set_postfix_str(str(number))
            if not _is_kept(path):
                atomic_write(path, server.book(number))
            shown_bar.update()
    return paths


def _is_kept(path: Path) -> bool:
    """Whether the cache has a whole book; a damaged one, or one of an older version, is fetched again."""
    if not os.path.lexists(path):
        return False
    try:
        return is_whole(read_bytes(path, 2 * LARGEST_BOOK, "gutenberg").decode("utf-8"))
    except UnicodeDecodeError:
        return False


def is_whole(text: str) -> bool:
    r"""
    Tell whether a text has the line that begins a book of Project Gutenberg, and, after it, the one that ends it.

    Parameters
    ----------
    text : str

    Returns
    -------
    bool

    Examples
    --------
    >>> start, end = (f"*** {side} OF THE PROJECT GUTENBERG EBOOK X ***" for side in ("START", "END"))
    >>> is_whole(f"{start}\nA fox.\n\n{end}\n"), is_whole(f"{start}\nA fo")
    (True, False)
    """
    start = START.search(text)
    return start is not None and END.search(text, start.end()) is not None


@dataclass
class _Server:
    """One server; requests are at least `delay` seconds apart."""

    base_url: str
    delay: float
    retries: int
    timeout: float
    _free_at: float = 0.0  # by time.monotonic()

    def book(self, number: int) -> str:
        for address in ADDRESSES:
            url = f"{self.base_url}/{address.format(n=number)}"
            answer = self._get(url, number)
            if answer is not None:
                return _book_in(*answer, url, number)
        raise FileNotFoundError(
            f"gutenberg: no plain text of book {number} at {self.base_url}; look its number up on {BASE_URL}/ebooks/"
        )

    def _get(self, url: str, number: int) -> tuple[bytes, str | None] | None:
        """Body and declared charset, or None where there is no such page."""
        who = f"gutenberg: book {number}"
        for attempt in range(self.retries + 1):
            self._wait()
            error: OSError
            try:
                with get(url, timeout=self.timeout, limit=LARGEST_BOOK, headers={"User-Agent": USER_AGENT}) as answer:
                    return b"".join(answer.blocks()), answer.headers.get_content_charset()
            except StatusError as answer:
                if answer.code == 404:
                    return None
                if answer.code != 429 and answer.code < 500:
                    raise ConnectionError(f"{who}: {url} answered {answer.code}; try a mirror") from None
                error = ConnectionError(f"{who}: {url} answered {answer.code}; try again later, or a mirror")
                self._postpone(answer.retry_after)
            except AnswerRefused as refusal:
                raise ConnectionError(f"{who}: {url} {refusal}; nothing is kept: try a mirror") from None
            except Unreachable as failure:
                raise ConnectionError(
                    f"{who}: cannot reach {self.base_url} ({failure}); check the network and the address, or download "
                    f"it with a browser, as Plain Text UTF-8 from {BASE_URL}/ebooks/{number}, and give that file"
                ) from None
            except TimeoutError as failure:
                slow = f"in {self.timeout:g} s{detail_of(failure)}"
                error = TimeoutError(f"{who}: no answer from {url} {slow}; try again, or a mirror")
            except BrokeOff as cut:
                after = f"broke off after {cut.received} bytes" if cut.received else f"{url} broke off ({cut})"
                error = ConnectionError(f"{who}: {after}; try again, or a mirror")
            self._postpone(self.delay * 2 ** (attempt + 1))
        raise error

    def _wait(self) -> None:
        time.sleep(max(0.0, self._free_at - time.monotonic()))
        self._free_at = time.monotonic() + self.delay

    def _postpone(self, seconds: float) -> None:
        self._free_at = max(self._free_at, time.monotonic() + min(seconds, LONGEST_WAIT))


def _book_in(body: bytes, charset: str | None, url: str, number: int) -> str:
    if _WEB_PAGE.match(body):
        raise ValueError(
            f"gutenberg: book {number} must be plain text, got a web page from {url}; "
            "open it in a browser to see what it says, or use a mirror"
        )
    text = decode_book(body, f"gutenberg: book {number}", charset)
    if not is_whole(text):
        raise ValueError(
            f"gutenberg: book {number} must have the lines '*** START OF' and '*** END OF THE PROJECT GUTENBERG "
            f"EBOOK', "
            f"got {len(body):,} bytes from {url} that begin {brief(text[:60])}; nothing is kept: try again, or a mirror"
        )
    return text


def decode_book(body: bytes, name: str, charset: str | None = None) -> str:
    r"""
    Read the bytes of a book: as UTF-8, else as `charset` says, else as the book's own header says.

    Parameters
    ----------
    body : bytes
    name : str
        What an error calls the book.
    charset : str, optional
        What the server said. Servers say UTF-8 of everything, so the bytes are believed first.

    Returns
    -------
    str
        Without byte order mark, every line end ``"\n"``.

    Raises
    ------
    ValueError
        If no encoding fits, with the first byte that is not UTF-8; if there is no text.

    Examples
    --------
    >>> decode_book(b"Character set encoding: ISO-8859-1\r\n\r\nThe f\xe9e slept.", "book 7").split("\n")[-1]
    'The fée slept.'
    """
    text = _decode(body, "utf-8")
    declared = re.search(rb"Character set encoding: *([\w-]+)", body)
    for encoding in (charset, declared and declared[1].decode("ascii", "replace")):
        if text is None and encoding and _ENCODING.fullmatch(encoding.lower()):
            # Windows-1252, as in browsers: it has characters where Latin-1 has control characters, which no book has.
            latin = encoding.lower() in ("iso-8859-1", "latin-1", "latin1", "iso-latin-1")
            text = (_decode(body, "cp1252") if latin else None) or _decode(body, encoding)
    return decode_text(body if text is None else text.encode("utf-8"), name)


def _decode(body: bytes, encoding: str) -> str | None:
    try:
        return body.decode(encoding)
    except (UnicodeError, LookupError):
        return None


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
        If there is no such file; as `clean_book`, with the file named, also if it is a web page.
    """
    raw = read_bytes(Path(path), 2 * LARGEST_BOOK, "read_book", what="a book")
    if _WEB_PAGE.match(raw):
        raise ValueError(
            f"{shown(path)}: must be plain text, got a web page; choose Plain Text UTF-8 on the book's page"
        )
    try:
        return clean_book(raw)
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
            "give a whole book, or take off the licence by hand and use the text with --data"
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
    """Cut the last paragraph where it says that the book ends."""
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
    Write documents into one text file, with a line ``<|endoftext|>`` between them, atomically.

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

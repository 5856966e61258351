"""
Books of Project Gutenberg, fetched by number: politely, once, and whole or not at all.

Every answer is checked before it is kept: its length against the one announced (a cut answer is asked for again), its
kind (a web page is not a book), its encoding (old books are Latin-1; the cache holds UTF-8).

Source: addresses as gutenberg.org and its mirrors lay them out; two seconds between requests is what
https://www.gutenberg.org/policy/robot_access.html asks for.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from http.client import HTTPException, IncompleteRead
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from tqdm import tqdm

from tinygpt.corpus import decode_text
from tinygpt.durable import atomic_write
from tinygpt.user_cache import cache_folder

BASE_URL = "https://www.gutenberg.org"
ADDRESSES = ("cache/epub/{n}/pg{n}.txt", "files/{n}/{n}-0.txt", "files/{n}/{n}.txt")  # newest form first
USER_AGENT = "tinygpt (a GPT-2 for learning; fetches single books by number)"
LONGEST_WAIT = 60.0  # seconds, whatever a server asks for


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
        Seconds between two requests. Before a second, third … attempt twice, four times … as long.
    retries : int
        How many more attempts follow if the server is busy (429, 5xx), silent, or breaks off.
    timeout : float
        Seconds without a byte after which an attempt is given up.
    progress : bool
        Show a bar.

    Returns
    -------
    list of Path
        One file a book, in the order asked for.

    Raises
    ------
    FileNotFoundError
        If there is no such book.
    ConnectionError, TimeoutError
        If there is no network, or the server refuses, breaks off or stays silent.
    ValueError
        If a number, the address, a setting or an answer makes no sense: a web page, or an unknown encoding.

    Examples
    --------
    >>> download_books([2591])  # doctest: +SKIP
    [PosixPath('/home/me/.cache/tinygpt/gutenberg/pg2591.txt')]
    """
    numbers = list(dict.fromkeys(numbers))
    for number in numbers:
        if not isinstance(number, int) or number < 1:
            raise ValueError(f"gutenberg: a book's number must be an integer >= 1, got {number!r}; e.g. 2591 is Grimm")
    address = urlsplit(base_url)
    if address.scheme not in ("http", "https") or not address.hostname or re.search(r"\s", base_url):
        raise ValueError(f"gutenberg: the base address must begin with http(s)://, got {base_url!r}; e.g. {BASE_URL}")
    if delay < 0 or retries < 0 or timeout <= 0:
        got = f"delay = {delay}, retries = {retries}, timeout = {timeout}"
        raise ValueError(f"gutenberg: needs delay >= 0, retries >= 0 and timeout > 0, got {got}; leave them out")
    folder = default_cache_dir() if cache_dir is None else Path(cache_dir)
    folder.mkdir(parents=True, exist_ok=True)
    server = _Server(base_url.rstrip("/"), delay, retries, timeout)
    paths = [folder / f"pg{number}.txt" for number in numbers]
    with tqdm(desc="Project Gutenberg", total=len(numbers), unit="book", disable=not progress) as bar:
        for number, path in zip(numbers, paths, strict=True):
            bar.set_postfix_str(str(number))
            if not path.exists():
                atomic_write(path, server.book(number))
            bar.update()
    return paths


@dataclass
class _Server:
    """One server, asked politely: never sooner than `delay` seconds after the last time."""

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
                body, charset = answer
                if re.match(rb"(\xef\xbb\xbf)?\s*<(!doctype\s+html|html|\?xml)", body, re.IGNORECASE):
                    raise ValueError(
                        f"gutenberg: book {number} must be plain text, got a web page from {url}; "
                        "open it in a browser to see what it says, or use a mirror"
                    )
                return decode_book(body, f"gutenberg: book {number}", charset)
        raise FileNotFoundError(
            f"gutenberg: no plain text of book {number} at {self.base_url}; look its number up on {BASE_URL}/ebooks/"
        )

    def _get(self, url: str, number: int) -> tuple[bytes, str | None] | None:
        """Body and declared charset, or None where there is no such page."""
        who = f"gutenberg: book {number}"
        request = Request(url, headers={"User-Agent": USER_AGENT})
        for attempt in range(self.retries + 1):
            self._wait()
            error: OSError
            try:
                with urlopen(request, timeout=self.timeout) as response:
                    return response.read(), response.headers.get_content_charset()
            except HTTPError as answer:
                answer.close()
                if answer.code == 404:
                    return None
                if answer.code != 429 and answer.code < 500:
                    raise ConnectionError(f"{who}: {url} answered {answer.code}; try a mirror") from None
                error = ConnectionError(f"{who}: {url} answered {answer.code}; try again later, or a mirror")
                asked = answer.headers.get("Retry-After", "")  # a date is also allowed, and passed over
                self._postpone(int(asked) if asked.isdecimal() else 0)
            except IncompleteRead as cut:
                error = ConnectionError(f"{who}: broke off after {len(cut.partial)} bytes; try again, or a mirror")
            except (OSError, HTTPException) as failure:
                reason = getattr(failure, "reason", failure)
                if isinstance(reason, TimeoutError):
                    error = TimeoutError(f"{who}: no answer from {url} in {self.timeout:g} s; try again, or a mirror")
                elif isinstance(failure, URLError):
                    text = f"{who}: cannot reach {self.base_url} ({reason}); check the network and the address"
                    raise ConnectionError(text) from None
                else:
                    error = ConnectionError(f"{who}: {url} broke off ({reason}); try again, or a mirror")
            self._postpone(self.delay * 2 ** (attempt + 1))
        raise error

    def _wait(self) -> None:
        time.sleep(max(0.0, self._free_at - time.monotonic()))
        self._free_at = time.monotonic() + self.delay

    def _postpone(self, seconds: float) -> None:
        self._free_at = max(self._free_at, time.monotonic() + min(seconds, LONGEST_WAIT))


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
        if text is None and encoding:
            # Windows' signs sit where Latin-1 has control characters that no book contains, as every browser assumes.
            latin = encoding.lower() in ("iso-8859-1", "latin-1", "latin1", "iso-latin-1")
            text = (_decode(body, "cp1252") if latin else None) or _decode(body, encoding)
    return decode_text(body if text is None else text.encode("utf-8"), name)


def _decode(body: bytes, encoding: str) -> str | None:
    try:
        return body.decode(encoding)
    except (UnicodeDecodeError, LookupError):
        return None

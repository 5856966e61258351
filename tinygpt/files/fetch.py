"""
Published files, such as GPT-2's tokenizer, fetched once and kept in the user's cache.

A download that is interrupted continues where it stopped, also in another process. Before a file gets its name, its
SHA-256 is compared with the published one, so that files of a mirror are those of the publisher. Of several
processes that fetch at once, one downloads; the others wait, and find the files there.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tinygpt.files.atomic import explain_full_disk, sync_folder
from tinygpt.files.http_client import (
    Answer,
    AnswerRefused,
    BrokeOff,
    StatusError,
    Unreachable,
    detail_of,
    get,
    require_address,
)
from tinygpt.files.input_file import open_input
from tinygpt.files.locks import OWNER_FILE, FolderLock
from tinygpt.files.owner_file import create_owner_file, describe_owner, may_be_owned, read_owner_file, remove_owner_file
from tinygpt.files.published import PUBLISHED, PublishedFile
from tinygpt.files.user_cache import cache_folder, make_folder
from tinygpt.runtime.streams import bar, say

BASE_URL = "https://openaipublic.blob.core.windows.net/gpt-2/models/124M/"
BASE_URL_VARIABLE = "TINYGPT_TOKENIZER_URL"
USER_AGENT = "tinygpt (a GPT-2 for learning; fetches its vocabulary, and texts)"
_BLOCK = 1 << 16  # bytes
_SLOW = 50_000  # bytes per second: the time that a whole file may take grows with its size
_TOO_LONG = 1 << 20  # bytes by which an answer may be too long: its checksum is then the error


def fetch(name: str = "gpt2", base_url: str | None = None, timeout: float = 30.0, progress: bool = True) -> Path:
    """
    Download a published tokenizer into the user's cache, unless it is there, whole and unchanged.

    Parameters
    ----------
    name : {"gpt2"}
    base_url : str, optional
        The address of the files; by default that in ``TINYGPT_TOKENIZER_URL``, else OpenAI's own.
    timeout : float
        Seconds without a byte, or with hardly any, after which the download fails. A whole file may take twenty times
        as long, and besides one second per 50 kB.
    progress : bool
        Show a bar.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    FileNotFoundError
        If the server has no such file.
    ConnectionError, TimeoutError
        If there is no network, or the server refuses, breaks off or does not answer. What has arrived is kept.
    ValueError
        If there is no tokenizer of that name, the address is malformed, or the file is not the published one.

    Examples
    --------
    >>> fetch("gpt2")  # doctest: +SKIP
    PosixPath('/home/me/.cache/tinygpt/tokenizers/gpt2')
    """
    if name not in PUBLISHED:
        raise ValueError(f"fetch: the name must be one of {', '.join(PUBLISHED)}, got {name!r}")
    base_url = base_url or os.environ.get(BASE_URL_VARIABLE) or BASE_URL
    require_address("fetch", base_url, BASE_URL)
    folder, files = cache_folder("tokenizers") / name, PUBLISHED[name]
    by_hand = f"download {' and '.join(files)} from there with a browser, and give their folder: --tokenizer FOLDER"
    fetch_files(folder, base_url, files, by_hand, timeout, progress)
    return folder


def fetch_files(
    folder: Path,
    base_url: str,
    files: Mapping[str, PublishedFile],
    by_hand: str,
    timeout: float = 30.0,
    progress: bool = True,
) -> None:
    """
    Download files into a folder of the user's cache, except those that are there, whole and unchanged.

    Parameters
    ----------
    folder : Path
        Is made if need be.
    base_url : str
        Where the files are, with http or https.
    files : mapping of str to PublishedFile
        Their names, there and in the folder, and what they must be.
    by_hand : str
        How to do without this function: the end of the errors that say that it does not work.
    timeout, progress
        As `fetch` takes them.

    Raises
    ------
    FileNotFoundError, ConnectionError, TimeoutError, ValueError, OSError
        As `fetch`; OSError also if the disk is full.

    Examples
    --------
    >>> fetch_files(Path("/tmp/texts"), "ftp://example.org", {}, "ask a friend")
    Traceback (most recent call last):
    ValueError: fetch: the base address must begin with http(s)://, got 'ftp://example.org'; e.g. https://example.org
    """
    require_address("fetch", base_url, "https://example.org")
    if all(_is_whole(folder / name, published) for name, published in files.items()):
        return
    make_folder(folder)
    with _alone_in(folder, progress):
        for name, published in files.items():
            path = folder / name
            if not _is_whole(path, published):
                _Download(f"{base_url.rstrip('/')}/{name}", path, published, by_hand, timeout, progress).run()


@contextlib.contextmanager
def _alone_in(folder: Path, progress: bool) -> Iterator[None]:
    """Wait until no other process fetches into a folder: by its lock, or by an owner file where there are no locks."""
    waiting = f"fetch: another process fetches into {folder}; waiting until it is done"
    try:
        lock = FolderLock(folder)
    except BlockingIOError:
        if progress:
            say(waiting)
        lock = FolderLock(folder, wait=True)
    mine = describe_owner(folder, lock.held)
    while not lock.held and not create_owner_file(folder, mine):
        found = read_owner_file(folder)
        if found is not None and may_be_owned(folder):
            if progress and waiting:
                say(f"{waiting}; if it has ended, delete {OWNER_FILE} there")
            waiting = ""
            time.sleep(0.1)
        elif found is not None:
            remove_owner_file(folder, found)
    try:
        yield
    finally:
        found = None if lock.held else read_owner_file(folder)
        if found is not None and found.owner == mine:
            remove_owner_file(folder, found)
        lock.close()


def _is_whole(path: Path, published: PublishedFile) -> bool:
    return path.is_file() and _sha256(path) == published.sha256


def _is_wrong(path: Path, published: PublishedFile) -> bool:
    """Whether a file is missing, or not the published one."""
    return not path.is_file() or path.stat().st_size != published.size or _sha256(path) != published.sha256


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open_input(path, "fetch") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


@dataclass
class _Download:
    """One file on its way, under the name `path` + ".partial" until it is whole and right."""

    url: str
    path: Path
    published: PublishedFile
    by_hand: str
    timeout: float
    progress: bool

    def run(self) -> None:
        partial = self.path.with_name(self.path.name + ".partial")
        there = partial.stat().st_size if partial.is_file() else 0
        if there < self.published.size:
            self._require_space(self.published.size - there)
            self._continue(partial, there)
        if there and _is_wrong(partial, self.published):  # the existing bytes may be of another file
            self._continue(partial, 0)
        if _is_wrong(partial, self.published):
            size, found = partial.stat().st_size, _sha256(partial)
            partial.unlink()
            raise ValueError(
                f"fetch: {self.url} must have {self.published.size:,} bytes with the SHA-256 {self.published.sha256}, "
                f"got {size:,} with {found}; nothing is kept: try again, or another --base-url"
            )
        os.replace(partial, self.path)
        sync_folder(self.path.parent)

    def _require_space(self, missing: int) -> None:
        free = shutil.disk_usage(self.path.parent).free
        if missing > free:
            raise OSError(
                f"fetch: needs {missing:,} bytes for {self.path}, and the disk has {free:,}; free space, or set "
                "XDG_CACHE_HOME to a folder on another disk"
            )

    def _continue(self, partial: Path, there: int) -> None:
        """Append the missing bytes, or start again if the server cannot send a part."""
        headers = {"User-Agent": USER_AGENT} | ({"Range": f"bytes={there}-"} if there else {})
        try:
            with get(
                self.url,
                timeout=self.timeout,
                limit=self.published.size + _TOO_LONG,
                whole=20 * self.timeout + self.published.size / _SLOW,
                headers=headers,
            ) as answer:
                goes_on = answer.status == 206 and answer.headers.get("Content-Range", "").startswith(f"bytes {there}-")
                length = answer.headers.get("Content-Length")
                if there and not goes_on and length not in (None, str(self.published.size)):
                    # such as the login page of a network: not worth what is there
                    raise AnswerRefused(f"answers with {int(length):,} bytes, the file has {self.published.size:,}")
                self._write(answer, partial, there if goes_on else 0)
        except StatusError as answer:
            if answer.code == 416 and there:  # nothing follows our bytes: they cannot be of the right file
                self._continue(partial, 0)
            elif answer.code == 404:
                raise FileNotFoundError(f"fetch: there is no {self.url} (404); check --base-url") from None
            else:
                raise ConnectionError(f"fetch: {self.url} answered {answer.code}; {self._otherwise}") from None
        except (AnswerRefused, BrokeOff, TimeoutError, Unreachable) as failure:
            raise self._in_words(failure, partial) from None
        except OSError as failure:
            explain_full_disk(failure, f"fetch: cannot write {partial}", "what was there before is unchanged")
            raise

    def _write(self, answer: Answer, partial: Path, start: int) -> None:
        shown = bar(desc=self.path.name, total=self.published.size, initial=start, unit="B", unit_scale=True,
                    disable=not self.progress)  # fmt: skip
        size = start
        with shown, open(partial, "ab" if start else "wb") as file:
            try:
                while size <= self.published.size and (block := answer.read(_BLOCK)):
                    size += file.write(block)
                    shown.update(len(block))
            finally:
                file.flush()
                os.fsync(file.fileno())

    @property
    def _otherwise(self) -> str:
        return f"try again later, or another --base-url, or {self.by_hand}"

    def _in_words(self, failure: OSError, partial: Path) -> OSError:
        size = partial.stat().st_size if partial.is_file() else 0
        kept = f"the {size:,} bytes that came are kept: try again to resume" if size else self._otherwise
        if isinstance(failure, TimeoutError):
            return TimeoutError(f"fetch: no answer from {self.url} in {self.timeout:g} s{detail_of(failure)}; {kept}")
        if isinstance(failure, Unreachable):
            remedy = f"check the network and --base-url, or {self.by_hand}"
            return ConnectionError(f"fetch: cannot reach {self.url} ({failure}); {remedy}")
        if isinstance(failure, AnswerRefused):
            return ConnectionError(f"fetch: {self.url} {failure}; {kept}")
        return ConnectionError(f"fetch: {self.url} broke off ({failure}); {kept}")

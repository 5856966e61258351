"""
Published tokenizers, fetched once and kept in the user's cache.

A download that is interrupted continues where it stopped, also in another process. Before a file gets its name, its
SHA-256 is compared with the published one, so that files of a mirror are those of OpenAI. Of several
processes that fetch at once, one downloads; the others wait, and find the files there.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Iterator
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
USER_AGENT = "tinygpt (a GPT-2 for learning; fetches its vocabulary)"
_BLOCK = 1 << 16  # bytes
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
        as long.
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
    folder = cache_folder("tokenizers") / name
    if all(_is_whole(folder / file_name, published) for file_name, published in PUBLISHED[name].items()):
        return folder
    make_folder(folder)
    with _alone_in(folder, progress):
        for file_name, published in PUBLISHED[name].items():
            path = folder / file_name
            if not _is_whole(path, published):
                _Download(f"{base_url.rstrip('/')}/{file_name}", path, published, timeout, progress).run()
    return folder


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
    timeout: float
    progress: bool

    def run(self) -> None:
        partial = self.path.with_name(self.path.name + ".partial")
        there = partial.stat().st_size if partial.is_file() else 0
        if there < self.published.size:
            self._continue(partial, there)
        if there and _is_wrong(partial, self.published):  # the existing bytes may be of another file
            self._continue(partial, 0)
        if _is_wrong(partial, self.published):
            size, found = partial.stat().st_size, _sha256(partial)
            partial.unlink()
            raise ValueError(
                f"fetch: {self.url} must have {self.published.size} bytes with the SHA-256 {self.published.sha256}, "
                f"got {size} with {found}; nothing is kept: try again, or another --base-url"
            )
        os.replace(partial, self.path)
        sync_folder(self.path.parent)

    def _continue(self, partial: Path, there: int) -> None:
        """Append the missing bytes, or start again if the server cannot send a part."""
        headers = {"User-Agent": USER_AGENT} | ({"Range": f"bytes={there}-"} if there else {})
        try:
            with get(self.url, timeout=self.timeout, limit=self.published.size + _TOO_LONG, headers=headers) as answer:
                goes_on = answer.status == 206 and answer.headers.get("Content-Range", "").startswith(f"bytes {there}-")
                self._write(answer, partial, there if goes_on else 0)
        except StatusError as answer:
            if answer.code == 416 and there:  # nothing follows our bytes: they cannot be of the right file
                self._continue(partial, 0)
            elif answer.code == 404:
                raise FileNotFoundError(f"fetch: there is no {self.url} (404); check --base-url") from None
            else:
                raise ConnectionError(
                    f"fetch: {self.url} answered {answer.code}; try again later, or another --base-url"
                ) from None
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

    def _in_words(self, failure: OSError, partial: Path) -> OSError:
        size = partial.stat().st_size if partial.is_file() else 0
        kept = (
            f"the {size} bytes that came are kept: try again to resume" if size else "try again, or another --base-url"
        )
        if isinstance(failure, TimeoutError):
            return TimeoutError(f"fetch: no answer from {self.url} in {self.timeout:g} s{detail_of(failure)}; {kept}")
        if isinstance(failure, Unreachable):
            return ConnectionError(f"fetch: cannot reach {self.url} ({failure}); check the network and --base-url")
        if isinstance(failure, AnswerRefused):
            return ConnectionError(f"fetch: {self.url} {failure}; try again later, or another --base-url")
        return ConnectionError(f"fetch: {self.url} broke off ({failure}); {kept}")

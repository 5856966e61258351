"""`tinygpt data`: published texts from a server on this machine, and books that are there as files."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import sys
import types
from pathlib import Path

import pytest
from file_server import serving

from tinygpt.cli.main import main
from tinygpt.files import cache_contents
from tinygpt.files.published import PublishedFile
from tinygpt.text import published_texts
from tinygpt.text.corpus import read_documents
from tinygpt.text.gutenberg import read_book, split_stories
from tinygpt.text.published_texts import TEXTS, fetch_text

ROOT = Path(__file__).resolve().parents[1]
PLAY = b"First Citizen:\nBefore we proceed any further, hear me speak.\n\n" * 4000
STORIES = "Once a hen slept.\n<|endoftext|>\nThe fox, too: é.\n<|endoftext|>\n".encode() * 2000
CONTENTS = {"input.txt": PLAY, "TinyStoriesV2-GPT4-valid.txt": STORIES, "TinyStoriesV2-GPT4-train.txt": STORIES * 3}


def published(name: str) -> PublishedFile:
    return PublishedFile(len(CONTENTS[name]), hashlib.sha256(CONTENTS[name]).hexdigest())


@pytest.fixture
def server(monkeypatch, tmp_path):
    """A server of small texts, which count as the published ones; an empty cache, and an empty folder to work in."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    for name, text in TEXTS.items():
        monkeypatch.setitem(published_texts.TEXTS, name, text._replace(published=published(text.file)))
    with serving(CONTENTS) as running:
        running.cache = tmp_path / "cache" / "tinygpt" / "texts"
        yield running


def data(server, *words: str) -> int:
    return main(["data", *words, "--quiet", "--base-url", server.url])


def refused(server, capsys, *words: str) -> str:
    assert data(server, *words) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"tinygpt: data {words[0]}: ") and error.count("\n") == 1
    return error


def test_shakespeare_is_fetched_once_and_written_wherever_it_is_wanted(server, capsys):
    assert data(server, "shakespeare") == 0
    assert Path("tinyshakespeare.txt").read_bytes() == PLAY
    assert capsys.readouterr().out == (
        "tinyshakespeare.txt: 248,000 bytes, with the published checksum\n"
        "to train on it: tinygpt train --preset shakespeare-char --data tinyshakespeare.txt\n"
    )
    Path("mine.txt").write_text("is replaced: it was named")
    assert data(server, "shakespeare", "-o", "mine.txt") == 0
    assert Path("mine.txt").read_bytes() == PLAY
    assert server.requests == [("/files/input.txt", None)]


def test_each_split_of_the_stories_is_a_file_of_documents(server):
    assert data(server, "tinystories") == 0
    assert read_documents("tinystories-validation.txt") == ["Once a hen slept.\n", "The fox, too: é.\n"] * 2000
    assert data(server, "tinystories", "--split", "train") == 0
    assert Path("tinystories-train.txt").read_bytes() == STORIES * 3


def test_a_text_of_the_users_own_is_not_replaced_unless_it_is_named(server, capsys):
    Path("tinyshakespeare.txt").write_text("my notes")
    assert "is there already, and is another text: name the file to write with -o" in refused(
        server, capsys, "shakespeare"
    )
    assert Path("tinyshakespeare.txt").read_text() == "my notes" and server.requests == []


@pytest.mark.parametrize("ranges", [True, False], ids=["parts", "no parts"])
def test_a_text_that_broke_off_goes_on_where_it_stopped(server, capsys, ranges):
    server.stop, server.ranges = 100_000, ranges
    assert "the 100,000 bytes that came are kept: try again to resume" in refused(server, capsys, "shakespeare")
    assert os.listdir() == []
    server.stop = None
    assert data(server, "shakespeare") == 0
    assert Path("tinyshakespeare.txt").read_bytes() == PLAY
    assert server.requests[1] == ("/files/input.txt", "bytes=100000-")


def test_a_login_page_does_not_cost_what_has_come(server, capsys):
    server.stop = 100_000
    refused(server, capsys, "shakespeare")
    server.stop, server.ranges, server.files["input.txt"] = None, False, b"<html>please log in</html>"
    said = refused(server, capsys, "shakespeare")
    assert "answers with 26 bytes, the file has 248,000; the 100,000 bytes that came are kept" in said
    server.ranges, server.files["input.txt"] = True, PLAY
    assert data(server, "shakespeare") == 0
    assert Path("tinyshakespeare.txt").read_bytes() == PLAY


@pytest.mark.parametrize("wrong", [b"<html>please log in</html>", PLAY[:-1] + b"!", PLAY + b"more", b""])
def test_a_wrong_text_is_not_kept(server, capsys, wrong):
    server.files["input.txt"] = wrong
    said = refused(server, capsys, "shakespeare")
    assert "must have 248,000 bytes with the SHA-256" in said and "nothing is kept" in said
    assert os.listdir() == os.listdir(server.cache / "shakespeare") == []


def test_without_a_network_the_error_gives_the_address_and_the_way_around(server, capsys, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setenv("HF_ENDPOINT", url)
    assert main(["data", "tinystories"]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    address = f"{url}/datasets/roneneldan/TinyStories/resolve/f54c09fd23315a6f9c86f9dc80f725de7d8f9c64/"
    assert f"cannot reach {address}TinyStoriesV2-GPT4-valid.txt" in said
    assert said.endswith("or download it with a browser, and use the file with --data")


@pytest.mark.skipif(os.name != "posix", reason="limits of processes are POSIX's")
def test_a_full_disk_keeps_what_has_come(server):
    """As a limit on the size of files: such a write fails as one on a full disk does."""
    code = """
import resource, sys
from pathlib import Path
from tinygpt.files.fetch import fetch_files
from tinygpt.files.published import PublishedFile
folder, url, size, sha256 = sys.argv[1:]
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
fetch_files(Path(folder), url, {"input.txt": PublishedFile(int(size), sha256)}, "ask a friend", progress=False)
"""
    given = [str(server.cache), server.url, *map(str, published("input.txt"))]
    done = subprocess.run([sys.executable, "-c", code, *given], env={**os.environ, "PYTHONPATH": str(ROOT)},
                          capture_output=True, text=True, timeout=60)  # fmt: skip
    assert "File too large; what was there before is unchanged; free space and try again" in done.stderr
    assert (server.cache / "input.txt.partial").read_bytes() == PLAY[:100_000]


def test_a_disk_without_room_for_the_text_is_told_before_anything_is_asked_for(server, capsys, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: types.SimpleNamespace(free=1000))
    said = refused(server, capsys, "shakespeare")
    assert "needs 248,000 bytes for" in said and "the disk has 1,000; free space, or set XDG_CACHE_HOME" in said
    assert server.requests == []


def test_the_cache_knows_the_texts_as_downloads(server):
    data(server, "shakespeare")
    data(server, "tinystories")
    entries = cache_contents.chosen(cache_contents.contents(set()), "downloads")
    assert [(entry.kind, entry.files, entry.bytes) for entry in entries] == [("texts", 2, len(PLAY) + len(STORIES))]
    removed = cache_contents.clear(entries)
    assert (removed.files, removed.left) == (2, []) and not server.cache.exists()


def test_the_checksum_of_shakespeare_is_that_of_the_shared_text(shared_data):
    text = (shared_data / "tinyshakespeare.txt").read_bytes()
    assert TEXTS["shakespeare"].published == PublishedFile(len(text), hashlib.sha256(text).hexdigest())


def test_a_name_that_is_no_text():
    with pytest.raises(ValueError, match="the name must be one of shakespeare, tinystories-validation"):
        fetch_text("goethe")


# Books


BOOK = """Licence
*** START OF THE PROJECT GUTENBERG EBOOK TALES ***

A fox went out one night.

*** END OF THE PROJECT GUTENBERG EBOOK TALES ***
More licence
"""


def test_books_on_this_machine_need_no_network(server, shared_data, capsys):
    files = sorted((shared_data / "gutenberg").glob("*.txt"))
    assert main(["data", "gutenberg", *map(str, files), str(files[0]), "-o", "tales.txt"]) == 0
    assert capsys.readouterr().out == (
        "tales.txt: 364 documents from 3 books\nto train on it: tinygpt train --data tales.txt --out runs/books\n"
    )
    assert read_documents("tales.txt") == [story for file in files for story in split_stories(read_book(file))]


def test_numbers_and_files_stand_in_the_order_given(server, capsys):
    server.files["/cache/epub/5/pg5.txt"] = BOOK.replace("A fox", "A crow").encode()
    Path("5").write_text(BOOK)
    base = server.url.removesuffix("/files/")
    assert main(["data", "gutenberg", "./5", "5", "-o", "two.txt", "--base-url", base]) == 0
    assert read_documents("two.txt") == ["A fox went out one night.\n", "A crow went out one night.\n"]
    assert main(["data", "gutenberg", "5", "-o", "one.txt", "--base-url", base]) == 0
    assert read_documents("one.txt") == ["A crow went out one night.\n"]
    assert capsys.readouterr().out.splitlines()[-2] == "one.txt: 1 document from 1 book"


def test_files_that_are_no_books_are_told_by_name(server, capsys):
    Path("page.html").write_text("<!DOCTYPE html><html>" + BOOK)
    Path("notes.txt").write_text("my notes")
    Path("book.txt").write_text(BOOK)
    for words, expected in [
        (["page.html", "-o", "x.txt"], "page.html: must be plain text, got a web page; choose Plain Text UTF-8"),
        (["notes.txt", "-o", "x.txt"], "notes.txt: must have a line '*** START OF THE PROJECT GUTENBERG EBOOK'"),
        (["book.txt", "-o", "./book.txt"], "--out must be another file than the book book.txt, which would be lost"),
    ]:
        assert main(["data", "gutenberg", *words]) == 2
        assert expected in capsys.readouterr().err
    assert Path("book.txt").read_text() == BOOK and not Path("x.txt").exists()

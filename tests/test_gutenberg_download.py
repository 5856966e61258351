"""Fetching books from a server on this machine that is slow, busy, wrong or gone, as real ones are at times."""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tinygpt.text.gutenberg import decode_book, default_cache_dir, download_books

START, END = (f"*** {side} OF THE PROJECT GUTENBERG EBOOK X ***".encode() for side in ("START", "END"))


def whole(text: bytes) -> bytes:
    """A text with the lines around it by which a whole book is known."""
    return START + b"\r\n\r\n" + text + b"\r\n\r\n" + END + b"\r\n"


BOOK = whole(b"Once upon a time.\r\n" * 50)


def answer(body=BOOK, status=200, kind="text/plain", length=None, slow=0.0, slow_body=0.0, **headers):
    """What the server does for one request; `length` is the length it announces, `slow` are seconds."""

    def act(handler):
        time.sleep(slow)
        handler.send_response(status)
        handler.send_header("Content-Type", kind)
        handler.send_header("Content-Length", str(len(body) if length is None else length))
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body[:9])
        handler.wfile.flush()
        time.sleep(slow_body)
        handler.wfile.write(body[9:])

    return act


def hang_up(handler):
    handler.connection.shutdown(socket.SHUT_RDWR)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.close_connection = True
        self.server.requests.append((self.path, time.monotonic(), self.headers["User-Agent"]))
        script = self.server.pages.get(self.path, [answer(b"no such page", 404)])
        act = script.pop(0) if len(script) > 1 else script[0]
        with contextlib.suppress(OSError):  # the client has given up, as it should
            act(self)

    def log_message(self, *arguments):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.pages, self.requests = {}, []
        self.url = f"http://127.0.0.1:{self.server_port}"

    def book(self, number, *script):
        self.pages[f"/cache/epub/{number}/pg{number}.txt"] = list(script)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def fetch(server, tmp_path):
    """`download_books` from the local server into a fresh cache, quickly and quietly unless told otherwise."""

    def call(*numbers, **settings):
        quick = {"base_url": server.url, "delay": 0.0, "retries": 2, "timeout": 5.0, "progress": False}
        return download_books(numbers, tmp_path / "cache", **quick | settings)

    call.cache = tmp_path / "cache"
    return call


def test_books_arrive_as_files_in_the_order_asked_for(server, fetch):
    for number in (7, 5, 6):
        server.book(number, answer("\ufeff".encode() + whole(f"Book {number}\r\nfée".encode())))
    paths = fetch(7, 5, 7, 6)
    assert paths == [fetch.cache / f"pg{number}.txt" for number in (7, 5, 6)]
    expected = [whole(f"Book {number}\nfée".encode()).replace(b"\r", b"") for number in (7, 5, 6)]
    assert [path.read_bytes() for path in paths] == expected
    assert all(agent.startswith("tinygpt") for _, _, agent in server.requests)


def test_each_book_is_fetched_once(server, fetch):
    server.book(1, answer())
    server.book(2, answer())
    fetch(1)
    fetch(1, 2)
    fetch(2, 1)
    assert [path for path, _, _ in server.requests] == ["/cache/epub/1/pg1.txt", "/cache/epub/2/pg2.txt"]


@pytest.mark.parametrize("found_at", [0, 1, 2])
def test_older_addresses_are_tried_in_turn(server, fetch, found_at):
    addresses = ["/cache/epub/77/pg77.txt", "/files/77/77-0.txt", "/files/77/77.txt"]
    server.pages[addresses[found_at]] = [answer(whole(b"found"))]
    assert "found" in fetch(77)[0].read_text(encoding="utf-8").split("\n")
    assert [path for path, _, _ in server.requests] == addresses[: found_at + 1]


def test_a_book_that_does_not_exist_is_named_and_others_are_kept(server, fetch):
    server.book(1, answer())
    with pytest.raises(FileNotFoundError, match=f"no plain text of book 999999 at {server.url}; look its number up"):
        fetch(1, 999999, 1)
    assert [path.name for path in fetch.cache.iterdir()] == ["pg1.txt"]


TROUBLES = {
    "busy": (answer(b"", 503), {}, ConnectionError, r"pg8.txt answered 503; try again later"),
    "too many": (answer(b"", 429), {}, ConnectionError, r"pg8.txt answered 429; try again later"),
    "broken": (answer(b"", 500), {}, ConnectionError, r"pg8.txt answered 500; try again later"),
    "silent": (answer(slow=0.5), {"timeout": 0.1}, TimeoutError, r"no answer from .*pg8.txt in 0.1 s; try again"),
    "stuck": (answer(slow_body=0.5), {"timeout": 0.1}, TimeoutError, r"no answer from .*pg8.txt in 0.1 s; try again"),
    "cut short": (answer(length=len(BOOK) + 1), {}, ConnectionError, rf"broke off after {len(BOOK)} bytes; try again"),
    "hanging up": (hang_up, {}, ConnectionError, r"pg8.txt broke off .*; try again"),
}


@pytest.mark.parametrize("trouble", TROUBLES)
def test_passing_trouble_is_got_over(server, fetch, trouble):
    act, settings, _, _ = TROUBLES[trouble]
    server.book(8, act, act, answer())
    assert fetch(8, **settings)[0].read_bytes() == BOOK.replace(b"\r", b"")
    assert len(server.requests) == 3


@pytest.mark.parametrize("trouble", TROUBLES)
def test_lasting_trouble_ends_in_one_line_and_leaves_nothing(server, fetch, trouble):
    act, settings, error, message = TROUBLES[trouble]
    server.book(8, act)
    with pytest.raises(error, match=f"^gutenberg: book 8: .*{message}") as caught:
        fetch(8, **settings)
    assert "\n" not in str(caught.value)
    assert len(server.requests) == 3 and list(fetch.cache.iterdir()) == []


def test_a_refusal_is_not_asked_again(server, fetch):
    server.book(8, answer(b"", 403))
    with pytest.raises(ConnectionError, match=r"book 8: .*pg8\.txt answered 403; try a mirror"):
        fetch(8)
    assert len(server.requests) == 1


def test_without_a_network_there_is_one_line_and_no_waiting(fetch):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, but nobody listens: connections are refused
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        begun = time.monotonic()
        with pytest.raises(ConnectionError, match=rf"book 8: cannot reach {url} \(.*refused.*\); check the network"):
            fetch(8, base_url=url, delay=30.0)
    assert time.monotonic() - begun < 10


def test_requests_keep_their_distance_and_back_off(server, fetch):
    server.book(1, answer(b"", 503), answer(b"", 503), answer())
    server.book(2, answer())
    fetch(1, 2, delay=0.1)
    times = [moment for _, moment, _ in server.requests]
    waits = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert len(waits) == 3
    # twice the delay before the second attempt, four times before the third, once before the next book;
    # a hundredth less, because the server's clock starts when the request arrives
    assert all(wait > least - 0.01 for wait, least in zip(waits, [0.2, 0.4, 0.1], strict=True))


def test_a_server_that_asks_for_a_pause_gets_it(server, fetch):
    server.book(1, answer(b"", 429, Retry_After="1"), answer(b"", 503, Retry_After="Fri, 31 Dec 1999"), answer())
    fetch(1)
    assert server.requests[1][1] - server.requests[0][1] > 0.99


@pytest.mark.parametrize(
    "page", [b"<!DOCTYPE html><html>", b"\xef\xbb\xbf\r\n <HTML lang=en>", b"<?xml version='1.0'?>"]
)
def test_a_web_page_is_not_a_book(server, fetch, page):
    server.book(8, answer(page + b"<body>Log in to this network</body>", kind="text/html"))
    with pytest.raises(ValueError, match=r"book 8 must be plain text, got a web page from http.*pg8\.txt; open it"):
        fetch(8)
    assert list(fetch.cache.iterdir()) == []


@pytest.mark.parametrize(
    ("body", "kind", "text"),
    [
        ("fée “x”".encode(), "text/plain; charset=utf-8", "fée “x”"),
        ("fée “x”".encode(), "text/plain; charset=iso-8859-1", "fée “x”"),  # a wrong label: the bytes are UTF-8
        ("fée".encode("latin-1"), "text/plain; charset=ISO-8859-1", "fée"),
        ("fée “x”".encode("cp1252"), "text/plain; charset=iso-8859-1", "fée “x”"),
        (b"f\xe9e\x81", "text/plain; charset=iso-8859-1", "fée\x81"),  # 0x81 is not in cp1252
        ("сказка".encode("koi8-r"), "text/plain; charset=koi8-r", "сказка"),
        ("Character set encoding: ISO-8859-1\r\nfée".encode("latin-1"), "text/plain; charset=utf-8", "fée"),
        ("Character set encoding: Windows-1252\nfée “x”".encode("cp1252"), "text/plain", "fée “x”"),
        ("Character set encoding: ISO-8859-1\nfée".encode("latin-1"), "text/plain; charset=no-such", "fée"),
    ],
)
def test_old_books_in_other_encodings_are_stored_as_utf_8(server, fetch, body, kind, text):
    server.book(8, answer(whole(body), kind=kind))
    assert text in fetch(8)[0].read_bytes().decode("utf-8").split("\n")


@pytest.mark.parametrize("declared", [b"", b"Character set encoding: ASCII\n", b"Character set encoding: nonsense\n"])
def test_an_unknown_encoding_is_refused_with_the_byte(server, fetch, declared):
    body = declared + b"caf\xe9 au lait"
    server.book(8, answer(body, kind="text/plain; charset=utf-8"))
    offset = len(declared) + 3
    with pytest.raises(ValueError, match=f"gutenberg: book 8: must be UTF-8 text, got byte 0xe9 at offset {offset}"):
        fetch(8)
    assert list(fetch.cache.iterdir()) == []
    with pytest.raises(ValueError, match="the tale: must be UTF-8 text"):
        decode_book(body, "the tale")


@pytest.mark.parametrize("number", [0, -1, 2.5, "2591", None])
def test_what_is_no_number_is_refused_before_anything_is_asked(server, fetch, number):
    server.book(1, answer())
    with pytest.raises(ValueError, match=f"number must be an integer >= 1, got {number!r}; e.g. 2591 is Grimm"):
        fetch(1, number)
    assert server.requests == []


@pytest.mark.parametrize("url", ["", "www.gutenberg.org", "file:///etc", "http://", "http://a b"])
def test_what_is_no_address_is_refused(fetch, url):
    with pytest.raises(ValueError, match=r"base address must begin with http\(s\)://, got "):
        fetch(1, base_url=url)


@pytest.mark.parametrize("setting", [{"delay": -1.0}, {"retries": -1}, {"timeout": 0.0}])
def test_impossible_settings_are_refused(server, fetch, setting):
    with pytest.raises(ValueError, match="needs delay >= 0, retries >= 0 and timeout > 0, got delay = "):
        fetch(1, **setting)
    assert server.requests == []


def test_a_bar_is_shown_unless_unwanted(server, fetch, capsys, as_on_a_terminal):
    server.book(1, answer())
    server.book(2, answer())
    fetch(1)
    assert capsys.readouterr() == ("", "")
    fetch(1, 2, progress=True)
    assert "Project Gutenberg 100%" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("setting", "expected"), [("/x/y", "/x/y"), ("", "~/.cache"), ("relative", "~/.cache"), (None, "~/.cache")]
)
def test_the_cache_folder_follows_the_xdg_rules(monkeypatch, tmp_path, setting, expected):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    if setting is not None:
        monkeypatch.setenv("XDG_CACHE_HOME", setting)
    assert str(default_cache_dir()) == expected.replace("~", str(tmp_path)) + "/tinygpt/gutenberg"


def test_books_go_to_the_cache_folder_unless_told_otherwise(server, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    server.book(1, answer())
    [path] = download_books(iter([1]), base_url=server.url + "/", delay=0, progress=False)
    assert path == tmp_path / "tinygpt" / "gutenberg" / "pg1.txt" and path.is_file()


@pytest.mark.parametrize(
    "body",
    [b'{"error": "log in"}', b"<!-- portal --><html>", BOOK[:600], whole(b"A fox.")[len(START) :], END + b"\n" + START,
     b"a" * 4000],
    ids=["json", "comment", "half", "no start", "wrong order", "anything"],
)  # fmt: skip
def test_what_is_no_whole_book_is_not_kept(server, fetch, body):
    server.book(8, answer(body))
    with pytest.raises(
        ValueError, match=r"book 8 must have the lines '\*\*\* START OF' and .*nothing is kept"
    ) as caught:
        fetch(8)
    assert "\n" not in str(caught.value) and list(fetch.cache.iterdir()) == []
    server.book(8, answer())
    assert fetch(8)[0].read_bytes() == BOOK.replace(b"\r", b"")


@pytest.mark.parametrize("kept", [b'{"error": "log in"}', BOOK[:600], b"", b"\xff\xfe\x00"])
def test_a_wrong_book_that_is_in_the_cache_already_is_fetched_again(server, fetch, kept):
    fetch.cache.mkdir()
    (fetch.cache / "pg8.txt").write_bytes(kept)
    server.book(8, answer())
    assert fetch(8)[0].read_bytes() == BOOK.replace(b"\r", b"")
    fetch(8)
    assert len(server.requests) == 1


@pytest.mark.parametrize("charset", ["base64", "zip", "idna", "punycode", "undefined", "x" * 3000, "utf-8\x00", "hex"])
def test_a_charset_that_is_no_encoding_of_text_is_passed_over(server, fetch, charset):
    server.book(8, answer(whole("fée".encode()), kind=f"text/plain; charset={charset}"))
    assert "fée" in fetch(8)[0].read_text(encoding="utf-8")


def test_a_server_that_leads_elsewhere_is_named_and_nothing_is_kept(server, fetch):
    server.book(8, answer(b"", 302, Location="http://localhost:9/pg8.txt"))
    with pytest.raises(
        ConnectionError, match=r"book 8: .*pg8\.txt redirects to 'http://localhost:9/pg8\.txt'; .*nothing is kept"
    ):
        fetch(8)
    assert len(server.requests) == 1 and list(fetch.cache.iterdir()) == []

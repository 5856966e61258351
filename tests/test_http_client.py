"""The HTTP client against servers on this machine that lie, drip, never end, or send elsewhere, by raw sockets."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from tinygpt.files.http_client import AnswerRefused, BrokeOff, StatusError, Unreachable, get, require_address

Act = Callable[[socket.socket], None]


@pytest.fixture
def serve(monkeypatch) -> Iterator[Callable[[Act], str]]:
    """Starts a server that does something with each connection; gives its address."""
    monkeypatch.setenv("no_proxy", "*")
    sockets = []

    def start(act: Act) -> str:
        listening = socket.create_server(("127.0.0.1", 0))
        sockets.append(listening)

        def loop() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listening.accept()
                    threading.Thread(target=answer, args=(connection,), daemon=True).start()

        def answer(connection: socket.socket) -> None:
            with connection, contextlib.suppress(OSError):
                connection.recv(65536)
                act(connection)

        threading.Thread(target=loop, daemon=True).start()
        return f"http://127.0.0.1:{listening.getsockname()[1]}/book"

    yield start
    for listening in sockets:
        listening.close()


def says(*parts: bytes, pause: float = 0.0, times: int = 1) -> Act:
    def act(connection: socket.socket) -> None:
        for number in range(times):
            for part in parts if number == 0 else parts[-1:]:
                connection.sendall(part)
                time.sleep(pause)

    return act


def fetch(url: str, timeout: float = 5.0, limit: int = 10_000, **options) -> bytes:
    with get(url, timeout=timeout, limit=limit, **options) as answer:
        return b"".join(answer.blocks())


OK = b"HTTP/1.1 200 OK\r\n"


def test_whole_answers_arrive(serve):
    for head, body in [(b"Content-Length: 5\r\n\r\n", b"a fox"), (b"\r\n", b"a fox"),
                       (b"Transfer-Encoding: chunked\r\n\r\n", b"2\r\na \r\n3\r\nfox\r\n0\r\n\r\n"),
                       (b"Content-Length: 5\r\nContent-Length: 5\r\n\r\n", b"a fox and more")]:  # fmt: skip
        assert fetch(serve(says(OK + head + body))) == b"a fox"


@pytest.mark.parametrize("length", [b"-1", b"-5", b"1e3", b"0x10", b"1_0", b"9" * 5000, b"", b"5, 6", "٣".encode()])
def test_a_length_that_makes_no_sense_is_refused(serve, length):
    with pytest.raises((AnswerRefused, BrokeOff)) as caught:
        fetch(serve(says(OK + b"Content-Length: " + length + b"\r\n\r\n" + b"a" * 100)))
    assert str(caught.value).isprintable() and len(str(caught.value)) < 300


def test_two_lengths_and_compression_are_refused(serve):
    with pytest.raises(AnswerRefused, match="announces an impossible length, '5, 6'"):
        fetch(serve(says(OK + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\na fox!")))
    with pytest.raises(AnswerRefused, match=r"is compressed \('gzip'\), which was not asked for"):
        fetch(serve(says(OK + b"Content-Encoding: gzip\r\n\r\nxx")))


def test_what_is_announced_as_too_large_is_not_read(serve):
    sent = []

    def act(connection: socket.socket) -> None:
        connection.sendall(OK + b"Content-Length: 10001\r\n\r\n")
        time.sleep(0.2)
        connection.sendall(b"a")
        sent.append(1)

    with pytest.raises(AnswerRefused, match="announces 10,001 bytes, more than the 10,000 that are allowed"):
        fetch(serve(act))


@pytest.mark.parametrize(
    "parts",
    [
        (OK + b"\r\n", b"a" * 65536),  # a body without end
        (OK + b"Transfer-Encoding: chunked\r\n\r\n", b"10000\r\n" + b"a" * 65536 + b"\r\n"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n", b"a" * 65536),
        (OK, b"X-More: " + b"a" * 60_000 + b"\r\n"),  # headers without end
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000),  # answers before the answer
        (OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"X-Trailer: a\r\n" * 4000),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1;" + b"x" * 60_000 + b"\r\na\r\n"),
    ],
    ids=["body", "chunks", "negative chunk", "headers", "continue", "trailers", "extensions"],
)
def test_what_never_ends_is_ended(serve, parts):
    with pytest.raises((AnswerRefused, BrokeOff)) as caught:
        fetch(serve(says(*parts, times=10**6)))
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "parts",
    [
        (OK + b"\r\n", b"a"),
        (OK + b"Content-Length: 5000\r\n\r\n", b"a"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\na\r\n"),
        (OK + b"X-Header: ", b"a"),
        (b"H", b"H"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"HTTP/1.1 302 Found\r\nLocation: /there\r\n\r\n", b"a"),
    ],
    ids=["body", "length", "chunks", "header", "status", "continue", "redirect"],
)
def test_what_comes_byte_by_byte_is_given_up(serve, parts):
    start = time.monotonic()
    with pytest.raises((TimeoutError, BrokeOff)):
        fetch(serve(says(*parts, pause=0.05, times=10**6)), timeout=0.5)
    assert time.monotonic() - start < 60  # a guard: it would go on for hours


def test_an_answer_that_is_just_fast_enough_has_an_end_too(serve):
    with pytest.raises(TimeoutError, match="not whole after 1 s"):
        fetch(serve(says(OK + b"\r\n", b"a" * 300, pause=0.05, times=10**6)), timeout=0.5, limit=10**9, whole=1.0)


def test_a_handshake_that_never_ends_is_given_up(serve):
    url = serve(says(b"\x16\x03\x03\x3f\x00", b"\x02", pause=0.05, times=10**6)).replace("http:", "https:")
    with pytest.raises((TimeoutError, Unreachable, BrokeOff)):
        fetch(url, timeout=0.5)


@pytest.mark.parametrize(
    "location",
    [
        "http://localhost:9/x",
        "ftp://127.0.0.1/x",
        "file:///etc/passwd",
        "data:text/plain,x",
        "http://[::1]:9/x",
        "//localhost/x",
    ],
)
def test_another_host_is_followed_over_https_only(serve, location):
    url = serve(says(b"HTTP/1.1 302 Found\r\nLocation: " + location.encode() + b"\r\nContent-Length: 0\r\n\r\n"))
    with pytest.raises((AnswerRefused, StatusError)) as caught:
        fetch(url)
    assert (
        "redirects to" in str(caught.value) or isinstance(caught.value, StatusError) or "nowhere" in str(caught.value)
    )


def test_the_same_host_is_followed_and_a_circle_is_not(serve):
    there = serve(says(OK + b"Content-Length: 5\r\n\r\na fox"))
    assert (
        fetch(serve(says(b"HTTP/1.1 301 Moved\r\nLocation: " + there.encode() + b"\r\nContent-Length: 0\r\n\r\n")))
        == b"a fox"
    )
    with pytest.raises(AnswerRefused, match="redirects in a circle, or to nowhere"):
        fetch(serve(says(b"HTTP/1.1 302 Found\r\nLocation: /book\r\nContent-Length: 0\r\n\r\n")))


def test_a_status_and_what_it_asks_for_are_told(serve):
    for asked, seconds in [(b"7", 7.0), (b"Fri, 31 Dec 1999 23:59:59 GMT", 0.0), (b"9" * 5000, 0.0), (b"-1", 0.0)]:
        with pytest.raises(StatusError) as caught:
            fetch(serve(says(b"HTTP/1.1 503 Busy\r\nRetry-After: " + asked + b"\r\nContent-Length: 0\r\n\r\n")))
        assert (caught.value.code, caught.value.retry_after) == (503, seconds)


@pytest.mark.parametrize(
    "line", [b"SSH-2.0-x\r\n", b"HTTP/1.1 \x1b[2J\r\n\r\n", b"\n\n\n", b"HTTP/1.1 999999 \r\n\r\n"]
)
def test_what_is_no_http_is_one_printable_line(serve, line):
    with pytest.raises((BrokeOff, AnswerRefused)) as caught:
        fetch(serve(says(line)))
    assert str(caught.value).isprintable()


def test_a_part_that_broke_off_is_counted(serve):
    with pytest.raises(BrokeOff) as caught:
        fetch(serve(says(OK + b"Content-Length: 50\r\n\r\na fox")))
    assert caught.value.received == 5


@pytest.mark.parametrize(
    "url", ["", "http://", "http://a b", "http://a\nb", "file:///x", "http://[x", "http://x:99999", "http://\x1bx"]
)
def test_what_is_no_address_is_one_line(url):
    with pytest.raises(ValueError, match="test: the base address must begin with http") as caught:
        require_address("test", url, "https://example.org")
    assert str(caught.value).isprintable()

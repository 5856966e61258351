"""
An HTTP client with limits: one GET at a time, from servers that may be slow, broken or hostile.

    size       an answer has at most as many bytes as the caller can use, whatever the server announces or sends
    time       a limit on silence, on slowness and on the whole, headers and TLS handshake included
    headers    a length that is not a number, or is announced twice, is refused, and so is a compressed answer
    redirects  to the same host, or to another over https; never from https to http, never more than five

Certificates are verified and proxies used as by Python's `urllib`, on which this is built.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import re
import selectors
import socket
import ssl
import time
import urllib.request
from collections.abc import Iterator, Mapping
from email.message import Message
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

from tinygpt.files.one_line import brief, one_line

SLOWEST = 512  # bytes per second, over any stretch of `timeout` seconds of waiting
_LONGEST_HEAD = 1 << 18  # bytes before the body; http.client allows 6 MB, and endless answers before the real one
_WHOLE = 20.0  # times `timeout`: how long an answer may take as a whole


class AnswerRefused(ConnectionError):
    """The answer is malformed or not allowed; a retry would not help."""


class StatusError(ConnectionError):
    """The server answered with an error status; it may also say how many seconds to wait."""

    def __init__(self, code: int, retry_after: float) -> None:
        super().__init__(f"status {code}")
        self.code, self.retry_after = code, retry_after


class Unreachable(ConnectionError):
    """There is no such server, or no network, or its certificate is not valid."""


class BrokeOff(ConnectionError):
    """The answer ended early; `received` is how many bytes of the body had come."""

    def __init__(self, reason: object, received: int) -> None:
        super().__init__(one_line(reason)[:200])
        self.received = received


class Answer:
    """
    A successful answer, to be read in parts.

    Attributes
    ----------
    status : int
        200, or 206 for a part.
    headers : Message
    received : int
        Bytes of the body that were read so far.
    """

    def __init__(self, response: http.client.HTTPResponse, limit: int) -> None:
        self._response, self._limit = response, limit
        self.status, self.headers, self.received = response.status, response.headers, 0

    def read(self, size: int) -> bytes:
        """Up to `size` bytes; none at the end. Raises what `get` says."""
        with _in_words(self):
            block = self._response.read(size)
            self.received += len(block)
            if self.received > self._limit:
                raise AnswerRefused(f"sends more than {self._limit:,} bytes")
            if not block and self._response.length:
                raise BrokeOff("the answer ended early", self.received)
            return block

    def blocks(self, size: int = 1 << 16) -> Iterator[bytes]:
        """The body, in parts."""
        while block := self.read(size):
            yield block


def require_address(who: str, url: str, example: str) -> None:
    """
    Raise ValueError unless this is the address of a server.

    Examples
    --------
    >>> require_address("fetch", "file:///etc", "https://example.org")
    Traceback (most recent call last):
    ValueError: fetch: the base address must begin with http(s)://, got 'file:///etc'; e.g. https://example.org
    """
    try:
        address = urlsplit(url)
        right = address.scheme in ("http", "https") and bool(address.hostname) and address.port != 0
    except ValueError:  # a port that is no number, brackets that do not match
        right = False
    if not right or re.search(r"\s", url) or not url.isprintable():
        raise ValueError(f"{who}: the base address must begin with http(s)://, got {brief(url)}; e.g. {example}")


@contextlib.contextmanager
def get(
    url: str, *, timeout: float, limit: int, whole: float | None = None, headers: Mapping[str, str] | None = None
) -> Iterator[Answer]:
    """
    Ask for one document.

    Parameters
    ----------
    url : str
        With http or https.
    timeout : float
        Seconds without a byte, or with fewer than `SLOWEST` bytes per second, after which the request fails.
    limit : int
        The most bytes that the body may have.
    whole : float, optional
        Seconds that everything may take; twenty times `timeout` if None.
    headers : mapping of str to str, optional
        To be sent.

    Yields
    ------
    Answer

    Raises
    ------
    StatusError
        If the status is not one of success.
    AnswerRefused
        If the answer is too large, its headers are malformed, or it redirects to where it may not.
    TimeoutError
        If it takes too long.
    Unreachable, BrokeOff
        If the server cannot be reached, or breaks off.

    Examples
    --------
    >>> with get("http://127.0.0.1:1/", timeout=1.0, limit=100) as answer:  # doctest: +IGNORE_EXCEPTION_DETAIL
    ...     answer.read(10)
    Traceback (most recent call last):
    Unreachable: [Errno 111] Connection refused
    """
    clock = _Clock(timeout, timeout * _WHOLE if whole is None else whole, 2 * limit + (1 << 20))
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.UnknownHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _Redirects(),
        _Http(clock),
        _Https(clock),
    ):
        opener.add_handler(handler)
    with contextlib.ExitStack() as closing:
        with _in_words():
            request = urllib.request.Request(url, headers=dict(headers or {}))
            response = closing.enter_context(opener.open(request, timeout=timeout))
            _require_headers(response.headers, limit)
        clock.in_head = False
        yield Answer(response, limit)


def detail_of(error: TimeoutError) -> str:
    """
    What an error of `get` says besides that nothing came in time, in brackets; empty if that is all.

    Examples
    --------
    >>> detail_of(TimeoutError("timed out")), detail_of(TimeoutError("only 3 bytes in 2 s"))
    ('', ' (only 3 bytes in 2 s)')
    """
    return "" if "timed out" in str(error) else f" ({one_line(error)})"


@contextlib.contextmanager
def _in_words(answer: Answer | None = None) -> Iterator[None]:
    """Turn the errors of sockets, TLS, http.client and urllib into those that `get` names."""
    received = answer.received if answer else 0
    try:
        yield
    except (AnswerRefused, BrokeOff, StatusError, TimeoutError):
        raise
    except HTTPError as error:
        error.close()
        if 300 <= error.code < 400:
            raise AnswerRefused("redirects in a circle, or to nowhere") from None
        asked = error.headers.get("Retry-After", "")  # a date is also allowed, and passed over
        raise StatusError(error.code, float(asked) if re.fullmatch(r"[0-9]{1,6}", asked) else 0.0) from None
    except URLError as error:
        if isinstance(error.reason, (TimeoutError, AnswerRefused)):
            raise error.reason from None
        raise Unreachable(one_line(error.reason)[:200]) from None
    except http.client.IncompleteRead as error:
        raise BrokeOff("the answer ended early", received + len(error.partial)) from None
    except http.client.InvalidURL as error:
        raise AnswerRefused(f"leads to an impossible address: {one_line(error)[:200]}") from None
    except (OSError, http.client.HTTPException) as error:
        raise BrokeOff(error or type(error).__name__, received) from None
    except ValueError as error:  # of sizes of parts that make no sense; of an address that cannot be encoded
        raise AnswerRefused(f"makes no sense ({one_line(error)[:200]})") from None


def _require_headers(headers: Message, limit: int) -> None:
    lengths = {part.strip() for value in headers.get_all("Content-Length", []) for part in str(value).split(",")}
    if len(lengths) > 1 or not all(re.fullmatch("[0-9]{1,15}", length) for length in lengths):
        raise AnswerRefused(f"announces an impossible length, {brief(', '.join(sorted(lengths)))}")
    if any(int(length) > limit for length in lengths):
        raise AnswerRefused(f"announces {int(lengths.pop()):,} bytes, more than the {limit:,} that are allowed")
    encoding = str(headers.get("Content-Encoding", "identity")).strip().lower()
    if encoding not in ("identity", ""):
        raise AnswerRefused(f"is compressed ({brief(encoding)}), which was not asked for")


class _Clock:
    """The remaining time and bytes of one request, including its redirects."""

    def __init__(self, timeout: float, whole: float, most: int) -> None:
        self.timeout, self.whole, self.most, self.in_head = timeout, whole, most, True
        self._end = time.monotonic() + whole
        self._count = self._recent = 0
        self._waited = 0.0

    def left(self) -> float:
        """Seconds until the next wait must end."""
        remaining = self._end - time.monotonic()
        if remaining <= 0:
            raise TimeoutError(f"not whole after {self.whole:g} s")
        return min(self.timeout, remaining)

    def add(self, count: int, waited: float) -> None:
        """Count received bytes, and the seconds of waiting for them."""
        self._count += count
        self._recent += count
        self._waited += waited
        if self._count > (_LONGEST_HEAD if self.in_head else self.most):
            raise AnswerRefused("never comes to the point" if self.in_head else "sends far more than it says")
        if self._waited >= self.timeout:
            if self._recent < SLOWEST * self._waited:
                raise TimeoutError(f"only {self._recent:,} bytes in {self._waited:.0f} s")
            self._recent, self._waited = 0, 0.0


class _TimedReader(io.RawIOBase):
    """The bytes of a socket, within the time limits."""

    def __init__(self, sock: socket.socket, clock: _Clock) -> None:
        self._socket, self._clock = sock, clock
        self._raw = sock.makefile("rb", buffering=0)  # keeps the socket open until this is closed

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._socket.settimeout(self._clock.left())
        start = time.monotonic()
        try:
            count = self._raw.readinto(buffer)  # type: ignore[attr-defined]
        except TimeoutError:
            self._clock.left()  # raises if the total time is over
            raise
        self._clock.add(count or 0, time.monotonic() - start)
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


class _TimedSocket:
    """The part of a socket's interface that HTTPResponse uses."""

    def __init__(self, sock: socket.socket, clock: _Clock) -> None:
        self._socket, self._clock = sock, clock

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_TimedReader(self._socket, self._clock))


class _TimedHandshake:
    """An SSLContext whose handshake has a time limit."""

    def __init__(self, clock: _Clock) -> None:
        self._clock, self._context = clock, ssl.create_default_context()
        self._context.set_alpn_protocols(["http/1.1"])

    def wrap_socket(self, sock: socket.socket, server_hostname: str) -> ssl.SSLSocket:
        wrapped = self._context.wrap_socket(sock, server_hostname=server_hostname, do_handshake_on_connect=False)
        wrapped.setblocking(False)
        try:
            while True:
                try:
                    wrapped.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    self._wait(wrapped, selectors.EVENT_READ)
                except ssl.SSLWantWriteError:
                    self._wait(wrapped, selectors.EVENT_WRITE)
        except BaseException:
            wrapped.close()
            raise
        wrapped.settimeout(self._clock.left())
        return wrapped

    def _wait(self, sock: socket.socket, event: int) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(sock, event)
            start = time.monotonic()
            if not selector.select(self._clock.left()):
                raise TimeoutError("no answer to the TLS handshake")
            self._clock.add(0, time.monotonic() - start)


def _connection(kind: type[http.client.HTTPConnection], clock: _Clock, host: str, **options: Any) -> Any:
    def response(sock: Any, *details: Any, **more: Any) -> http.client.HTTPResponse:
        timed: Any = _TimedSocket(sock, clock)
        return http.client.HTTPResponse(timed, *details, **more)

    connection: Any = kind(host, **options)
    connection.response_class = response
    return connection


class _Http(urllib.request.HTTPHandler):
    def __init__(self, clock: _Clock) -> None:
        super().__init__()
        self._clock = clock

    def http_open(self, req: urllib.request.Request) -> Any:
        def connect(host: str, **options: Any) -> Any:
            return _connection(http.client.HTTPConnection, self._clock, host, **options)

        return self.do_open(connect, req)


class _Https(urllib.request.HTTPSHandler):
    def __init__(self, clock: _Clock) -> None:
        super().__init__()
        self._clock = clock

    def https_open(self, req: urllib.request.Request) -> Any:
        def connect(host: str, **options: Any) -> Any:
            connection = _connection(http.client.HTTPSConnection, self._clock, host, **options)
            connection._context = _TimedHandshake(self._clock)
            return connection

        return self.do_open(connect, req)


class _Redirects(urllib.request.HTTPRedirectHandler):
    max_redirections = 5

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        old, new = urlsplit(req.full_url), urlsplit(newurl)
        if new.scheme != "https" and (new.scheme != "http" or old.scheme == "https" or new.hostname != old.hostname):
            raise AnswerRefused(f"redirects to {brief(newurl)}; to another host, only https is followed")
        return super().redirect_request(req, fp, code, msg, headers, newurl)

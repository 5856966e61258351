"""A server on this machine for the tests of downloads: it can send a part, break off, refuse, or know no parts."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.close_connection = True
        self.server.requests.append((self.path, self.headers["Range"]))
        body = self.server.files.get(self.path.removeprefix("/files/"))
        if body is None:
            self.send_error(self.server.status)
            return
        start = 0
        if self.headers["Range"] and self.server.ranges:
            start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
            if start >= len(body):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(body[start : self.server.stop])

    def log_message(self, *arguments):
        pass


@contextlib.contextmanager
def serving(files: dict[str, bytes]) -> Iterator[ThreadingHTTPServer]:
    """
    Serve files under `url`. What tests change: `files`; `ranges`, whether it can send a part; `stop`, after how many
    bytes of a file it breaks off; `status`, of the answer for a file that it does not have. `requests` are the paths
    that were asked for, each with its header Range.
    """
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.daemon_threads = True
        running.files, running.requests = dict(files), []
        running.ranges, running.stop, running.status = True, None, 404
        running.url = f"http://127.0.0.1:{running.server_port}/files/"
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield running
        finally:
            running.shutdown()
            thread.join()

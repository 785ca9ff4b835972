"""A web server on this machine that fails in the ways that servers and lines do."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Site:
    """What the server has, and how it behaves.

    Attributes:
        content: the one file.
        kind: its media type.
        ranges: whether it sends parts.
        drops: for each of the next answers, after how many bytes the connection is closed; ``None`` is never.
        lengths: whether it says how long its answers are.
        location: where it sends everybody, if anywhere.
        statuses: status codes of the next answers, before it begins to send the file.
        ranges_asked: the Range header of every request.
    """

    content: bytes
    kind: str = "application/zip"
    ranges: bool = True
    lengths: bool = True
    location: str = ""
    drops: list[int | None] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    ranges_asked: list[str | None] = field(default_factory=list)
    url: str = ""


@contextlib.contextmanager
def serving(site: Site) -> Iterator[Site]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers["Range"]
            site.ranges_asked.append(asked)
            if site.statuses:
                self.send_error(site.statuses.pop(0))
                return
            if site.location:
                self.send_response(302)
                self.send_header("Location", site.location)
                self.end_headers()
                return
            start = 0
            if asked and site.ranges:
                start = int(asked.removeprefix("bytes=").rstrip("-"))
                if start >= len(site.content):
                    self.send_error(416)
                    return
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{len(site.content) - 1}/{len(site.content)}")
            else:
                self.send_response(200)
            if site.lengths:
                self.send_header("Content-Length", str(len(site.content) - start))
            self.send_header("Content-Type", site.kind)
            self.end_headers()
            cut = site.drops.pop(0) if site.drops else None
            with contextlib.suppress(ConnectionError):  # the client may have seen enough
                self.wfile.write(site.content[start:] if cut is None else site.content[start : start + cut])

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    site.url = f"http://127.0.0.1:{server.server_port}/set.zip"
    try:
        yield site
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

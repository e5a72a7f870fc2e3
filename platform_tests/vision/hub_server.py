"""A model hub on this machine's loopback with one file, for tests of downloads."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread


@dataclass
class Hub:
    """`content` is what the one file holds, `stated` the SHA-256 that the hub says of it; `asked` are the requests so far."""

    path: str
    content: bytes
    stated: str = ""
    asked: list[str] = field(default_factory=list)
    url: str = ""

    def __post_init__(self) -> None:
        self.stated = self.stated or hashlib.sha256(self.content).hexdigest()

    def environment(self, home: object, *, offline: bool = False) -> dict[str, str]:
        """What sends the hub's client here, with a cache of its own."""
        return {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1" if offline else "0"}


@contextmanager
def hub_server(hub: Hub) -> Iterator[Hub]:
    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer()

        def do_GET(self) -> None:
            self._answer()
            if self.path == hub.path and self.command == "GET":
                self.wfile.write(hub.content)

        def _answer(self) -> None:
            hub.asked.append(f"{self.command} {self.path}")
            known = self.path == hub.path
            self.send_response(200 if known else 404)
            self.send_header("Content-Length", str(len(hub.content) if known else 0))
            self.send_header("ETag", f'"{hub.stated}"')
            self.send_header("X-Repo-Commit", "c" * 40)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

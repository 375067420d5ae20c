"""Servers that hooks talk to, at their HTTP interface: Komga, Kavita and a receiver of webhooks."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit


class Request(NamedTuple):
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes


Answer = tuple[int, Any]
Serve = Callable[[Request], Answer]


@contextmanager
def serving(answer: Serve) -> Iterator[tuple[str, list[Request]]]:
    """Serve on a free port; yields the address and the requests so far."""
    requests: list[Request] = []

    class Handler(BaseHTTPRequestHandler):
        def handle_any(self) -> None:
            parts = urlsplit(self.path)
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            query = {name: values[0] for name, values in parse_qs(parts.query).items()}
            headers = {name.lower(): value for name, value in self.headers.items()}
            request = Request(self.command, parts.path, query, headers, body)
            requests.append(request)
            status, content = answer(request)
            data = b"" if content is None else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = handle_any  # noqa: N815 - names of the library

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", requests
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


KEY = "k3y of an administrator"
LIBRARIES = {"Manga": "0B79XX3NP97K9", "Comics": "0B79XX3NP97KA"}


def komga(request: Request) -> Answer:
    """Komga 1.20 and later: API keys of administrators scan libraries, and the answer has no content."""
    if request.headers.get("x-api-key") != KEY:
        return 401, {"status": 401, "error": "Unauthorized", "path": request.path}
    if (request.method, request.path) == ("GET", "/api/v1/libraries"):
        return 200, [{"id": identity, "name": name, "root": "/data"} for name, identity in LIBRARIES.items()]
    start, _, rest = request.path.partition("/api/v1/libraries/")
    identity, _, action = rest.partition("/")
    if request.method == "POST" and start == "" and action == "scan":
        return (202, None) if identity in LIBRARIES.values() else (404, {"status": 404})
    return 404, {"status": 404}


def kavita(request: Request) -> Answer:
    """Kavita 0.8: an API key gives a token, and the token of an administrator scans libraries."""
    if (request.method, request.path) == ("POST", "/api/Plugin/authenticate"):
        if request.query.get("apiKey") != KEY or not request.query.get("pluginName"):
            return 401, None
        return 200, {"username": "admin", "token": "t0ken", "refreshToken": "r", "apiKey": KEY}
    if request.headers.get("authorization") != "Bearer t0ken":
        return 401, None
    if (request.method, request.path) == ("GET", "/api/Library/libraries"):
        return 200, [{"id": 1, "name": "Manga", "type": 0}, {"id": 2, "name": "Comics", "type": 1}]
    if (request.method, request.path) == ("POST", "/api/Library/scan"):
        return (200, None) if request.query.get("libraryId") in ("1", "2") else (400, "greater-0")
    return 404, None

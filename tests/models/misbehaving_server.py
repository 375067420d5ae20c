"""A real HTTP server on localhost that misbehaves on request."""

from __future__ import annotations

import contextlib
import hashlib
import random
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from comic_upscale.models.catalogue import WeightsFile

PAYLOAD = random.Random(7).randbytes(600_000)

Step = Callable[[BaseHTTPRequestHandler, bytes], None]


def send(
    handler: BaseHTTPRequestHandler, body: bytes, *, status: int = 200, length: int | None = None
) -> None:
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(body) if length is None else length))
    handler.end_headers()
    handler.wfile.write(body)


def serve(handler: BaseHTTPRequestHandler, body: bytes) -> None:
    """Serve the file as GitHub does, Range included."""
    wanted = handler.headers.get("Range")
    if wanted is None:
        send(handler, body)
        return
    start = int(wanted.removeprefix("bytes=").removesuffix("-"))
    handler.send_response(206)
    handler.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
    handler.send_header("Content-Length", str(len(body) - start))
    handler.end_headers()
    handler.wfile.write(body[start:])


def serve_whole(handler: BaseHTTPRequestHandler, body: bytes) -> None:
    """Serve the file without a thought for Range."""
    send(handler, body)


def cut(handler: BaseHTTPRequestHandler, body: bytes) -> None:
    """Break off half way."""
    send(handler, body[: len(body) // 2], length=len(body))
    handler.wfile.flush()
    handler.connection.shutdown(socket.SHUT_RDWR)


def cut_other(handler: BaseHTTPRequestHandler, body: bytes) -> None:
    """Break off half way through another file of this length."""
    cut(handler, bytes(len(body)))


def other(handler: BaseHTTPRequestHandler, body: bytes) -> None:
    """Serve another file of this length."""
    send(handler, bytes(len(body)))


def login_page(handler: BaseHTTPRequestHandler, body: bytes) -> None:
    send(handler, b"<html>Please log in</html>")


def answer(status: int) -> Step:
    def step(handler: BaseHTTPRequestHandler, body: bytes) -> None:
        send(handler, b"", status=status)

    return step


@dataclass
class Server:
    """What the server does with each request in turn; it serves properly after the last step."""

    url: str
    steps: list[Step] = field(default_factory=list)
    ranges: list[str | None] = field(default_factory=list)
    """The Range header of every request so far."""
    closing: threading.Event = field(default_factory=threading.Event)

    def file(self, name: str = "model.pth", payload: bytes = PAYLOAD) -> WeightsFile:
        return WeightsFile(name, f"{self.url}/{name}", len(payload), hashlib.sha256(payload).hexdigest())

    def stall(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        """Send some bytes and then nothing, without hanging up."""
        send(handler, body[:1000], length=len(body))
        handler.wfile.flush()
        self.closing.wait(30)


@contextlib.contextmanager
def running() -> Iterator[Server]:
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with lock:
                state.ranges.append(self.headers.get("Range"))
                step = state.steps.pop(0) if state.steps else serve
            step(self, PAYLOAD)

        def log_message(self, *args: object) -> None:
            pass

    class Quiet(ThreadingHTTPServer):
        def handle_error(self, *args: object) -> None:
            """Say nothing of a client that hung up."""

    with Quiet(("127.0.0.1", 0), Handler) as http:
        state = Server(f"http://127.0.0.1:{http.server_address[1]}")
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield state
        finally:
            state.closing.set()
            http.shutdown()
            thread.join()

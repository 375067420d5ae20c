"""The metadata services of AWS and Google Cloud on loopback, which check what the real ones check."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

NOTICE = {"action": "terminate", "time": "2026-11-27T20:00:00Z"}


class FakeMetadata:
    """The services. `is_due` says whether the machine is taken back."""

    def __init__(self) -> None:
        self.is_due: Callable[[], bool] = lambda: False
        self.tokens = 0
        """Tokens that were given out. The last one is valid."""
        self.asked = 0
        """Looks for a notice that were answered."""
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"fake": self}))
        server.daemon_threads = True
        self.server = server
        self.host = f"127.0.0.1:{server.server_address[1]}"


@contextmanager
def serve() -> Iterator[FakeMetadata]:
    fake = FakeMetadata()
    thread = threading.Thread(target=fake.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield fake
    finally:
        fake.server.shutdown()
        fake.server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    fake: FakeMetadata

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_PUT(self) -> None:
        if self.path != "/latest/api/token" or not self.headers.get("X-aws-ec2-metadata-token-ttl-seconds"):
            self.answer(400)
            return
        self.fake.tokens += 1
        self.answer(200, f"token-{self.fake.tokens}")

    def do_GET(self) -> None:
        if self.path == "/latest/meta-data/spot/instance-action":
            if self.headers.get("X-aws-ec2-metadata-token") != f"token-{self.fake.tokens}":
                self.answer(401)
                return
            self.fake.asked += 1
            self.answer(200, json.dumps(NOTICE)) if self.fake.is_due() else self.answer(404)
        elif self.path == "/computeMetadata/v1/instance/preempted":
            if self.headers.get("Metadata-Flavor") != "Google":
                self.answer(403)
                return
            self.fake.asked += 1
            self.answer(200, "TRUE" if self.fake.is_due() else "FALSE")
        else:
            self.answer(404)

    def answer(self, code: int, text: str = "") -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

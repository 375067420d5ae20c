"""A proxy in front of a server, which breaks some of its answers: an error, a reset, a cut, a slow one."""

from __future__ import annotations

import http.client
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal
from urllib.parse import urlsplit

Fault = Literal["unavailable", "reset", "cut", "lost answer", "slow"]


@dataclass
class FaultProxy:
    """A running proxy."""

    endpoint: str
    plan: Callable[[str, str, int], Fault | None]
    """What happens to a request: by its method, its path, and its number."""
    requests: list[tuple[str, str]] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)


@contextmanager
def fault_proxy(target: str) -> Iterator[FaultProxy]:
    """A proxy in front of an endpoint, for the length of the block; it breaks nothing until it gets a plan."""
    proxy = FaultProxy("", lambda *_: None)
    host = urlsplit(target).netloc
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _pass_on(self) -> None:
            with lock:
                number = len(proxy.requests)
                proxy.requests.append((self.command, self.path))
                fault = proxy.plan(self.command, self.path, number)
                if fault is not None:
                    proxy.broken.append(fault)
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if fault == "unavailable":
                self._answer(
                    503, [("Content-Type", "application/xml")], b"<Error><Code>SlowDown</Code></Error>"
                )
                return
            if fault == "reset":
                self._reset()
                return
            if fault == "slow":
                time.sleep(0.3)
            connection = http.client.HTTPConnection(host, timeout=60)
            try:
                # The headers as they are: they are signed, that of the host too.
                connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in self.headers.items():
                    connection.putheader(name, value)
                connection.endheaders(body or None)
                answer = connection.getresponse()
                data = answer.read()
                headers = [(name, value) for name, value in answer.getheaders() if name.lower() not in _OWN]
                length = answer.getheader("Content-Length")
            finally:
                connection.close()
            if fault == "lost answer":
                # The server has done it.
                self._reset()
                return
            self._answer(answer.status, headers, data, cut=fault == "cut", length=length)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _pass_on  # noqa: N815

        def _answer(
            self,
            status: int,
            headers: list[tuple[str, str]],
            data: bytes,
            *,
            cut: bool = False,
            length: str | None = None,
        ) -> None:
            self.send_response_only(status)
            for name, value in headers:
                self.send_header(name, value)
            self.send_header(
                "Content-Length", length if self.command == "HEAD" and length else str(len(data))
            )
            self.end_headers()
            if self.command != "HEAD":
                # After a HEAD, a body would be taken for the beginning of the next answer.
                self.wfile.write(data[: len(data) // 2] if cut else data)
            if cut:
                self.close_connection = True

        def _reset(self) -> None:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            pass

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    proxy.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


_OWN = {"content-length", "connection", "transfer-encoding", "keep-alive", "date", "server"}

"""How bytes of a connection become requests: by libuv and llhttp, written in C, with limits of size and time.

Where the package httptools is missing, uvicorn reads requests with h11. It is written in Python and takes about a
tenth of the time of an upload.
"""

from __future__ import annotations

import asyncio
import importlib.util
import re
from collections.abc import Callable
from typing import Any

import uvicorn

MOST_HEAD = 64 << 10
"""Bytes of a request that are not its body: the first line and the headers."""
LOOK_SECONDS = 30.0
"""How often a connection is looked at. It is closed if no headers came between two looks, or hardly any body."""
LEAST_BODY = 8 << 10
"""Bytes of a body that must come between two looks while the server takes them; fewer are excused once."""
UNREAD_LOOKS = 10
"""Looks after which a client that reads nothing of its answer is given up. A browser may pause a download."""
_TOO_SLOW = b"The request came too slowly."
_408 = (
    b"HTTP/1.1 408 Request Timeout\r\ncontent-type: text/plain; charset=utf-8\r\n"
    b"content-length: %d\r\nconnection: close\r\n\r\n%b" % (len(_TOO_SLOW), _TOO_SLOW)
)
_ASKS_FOR_ANOTHER = re.compile(rb"^upgrade:", re.IGNORECASE | re.MULTILINE)
_BODY_HEADERS = (b"content-length", b"transfer-encoding")


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return what makes the event loop: uvloop's, which takes about a seventh less time, or None without uvloop."""
    if importlib.util.find_spec("uvloop") is None:
        return None
    import uvloop

    return uvloop.new_event_loop


def protocol_options() -> dict[str, Any]:
    """Return the options of `uvicorn.Config` that choose the protocol, and limit the headers of a request."""
    protocol = _patient_h11() if importlib.util.find_spec("httptools") is None else _limited_protocol()
    return {"http": protocol, "h11_max_incomplete_event_size": MOST_HEAD}


class Patience:
    """Decides when a connection has been too slow: whoever sends a byte a minute must not hold it for ever.

    Args:
        protocol: of the connection, one of uvicorn.
    """

    def __init__(self, protocol: Any) -> None:
        self._protocol = protocol
        self._cycle: object = None
        self._received = 0
        self._was_slow = self._was_paused = False
        self._unread = self._unread_looks = 0
        self._next = protocol.loop.call_later(LOOK_SECONDS, self._look)

    def note(self, size: int) -> None:
        """Count bytes that came."""
        self._received += size

    def end(self) -> None:
        """Look no more."""
        self._next.cancel()

    def _look(self) -> None:
        if self._has_stopped_reading():
            # Closing it would wait until the client has read the rest.
            self._protocol.transport.abort()
        elif not self._protocol.transport.is_closing() and self._is_slow():
            if self._protocol.cycle is None or not self._is_being_answered():
                self._protocol.transport.write(_408)
            self._protocol.transport.close()
        self._cycle, self._received = self._protocol.cycle, 0
        self._was_paused = self._protocol.flow.read_paused
        self._next = self._protocol.loop.call_later(LOOK_SECONDS, self._look)

    def _is_slow(self) -> bool:
        cycle = self._protocol.cycle
        if cycle is None or cycle.response_complete:
            # Since the last look, no request has begun.
            return cycle is self._cycle
        is_waited_for = cycle.more_body and not (
            cycle.waiting_for_100_continue or self._protocol.flow.read_paused or self._was_paused
        )
        was_slow, self._was_slow = self._was_slow, is_waited_for and self._received < LEAST_BODY
        return was_slow and self._was_slow

    def _is_being_answered(self) -> bool:
        cycle = self._protocol.cycle
        return bool(cycle.response_started and not cycle.response_complete)

    def _has_stopped_reading(self) -> bool:
        unread = self._protocol.transport.get_write_buffer_size()
        is_same = unread > 0 and unread == self._unread
        self._unread, self._unread_looks = unread, self._unread_looks + 1 if is_same else 0
        return self._unread_looks >= UNREAD_LOOKS


def _patient_h11() -> Any:
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class PatientProtocol(H11Protocol):
        """Ends a connection that is too slow."""

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._patience = Patience(self)

        def connection_lost(self, exc: Exception | None) -> None:
            self._patience.end()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            self._patience.note(len(data))
            super().data_received(data)

    return PatientProtocol


def _limited_protocol() -> Any:
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

    other_protocol = _patient_h11()

    class LimitedProtocol(HttpToolsProtocol):
        """Ends a connection that sends headers, or trailers after a body, without end: they are held in memory.

        For llhttp, a request that asks for another protocol (``Upgrade: h2c``, as `curl --http2` sends) ends with its
        headers. Its body would be lost, or be taken for the next request. Clients ask so at the beginning of a
        connection, which h11 then reads. Later, such a request is refused if it has a body.
        """

        def __init__(self, config: uvicorn.Config, *args: Any, **options: Any) -> None:
            super().__init__(config, *args, **options)
            self._without_body = 0
            self._has_begun = False

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._patience = Patience(self)

        def connection_lost(self, exc: Exception | None) -> None:
            self._patience.end()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            if not self._has_begun:
                self._has_begun = True
                if _ASKS_FOR_ANOTHER.search(data.partition(b"\r\n\r\n")[0]):
                    self._hand_over(data)
                    return
            self._patience.note(len(data))
            self._without_body += len(data)
            super().data_received(data)
            if self._without_body > MOST_HEAD and not self.transport.is_closing():
                if self.cycle is None or self.cycle.response_complete:
                    self.send_400_response("The headers of the request are too large.")
                else:
                    self.transport.close()

        def _hand_over(self, data: bytes) -> None:
            self._patience.end()
            self.connections.discard(self)
            self._unset_keepalive_if_required()
            other = other_protocol(self.config, self.server_state, self.app_state, self.loop)
            self.transport.set_protocol(other)
            other.connection_made(self.transport)
            other.data_received(data)

        def on_headers_complete(self) -> None:
            names = [name for name, _ in self.headers]
            if self.parser.should_upgrade() and any(name in _BODY_HEADERS for name in names):
                raise ValueError("a request that asks for another protocol has a body")
            # llhttp takes a request without a host, and one with two, of which a proxy may read the other one.
            if names.count(b"host") != 1 and (self.parser.get_http_version() == "1.1" or b"host" in names):
                raise ValueError("a request of HTTP/1.1 names one host")
            super().on_headers_complete()

        def on_body(self, body: bytes) -> None:
            self._without_body = 0
            super().on_body(body)

        def on_message_complete(self) -> None:
            self._without_body = 0
            super().on_message_complete()

    return LimitedProtocol

"""How bytes of a connection become requests: by llhttp, written in C, with a limit of its own for headers.

Where the package httptools is missing, uvicorn reads requests with h11. It is written in Python and takes about a
tenth of the time of an upload.
"""

from __future__ import annotations

import importlib.util
import re
from typing import Any

import uvicorn

MOST_HEAD = 64 << 10
"""Bytes of a request that are not its body: the first line and the headers."""
_ASKS_FOR_ANOTHER = re.compile(rb"^upgrade:", re.IGNORECASE | re.MULTILINE)
_BODY_HEADERS = (b"content-length", b"transfer-encoding")


def protocol_options() -> dict[str, Any]:
    """Return the options of `uvicorn.Config` that choose the protocol, and limit the headers of a request."""
    if importlib.util.find_spec("httptools") is None:
        return {"http": "h11", "h11_max_incomplete_event_size": MOST_HEAD}
    return {"http": _limited_protocol(), "h11_max_incomplete_event_size": MOST_HEAD}


def _limited_protocol() -> Any:
    from uvicorn.protocols.http.h11_impl import H11Protocol
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

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

        def data_received(self, data: bytes) -> None:
            if not self._has_begun:
                self._has_begun = True
                if _ASKS_FOR_ANOTHER.search(data.partition(b"\r\n\r\n")[0]):
                    self._hand_over(data)
                    return
            self._without_body += len(data)
            super().data_received(data)
            if self._without_body > MOST_HEAD and not self.transport.is_closing():
                if self.cycle is None or self.cycle.response_complete:
                    self.send_400_response("The headers of the request are too large.")
                else:
                    self.transport.close()

        def _hand_over(self, data: bytes) -> None:
            self.connections.discard(self)
            self._unset_keepalive_if_required()
            other = H11Protocol(self.config, self.server_state, self.app_state, self.loop)
            self.transport.set_protocol(other)
            other.connection_made(self.transport)
            other.data_received(data)

        def on_headers_complete(self) -> None:
            if self.parser.should_upgrade() and any(name in _BODY_HEADERS for name, _ in self.headers):
                raise ValueError("a request that asks for another protocol has a body")
            super().on_headers_complete()

        def on_body(self, body: bytes) -> None:
            self._without_body = 0
            super().on_body(body)

        def on_message_complete(self) -> None:
            self._without_body = 0
            super().on_message_complete()

    return LimitedProtocol

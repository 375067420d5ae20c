"""How bytes of a connection become requests: by llhttp, written in C, with a limit of its own for headers.

Where the package httptools is missing, uvicorn reads requests with h11. It is written in Python and takes about a
tenth of the time of an upload.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import uvicorn

MOST_HEAD = 64 << 10
"""Bytes of a request that are not its body: the first line and the headers."""


def protocol_options() -> dict[str, Any]:
    """Return the options of `uvicorn.Config` that choose the protocol, and limit the headers of a request."""
    if importlib.util.find_spec("httptools") is None:
        return {"http": "h11", "h11_max_incomplete_event_size": MOST_HEAD}
    return {"http": _limited_protocol()}


def _limited_protocol() -> Any:
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

    class LimitedProtocol(HttpToolsProtocol):
        """Ends a connection that sends headers, or trailers after a body, without end: they are held in memory."""

        def __init__(self, config: uvicorn.Config, *args: Any, **options: Any) -> None:
            super().__init__(config, *args, **options)
            self._without_body = 0

        def data_received(self, data: bytes) -> None:
            self._without_body += len(data)
            super().data_received(data)
            if self._without_body > MOST_HEAD and not self.transport.is_closing():
                if self.cycle is None or self.cycle.response_complete:
                    self.send_400_response("The headers of the request are too large.")
                else:
                    self.transport.close()

        def on_body(self, body: bytes) -> None:
            self._without_body = 0
            super().on_body(body)

        def on_message_complete(self) -> None:
            self._without_body = 0
            super().on_message_complete()

    return LimitedProtocol

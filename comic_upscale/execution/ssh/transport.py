"""paramiko with limits on memory: a remote machine may send anything, however much it was allowed to send.

paramiko trusts the packet sizes that a server claims, waits for the end of its greeting line however long it gets,
and stores data beyond the window that it granted.
"""

from __future__ import annotations

import functools
from typing import Any

import paramiko
from paramiko.buffered_pipe import BufferedPipe
from paramiko.packet import Packetizer

LARGEST_PACKET = 1 << 18
"""Bytes. Larger than any packet that we allow a server to send."""

MOST_GREETING_BYTES = 1 << 16
"""The most bytes before the key exchange: the server's identification string, and lines before it."""

WINDOW_BYTES = 1 << 24
"""Bytes that may be in transit unconfirmed: enough for a fast connection with high latency."""


class LimitError(paramiko.SSHException):
    """The remote machine sent more than SSH allows it to."""


class _LimitedPacketizer(Packetizer):
    def __init__(self, socket: Any) -> None:
        super().__init__(socket)
        self._greeting_bytes = 0

    def read_all(self, n: int, check_rekey: bool = False) -> bytes:
        """Read a part of a packet, unless the packet claims to be too large."""
        if n > LARGEST_PACKET:
            raise LimitError("it claims to send a packet of an impossible size")
        return bytes(super().read_all(n, check_rekey))

    def _read_timeout(self, timeout: float) -> bytes:
        piece = bytes(super()._read_timeout(timeout))  # type: ignore[misc]  # the stubs lack it
        self._greeting_bytes += len(piece)
        if self._greeting_bytes > MOST_GREETING_BYTES:
            raise LimitError("its greeting is too long")
        return piece


class LimitedPipe(BufferedPipe):  # type: ignore[type-arg]  # generic in the stubs only
    """The data of a channel that was not read yet.

    Args:
        most: bytes that it holds.
    """

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most
        self.overflowed = False
        """Whether the server sent more."""

    def feed(self, data: Any) -> None:
        """Store data. An error here ends the connection."""
        if len(self) + len(data) > self._most:
            self.overflowed = True
            raise LimitError("it sent more data than it was allowed to")
        super().feed(data)


def open_channel(transport: paramiko.Transport, seconds: float) -> paramiko.Channel:
    """Open a channel for a command, with limited buffers.

    Args:
        transport: a connection that is logged in.
        seconds: how long to wait for the answer.

    Raises:
        SSHException: the server refuses it, or does not answer.
    """
    channel = transport.open_session(window_size=WINDOW_BYTES, timeout=seconds)
    # Nothing arrives before the first request. Each pipe has the whole window, since the server divides it.
    channel.in_buffer = LimitedPipe(WINDOW_BYTES + LARGEST_PACKET)
    channel.in_stderr_buffer = LimitedPipe(WINDOW_BYTES + LARGEST_PACKET)
    return channel


def overflowed(channel: paramiko.Channel) -> bool:
    """Return whether the server sent more data on a channel than it was allowed to."""
    pipes = (channel.in_buffer, channel.in_stderr_buffer)
    return any(isinstance(pipe, LimitedPipe) and pipe.overflowed for pipe in pipes)


def break_off(client: paramiko.SSHClient) -> None:
    """Break a connection, from any thread and at any time: whatever waits for it returns or raises."""
    transport = client.get_transport()
    if transport is not None:
        # Unlike `close`, this sends nothing and waits for nothing. The transport's own thread finds its socket closed,
        # and wakes up whoever waits.
        transport.packetizer.close()


limited_transport = functools.partial(paramiko.Transport, packetizer_class=_LimitedPacketizer)
"""Makes a transport with these limits, for ``SSHClient.connect``."""

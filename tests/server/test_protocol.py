"""Requests as bytes on a connection: what is held in memory has a limit, with each parser of HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the server is not installed: pip install '.[server]'")

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from comic_upscale.server import protocol
from comic_upscale.server.protocol import LEAST_BODY, MOST_HEAD, loop_factory, protocol_options

POST = b"POST / HTTP/1.1\r\nHost: x\r\n"
MUCH = 16 << 20
"""Far less than what an attacker would send."""
SOCKETS = 8 << 20
"""More than what the buffers of both ends of a socket hold."""


@pytest.fixture(params=["httptools", "h11"])
def options(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The options of each parser."""
    if request.param == "h11":
        with hidden("httptools"):
            found = protocol_options()
        assert issubclass(found["http"], H11Protocol)
        return found
    if importlib.util.find_spec("httptools") is None:
        pytest.skip("httptools is not installed")
    return protocol_options()


@contextmanager
def hidden(name: str) -> Iterator[None]:
    """Make a package look as if it were not installed."""
    find_spec = importlib.util.find_spec
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            protocol.importlib.util, "find_spec", lambda each: None if each == name else find_spec(each)
        )
        yield


async def count(scope: Any, receive: Any, send: Any) -> None:
    """An application that answers with the number of bytes of the body."""
    size, more = 0, True
    while more:
        message = await receive()
        size += len(message.get("body", b""))
        more = message.get("more_body", False)
    body = str(size).encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def talk_to_server(options: dict[str, Any], talk: Talk, app: Any = count) -> None:
    """Connect to a server over a real socket, and talk to it."""

    async def run() -> None:
        config = uvicorn.Config(app, port=0, log_config=None, lifespan="off", **options)
        server = uvicorn.Server(config)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(server, "capture_signals", contextmanager(lambda: iter([None])))
            serving = asyncio.ensure_future(server.serve())
            while not server.started:  # noqa: ASYNC110 - uvicorn has no event
                await asyncio.sleep(0.01)
            port = server.servers[0].sockets[0].getsockname()[1]
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                await asyncio.wait_for(talk(reader, writer), 60)
            finally:
                writer.close()
                server.should_exit = True
                await serving

    # Each parser with the loop that it usually runs on.
    with asyncio.Runner(
        loop_factory=None if issubclass(options["http"], H11Protocol) else loop_factory()
    ) as runner:
        runner.run(run())


async def send_until_closed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, piece: bytes) -> int:
    """Send a piece again and again until the server closes the connection, or `MUCH`; return the bytes sent."""
    sent, answered = 0, asyncio.ensure_future(reader.read())
    while not answered.done() and sent < MUCH:
        try:
            writer.write(piece)
            await writer.drain()
        except OSError:
            break
        sent += len(piece)
        await asyncio.sleep(0)
    answered.cancel()
    await asyncio.gather(answered, return_exceptions=True)
    return sent


@pytest.mark.parametrize(
    ("begin", "piece"),
    [
        (POST, b"X-Many: " + b"a" * 1000 + b"\r\n"),
        (POST + b"X-Long: ", b"a" * 4096),
        (b"GET /", b"a" * 4096),
        (
            POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
            b"X-Trailer: " + b"a" * 1000 + b"\r\n",
        ),
    ],
    ids=["many headers", "a long header", "a long address", "trailers"],
)
def test_what_is_no_body_has_a_limit(options: dict[str, Any], begin: bytes, piece: bytes) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(begin)
        assert await send_until_closed(reader, writer, piece) < SOCKETS

    talk_to_server(options, talk)


def test_large_bodies_and_many_requests_pass(options: dict[str, Any]) -> None:
    headers = b"X-Header: " + b"a" * (MOST_HEAD // 2) + b"\r\n"
    body = b"b" * (3 << 20)

    async def answer(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
        return head.split()[1], await reader.readexactly(length)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Together, their headers are larger than the limit of one.
        for _ in range(4):
            writer.write(POST + headers + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            assert await answer(reader) == (b"200", b"%d" % len(body))
        writer.write(POST + headers + b"Transfer-Encoding: chunked\r\n\r\n")
        for _ in range(20_000):
            writer.write(b"1\r\nc\r\n")
        writer.write(b"0\r\n\r\n")
        assert await answer(reader) == (b"200", b"20000")

    talk_to_server(options, talk)


UPGRADE = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
BODY = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
WITH_LENGTH = b"Content-Length: %d\r\n\r\n" % len(BODY)
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
CHUNKS = b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)


@pytest.mark.parametrize(
    "pieces",
    [
        (POST + UPGRADE + WITH_LENGTH + BODY,),
        (POST + UPGRADE + WITH_LENGTH, BODY),
        (POST + UPGRADE + CHUNKED, CHUNKS),
    ],
    ids=["in one piece", "in two pieces", "chunked"],
)
def test_a_request_that_asks_for_another_protocol_keeps_its_body(
    options: dict[str, Any], pieces: tuple[bytes, ...]
) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            # The next piece is a segment of its own.
            await asyncio.sleep(0.05)
        writer.write(POST + b"Connection: close\r\nContent-Length: 1\r\n\r\nx")
        answers = await reader.read()
        assert [answers.count(text) for text in (b"HTTP/1.1 200", b"HTTP/1.1 4")] == [2, 0]
        assert b"\r\n\r\n%d" % len(BODY) in answers

    talk_to_server(options, talk)


def test_a_later_request_for_another_protocol_smuggles_none(options: dict[str, Any]) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(POST + b"Content-Length: 1\r\n\r\nx")
        await reader.readuntil(b"\r\n\r\n1")
        writer.write(POST + UPGRADE + WITH_LENGTH)
        await asyncio.sleep(0.05)
        with contextlib.suppress(OSError):
            writer.write(BODY)
            writer.write_eof()
        answers = await reader.read()
        # Read as a body, or refused: never one request more.
        assert answers.count(b"HTTP/1.1") == 1

    talk_to_server(options, talk)


@pytest.mark.parametrize(
    ("headers", "status"),
    [(b"", b"400"), (b"Host: a\r\nHost: b\r\n", b"400"), (b"Host: a\r\n", b"200"), (b"Host:\r\n", b"200")],
    ids=["none", "two", "one", "empty"],
)
def test_a_request_names_one_host(options: dict[str, Any], headers: bytes, status: bytes) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"GET / HTTP/1.1\r\n" + headers + b"Connection: close\r\n\r\n")
        assert (await reader.readline()).split()[1] == status

    talk_to_server(options, talk)


def test_a_request_of_http_1_0_needs_no_host(options: dict[str, Any]) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"GET / HTTP/1.0\r\n\r\n")
        assert (await reader.readline()).split()[1] == b"200"

    talk_to_server(options, talk)


LONG = b"Content-Length: 1000000\r\n\r\n"


@pytest.mark.parametrize(
    ("begin", "piece"),
    [
        (b"", b""),
        (POST, b""),
        (POST, b"X-Slow: a\r\n"),
        (POST + LONG, b""),
        (POST + LONG, b"b"),
        (POST + b"Content-Length: 1\r\n\r\nx" + POST, b"X-Slow: a\r\n"),
        (POST + UPGRADE + LONG, b"b"),
    ],
    ids=[
        "nothing",
        "no headers",
        "dripping headers",
        "no body",
        "a dripping body",
        "a later request",
        "upgrade",
    ],
)
def test_a_slow_request_does_not_hold_a_connection(
    options: dict[str, Any], begin: bytes, piece: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "LOOK_SECONDS", 0.05)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(begin)
        answered = asyncio.ensure_future(reader.read())
        while not answered.done():
            if piece and not writer.is_closing():
                writer.write(piece)
            await asyncio.sleep(0.01)
        # The connection may break while something is still being sent.
        with contextlib.suppress(ConnectionError):
            answers = answered.result().split(b"HTTP/1.1 ")[1:]
            assert [each[:3] for each in answers][-1:] == [b"408"]

    talk_to_server(options, talk)


def noted(options: dict[str, Any]) -> tuple[dict[str, Any], list[Any]]:
    """Return options whose protocol is kept in a list while it has a connection."""
    protocols: list[Any] = []

    class Noted(options["http"]):  # type: ignore[misc]
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            protocols.append(self)

        def connection_lost(self, exc: Exception | None) -> None:
            protocols.remove(self)
            super().connection_lost(exc)

    return {**options, "http": Noted}, protocols


def test_a_request_that_is_slow_once_is_waited_for(options: dict[str, Any]) -> None:
    options, protocols = noted(options)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(POST + b"Content-Length: %d\r\n\r\n" % (3 * LEAST_BODY))
        for _ in range(2):
            writer.write(b"b" * LEAST_BODY)
            while not protocols or protocols[0]._patience._received < LEAST_BODY:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            # Every second look finds enough.
            protocols[0]._patience._look()
            protocols[0]._patience._look()
        writer.write(b"b" * LEAST_BODY)
        assert (await reader.readline()).split()[1] == b"200"

    talk_to_server(options, talk)


async def answer_long(scope: Any, receive: Any, send: Any) -> None:
    """An application that has a long answer."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for _ in range(1000):
        await send({"type": "http.response.body", "body": bytes(1 << 16), "more_body": True})
    await send({"type": "http.response.body", "body": b""})


def test_a_client_does_not_pay_for_a_slow_server(options: dict[str, Any]) -> None:
    options, protocols = noted(options)

    async def answer_late(scope: Any, receive: Any, send: Any) -> None:
        """Begin to read the body after a while, in which the connection is looked at again and again."""
        for _ in range(5):
            await asyncio.sleep(0.05)
            protocols[0]._patience._look()
        await count(scope, receive, send)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # More than the server takes before the application reads, and nothing before it says so.
        writer.write(POST + b"Content-Length: 300000\r\n\r\n" + bytes(300_000))
        assert (await reader.readuntil(b"300000")).split()[1] == b"200"
        writer.write(POST + b"Expect: 100-continue\r\nContent-Length: 10\r\n\r\n")
        assert (await reader.readline()).split()[1] == b"100"
        writer.write(b"c" * 10)
        assert (await reader.readuntil(b"\r\n10")).split()[1] == b"200"

    talk_to_server(options, talk, answer_late)


def test_an_answer_that_nobody_reads_is_given_up(options: dict[str, Any]) -> None:
    options, protocols = noted(options)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.pause_reading()
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        while not protocols or not protocols[0].transport.get_write_buffer_size():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        while protocols:
            protocols[0]._patience._look()
            await asyncio.sleep(0.01)

    talk_to_server(options, talk, answer_long)

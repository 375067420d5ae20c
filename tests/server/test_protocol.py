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

from comic_upscale.server import protocol
from comic_upscale.server.protocol import MOST_HEAD, protocol_options

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
        assert found["http"] == "h11"
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


def talk_to_server(options: dict[str, Any], talk: Talk) -> None:
    """Connect to a server over a real socket, and talk to it."""

    async def run() -> None:
        config = uvicorn.Config(count, port=0, log_config=None, lifespan="off", **options)
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

    asyncio.run(run())


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

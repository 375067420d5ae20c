"""How the bytes of pages travel between a run and its actors: over TCP, and never through Ray's object store.

The run listens. An actor asks for the file of a page when it has room for it, and sends the output when it is ready.
Each connection begins with a word that only the actors of this run know.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from comic_upscale.errors import ComicUpscaleError, ConnectionLostError, PageError, RemoteError
from comic_upscale.execution.base import PageTask, SourceBytes, as_page_error
from comic_upscale.execution.worker_protocol import Channel, Frame, ProtocolError, error_fields, error_of

MOST_CONNECTIONS = 4
"""Connections of one actor."""
CONNECT_SECONDS = 10.0
_TRIES = 4


@dataclass(frozen=True, slots=True)
class PageServerAddress:
    """Where an actor finds the run."""

    host: str
    port: int
    word: str = field(repr=False)


class PageServer:
    """Serves the tasks of a run to its actors, and takes their outputs. Used on one event loop."""

    def __init__(self) -> None:
        self._word = secrets.token_urlsafe(32)
        self._server: asyncio.Server | None = None
        self._handlers: set[asyncio.Task[None]] = set()
        self.tasks: dict[str, PageTask] = {}
        """The tasks in flight, by their keys."""
        self.outputs: dict[str, bytes] = {}
        """Outputs whose outcomes have not arrived yet, by the keys of their tasks."""

    async def start(self, host: str) -> PageServerAddress:
        """Listen at an address of this machine that the actors reach."""
        self._server = await asyncio.start_server(self._handle, host, 0)
        return PageServerAddress(host, self._server.sockets[0].getsockname()[1], self._word)

    async def close(self) -> None:
        """Stop listening, and hang up."""
        if self._server is not None:
            self._server.close()
        for handler in self._handlers:
            handler.cancel()
        await asyncio.gather(*self._handlers, return_exceptions=True)
        self.tasks.clear()
        self.outputs.clear()

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handler = asyncio.current_task()
        assert handler is not None
        self._handlers.add(handler)
        channel = Channel(reader, writer)
        try:
            hello = await channel.receive()
            if not hmac.compare_digest(str(hello.fields.get("word")), self._word):
                return
            await channel.send("welcome")
            while True:
                frame = await channel.receive()
                key = str(frame.fields.get("key"))
                if frame.kind == "output":
                    if key in self.tasks:
                        self.outputs[key] = frame.data
                    await channel.send("taken")
                else:
                    await self._send_page(channel, key)
        except (EOFError, OSError, ProtocolError, asyncio.CancelledError):
            # An actor that ends hangs up.
            return
        finally:
            self._handlers.discard(handler)
            with contextlib.suppress(asyncio.CancelledError):
                await channel.close()

    async def _send_page(self, channel: Channel, key: str) -> None:
        task = self.tasks.get(key)
        if task is None:
            await channel.send(
                "page", **error_fields(PageError("vanished", "nobody waits for this page any more"))
            )
            return
        try:
            found = await task.read()
        except Exception as error:
            try:
                failed: ComicUpscaleError = as_page_error(error, task.source)
            except ComicUpscaleError as whole:
                failed = whole
            await channel.send("page", **error_fields(failed))
            return
        await channel.send("page", found.data, seconds=found.seconds)


class PageClient:
    """The side of an actor.

    Args:
        address: of the run.
    """

    def __init__(self, address: PageServerAddress) -> None:
        self._address = address
        self._idle: list[Channel] = []
        self._limit = asyncio.Semaphore(MOST_CONNECTIONS)

    async def check(self) -> None:
        """Connect once.

        Raises:
            RemoteError: the run cannot be reached from here.
        """
        async with self._connection():
            pass

    async def read(self, key: str) -> SourceBytes:
        """Return the file of a page; raises the error of its task."""
        frame = await self._ask("read", b"", key)
        if "error" in frame.fields:
            raise error_of(frame.fields)
        return SourceBytes(frame.data, float(frame.fields["seconds"]))

    async def send(self, key: str, data: bytes) -> None:
        """Send the output of a page."""
        await self._ask("output", data, key)

    async def _ask(self, kind: str, data: bytes, key: str) -> Frame:
        for _ in range(_TRIES):
            try:
                async with self._connection() as channel:
                    await channel.send(kind, data, key=key)
                    return await channel.receive()
            except (OSError, EOFError) as error:
                broken = error
        raise ConnectionLostError(
            f"the connection from an actor to this run broke {_TRIES} times: {broken or 'it was closed'}. Run the same "
            "command again to continue"
        )

    async def close(self) -> None:
        """Hang up."""
        for channel in self._idle:
            await channel.close()
        self._idle.clear()

    @contextlib.asynccontextmanager
    async def _connection(self) -> AsyncIterator[Channel]:
        async with self._limit:
            channel = self._idle.pop() if self._idle else await self._connect()
            try:
                yield channel
            except BaseException:
                # An answer may still be on its way.
                await channel.close()
                raise
            self._idle.append(channel)

    async def _connect(self) -> Channel:
        host, port = self._address.host, self._address.port
        try:
            async with asyncio.timeout(CONNECT_SECONDS), contextlib.AsyncExitStack() as stack:
                channel = Channel(*await asyncio.open_connection(host, port))
                stack.push_async_callback(channel.close)
                await channel.send("hello", word=self._address.word)
                await channel.receive()
                stack.pop_all()
        except (OSError, EOFError, TimeoutError, ProtocolError) as error:
            raise RemoteError(
                f"an actor of the cluster cannot reach this run at {host}:{port}: {error or 'no answer'}. Start the "
                "run inside the cluster (ray job submit), or keep pages and outputs in a bucket"
            ) from error
        return channel

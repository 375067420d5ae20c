"""A worker behind a Unix socket: runs of this user on this machine send it pages, and share its engines.

The folder of the socket is private (0700), and the user at the other end is checked, too. A connection belongs to one
run, and the engines stay open when it ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import stat
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from comic_upscale.errors import ComicUpscaleError, DeviceError, SettingsError
from comic_upscale.execution.base import PageTask, SourceBytes
from comic_upscale.execution.events import Event, Preparing
from comic_upscale.execution.local.executor import LocalExecutor
from comic_upscale.execution.stop import StopRequest
from comic_upscale.execution.worker_protocol import (
    TASK_FIELDS,
    TELL_SECONDS,
    VERSION,
    Channel,
    Frame,
    ProtocolError,
    check_peer,
    check_socket_path,
    error_fields,
    error_of,
    outcome_fields,
    within_fields,
)
from comic_upscale.settings.job import JobSettings
from comic_upscale.settings.option_json import from_json
from comic_upscale.worker.engines import EngineCache

log = logging.getLogger(__name__)

GRACE_SECONDS = 60.0
"""How long runs may take to finish their pages in flight when the worker ends."""
_LOOK_SECONDS = 0.2
_STOPPING = (
    "the worker is stopping: run the same command again to continue, with another worker or without --worker"
)


class SocketWorker:
    """Serves runs over a socket.

    Args:
        path: of the socket; its folder is created if it is missing.
        engines: shared by all runs; the caller closes them.
        stop: of the worker. A device that failed requests it: it may be unusable for the rest of this process.
    """

    def __init__(self, path: Path, engines: EngineCache, stop: StopRequest) -> None:
        self.path = check_socket_path(path)
        self._engines, self._stop = engines, stop
        self._runs: set[asyncio.Task[None]] = set()
        self._idle_since = time.monotonic()

    @property
    def idle_seconds(self) -> float:
        """Seconds since the last run; 0 while there is one."""
        return 0.0 if self._runs else time.monotonic() - self._idle_since

    async def serve(self, idle_timeout: float | None, on_ready: Callable[[], None] = lambda: None) -> None:
        """Serve until a stop, or until no run has come for a while. Runs in progress finish their pages in flight.

        Args:
            idle_timeout: seconds; None to serve until a stop.
            on_ready: called once runs can connect.

        Raises:
            SettingsError: the folder is not private, or another worker listens there.
        """
        async with self.listening():
            on_ready()
            # Signals set the stop, and they know no event loop.
            while not self._stop.requested and (  # noqa: ASYNC110
                idle_timeout is None or self.idle_seconds < idle_timeout
            ):
                await asyncio.sleep(_LOOK_SECONDS)
            if self._runs:
                await asyncio.wait(self._runs, timeout=GRACE_SECONDS)

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Accept runs inside the ``async with`` block; errors as for `serve`."""
        bound = _bind(self.path)
        server = await asyncio.start_unix_server(self._accept, sock=bound)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                self.path.unlink()
            server.close()
            for run in self._runs:
                run.cancel()
            await asyncio.gather(*self._runs, return_exceptions=True)
            await server.wait_closed()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        run = asyncio.current_task()
        assert run is not None
        self._runs.add(run)
        channel = Channel(reader, writer)
        try:
            if not check_peer(writer.get_extra_info("socket")):
                log.error("a process of another user was refused at %s", self.path)
                return
            await _Run(channel, self._engines, self._stop).serve()
        except (EOFError, OSError):
            # The run has ended.
            return
        except ProtocolError as error:
            log.error("a run was refused: %s", error)
        except asyncio.CancelledError:
            # The worker ends.
            return
        except Exception:
            log.exception("a run failed unexpectedly")
        finally:
            self._runs.discard(run)
            self._idle_since = time.monotonic()
            await channel.close()


class _Run:
    """One connection."""

    def __init__(self, channel: Channel, engines: EngineCache, worker_stop: StopRequest) -> None:
        self._channel, self._engines, self._worker_stop = channel, engines, worker_stop
        self._executor = LocalExecutor(engines.open_engines)
        self._stop = StopRequest()
        self._round = 0
        self._tasks: asyncio.Queue[Frame | None] = asyncio.Queue()
        self._reads: dict[int, asyncio.Future[SourceBytes]] = {}
        self._processing: asyncio.Task[None] | None = None
        self._is_ending = False

    async def serve(self) -> None:
        """Answer until the run hangs up."""
        try:
            while True:
                await self._answer(await self._channel.receive())
        finally:
            self._stop.request("the run has ended")
            if self._processing is not None:
                self._processing.cancel()
                await asyncio.gather(self._processing, return_exceptions=True)
            await self._executor.close()

    async def _answer(self, frame: Frame) -> None:
        fields = frame.fields
        try:
            match frame.kind:
                case "accelerator":
                    found = await asyncio.to_thread(_has_accelerator, str(fields["device"]))
                    await self._channel.send("accelerator", accelerator=found)
                case "open":
                    await self._open(fields)
                case "process":
                    self._round, self._tasks, self._stop = (
                        int(fields["round"]),
                        asyncio.Queue(),
                        StopRequest(),
                    )
                    self._processing = asyncio.ensure_future(self._process())
                case "task" | "end" if fields["round"] == self._round:
                    self._tasks.put_nowait(frame if frame.kind == "task" else None)
                case "task" | "end":
                    # Of a round that has ended.
                    return
                case "page":
                    self._take_page(frame)
                case "stop":
                    self._stop.request(str(fields["reason"]), fields.get("of"))
                case _:
                    raise ProtocolError(f"a run sent {frame.kind[:32]!r}, which means nothing here")
        except ProtocolError:
            raise
        except ComicUpscaleError as error:
            await self._fail(error)
        except (KeyError, TypeError, ValueError) as error:
            raise ProtocolError(f"a run sent a message that lacks something: {error!r}") from None

    async def _open(self, fields: Any) -> None:
        if fields["version"] != VERSION:
            raise SettingsError(
                "the worker runs another version of comic-upscale: start it again, or leave --worker out"
            )
        settings = from_json(JobSettings, fields["settings"])
        loop, sent = asyncio.get_running_loop(), list[asyncio.Task[None]]()

        def on_progress(event: Event) -> None:
            if isinstance(event, Preparing):
                sent.append(loop.create_task(self._channel.send("preparing", what=event.what)))

        try:
            info = await self._executor.open(
                settings, model=str(fields["model"]), fingerprint="", spending=None, on_progress=on_progress
            )
        finally:
            await asyncio.gather(*sent)
        await self._channel.send("opened", info=asdict(info))

    async def _process(self) -> None:
        telling = asyncio.ensure_future(self._tell())
        try:
            async with contextlib.aclosing(
                self._executor.process(self._tasks_of_run(), self._stop)
            ) as outcomes:
                async for outcome in outcomes:
                    fields, data = outcome_fields(outcome)
                    await self._channel.send("outcome", data, busy=self._executor.busy(), **fields)
                    # An output is large, and the next one may take a while.
                    del outcome, data
            if self._is_ending:
                await self._fail(DeviceError(_STOPPING))
                return
            await self._channel.send("done", info=asdict(self._executor.info()))
        except OSError:
            # The run has ended.
            return
        except ComicUpscaleError as error:
            await self._fail(error)
        except Exception as error:
            log.exception("the pages of a run failed unexpectedly")
            await self._fail(
                DeviceError(f"unexpected error in the worker: {type(error).__name__}; its log has more")
            )
        finally:
            telling.cancel()
            await asyncio.gather(telling, return_exceptions=True)

    async def _tell(self) -> None:
        """Tell what is done of the pages in progress, whenever it has changed. Most engines tell nothing."""
        told: list[Any] = []
        with contextlib.suppress(OSError):
            while True:
                await asyncio.sleep(TELL_SECONDS)
                within = within_fields(self._executor.activity.within)
                if within != told:
                    told = within
                    await self._channel.send("within", pages=told)

    async def _fail(self, error: ComicUpscaleError) -> None:
        if isinstance(error, DeviceError) and self._processing is not None and not self._is_ending:
            self._worker_stop.request("the device failed")
        with contextlib.suppress(OSError):
            await self._channel.send("failed", **error_fields(error))

    async def _tasks_of_run(self) -> AsyncIterator[PageTask]:
        while True:
            if self._worker_stop.requested:
                # Its pages in flight finish. The run continues with other engines.
                self._is_ending = True
                return
            await self._channel.send("want")
            frame = await self._tasks.get()
            if frame is None:
                return
            fields = {name: frame.fields[name] for name in TASK_FIELDS}
            yield PageTask(**fields, read=partial(self._read, fields["row_id"]))

    async def _read(self, row_id: int) -> SourceBytes:
        future = self._reads.get(row_id)
        if future is None:
            future = self._reads[row_id] = asyncio.get_running_loop().create_future()
            await self._channel.send("read", row_id=row_id)
        try:
            return await future
        finally:
            self._reads.pop(row_id, None)

    def _take_page(self, frame: Frame) -> None:
        future = self._reads.get(frame.fields["row_id"])
        if future is None or future.done():
            return
        if "error" in frame.fields:
            future.set_exception(error_of(frame.fields))
        else:
            future.set_result(SourceBytes(frame.data, float(frame.fields["seconds"])))


def _has_accelerator(device: str) -> bool:
    from comic_upscale.engines.torch.device import all_accelerators

    return all_accelerators(device)


def _bind(path: Path) -> socket.socket:
    """Return a socket that listens at a path that only this user reaches.

    Raises:
        SettingsError: the folder is not private, another worker listens there, or the path is taken.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = path.parent.stat()
        if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
            raise SettingsError(
                f"--socket: {path.parent} must belong to you, and to nobody else: chmod 700 {path.parent}, or choose a "
                "folder of your own"
            )
        _remove_dead(path)
        bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            bound.bind(os.fspath(path))
            path.chmod(0o600)
        except BaseException:
            bound.close()
            raise
    except OSError as error:
        raise SettingsError(f"--socket: nothing can listen at {path}: {error.strerror or error}") from error
    return bound


def _remove_dead(path: Path) -> None:
    """Remove the socket of a worker that was killed."""
    try:
        kind = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(kind):
        raise SettingsError(f"--socket: {path} exists and is no socket: choose another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink()
            return
    raise SettingsError(f"--socket: another worker listens at {path}: use it, or choose another path")

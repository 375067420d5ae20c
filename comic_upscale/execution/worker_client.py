"""The executor that sends pages to a worker of this machine, whose engines are open already.

Nothing here imports torch: a small run with a worker begins at once. Without a worker at the socket, the run opens its
own engines.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

from comic_upscale.costs.spending import Spending
from comic_upscale.engines.registry import OpenEngines, find_factory
from comic_upscale.errors import DeviceError, SettingsError
from comic_upscale.execution.base import (
    Activity,
    Executor,
    ExecutorInfo,
    PageOutcome,
    PageTask,
    PageUpscaled,
    as_page_error,
)
from comic_upscale.execution.events import Listener, Preparing
from comic_upscale.execution.received_output import check_received
from comic_upscale.execution.stop import CEILING, StopRequest
from comic_upscale.execution.worker_protocol import (
    TASK_FIELDS,
    VERSION,
    Channel,
    Frame,
    ProtocolError,
    check_peer,
    check_socket_path,
    error_fields,
    error_of,
    outcome_of,
    within_of,
)
from comic_upscale.library.page_rules import with_models
from comic_upscale.settings.job import JobSettings
from comic_upscale.settings.option_json import to_json

_LOOK_SECONDS = 0.1
"""How often a round looks for a stop while no outcome comes."""


class WorkerExecutor:
    """Processes pages by a worker of this machine; an `Executor`.

    Args:
        path: the socket of the worker.
        open_engines: opens the engines of this process if there is no worker.
    """

    is_remote = False

    def __init__(self, path: Path, open_engines: OpenEngines) -> None:
        self._path, self._open_engines = check_socket_path(path), open_engines
        self._channel: Channel | None = None
        self._instead: Executor | None = None
        self._info: ExecutorInfo | None = None
        self._spending: Spending | None = None
        self._busy: dict[str, float] = {}
        self._round = 0
        self.activity = Activity()

    async def has_accelerator(self, settings: JobSettings, on_progress: Listener) -> bool | None:
        """Return whether the worker computes on GPUs only; see `Executor.has_accelerator`."""
        channel = await self._connect()
        if channel is None:
            return None
        found = (await self._ask(channel, "accelerator", on_progress, device=settings.device)).fields[
            "accelerator"
        ]
        return None if found is None else bool(found)

    async def open(
        self,
        settings: JobSettings,
        *,
        model: str,
        fingerprint: str,
        spending: Spending | None,
        on_progress: Listener,
    ) -> ExecutorInfo:
        """Let the worker load the network, unless it has; see `Executor.open`."""
        self._spending = spending
        by_call = find_factory(settings.backend).billing == "call"
        channel = None if by_call else await self._connect()
        if channel is None:
            from comic_upscale.execution.local.executor import LocalExecutor

            self._instead = LocalExecutor(self._open_engines)
            self.activity = self._instead.activity
            info = await self._instead.open(
                settings, model=model, fingerprint=fingerprint, spending=spending, on_progress=on_progress
            )
            note = f"No worker listens at {self._path}, so this run uses engines of its own."
            if by_call:
                # The worker has no meter of this run.
                note = f"--engine {settings.backend} is billed by call, so this run does not use the worker."
            return replace(info, warnings=(*info.warnings, note))
        record = to_json(_absolute(settings))
        opened = await self._ask(channel, "open", on_progress, settings=record, model=model, version=VERSION)
        self._info = _info_of(opened)
        return self._info

    def info(self) -> ExecutorInfo:
        """Return the devices and the precision of the worker's engines, as it last named them."""
        if self._instead is not None:
            return self._instead.info()
        assert self._info is not None, "the executor is not open"
        return self._info

    def process(self, tasks: AsyncIterator[PageTask], stop: StopRequest) -> AsyncGenerator[PageOutcome, None]:
        """Let the worker process tasks; see `Executor.process`."""
        if self._instead is not None:
            return self._instead.process(tasks, stop)
        return self._process(tasks, stop)

    async def _process(
        self, tasks: AsyncIterator[PageTask], stop: StopRequest
    ) -> AsyncGenerator[PageOutcome, None]:
        assert self._channel is not None, "the executor is not open"
        self._round += 1
        round_ = _Round(self._channel, self._round, tasks, stop, self._spending, self.activity)
        has_ended = False
        try:
            async with contextlib.aclosing(round_.frames()) as frames:
                async for frame in frames:
                    if frame.kind == "done":
                        has_ended = True
                        self._info = _info_of(frame)
                        return
                    if frame.kind == "within":
                        self.activity.within = within_of(frame.fields.get("pages"))
                        continue
                    outcome = await round_.take_outcome(frame)
                    self.activity.within.pop(outcome.row_id, None)
                    self._busy = _busy_of(frame)
                    if self._spending is not None and isinstance(outcome, PageUpscaled):
                        self._spending.note_batch(
                            outcome.width * outcome.height, outcome.seconds.get("upscale", 0.0)
                        )
                    yield outcome
        except (EOFError, OSError, ProtocolError) as error:
            reason = str(error) if isinstance(error, ProtocolError) else "it has ended"
            raise DeviceError(
                f"the worker at {self._path} cannot go on: {reason}. Run the same command again to continue, with "
                "another worker or without --worker"
            ) from error
        finally:
            self.activity.within = {}
            if not has_ended:
                # The worker may still send outcomes of this round.
                await self._hang_up()

    def busy(self) -> dict[str, float]:
        """Return how busy the stages of the worker were when it sent its last outcome."""
        return self._instead.busy() if self._instead is not None else dict(self._busy)

    async def close(self) -> None:
        """Hang up; the engines of the worker stay open."""
        if self._instead is not None:
            await self._instead.close()
        await self._hang_up()

    async def _hang_up(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close()

    async def _connect(self) -> Channel | None:
        """Return the connection to the worker; None if there is no worker.

        Raises:
            SettingsError: the socket belongs to somebody else.
        """
        if self._channel is None:
            try:
                reader, writer = await asyncio.open_unix_connection(self._path)
            except PermissionError as error:
                raise SettingsError(
                    f"--worker: {self._path} belongs to another user: start your own"
                ) from error
            except OSError:
                return None
            self._channel = Channel(reader, writer)
            if not check_peer(writer.get_extra_info("socket")):
                await self._hang_up()
                raise SettingsError(
                    f"--worker: a process of another user listens at {self._path}: choose another path"
                )
        return self._channel

    async def _ask(self, channel: Channel, kind: str, on_progress: Listener, **fields: Any) -> Frame:
        """Send a question, and return its answer.

        Raises:
            ComicUpscaleError: the answer is an error.
            DeviceError: the worker is gone.
        """
        try:
            await channel.send(kind, **fields)
            while True:
                frame = await channel.receive()
                if frame.kind == "failed":
                    raise error_of(frame.fields)
                if frame.kind != "preparing":
                    return frame
                on_progress(Preparing(what=str(frame.fields["what"])))
        except (EOFError, OSError, ProtocolError) as error:
            raise DeviceError(
                f"the worker at {self._path} has ended while it prepared the run: start it again, or leave --worker out"
            ) from error


class _Round:
    """One call of `Executor.process`: it sends what the worker asks for, and passes its outcomes on."""

    def __init__(
        self,
        channel: Channel,
        number: int,
        tasks: AsyncIterator[PageTask],
        stop: StopRequest,
        spending: Spending | None,
        activity: Activity,
    ) -> None:
        self._channel, self._number, self._tasks = channel, number, tasks
        self._stop, self._spending, self._activity = stop, spending, activity
        self._in_flight: dict[int, PageTask] = {}
        self._wanted = asyncio.Semaphore(0)
        # One outcome: the socket holds back the worker.
        self._found: asyncio.Queue[Frame | Exception] = asyncio.Queue(1)
        self._running: set[asyncio.Task[None]] = set()
        self._has_stopped = False

    async def frames(self) -> AsyncGenerator[Frame, None]:
        """Yield the frames ``outcome`` and ``within``, and ``done`` at the end."""
        try:
            await self._channel.send("process", round=self._number)
            for work in (self._listen, self._feed, self._watch):
                self._start(work)
            while True:
                found = await self._found.get()
                if isinstance(found, Exception):
                    raise found
                yield found
                if found.kind == "done":
                    return
                # Not only now and then: a worker may finish many pages in the meantime.
                await self._pass_stop_on()
        finally:
            for task in self._running:
                task.cancel()
            await asyncio.gather(*self._running, return_exceptions=True)

    async def take_outcome(self, frame: Frame) -> PageOutcome:
        """Return the outcome in a frame, of a page that the worker has.

        Raises:
            ProtocolError: it is of another page, or is not what it says.
        """
        outcome = outcome_of(frame, time.perf_counter())
        # Whatever the worker sent as JSON.
        task = self._in_flight.pop(outcome.row_id, None) if isinstance(outcome.row_id, int) else None
        if task is None:
            raise ProtocolError("it sent an outcome of a page that it does not have")
        if isinstance(outcome, PageUpscaled):
            try:
                await asyncio.to_thread(check_received, outcome, task.format, "it")
            except DeviceError as error:
                raise ProtocolError(str(error)) from error
        return outcome

    def _start(self, work: Callable[..., Coroutine[Any, Any, None]], *arguments: Frame) -> None:
        task = asyncio.ensure_future(self._guarded(work, *arguments))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _guarded(self, work: Callable[..., Coroutine[Any, Any, None]], *arguments: Frame) -> None:
        # Called here: a task that is cancelled before it begins would never await a coroutine that it was given.
        try:
            await work(*arguments)
        except Exception as error:
            await self._found.put(error)

    async def _listen(self) -> None:
        while True:
            frame = await self._channel.receive()
            match frame.kind:
                case "want":
                    self._wanted.release()
                case "read":
                    self._start(self._send_page, frame)
                case "failed":
                    raise error_of(frame.fields)
                case "outcome" | "within" | "done":
                    await self._found.put(frame)
                    if frame.kind == "done":
                        return
                case _:
                    raise ProtocolError(f"it sent {frame.kind[:32]!r}, which means nothing here")

    async def _feed(self) -> None:
        """Send a task for each that the worker wants, and say when there are no more."""
        while True:
            await self._wanted.acquire()
            if self._spending is not None and not self._spending.allows():
                self._stop.request(self._spending.why(), CEILING)
                await self._pass_stop_on()
            task = None if self._stop.requested else await anext(self._tasks, None)
            if task is None:
                await self._channel.send("end", round=self._number)
                return
            self._in_flight[task.row_id] = task
            self._activity.in_hand = task.source
            fields = {name: getattr(task, name) for name in TASK_FIELDS}
            await self._channel.send("task", round=self._number, **fields)

    async def _send_page(self, frame: Frame) -> None:
        task = self._in_flight.get(frame.fields["row_id"])
        if task is None:
            raise ProtocolError("it asked for a page that it does not have")
        try:
            found = await task.read()
        except Exception as error:
            # Raises it if it concerns more than this page.
            failed = as_page_error(error, task.source)
            await self._channel.send("page", row_id=task.row_id, **error_fields(failed))
            return
        await self._channel.send("page", found.data, row_id=task.row_id, seconds=found.seconds)

    async def _watch(self) -> None:
        while not self._has_stopped:
            await asyncio.sleep(_LOOK_SECONDS)
            await self._pass_stop_on()

    async def _pass_stop_on(self) -> None:
        if self._stop.requested and not self._has_stopped:
            self._has_stopped = True
            await self._channel.send("stop", reason=self._stop.reason or "stopped", of=self._stop.kind)


def _busy_of(frame: Frame) -> dict[str, float]:
    """Return how busy the stages of the worker are.

    Raises:
        ProtocolError: the frame does not say.
    """
    try:
        return {str(stage): float(share) for stage, share in frame.fields["busy"].items()}
    except (KeyError, TypeError, ValueError, AttributeError):
        raise ProtocolError("an outcome arrived that cannot be read") from None


def _info_of(frame: Frame) -> ExecutorInfo:
    try:
        fields = dict(frame.fields["info"])
        return ExecutorInfo(**{**fields, "warnings": tuple(fields["warnings"])})
    except (KeyError, TypeError):
        raise DeviceError(
            "the worker does not say what it computes on: start it again with this version"
        ) from None


def _absolute(settings: JobSettings) -> JobSettings:
    """Return the settings with the path of weights as the worker, in another folder, finds it."""
    models = {settings.model, *(str(rule.changes.get("model", "")) for rule in settings.rules)}
    moved = {name: str(Path(name).absolute()) for name in models if name and Path(name).is_file()}
    return with_models(replace(settings, model=moved.get(settings.model, settings.model)), moved)

"""An actor of the cluster: it holds a local executor with its engines, and processes the pages that it is given.

Nothing here imports Ray, which only calls it. Pages in a bucket are read, and outputs written, by the actor itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from comic_upscale.engines.registry import OpenEngines
from comic_upscale.errors import ComicUpscaleError, DeviceError, PageError
from comic_upscale.execution.base import PageOutcome, PageTask, PageUpscaled, SourceBytes, failed_page
from comic_upscale.execution.local.executor import LocalExecutor
from comic_upscale.execution.ray.page_server import PageClient, PageServerAddress
from comic_upscale.execution.stop import StopRequest
from comic_upscale.execution.worker_protocol import (
    TELL_SECONDS,
    VERSION,
    error_fields,
    outcome_fields,
    within_fields,
)
from comic_upscale.library.page_rules import with_models
from comic_upscale.settings.job import JobSettings
from comic_upscale.settings.places import Place, is_bucket, place_of
from comic_upscale.storage.buckets import Bucket
from comic_upscale.storage.object_outputs import ObjectOutputStore
from comic_upscale.storage.object_sources import read_object

_STORE_TRIES = 2
"""How often an output is written if the bucket gives back something else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorSetup:
    """All that an actor needs before its first page."""

    version: str
    settings: JobSettings
    """Of the job, with the number of threads of the actor."""
    model: str
    fingerprint: str
    open_engines: OpenEngines
    weights: bytes | None
    """The content of weights that the user named by their path on his machine."""
    pages: PageServerAddress
    """Where pages come from, and outputs go to, that are in no bucket."""
    environment: Mapping[str, str] = field(repr=False)
    rule_weights: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    """The same as ``weights`` for the models of rules, by their names in the rules."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorTask:
    """A page for an actor."""

    key: str
    """Identifies the task and the try."""
    row_id: int
    source: str
    format: Any
    extension: str
    sha256: str
    points: tuple[int, int] | None
    """As in `PageTask`."""
    address: Path | None
    """Of the page in a bucket; None if the run sends it."""
    stored_as: str | None
    """The name in the output's store under which the output is written; None to send it to the run."""


class PageActor:
    """Processes pages. Its methods run on one event loop, many at a time."""

    def __init__(self) -> None:
        self._executor: LocalExecutor | None = None
        self._queue: asyncio.Queue[PageTask | None] = asyncio.Queue()
        self._waiting: dict[int, tuple[ActorTask, asyncio.Future[PageOutcome | None]]] = {}
        self._running: asyncio.Task[None] | None = None
        self._stop = StopRequest()
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    async def start(self, setup: ActorSetup) -> dict[str, Any]:
        """Open the engines; return the description of the executor, or an error, as JSON."""
        try:
            if setup.version != VERSION:
                raise DeviceError(
                    f"an actor has version {VERSION}, the run {setup.version}: install the same everywhere"
                )
            for name, value in setup.environment.items():
                # For the library of buckets, which reads its variables itself.
                os.putenv(name, value)
            settings = self._with_weights(setup)
            self._client = PageClient(setup.pages)
            if not (is_bucket(settings.input) and is_bucket(settings.output)):
                await self._client.check()
            if is_bucket(settings.input):
                place = place_of(settings.input)
                self._bucket = Bucket(Place(place.kind, place.bucket, ""))
            if is_bucket(settings.output):
                self._outputs = ObjectOutputStore(settings.output)
            self._executor = LocalExecutor(setup.open_engines)
            info = await self._executor.open(
                settings,
                model=setup.model,
                fingerprint=setup.fingerprint,
                spending=None,
                on_progress=lambda _: None,
            )
        except ComicUpscaleError as error:
            return error_fields(error)
        return asdict(info)

    async def do(self, task: ActorTask) -> dict[str, Any]:
        """Process a page; return its outcome as JSON, ``{"none": True}`` if it had not begun, or an error."""
        assert self._executor is not None
        found: asyncio.Future[PageOutcome | None] = asyncio.get_running_loop().create_future()
        self._waiting[task.row_id] = task, found
        read = (
            partial(self._read_object, task.address) if task.address else partial(self._client.read, task.key)
        )
        await self._queue.put(
            PageTask(
                row_id=task.row_id,
                source=task.source,
                format=task.format,
                extension=task.extension,
                read=read,
                sha256=task.sha256,
                points=task.points,
            )
        )
        if self._running is None or self._running.done():
            self._stop = StopRequest()
            self._running = asyncio.create_task(self._run())
        try:
            outcome = await found
            return {"none": True} if outcome is None else await self._deliver(task, outcome)
        except PageError as error:
            return self._answer(failed_page(task.row_id, task.source, error))[0]
        except ComicUpscaleError as error:
            return error_fields(error)

    async def tell(self, told: list[list[Any]]) -> list[list[Any]]:
        """Return what is done of the pages in progress, by row id, once it is not what was told before."""
        while True:
            within = [] if self._executor is None else within_fields(self._executor.activity.within)
            if within != told:
                return within
            await asyncio.sleep(TELL_SECONDS)

    async def stop(self) -> None:
        """Let the pages that have reached the engines finish, and drop the others."""
        if self._running is not None and not self._running.done():
            self._stop.request("stop")
            await self._queue.put(None)

    async def close(self) -> bool:
        """End everything, and close the engines."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait({self._running})
        if self._executor is not None:
            await self._client.close()
            await self._executor.close()
        if self._folder is not None:
            self._folder.cleanup()
        return True

    async def _run(self) -> None:
        """Process the pages of the queue until a stop. An error ends every page that has not ended."""
        assert self._executor is not None
        failure: BaseException | None = None
        try:
            async with aclosing(self._executor.process(self._tasks(), self._stop)) as outcomes:
                async for outcome in outcomes:
                    if outcome.row_id in self._waiting:
                        self._waiting.pop(outcome.row_id)[1].set_result(outcome)
                    del outcome
        except ComicUpscaleError as error:
            failure = error
        except Exception as error:
            failure = DeviceError(f"an actor failed: {error!r}")
        while not self._queue.empty():
            self._queue.get_nowait()
        waiting, self._waiting = self._waiting, {}
        for _, found in waiting.values():
            if found.done():
                continue
            if failure is None:
                found.set_result(None)
            else:
                found.set_exception(failure)

    async def _tasks(self) -> AsyncIterator[PageTask]:
        while (task := await self._queue.get()) is not None:
            yield task

    async def _read_object(self, address: Path) -> SourceBytes:
        return SourceBytes(await asyncio.to_thread(read_object, self._bucket, address))

    async def _deliver(self, task: ActorTask, outcome: PageOutcome) -> dict[str, Any]:
        """Write or send the output, and return the rest."""
        assert self._executor is not None
        fields, data = self._answer(outcome)
        if isinstance(outcome, PageUpscaled):
            if task.stored_as is None:
                await self._client.send(task.key, data)
            else:
                await self._store(task.stored_as, data, outcome.sha256, task.row_id)
                fields["stored"] = {"name": task.stored_as, "size": len(data)}
        return fields

    async def _store(self, name: str, data: bytes, sha256: str, token: int) -> None:
        """Write an output to the bucket, and read it back. So the object is what was decoded as a check.

        Raises:
            PageError: ``output``: the bucket has something else, also after a second try.
        """
        for _ in range(_STORE_TRIES):
            await self._outputs.put(name, data, token)
            with contextlib.suppress(PageError):
                if await asyncio.to_thread(self._digest_of, name) == sha256:
                    return
        raise PageError("output", "the bucket does not give back the output that was written to it")

    def _digest_of(self, name: str) -> str:
        return hashlib.sha256(self._outputs.read(name)).hexdigest()

    def _answer(self, outcome: PageOutcome) -> tuple[dict[str, Any], bytes]:
        assert self._executor is not None
        fields, data = outcome_fields(outcome)
        return {**fields, "busy": self._executor.busy(), "info": asdict(self._executor.info())}, data

    def _with_weights(self, setup: ActorSetup) -> JobSettings:
        files = dict(setup.rule_weights)
        if setup.weights is not None:
            files[setup.settings.model] = setup.weights
        if not files:
            return setup.settings
        self._folder = tempfile.TemporaryDirectory(prefix="comic-upscale-")
        names: dict[str, str] = {}
        for number, (name, content) in enumerate(files.items()):
            # Files of several folders may have one name.
            path = Path(self._folder.name, str(number), Path(name).name)
            path.parent.mkdir()
            path.write_bytes(content)
            names[name] = str(path)
        model = names.get(setup.settings.model, setup.settings.model)
        return with_models(replace(setup.settings, model=model), names)

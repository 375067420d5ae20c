"""A worker: claims jobs and runs them, until it is told to stop or has been idle for long.

It has two lanes. The main one runs jobs of either kind, as many at a time as `ServerSettings.worker_concurrency`. The
other is a reserve for interactive jobs: they start at once beside jobs of hours. All share their engines
(`worker/engines.py`).
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy.engine import Connection

from comic_upscale.errors import DatabaseError
from comic_upscale.execution.stop import StopRequest
from comic_upscale.server import queue, workers
from comic_upscale.server.database.engine import Database
from comic_upscale.server.database.migrate import is_current
from comic_upscale.server.files import FileStore
from comic_upscale.server.janitor import delete_folders
from comic_upscale.server.overrides import effective
from comic_upscale.server.services import open_database
from comic_upscale.server.settings import ServerSettings
from comic_upscale.server.storage import open_files
from comic_upscale.worker.devices import OwnUsage, describe_gpus
from comic_upscale.worker.engines import EngineCache
from comic_upscale.worker.job import JobRunner
from comic_upscale.worker.listen import SocketWorker
from comic_upscale.worker.weights import delete_unoffered

log = logging.getLogger(__name__)

LANES: tuple[queue.Lane, ...] = ("interactive", "batch")
LOOK_SECONDS = 0.3
"""How often an idle worker looks at the queue."""
RESERVE_LOOK_SECONDS = 0.1
"""How often the reserve for interactive jobs does: a reader waits for the page."""
SIGN_SECONDS = 3.0
"""How often a worker gives a sign of life."""
_DATABASE_WAIT_SECONDS = 2.0
_OLD = "a newer version of comic-upscale has changed the database: update this worker"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    """What a worker needs besides the settings of the server."""

    worker_id: str
    is_own: bool = False
    """Whether a server starts it, which then decides whether it is started again."""
    defaults: Mapping[str, Any]
    """Options of every job on this machine: ``workers``, ``weights_folders``, ``weights_cache``."""
    engines: EngineCache | None = None
    """Opens the engines of jobs; None for those of the registry."""


def work(settings: ServerSettings, options: WorkerOptions, stop: StopRequest) -> None:
    """Run jobs until a stop is requested or no job came for `ServerSettings.worker_idle_timeout` seconds.

    Args:
        settings: of the server; its database must have the schema of this version.
        options: of the worker.
        stop: lets the pages in progress finish, and gives the job back.

    Raises:
        DatabaseError: the database cannot be used at the start.
    """
    database = open_database(settings, migrating=False)
    try:
        _Worker(settings, options, stop, database, open_files(settings)).run()
    finally:
        database.close()


class _Worker:
    def __init__(
        self,
        settings: ServerSettings,
        options: WorkerOptions,
        stop: StopRequest,
        database: Database,
        files: FileStore,
    ) -> None:
        self._settings, self._stop, self._database = settings, stop, database
        self._id = options.worker_id
        self._home = workers.home_of(settings) if options.is_own else None
        self._engines = options.engines or EngineCache()
        self._main, *self._beside, self._reserve = (
            JobRunner(settings, options.defaults, database, files, stop, self._engines)
            for _ in range(settings.worker_concurrency + 1)
        )
        self._ended = threading.Event()
        self._is_idle = threading.Event()
        """No lane looks for another job."""
        self._is_drained = threading.Event()
        self._usage = OwnUsage()
        self._lock = threading.Lock()
        self._active = 0
        self._idle_since = time.monotonic()

    def run(self) -> None:
        # Of jobs that ended on other machines, and of models that were deleted. No job runs here yet.
        delete_folders(self._database, self._settings.data / "work")
        delete_unoffered(self._settings.data, self._database)
        self._database.write(lambda connection: workers.register(connection, self._id, self._home))
        signs = threading.Thread(target=self._give_signs, name="signs-of-life", daemon=True)
        signs.start()
        lanes = [
            threading.Thread(
                target=self._run_lane, args=(self._reserve, ("interactive",), RESERVE_LOOK_SECONDS)
            ),
            *(
                threading.Thread(target=self._run_lane, args=(runner, LANES, LOOK_SECONDS))
                for runner in self._beside
            ),
        ]
        if (path := self._settings.worker_socket) is not None:
            lanes.append(threading.Thread(target=self._listen, args=(path,), name="socket"))
        for lane in lanes:
            lane.start()
        try:
            self._run_jobs(self._main, LANES, LOOK_SECONDS)
        finally:
            self._is_idle.set()
            for lane in lanes:
                lane.join()
            self._engines.close()
            self._ended.set()
            signs.join()
            self._end()

    def _end(self) -> None:
        try:
            # No sign of life follows.
            page_done = self._has_new_page()
            self._database.write(lambda connection: workers.end(connection, self._id, page_done=page_done))
        except DatabaseError as error:
            # The supervisor records the end, too. Without one, leases and signs of life end by themselves.
            log.error("%s", error)

    def _run_lane(self, runner: JobRunner, lanes: Sequence[queue.Lane], look_seconds: float) -> None:
        try:
            self._run_jobs(runner, lanes, look_seconds)
        except BaseException:
            log.exception("a lane of the worker failed")
            self._stop.request("a lane of the worker failed")

    def _run_jobs(self, runner: JobRunner, lanes: Sequence[queue.Lane], look_seconds: float) -> None:
        while not self._stop.requested and not self._is_idle.is_set():
            try:
                claimed = self._claim(lanes)
            except DatabaseError as error:
                log.error("%s", error)
                time.sleep(_DATABASE_WAIT_SECONDS)
                continue
            if claimed is not None:
                self._count(1)
                try:
                    runner.run(claimed)
                finally:
                    self._count(-1)
            elif runner is self._main and self._has_been_idle():
                self._is_idle.set()
            else:
                time.sleep(look_seconds)

    def _listen(self, path: Path) -> None:
        """Take pages of runs on this machine, too."""
        stop = StopRequest()
        socket_worker = SocketWorker(path, self._engines, stop)

        async def serve() -> None:
            serving = asyncio.ensure_future(socket_worker.serve(None))
            while not (serving.done() or self._may_end(socket_worker)):
                if not socket_worker.idle_seconds:
                    # A run in progress keeps this process alive.
                    self._count(0)
                await asyncio.sleep(LOOK_SECONDS)
            if stop.requested:
                # A device that failed under a run is no better for the jobs of the server.
                self._stop.request(stop.reason or "the device failed")
            stop.request("the worker ends")
            await serving

        try:
            asyncio.run(serve())
        except Exception:
            # The jobs of the server matter more.
            log.exception("no run can use this worker over %s", path)

    def _may_end(self, socket_worker: SocketWorker) -> bool:
        """Return whether runs over the socket have to end. A drained worker finishes the run that it has."""
        finishes_run = self._is_drained.is_set() and not socket_worker.idle_seconds
        return self._stop.requested or (self._is_idle.is_set() and not finishes_run)

    def _count(self, change: int) -> None:
        """Count the jobs that run."""
        with self._lock:
            self._active += change
            self._idle_since = time.monotonic()

    def _has_been_idle(self) -> bool:
        with self._lock:
            idle = time.monotonic() - self._idle_since
            return not self._active and idle > self._settings.worker_idle_timeout

    def _claim(self, lanes: Sequence[queue.Lane]) -> queue.Claim | None:
        started, own = self._settings, [job_id for job_id in self._running() if job_id is not None]

        def has_work(connection: Connection) -> bool:
            if self._should_drain(connection):
                self._drain()
                return False
            limit = effective(connection, started).jobs_per_user
            return queue.has_work(
                connection, jobs_per_user=limit, lanes=lanes, besides=own
            ) or queue.has_abandoned(connection)

        def claim(connection: Connection) -> queue.Claim | None:
            if not is_current(connection):
                # Its jobs may have options that this version does not know, and would fail here for good.
                self._stop.request(_OLD)
                return None
            if self._should_drain(connection):
                return None
            limit = effective(connection, started).jobs_per_user
            return queue.claim(connection, self._id, jobs_per_user=limit, lanes=lanes, besides=own)

        # Reading first, so that an idle worker never takes the write lock.
        claimed = self._database.write(claim) if self._database.read(has_work) else None
        if self._stop.reason == _OLD:
            log.error("%s", _OLD)
        return claimed

    def _should_drain(self, connection: Connection) -> bool:
        return workers.is_drained(connection, worker_id=self._id, home=self._home)

    def _drain(self) -> None:
        """Let every lane end after the job that it runs."""
        if not self._is_drained.is_set():
            log.warning("drained: this worker takes no new job, and ends after those that it runs")
            self._is_drained.set()
            self._is_idle.set()

    def _runners(self) -> list[JobRunner]:
        return [self._main, *self._beside, self._reserve]

    def _running(self) -> list[str | None]:
        return [runner.job_id for runner in self._runners()]

    def _has_new_page(self) -> bool:
        return any(runner.has_new_page() for runner in self._runners())

    def _give_signs(self) -> None:
        while not self._ended.wait(SIGN_SECONDS):
            try:
                self._give_sign()
            except DatabaseError as error:
                log.error("%s", error)
            except Exception:
                # The next one may succeed. Without any, the worker would seem dead.
                log.exception("no sign of life")

    def _give_sign(self) -> None:
        job_id = next((job_id for job_id in self._running() if job_id is not None), None)
        sign = partial(
            workers.seen, worker_id=self._id, job_id=job_id, page_done=self._has_new_page(), devices=describe_gpus(),
            models=self._engines.models, memory=self._usage.memory(), cores=self._usage.cores(),
        )  # fmt: skip
        self._database.write(sign)

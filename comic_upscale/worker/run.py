"""A worker: claims jobs and runs them one after another, until it is told to stop or has been idle for long."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from comic_upscale.errors import DatabaseError
from comic_upscale.execution.stop import StopRequest
from comic_upscale.server import queue, workers
from comic_upscale.server.database.engine import Database
from comic_upscale.server.files import FileStore
from comic_upscale.server.janitor import delete_folders
from comic_upscale.server.services import open_database
from comic_upscale.server.settings import ServerSettings
from comic_upscale.server.storage import open_files
from comic_upscale.worker.devices import describe_gpus
from comic_upscale.worker.engines import EngineCache
from comic_upscale.worker.job import JobRunner

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.3
"""How often an idle worker looks at the queue."""
SIGN_SECONDS = 5.0
"""How often a worker gives a sign of life."""
_DATABASE_WAIT_SECONDS = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    """What a worker needs besides the settings of the server."""

    worker_id: str
    defaults: Mapping[str, Any]
    """Options of every job on this machine: ``workers``, ``weights_folders``, ``weights_cache``."""
    state_folder: Path
    """Records which jobs were run, as for commands."""
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
        self._runner = JobRunner(
            settings, options.defaults, options.state_folder, database, files, stop, options.engines
        )
        self._ended = threading.Event()

    def run(self) -> None:
        # Of jobs that ended on other machines.
        delete_folders(self._database, self._settings.data / "work")
        self._database.write(lambda connection: workers.register(connection, self._id))
        signs = threading.Thread(target=self._give_signs, name="signs-of-life", daemon=True)
        signs.start()
        try:
            self._run_jobs()
        finally:
            self._runner.close()
            self._ended.set()
            signs.join()
            self._end()

    def _end(self) -> None:
        try:
            self._database.write(lambda connection: workers.end(connection, self._id))
        except DatabaseError as error:
            # The supervisor records the end, too. Without one, leases and signs of life end by themselves.
            log.error("%s", error)

    def _run_jobs(self) -> None:
        idle_since = time.monotonic()
        while not self._stop.requested:
            try:
                claimed = self._claim()
            except DatabaseError as error:
                log.error("%s", error)
                time.sleep(_DATABASE_WAIT_SECONDS)
                continue
            if claimed is not None:
                self._runner.run(claimed)
                idle_since = time.monotonic()
            elif time.monotonic() - idle_since > self._settings.worker_idle_timeout:
                return
            else:
                time.sleep(LOOK_SECONDS)

    def _claim(self) -> queue.Claim | None:
        limit = self._settings.jobs_per_user
        # Reading first, so that an idle worker never takes the write lock.
        if not self._database.read(
            lambda connection: (
                queue.has_work(connection, jobs_per_user=limit) or queue.has_abandoned(connection)
            )
        ):
            return None
        return self._database.write(lambda connection: queue.claim(connection, self._id, jobs_per_user=limit))

    def _give_signs(self) -> None:
        while not self._ended.wait(SIGN_SECONDS):
            job_id, page_done = self._runner.current()
            sign = partial(
                workers.seen, worker_id=self._id, job_id=job_id, page_done=page_done, devices=describe_gpus(),
                models=self._runner.models,
            )  # fmt: skip
            try:
                self._database.write(sign)
            except DatabaseError as error:
                log.error("%s", error)

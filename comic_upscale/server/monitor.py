"""Looks at what requests must not wait for: the queue, the workers, the database, and the storage with its free space.

The looks take place in the background, each with a time limit, so that no request waits for a storage that does not
answer.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from sqlalchemy.engine import Connection

from comic_upscale.errors import ComicUpscaleError, DatabaseError
from comic_upscale.server import health, queue, workers
from comic_upscale.server.database.engine import Database
from comic_upscale.server.files import FileStore
from comic_upscale.server.ids import new_id

log = logging.getLogger(__name__)

T = TypeVar("T")

LOOK_SECONDS = 2.0
DATABASE_SECONDS = 3.0
"""A database that takes longer for the figures of the queue counts as away."""
STORAGE_SECONDS = 4.0
"""A storage that takes longer for one small file counts as away."""
WRITE_EVERY_SECONDS = 60.0
"""How often a small file is written. Between these, its size is asked for, which costs a bucket almost nothing."""
STUCK_SECONDS = 5.0
"""Jobs may wait this long without a worker that takes one."""
_FREE_SECONDS = 1.0
_ERROR_SECONDS = 0.5
"""Requests that waited for a failed look do not look again one after another."""
_MOST_OF_A_CORE = 0.05
"""The share of a core for the figures of a long queue, however many requests ask for them."""


class Monitor:
    """What is known about the parts of a server. Used on the event loop.

    Args:
        database: of the server.
        files: the storage of the server.
        jobs_per_user: returns the limit in force, for users without one of their own.
    """

    def __init__(self, database: Database, files: FileStore, jobs_per_user: Callable[[], int]) -> None:
        self._database, self._files, self._jobs_per_user = database, files, jobs_per_user
        self._free: float | None = None
        self._free_until = 0.0
        self._free_read: asyncio.Future[float | None] | None = None
        self._free_hangs = False
        self._figures = _Kept(_MOST_OF_A_CORE)
        self._storage = _StorageProbe(files)
        self._stuck_since: float | None = None
        self._stuck_reason = ""

    def problems(self) -> list[str]:
        """Return what is wrong with the storage and the queue, in sentences."""
        found = [] if self._storage.problem is None else [self._storage.problem]
        if self._stuck_since is not None and time.monotonic() - self._stuck_since >= STUCK_SECONDS:
            found.append(self._stuck_reason)
        return found

    async def free_percent(self) -> float | None:
        """Return the free share of the storage, at most a second old; None if it has no limit, or does not answer."""
        if time.monotonic() >= self._free_until:
            await self._read_free()
        return self._free

    async def _read_free(self) -> None:
        if self._free_read is None:
            self._free_read = asyncio.ensure_future(asyncio.to_thread(self._files.free_percent))
            self._free_hangs = False
        reading = self._free_read
        done, _ = await asyncio.wait([reading], timeout=0 if self._free_hangs else STORAGE_SECONDS)
        if not done:
            # Its thread cannot be stopped. Later requests see whether it has ended, and do not wait.
            self._free, self._free_hangs = None, True
        elif reading is self._free_read:
            self._free_read = None
            self._free = None if reading.exception() else reading.result()
            self._free_until = time.monotonic() + _FREE_SECONDS

    async def figures(self) -> dict[str, Any]:
        """Return the figures of the queue, as `health.queue_figures` reads them. With a long queue, they are older.

        Raises:
            DatabaseError: the database cannot be used, or does not answer.
        """

        async def read() -> dict[str, Any]:
            return await self._in_time(self._database.read_async(health.queue_figures))

        found: dict[str, Any] = await self._figures.get(read)
        return found

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            try:
                await self.look()
            except Exception:
                # The server goes on, which would end with this task.
                log.exception("health: an unexpected error")
            await asyncio.sleep(LOOK_SECONDS)

    async def look(self) -> None:
        """Look once at the storage and the queue."""
        await asyncio.gather(self._storage.look(), self._look_at_queue())

    def close(self) -> None:
        """Delete the file that was written for the looks. Blocks."""
        self._storage.close()

    async def _look_at_queue(self) -> None:
        limit = self._jobs_per_user()
        try:
            reason = await self._in_time(self._database.read_async(lambda c: _why_stuck(c, limit)))
        except DatabaseError:
            # The health report finds that out by itself.
            reason = None
        if reason is None:
            self._stuck_since = None
        elif self._stuck_since is None:
            self._stuck_since = time.monotonic()
        self._stuck_reason = reason or ""

    async def _in_time(self, work: Awaitable[T]) -> T:
        try:
            return await asyncio.wait_for(work, DATABASE_SECONDS)
        except TimeoutError:
            raise DatabaseError(f"the database did not answer in {DATABASE_SECONDS:g} seconds") from None


@dataclass(slots=True)
class _Kept:
    """A value that is read again after some time, an error soon. Who asks meanwhile waits for the same read."""

    share: float
    """Of one core, for reading it."""
    _value: Any = None
    _error: Exception | None = None
    _until: float = 0.0
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def get(self, read: Callable[[], Awaitable[Any]]) -> Any:
        async with self._lock:
            began = time.monotonic()
            if began >= self._until:
                try:
                    self._value, self._error = await read(), None
                    kept = (time.monotonic() - began) / self.share
                except Exception as error:
                    self._error, kept = error, _ERROR_SECONDS
                self._until = time.monotonic() + kept
            if self._error is not None:
                raise self._error
            return self._value


class _StorageProbe:
    """Writes, reads and deletes a small file now and then, and asks for its size between."""

    def __init__(self, files: FileStore) -> None:
        self._files = files
        self._running: asyncio.Future[None] | None = None
        self._key: str | None = None
        self._written_at = float("-inf")
        self.problem: str | None = None

    async def look(self) -> None:
        if self._running is None:
            self._running = asyncio.ensure_future(asyncio.to_thread(self._probe))
        done, _ = await asyncio.wait([self._running], timeout=STORAGE_SECONDS)
        if not done:
            # Its thread cannot be stopped. The next look waits for the same one.
            self.problem = "the storage does not answer, so uploads and results wait"
            return
        error = self._running.exception()
        self._running = None
        if error is None:
            self.problem = None
            return
        self._key = None
        if self.problem is None:
            log.error("the storage failed: %s", error)
        self.problem = "the storage cannot be used, so uploads are refused and jobs wait"

    def _probe(self) -> None:
        if self._key is not None and time.monotonic() - self._written_at < WRITE_EVERY_SECONDS:
            if self._files.size(self._key) is None:
                raise FileNotFoundError("a file that was just written is gone")
            return
        old, self._key = self._key, None
        key = f"probe/{new_id()}"
        content = key.encode()
        with self._files.create(key) as writer:
            writer.write(content)
            writer.commit()
        if b"".join(self._files.read(key, 0, len(content))) != content:
            raise ComicUpscaleError("the storage returned other bytes than were written")
        self._key, self._written_at = key, time.monotonic()
        if old is not None:
            self._files.delete(old)

    def close(self) -> None:
        """Delete the small file."""
        if self._key is not None:
            with suppress(Exception):
                self._files.delete(self._key)


def _why_stuck(connection: Connection, jobs_per_user: int) -> str | None:
    """Return why jobs wait that could run, in a sentence; None if none does."""
    if health.running_jobs(connection) or not queue.has_work(connection, jobs_per_user=jobs_per_user):
        return None
    if health.online_workers(connection):
        return "jobs wait, and no worker takes one"
    if workers.any_drained(connection):
        return "jobs wait, and the workers are drained: start them again on the page Workers"
    return "jobs wait, and no worker is online"

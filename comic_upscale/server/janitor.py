"""The janitor: deletes what has expired, and what a crash left behind, every half hour."""

from __future__ import annotations

import asyncio
import logging
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from comic_upscale.errors import ComicUpscaleError
from comic_upscale.server import queue, resumable, spent
from comic_upscale.server.database.engine import Database
from comic_upscale.server.database.schema import files, idempotency, jobs, now_ms, sessions, uploads, workers
from comic_upscale.server.files import FileStore
from comic_upscale.server.idempotency import KEEP_MS
from comic_upscale.server.jobs import ENDED, delete_job, keys_in_use
from comic_upscale.server.pictures import LIVE_DATA, LIVE_LIST

log = logging.getLogger(__name__)

EVERY_SECONDS = 1800.0
FIRST_SECONDS = 30.0
"""The first round waits this long, so that it does not slow down the start of a server."""
ORPHAN_SECONDS = 86_400.0
"""A stored file without a row counts as left behind after this long. An upload in progress has no row either."""
WORKERS_KEPT_MS = 7 * 86_400_000
_AT_ONCE = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Cleaned:
    """What a round has deleted."""

    jobs: int
    unfinished: int = 0
    """Resumable uploads that expired."""
    orphans: int
    """Files of the storage that no row names."""
    folders: int
    """Folders of jobs that no worker needs any more."""
    missing: int
    """Rows of files that the storage has lost; they stay, and the log names them."""


class Janitor:
    """Cleans up after jobs.

    Args:
        database: of the server.
        store: of the server.
        work: the folder with the folders of jobs.
    """

    def __init__(self, database: Database, store: FileStore, work: Path) -> None:
        self._database, self._store, self._work = database, store, work

    async def run(self) -> None:
        """Clean up soon and then every half hour, until cancelled."""
        await asyncio.sleep(FIRST_SECONDS)
        while True:
            try:
                cleaned = await asyncio.to_thread(self.clean)
                log.info("cleaned up: %s", cleaned)
            except (ComicUpscaleError, OSError) as error:
                log.error("the janitor could not clean up: %s", error)
            except Exception:
                # The server goes on, which would end with this task.
                log.exception("the janitor could not clean up: an unexpected error")
            await asyncio.sleep(EVERY_SECONDS)

    def clean(self) -> Cleaned:
        """Clean up once. Blocks.

        Raises:
            DatabaseError: the database cannot be used.
        """
        expired = self._delete_expired(_delete_some)
        unfinished = self._delete_expired(lambda connection: resumable.delete_expired(connection, _AT_ONCE))
        self._database.write(_delete_old_rows)
        for key in self._database.write(_delete_old_states):
            self._store.delete(key)
        orphans, missing = self._compare()
        return Cleaned(
            jobs=expired,
            unfinished=unfinished,
            orphans=orphans,
            folders=delete_folders(self._database, self._work),
            missing=missing,
        )

    def _delete_expired(self, delete_some: Callable[[Connection], tuple[list[str], int]]) -> int:
        """Delete what has expired, with its files, some in each transaction."""
        total = 0
        while True:
            keys, count = self._database.write(delete_some)
            for key in keys:
                self._store.delete(key)
            total += count
            if not count:
                return total

    def _compare(self) -> tuple[int, int]:
        """Delete stored files without a row, and count rows without a file."""
        stored: set[str] = set()
        orphans = 0
        listed = iter(self._store.list())
        while some := {file.key: file for file in islice(listed, _AT_ONCE)}:
            known = self._database.read(lambda connection, some=some: keys_in_use(connection, some))  # type: ignore[misc]
            stored |= known
            for key in some.keys() - known:
                if time.time() - some[key].changed_at > ORPHAN_SECONDS:
                    self._store.delete(key)
                    orphans += 1
        missing = 0
        for key in self._database.read(
            lambda connection: list(connection.scalars(sa.select(files.c.storage_key)))
        ):
            # A file that was stored after the list was made is there.
            if key not in stored and not self._exists(key):
                log.error("the storage has lost %s", key)
                missing += 1
        return orphans, missing

    def _exists(self, key: str) -> bool:
        # Its row may have been deleted together with it.
        return self._store.size(key) is not None or not self._database.read(
            lambda connection: keys_in_use(connection, [key])
        )


def delete_folders(database: Database, work: Path) -> int:
    """Delete the folders of jobs that no worker needs any more, and return their number. Blocks.

    Args:
        database: of the server.
        work: the folder with the folders of jobs, on this machine.

    Raises:
        DatabaseError: the database cannot be used.
    """
    if not work.is_dir():
        return 0
    names = [path.name for path in work.iterdir()]
    needed = database.read(
        lambda connection: set(
            connection.scalars(
                sa.select(jobs.c.id).where(jobs.c.id.in_(names), jobs.c.status.in_(("queued", "running")))
            )
        )
    )
    for name in set(names) - needed:
        shutil.rmtree(work / name, ignore_errors=True)
    return len(set(names) - needed)


def _delete_some(connection: Connection) -> tuple[list[str], int]:
    expired = list(
        connection.scalars(
            sa.select(jobs.c.id).where(jobs.c.expires_at < now_ms(), jobs.c.status.in_(ENDED)).limit(_AT_ONCE)
        )
    )
    keys: list[str] = []
    for job_id in expired:
        keys += delete_job(connection, job_id) or []
    # Uploads whose jobs are gone already.
    unused = list(
        connection.scalars(
            sa.select(uploads.c.id)
            .where(
                uploads.c.expires_at < now_ms(),
                ~sa.exists(sa.select(jobs.c.id).where(jobs.c.upload_id == uploads.c.id)),
            )
            .limit(_AT_ONCE)
        )
    )
    if unused:
        keys += connection.scalars(
            sa.delete(files).where(files.c.upload_id.in_(unused)).returning(files.c.storage_key)
        )
        spent.keep_uploads(connection, unused)
        connection.execute(sa.delete(uploads).where(uploads.c.id.in_(unused)))
    return keys, len(expired) + len(unused)


def _delete_old_rows(connection: Connection) -> None:
    queue.set_aside(connection)
    spent.forget_old(connection)
    connection.execute(sa.delete(idempotency).where(idempotency.c.created_at < now_ms() - KEEP_MS))
    connection.execute(sa.delete(sessions).where(sessions.c.expires_at < now_ms()))
    # A server whose worker is drained must not forget that.
    old = workers.c.ended_at < now_ms() - WORKERS_KEPT_MS, workers.c.drained_at.is_(None)
    connection.execute(sa.delete(workers).where(*old))


def _delete_old_states(connection: Connection) -> list[str]:
    """Delete what only running jobs need, saved states and live pictures, and return the keys of the files."""
    ended = sa.select(jobs.c.id).where(jobs.c.id == files.c.job_id, jobs.c.status.in_(ENDED))
    deleted = sa.delete(files).where(files.c.kind.in_(("state", LIVE_LIST, LIVE_DATA)), sa.exists(ended))
    return list(connection.scalars(deleted.returning(files.c.storage_key)))

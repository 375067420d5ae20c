"""Pictures of the pages of a job while it runs, so that people see each page as it comes.

A thread makes them from the ledger and the outputs on this machine, and puts a file of them and a list into the
storage every few seconds. The database takes them only from the holder of the claim. They count until the job ends:
its results then have pictures of their own, and these are deleted.
"""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from comic_upscale.errors import ComicUpscaleError, DatabaseError, PageError
from comic_upscale.jobs.job_files import Outputs, Sources, job_stores
from comic_upscale.ledger.queries import read_done_pages
from comic_upscale.server import jobs, queue
from comic_upscale.server.database.engine import Database
from comic_upscale.server.database.schema import files as files_table
from comic_upscale.server.database.schema import now_ms
from comic_upscale.server.files import FileStore, StoredFile, store_file
from comic_upscale.server.ids import new_id
from comic_upscale.server.pictures import (
    LIVE_DATA,
    LIVE_LIST,
    PagePictures,
    files_of_job,
    from_json,
    read_all,
    to_json,
)
from comic_upscale.settings.paths import default_ledger
from comic_upscale.worker.background import Background
from comic_upscale.worker.pictures import Blob, make_pictures

log = logging.getLogger(__name__)

MOST_PAGES = 500
"""Pages of a job that get pictures while it runs. Suspect ones get them up to twice this number."""
MOST_BYTES = 1 << 30
"""Bytes of these pictures in the storage."""
AT_ONCE = 8
"""Pages in one file, so that the first ones appear soon."""
INTERVAL = (1.5, 20.0)
"""Seconds between two files: at the beginning of a job, and later in a job of hours."""
SHARE = 0.1
"""The most of the worker's time that this takes: after a slow storage, the next file waits longer."""


class LivePictures(Background):
    """Pictures of one claimed job. Used as a context manager, it stores them until the end of its block.

    Args:
        database: of the server.
        store: of the server.
        claimed: the job.
        output: the output folder of the run, with its ledger.
    """

    def __init__(self, database: Database, store: FileStore, claimed: queue.Claim, output: Path) -> None:
        super().__init__("live-pictures")
        self._database, self._store, self._claimed = database, store, claimed
        self._output, self._ledger = output, default_ledger(output)
        self._known: set[str] = set()
        self._next = self._bytes = 0

    def look(self) -> int:
        """Store pictures of pages that are done since the last look, and return their number.

        Raises:
            LostLeaseError: another worker holds the job.
            ComicUpscaleError, OSError: the storage, the database or the ledger cannot be used now.
        """
        job, done = self._read()
        rows = self._choose(done)
        return self.store(lambda blob: self._make(job, rows, blob)) if rows else 0

    def store(self, make: Callable[[Blob], list[PagePictures]]) -> int:
        """Store pictures, and return the number of their pages; errors as for `look`.

        Args:
            make: makes them, and appends them to a file.
        """
        key = f"pictures/{self._claimed.job_id}/{self._claimed.fence}-live-{self._next}"
        with self._store.create(f"{key}-data") as writer:
            pages = make(Blob(writer))
            if not pages:
                return 0
            data = writer.commit()
        self._bytes += data.size
        self._record(key, data, pages)
        return len(pages)

    def remember(self) -> None:
        """Note the pages that have pictures, or that need none, because an earlier job made them."""
        found = self._database.read(lambda connection: files_of_job(connection, self._claimed.job_id))
        for each in found.live:
            self._next = int(each.list["position"]) + 1
            self._bytes += int(each.data["size"])
            self._known.update(page.name for page in from_json(read_all(self._store, each.list)))
        if self._claimed.job["input"] is not None and not found.live:
            self._known.update(str(row["source"]) for row in self._read()[1])

    def has(self, name: str) -> bool:
        """Return whether a page of this name has pictures, as far as `remember` found."""
        return name in self._known

    def _run(self) -> None:
        began = time.monotonic()
        self._quietly(self.remember)
        wait = INTERVAL[0]
        while not self._ended.wait(wait):
            start = time.monotonic()
            while self._quietly(self.look) == AT_ONCE and not self._ended.is_set():
                pass
            now = time.monotonic()
            usual = min(max((now - began) / 20, INTERVAL[0]), INTERVAL[1])
            wait = max(usual, (now - start) * (1 / SHARE - 1))

    def _quietly(self, work: Callable[[], int | None]) -> int | None:
        """Do something that a job can do without. What goes wrong is logged."""
        try:
            return work()
        except queue.LostLeaseError:
            # The heartbeat stops the job.
            self._ended.set()
        except (ComicUpscaleError, OSError, ValueError) as error:
            log.warning("job %s: no live pictures for now: %s", self._claimed.job_id, error)
        except Exception:
            log.exception("job %s: no live pictures", self._claimed.job_id)
            self._ended.set()
        return None

    def _read(self) -> tuple[Mapping[str, Any], list[dict[str, Any]]]:
        """Return the job and its finished pages; none before the ledger has a job."""
        if self._ledger.is_file() and self._bytes < MOST_BYTES:
            with suppress(ComicUpscaleError):
                return read_done_pages(self._ledger)
        return {}, []

    def _choose(self, done: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the pages that get pictures next."""
        room = MOST_PAGES - len(self._known)
        new = [row for row in done if row["source"] not in self._known]
        kept = [row for row in new if row.get("suspect") and len(self._known) < 2 * MOST_PAGES]
        kept += [row for row in new if not row.get("suspect")][: max(room, 0)]
        return kept[:AT_ONCE]

    def _make(self, job: Mapping[str, Any], rows: list[dict[str, Any]], blob: Blob) -> list[PagePictures]:
        stores = job_stores(self._ledger, job, self._output)
        outputs, pages = Outputs(stores.outputs), []
        with closing(Sources(job, stores.sources)) as sources:
            for row in rows:
                if self._ended.is_set():
                    return []
                self._known.add(row["source"])
                try:
                    pages.append(make_pictures(str(row["source"]), outputs.read(row), row, sources, blob))
                except (PageError, OSError, ValueError) as error:
                    log.warning("no live picture of %s: %s", row["source"], error)
        return pages

    def _record(self, key: str, data: StoredFile, pages: list[PagePictures]) -> None:
        stored = [data]
        number = self._next

        def write(connection: Connection) -> None:
            queue.check_claim(connection, self._claimed)
            now = connection.scalar(sa.select(now_ms()))
            connection.execute(
                sa.insert(files_table),
                [
                    {
                        "id": new_id(), "job_id": self._claimed.job_id, "kind": kind, "position": number,
                        "name": kind, "storage_key": file.key, "size": file.size, "sha256": file.sha256,
                        "created_at": now,
                    }
                    for kind, file in zip((LIVE_DATA, LIVE_LIST), stored, strict=True)
                ],
            )  # fmt: skip

        try:
            stored.append(store_file(self._store, f"{key}-list", io.BytesIO(to_json(pages))))
            self._database.write(write)
        except BaseException:
            jobs.discard_files(self._database, self._store, stored)
            raise
        self._next += 1


def delete_live(database: Database, store: FileStore, job_id: str) -> None:
    """Delete the live pictures of a job that has ended. Blocks."""
    which = files_table.c.job_id == job_id, files_table.c.kind.in_((LIVE_LIST, LIVE_DATA))
    try:
        keys = database.write(
            lambda connection: list(
                connection.scalars(sa.delete(files_table).where(*which).returning(files_table.c.storage_key))
            )
        )
    except DatabaseError as error:
        # The janitor deletes them.
        log.error("%s", error)
        return
    for key in keys:
        store.delete(key)

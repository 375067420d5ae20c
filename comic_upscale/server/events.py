"""Changes of jobs, for viewers that wait for them: one look at the database serves all viewers of this process.

An event is the whole state of a job. So a viewer that was away needs no history: it gets the present state if its
``revision`` differs from the one that it saw last.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from comic_upscale.errors import DatabaseError
from comic_upscale.server.database.engine import Database
from comic_upscale.server.database.schema import jobs, now_ms
from comic_upscale.server.jobs import ENDED, job_json, jobs_json

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.5
LOOKS_FOR_DELETED = 10
"""In each of so many looks, the hub also looks for followed jobs that were deleted: a row that is gone is no change."""
OVERLAP_MS = 5_000
"""How far each look goes back. A change becomes visible with its commit, which is later than its time."""
MOST_AT_ONCE = 50_000
"""Changes in one look. They are small: the jobs themselves are read only if somebody follows them."""
_AT_ONCE = 500


class Hub:
    """Tells viewers of changes. Used on the event loop; close it before the database.

    Args:
        database: of the server.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._viewers: set[_Viewer] = set()
        self._looking: asyncio.Task[None] | None = None
        self._is_closed = False

    @property
    def viewers(self) -> int:
        """The number of viewers."""
        return len(self._viewers)

    @property
    def is_closed(self) -> bool:
        """Whether streams must end."""
        return self._is_closed

    def close(self) -> None:
        """End all streams."""
        self._is_closed = True
        for viewer in self._viewers:
            viewer.changed.set()
        if self._looking is not None:
            self._looking.cancel()

    async def follow(self, job_id: str, seen: int | None) -> AsyncIterator[Mapping[str, Any]]:
        """Yield the state of a job now and after each change, until it ends or is deleted.

        Args:
            job_id: the job.
            seen: the revision that the viewer saw last; its state is not sent again.
        """
        viewer = _Viewer(job_id=job_id)
        self._add(viewer)
        try:
            job = await self._database.read_async(lambda connection: _state(connection, job_id))
            if job is not None and job["revision"] != seen:
                seen = None
            while job is not None and not self._is_closed:
                # A look that began before may tell of an older state.
                if seen is None or job["revision"] > seen:
                    seen = job["revision"]
                    yield job
                if job["status"] in ENDED:
                    return
                await viewer.changed.wait()
                viewer.changed.clear()
                job = viewer.take() or await self._database.read_async(
                    lambda connection: _state(connection, job_id)
                )
        finally:
            self._viewers.discard(viewer)

    async def follow_all(self, owner_id: str | None) -> AsyncIterator[Mapping[str, Any]]:
        """Yield the state of each job of a user, or of all users, whenever it changes from now on."""
        viewer = _Viewer(owner_id=owner_id, is_everything=owner_id is None)
        self._add(viewer)
        try:
            while not self._is_closed:
                await viewer.changed.wait()
                viewer.changed.clear()
                while (job := viewer.take()) is not None:
                    yield job
        finally:
            self._viewers.discard(viewer)

    def _add(self, viewer: _Viewer) -> None:
        self._viewers.add(viewer)
        if self._looking is None or self._looking.done():
            self._looking = asyncio.get_running_loop().create_task(self._look())

    async def _look(self) -> None:
        """Look for changes while there are viewers."""
        since: int | None = None
        told: dict[str, int] = {}
        for look in itertools.count(1):
            if not self._viewers or self._is_closed:
                return
            with suppress(DatabaseError):
                if look % LOOKS_FOR_DELETED == 0:
                    await self._wake_for_deleted()
                since, changes = await self._database.read_async(partial(_changes, since))
                new = [change for change in changes if told.get(change.job_id) != change.revision]
                told = {change.job_id: change.revision for change in changes}
                await self._tell(new)
            await asyncio.sleep(LOOK_SECONDS)

    async def _wake_for_deleted(self) -> None:
        """Let the viewers of deleted jobs see for themselves that there is nothing left to follow."""
        followed = {viewer.job_id for viewer in self._viewers if viewer.job_id is not None}
        if not followed:
            return
        left = await self._database.read_async(partial(_existing, list(followed)))
        for viewer in self._viewers:
            if viewer.job_id in followed - left:
                viewer.changed.set()

    async def _tell(self, changes: Sequence[_Change]) -> None:
        """Tell the viewers of changes, and read only the jobs that somebody follows."""
        followed = self._followed(changes)
        if not followed:
            return
        found = await self._database.read_async(partial(_states, list(followed)))
        for owner_id, job in found:
            for viewer in list(self._viewers):
                viewer.tell(owner_id, job)

    def _followed(self, changes: Sequence[_Change]) -> set[str]:
        """Return the ids of changed jobs that somebody follows. A busy server has many changes and many viewers."""
        if any(viewer.is_everything for viewer in self._viewers):
            return {change.job_id for change in changes}
        ids, owners = {each.job_id for each in self._viewers}, {each.owner_id for each in self._viewers}
        return {change.job_id for change in changes if change.job_id in ids or change.owner_id in owners}


@dataclass(frozen=True, slots=True)
class _Change:
    job_id: str
    owner_id: str
    revision: int


class _Viewer:
    """A viewer, with the latest state of each job that it has not taken yet. A slow one skips states."""

    def __init__(
        self, *, job_id: str | None = None, owner_id: str | None = None, is_everything: bool = False
    ) -> None:
        self.job_id, self.owner_id, self.is_everything = job_id, owner_id, is_everything
        self.changed = asyncio.Event()
        self._waiting: dict[str, Mapping[str, Any]] = {}

    def follows(self, owner_id: str, job_id: str) -> bool:
        return self.is_everything or job_id == self.job_id or owner_id == self.owner_id

    def tell(self, owner_id: str, job: Mapping[str, Any]) -> None:
        if self.follows(owner_id, job["job_id"]):
            self._waiting[job["job_id"]] = job
            self.changed.set()

    def take(self) -> Mapping[str, Any] | None:
        return self._waiting.pop(next(iter(self._waiting))) if self._waiting else None


def _state(connection: Connection, job_id: str) -> Mapping[str, Any] | None:
    row = connection.execute(sa.select(jobs).where(jobs.c.id == job_id)).mappings().first()
    return None if row is None else job_json(connection, dict(row))


def _changes(since: int | None, connection: Connection) -> tuple[int, list[_Change]]:
    now = connection.scalar(sa.select(now_ms())) or 0
    rows = connection.execute(
        sa.select(jobs.c.id, jobs.c.owner_id, jobs.c.revision)
        .where(jobs.c.updated_at >= (now if since is None else since) - OVERLAP_MS)
        .order_by(jobs.c.updated_at)
        .limit(MOST_AT_ONCE)
    )
    return now, [_Change(*row) for row in rows]


def _states(job_ids: Sequence[str], connection: Connection) -> list[tuple[str, Mapping[str, Any]]]:
    found: list[tuple[str, Mapping[str, Any]]] = []
    for some in _batched(job_ids):
        wanted = sa.select(jobs).where(jobs.c.id.in_(some)).order_by(jobs.c.updated_at)
        rows = [dict(row) for row in connection.execute(wanted).mappings()]
        shown = jobs_json(connection, rows)
        found += [(row["owner_id"], job) for row, job in zip(rows, shown, strict=True)]
    return found


def _existing(job_ids: Sequence[str], connection: Connection) -> set[str]:
    found: set[str] = set()
    for some in _batched(job_ids):
        found.update(connection.scalars(sa.select(jobs.c.id).where(jobs.c.id.in_(some))))
    return found


def _batched(items: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(items), _AT_ONCE):
        yield items[start : start + _AT_ONCE]

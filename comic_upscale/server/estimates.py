"""How long a job will take, from the jobs that this server has done."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from comic_upscale.errors import DatabaseError
from comic_upscale.server import trials
from comic_upscale.server.database.engine import Database
from comic_upscale.server.database.schema import jobs, uploads
from comic_upscale.server.queue import PRIORITY, Lane

_RECENT = 20
_LOOKED_AT = 200
"""Completed jobs among which those are looked for. Some have no time or no upload."""
KEEP_SECONDS = 1.0
"""How long an `Estimator` uses what it has read."""
_MOST_OF_A_CORE = 0.02
"""The share of a core that it may use for reading a long queue."""


class Estimator:
    """Estimates for uploads, from a snapshot of the queue that is a second old. Used on the event loop.

    Args:
        database: of the server.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._rate: float | None = None
        self._waiting: dict[str, float] = {}
        self._until = 0.0

    async def seconds_until_done(self, lane: Lane, size: int) -> float | None:
        """Return the expected seconds until a new job is done; None before the first job of the server was done.

        Args:
            lane: of the job, which is in the database already.
            size: bytes of its upload.
        """
        began = time.monotonic()
        if began >= self._until:
            # Other uploads need not read it as well.
            self._until = began + KEEP_SECONDS
            try:
                self._rate, self._waiting = await self._database.read_async(_read)
            except DatabaseError:
                # The upload is accepted already.
                return None
            took = time.monotonic() - began
            self._until = time.monotonic() + max(KEEP_SECONDS, took / _MOST_OF_A_CORE)
        else:
            self._waiting[lane] = self._waiting.get(lane, 0) + size
        return None if self._rate is None else round(self._waiting.get(lane, size) * self._rate, 1)


def _read(connection: Connection) -> tuple[float | None, dict[str, float]]:
    rate = seconds_per_byte(connection)
    if rate is None:
        return None, {}
    return rate, {lane: float(waiting_in(connection, lane)[0]) for lane in PRIORITY}


def seconds_until_done(connection: Connection, row: Mapping[str, Any]) -> float | None:
    """Return the expected seconds until a job is done, with the jobs before it; None before the first job was done.

    The server does not open the files, so it compares their bytes with those of recent jobs. A job waits for those of
    its own lane alone: interactive jobs run beside a batch job, and their pages go first.
    """
    rate = seconds_per_byte(connection)
    if rate is None:
        return None
    waiting, _ = waiting_in(
        connection, row["lane"], sa.or_(jobs.c.id == row["id"], jobs.c.created_at <= row["created_at"])
    )
    return round(float(waiting) * rate, 1)


def waiting_in(connection: Connection, lane: Lane, *which: sa.ColumnElement[bool]) -> tuple[int, int]:
    """Return the bytes of the uploads that wait or run in a lane, and the number of their jobs.

    Args:
        connection: of the database.
        lane: of the jobs.
        which: further conditions on the table of jobs.
    """
    size, count = connection.execute(
        sa.select(sa.func.coalesce(sa.func.sum(uploads.c.size), 0), sa.func.count())
        .join(jobs, uploads.c.id == jobs.c.upload_id)
        .where(jobs.c.status.in_(("queued", "running")), jobs.c.lane == lane, *which)
    ).one()
    return int(size), int(count)


def of_model(model: str) -> sa.ColumnElement[bool]:
    """Return whether a job has a model: it asked for it by this name, such as that of a family, or has used it."""
    return sa.or_(jobs.c.params["model"].as_string() == model, jobs.c.model == model)


def last_completed() -> sa.Select[Any]:
    """Return the query for the jobs that were completed last. Looking among all would read a large table."""
    return (
        sa.select(jobs.c.id)
        .where(jobs.c.status == "completed")
        .order_by(jobs.c.updated_at.desc())
        .limit(_LOOKED_AT)
    )


def seconds_per_byte_with(connection: Connection, params: Mapping[str, Any]) -> float | None:
    """Return how long a job with these options takes for a byte of its upload; None if none like it was done.

    Recent jobs with the same model count. The time grows with the pixels of the results, so jobs with another factor
    count, too. A size in pixels says nothing about other sizes.

    Args:
        connection: of the database.
        params: as `params.read_params` returns it.
    """
    alike = (
        sa.select(jobs.c.seconds, jobs.c.params, uploads.c.size)
        .join(uploads, uploads.c.id == jobs.c.upload_id)
        .where(jobs.c.id.in_(last_completed()), jobs.c.seconds > 0, of_model(str(params["model"])))
        # A trial takes one page several times.
        .where(jobs.c.params[trials.MODELS].as_string().is_(None))
        .order_by(jobs.c.updated_at.desc())
        .limit(_RECENT)
    )
    seconds = size = 0.0
    for row in connection.execute(alike):
        growth = _growth(row.params.get("size"), params.get("size"))
        if growth is not None:
            seconds, size = seconds + row.seconds * growth, size + row.size
    return seconds / size if size else None


def _growth(done: str | None, asked: str | None) -> float | None:
    """Return how many times the pixels of one size a page has in another one; None if that depends on the page."""
    if done == asked:
        return 1.0
    factors = [str(each).partition(" ") for each in (done, asked)]
    if any(kind != "scale" for kind, _, _ in factors):
        return None
    one, other = (float(factor) for _, _, factor in factors)
    return (other / one) ** 2


def seconds_per_byte(connection: Connection) -> float | None:
    """Return how long recent jobs took for a byte of their uploads; None before the first job was done."""
    last = (
        sa.select(jobs.c.seconds, jobs.c.upload_id, jobs.c.updated_at)
        # A trial takes one page several times.
        .where(jobs.c.status == "completed", jobs.c.params[trials.MODELS].as_string().is_(None))
        .order_by(jobs.c.updated_at.desc())
        .limit(_LOOKED_AT)
        .subquery()
    )
    recent = (
        sa.select(last.c.seconds, uploads.c.size)
        .join(uploads, uploads.c.id == last.c.upload_id)
        .where(last.c.seconds.is_not(None))
        .order_by(last.c.updated_at.desc())
        .limit(_RECENT)
        .subquery()
    )
    seconds, size = connection.execute(
        sa.select(sa.func.sum(recent.c.seconds), sa.func.sum(recent.c.size))
    ).one()
    if not seconds or not size:
        return None
    return float(seconds) / float(size)

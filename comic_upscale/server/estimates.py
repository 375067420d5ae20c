"""How long a job will take, from the jobs that this server has done."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from comic_upscale.server.database.schema import jobs, uploads
from comic_upscale.server.queue import Lane

_RECENT = 20


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


def seconds_per_byte(connection: Connection) -> float | None:
    """Return how long recent jobs took for a byte of their uploads; None before the first job was done."""
    recent = (
        sa.select(jobs.c.seconds, uploads.c.size)
        .join(uploads, uploads.c.id == jobs.c.upload_id)
        .where(jobs.c.status == "completed", jobs.c.seconds.is_not(None))
        .order_by(jobs.c.updated_at.desc())
        .limit(_RECENT)
        .subquery()
    )
    seconds, size = connection.execute(
        sa.select(sa.func.sum(recent.c.seconds), sa.func.sum(recent.c.size))
    ).one()
    if not seconds or not size:
        return None
    return float(seconds) / float(size)

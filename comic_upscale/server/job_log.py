"""The log of each job: what its workers did, for administrators. Functions take the connection of a transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from comic_upscale.server.database.schema import job_log, now_ms

MOST_LINES = 1000
"""Lines of a job. Later ones are dropped: the first ones tell how it began to fail."""
LONGEST_LINE = 2000
"""Characters of a line."""


def add(connection: Connection, job_id: str, lines: Sequence[str]) -> None:
    """Append lines to the log of a job."""
    count = sa.select(sa.func.count()).where(job_log.c.job_id == job_id)
    room = MOST_LINES - (connection.scalar(count) or 0)
    if room <= 0 or not lines:
        return
    for line in lines[:room]:
        connection.execute(sa.insert(job_log).values(job_id=job_id, at=now_ms(), line=line[:LONGEST_LINE]))


def read(connection: Connection, job_id: str, *, after: int, limit: int) -> list[dict[str, Any]]:
    """Return lines of a job in order.

    Args:
        connection: of the database.
        job_id: the job.
        after: the id of the last line of the page before this one; 0 for the first page.
        limit: the most lines.
    """
    rows = connection.execute(
        sa.select(job_log.c.id, job_log.c.at, job_log.c.line)
        .where(job_log.c.job_id == job_id, job_log.c.id > after)
        .order_by(job_log.c.id)
        .limit(limit)
    )
    return [dict(row) for row in rows.mappings()]

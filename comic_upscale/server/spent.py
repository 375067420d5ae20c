"""What deleted jobs and uploads took of the last 24 hours: deleting them gives no part of a daily limit back.

Functions take the connection of a transaction that writes.
"""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from comic_upscale.server.database.schema import jobs, now_ms, spent, uploads

DAY_MS = 86_400_000
_FIGURES = ("created_at", "finished_at", "status", "seconds", "pages_done", "pixels")
"""Columns that a job has under the same names."""


def keep_job(connection: Connection, job_id: str) -> None:
    """Note what a job took, before it is deleted."""
    day_ago = now_ms() - DAY_MS
    recent = sa.or_(jobs.c.created_at > day_ago, jobs.c.finished_at > day_ago)
    taken = sa.select(
        jobs.c.owner_id, sa.func.coalesce(jobs.c.pages_total, 0), *(jobs.c[name] for name in _FIGURES)
    ).where(jobs.c.id == job_id, recent)
    connection.execute(sa.insert(spent).from_select(["owner_id", "pages", *_FIGURES], taken))


def keep_uploads(connection: Connection, upload_ids: Sequence[str]) -> None:
    """Note what uploads took, before they are deleted."""
    taken = sa.select(uploads.c.owner_id, uploads.c.size, uploads.c.created_at).where(
        uploads.c.id.in_(upload_ids), uploads.c.created_at > now_ms() - DAY_MS
    )
    connection.execute(sa.insert(spent).from_select(["owner_id", "bytes", "created_at"], taken))


def forget_old(connection: Connection) -> None:
    """Delete what counts no more."""
    day_ago = now_ms() - DAY_MS
    connection.execute(
        sa.delete(spent).where(
            spent.c.created_at <= day_ago, sa.func.coalesce(spent.c.finished_at, 0) <= day_ago
        )
    )

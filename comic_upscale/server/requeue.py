"""Running a job again: a new job over the same upload, which keeps the record of the old one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from comic_upscale.server.database.schema import jobs, now_ms, users
from comic_upscale.server.ids import new_id
from comic_upscale.server.jobs import ENDED
from comic_upscale.server.params import model_for
from comic_upscale.server.queue import PRIORITY


def requeue(
    connection: Connection, row: Mapping[str, Any], changes: Mapping[str, Any]
) -> Mapping[str, Any] | None:
    """Queue a job that has ended again as a new job, and return its row; None if it has not ended.

    The new job looks at the same part of a folder. Its files are kept as long as those of the old one, counted from
    now. Those of an upload without an account are deleted when they would have been: otherwise a visitor could keep
    them for ever.

    Args:
        connection: in a transaction that writes.
        row: of the old job.
        changes: processing options that differ, as `params.read_changes` returns them.
    """
    if row["status"] not in ENDED:
        return None
    now = connection.scalar(sa.select(now_ms())) or 0
    expires_at = row["expires_at"]
    owner_role = connection.scalar(sa.select(users.c.role).where(users.c.id == row["owner_id"]))
    if expires_at is not None and owner_role != "anonymous":
        expires_at += now - row["created_at"]
    params = {**row["params"], **changes}
    if "denoise" in changes and "model" not in changes:
        params |= model_for(changes, params["model"])
    new = connection.execute(
        sa.insert(jobs)
        .values(
            id=new_id(), owner_id=row["owner_id"], upload_id=row["upload_id"], requeue_of=row["id"], lane=row["lane"],
            priority=PRIORITY[row["lane"]], status="queued", params=params, title=row["title"],
            created_at=now, updated_at=now, expires_at=expires_at,
            input=row["input"], output=row["output"], selection=row["selection"],
            callback_url=row["callback_url"], email=row["email"],
        )
        .returning(*jobs.c)
    ).mappings().one()  # fmt: skip
    return dict(new)


def of_model(connection: Connection, model: str, limit: int) -> list[Mapping[str, Any]]:
    """Return the jobs that a model did and that were not queued again, the oldest first."""
    again = jobs.alias("again")
    rows = connection.execute(
        sa.select(jobs)
        .where(
            jobs.c.model == model,
            jobs.c.status == "completed",
            ~sa.exists(sa.select(again.c.id).where(again.c.requeue_of == jobs.c.id)),
        )
        .order_by(jobs.c.created_at)
        .limit(limit)
    ).mappings()
    return [dict(row) for row in rows]

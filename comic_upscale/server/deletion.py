"""Deleting a user with everything that belongs to the user."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from comic_upscale.server.database.schema import (
    files,
    jobs,
    pieces,
    resumable,
    spent,
    uploads,
    users,
    watches,
)


def delete_user(connection: Connection, user: Mapping[str, Any]) -> list[str] | None:
    """Delete a user: jobs with originals and results, unfinished uploads, watched folders, keys and sessions.

    Args:
        connection: in a transaction that writes.
        user: the row.

    Returns:
        The keys of the files, which the caller deletes from the storage after the commit. None if a job of the user
        runs: its worker still writes files.
    """
    of_user = jobs.c.owner_id == user["id"]
    # A worker that claims one of them waits, and then finds none.
    statuses = connection.scalars(
        sa.select(jobs.c.status).where(of_user, jobs.c.status.in_(("queued", "running"))).with_for_update()
    )
    if "running" in list(statuses):
        return None
    own_jobs = sa.select(jobs.c.id).where(of_user)
    own_uploads = sa.select(uploads.c.id).where(uploads.c.owner_id == user["id"])
    own_parts = sa.select(resumable.c.id).where(resumable.c.owner_id == user["id"])
    keys: list[str] = []
    for table, which in (
        (files, sa.or_(files.c.job_id.in_(own_jobs), files.c.upload_id.in_(own_uploads))),
        (pieces, pieces.c.resumable_id.in_(own_parts)),
    ):
        keys += connection.scalars(sa.delete(table).where(which).returning(table.c.storage_key))
    # Those that refer to another one come first. Keys, sessions and logs go with what they belong to.
    for table in (watches, resumable, jobs, uploads, spent):
        connection.execute(sa.delete(table).where(table.c.owner_id == user["id"]))
    connection.execute(sa.delete(users).where(users.c.id == user["id"]))
    return keys

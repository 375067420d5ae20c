"""Deleting a user with everything that belongs to the user.

Functions take the connection of a transaction that writes. `begin` comes first, then `delete_some` in transactions of
their own until nothing is left, so that no other change waits for long, and `finish` in the end. A deletion that breaks
off leaves a blocked user, who can be deleted again.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from comic_upscale.server import sessions
from comic_upscale.server.database.schema import (
    files,
    jobs,
    now_ms,
    pieces,
    resumable,
    spent,
    uploads,
    users,
    watches,
)

_AT_ONCE = 200


def begin(connection: Connection, user_id: str) -> bool:
    """Block a user, cancel the jobs that wait, and end the watching of folders.

    Returns False, and changes nothing, if a job of the user runs: its worker still writes files.
    """
    _lock(connection, user_id)
    # A worker that claims one of them waits, and then finds none.
    found = connection.execute(
        sa.select(jobs.c.id, jobs.c.status)
        .where(jobs.c.owner_id == user_id, jobs.c.status.in_(("queued", "running")))
        .with_for_update()
    ).all()
    if any(row.status == "running" for row in found):
        return False
    connection.execute(sa.update(users).where(users.c.id == user_id).values(disabled=True))
    sessions.end_all(connection, user_id)
    # No mail or webhook reports them as canceled, because they are deleted in a moment.
    connection.execute(
        sa.update(jobs)
        .where(jobs.c.owner_id == user_id, jobs.c.status == "queued")
        .values(status="canceled", finished_at=now_ms(), updated_at=now_ms(), revision=jobs.c.revision + 1)
    )
    connection.execute(sa.delete(watches).where(watches.c.owner_id == user_id))
    return True


def delete_some(connection: Connection, user_id: str) -> list[str] | None:
    """Delete some jobs, uploads or unfinished uploads of a user; None if nothing is left but what runs.

    Returns the keys of the files, which the caller deletes from the storage after the commit.
    """
    # Those that refer to another one come first.
    for table in (resumable, jobs, uploads):
        wanted = sa.select(table.c.id).where(table.c.owner_id == user_id)
        if table is jobs:
            wanted = wanted.where(jobs.c.status != "running").with_for_update()
        elif table is uploads:
            wanted = wanted.where(~sa.exists(sa.select(jobs.c.id).where(jobs.c.upload_id == uploads.c.id)))
        ids = list(connection.scalars(wanted.limit(_AT_ONCE)))
        if not ids:
            continue
        if table is resumable:
            stored, which = pieces, pieces.c.resumable_id.in_(ids)
        else:
            stored, which = files, (files.c.job_id if table is jobs else files.c.upload_id).in_(ids)
        keys = list(connection.scalars(sa.delete(stored).where(which).returning(stored.c.storage_key)))
        connection.execute(sa.delete(table).where(table.c.id.in_(ids)))
        return keys
    return None


def finish(connection: Connection, user_id: str) -> list[str] | None:
    """Delete the user, with what a request that was under way has still added.

    Returns the keys of the files, which the caller deletes from the storage after the commit. None if a job of the
    user runs: then the caller undoes the transaction.
    """
    _lock(connection, user_id)
    running = sa.select(jobs.c.id).where(jobs.c.owner_id == user_id, jobs.c.status == "running").limit(1)
    keys: list[str] = []
    while (some := delete_some(connection, user_id)) is not None:
        keys += some
    # Asked after the rows of the others are locked and gone: no worker can claim one of them any more.
    if connection.execute(running).first() is not None:
        return None
    # Keys, sessions and logs go with what they belong to.
    for table in (watches, spent):
        connection.execute(sa.delete(table).where(table.c.owner_id == user_id))
    connection.execute(sa.delete(users).where(users.c.id == user_id))
    return keys


def _lock(connection: Connection, user_id: str) -> None:
    """Let nothing new refer to a user before the end of the transaction. A request that is under way waits for it."""
    connection.execute(sa.select(users.c.id).where(users.c.id == user_id).with_for_update())

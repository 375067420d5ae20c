"""Finding jobs among very many: by status, owner and a part of the title, with a bound on the work of a request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from comic_upscale.server.database.schema import files, jobs, now_ms, spent, users
from comic_upscale.server.jobs import Status
from comic_upscale.server.spent import DAY_MS

WINDOW = 10_000
"""Jobs among which one request looks for a part of a title. Any index for it would cost more with each upload."""

Place = tuple[int, str]
"""Time and id of a job in the list."""


@dataclass(frozen=True, slots=True)
class Found:
    """One page of a list of jobs."""

    rows: Sequence[Mapping[str, Any]]
    """Rows of jobs, the latest first; each with the name of its owner as ``owner``."""
    following: Place | None
    """Where the next page begins; None at the end of the list."""
    searched_to: int | None = None
    """The time of the last job that a search looked at, if older ones may have matches; milliseconds since 1970."""


def find_jobs(
    connection: Connection,
    *,
    owner_id: str | None,
    status: Status | None = None,
    text: str = "",
    before: Place | None = None,
    limit: int = 50,
) -> Found:
    """Return jobs, the latest first.

    Args:
        connection: of the database.
        owner_id: whose jobs; None for those of all users.
        status: only jobs with this status.
        text: only jobs with this part of a title. Cases do not count, for letters of ASCII on SQLite.
        before: the place of the last job of the page before this one.
        limit: the most jobs.
    """
    wanted: list[sa.ColumnElement[bool]] = []
    if owner_id is not None:
        wanted.append(jobs.c.owner_id == owner_id)
    if status is not None:
        wanted.append(jobs.c.status == status)
    if before is not None:
        wanted.append(sa.tuple_(jobs.c.created_at, jobs.c.id) < sa.tuple_(*before))
    order = (jobs.c.created_at.desc(), jobs.c.id.desc())
    if not text:
        rows = _rows(connection, sa.select(jobs.c.id).where(*wanted).order_by(*order).limit(limit))
        last = rows[-1] if len(rows) == limit else None
        return Found(rows, None if last is None else (last["created_at"], last["id"]))
    window = (
        sa.select(jobs.c.id, jobs.c.created_at, jobs.c.title)
        .where(*wanted).order_by(*order).limit(WINDOW).subquery()
    )  # fmt: skip
    matches = (
        sa.select(window.c.id)
        .where(window.c.title.icontains(text, autoescape=True))
        .order_by(window.c.created_at.desc(), window.c.id.desc())
        .limit(limit)
    )
    rows = _rows(connection, matches)
    if len(rows) == limit:
        return Found(rows, (rows[-1]["created_at"], rows[-1]["id"]))
    # An index alone answers this: it has no title.
    end = connection.execute(
        sa.select(jobs.c.created_at, jobs.c.id).where(*wanted).order_by(*order).offset(WINDOW - 1).limit(1)
    ).first()
    return Found(rows, None) if end is None else Found(rows, (end[0], end[1]), end[0])


def with_pictures(connection: Connection, job_ids: Sequence[str]) -> set[str]:
    """Return those of some jobs that have pictures of their pages."""
    wanted = sa.select(files.c.job_id).where(files.c.job_id.in_(job_ids), files.c.kind == "pictures")
    return set(connection.scalars(wanted))


def figures_of_day(connection: Connection) -> dict[str, Any]:
    """Return what the jobs that ended in the last 24 hours did, also those that were deleted since.

    ``completed``, ``failed`` and ``canceled`` count jobs, ``pages`` finished pages; ``seconds`` is the average time
    of a completed job, None without one. ``worked`` is the time of all of them together in seconds.
    """
    day_ago = now_ms() - DAY_MS
    parts = [
        sa.select(table.c.status, table.c.pages_done, table.c.seconds).where(
            *recent, table.c.finished_at > day_ago
        )
        # Every change of a job sets this time, and it has an index.
        for table, recent in ((jobs, [jobs.c.updated_at > day_ago]), (spent, []))
    ]
    ended = sa.union_all(*parts).subquery()
    row = connection.execute(
        sa.select(
            *(
                sa.func.count().filter(ended.c.status == status).label(status)
                for status in ("completed", "failed", "canceled")
            ),
            sa.func.coalesce(sa.func.sum(ended.c.pages_done), 0).label("pages"),
            sa.func.avg(ended.c.seconds).filter(ended.c.status == "completed").label("seconds"),
            sa.func.coalesce(sa.func.sum(ended.c.seconds), 0.0).label("worked"),
        )
    ).mappings().one()  # fmt: skip
    return dict(row)


def _rows(connection: Connection, ids: sa.Select[Any]) -> list[Mapping[str, Any]]:
    """Return the rows of some jobs in the order of their ids' query, which reads an index alone where there is one."""
    rows = connection.execute(
        sa.select(jobs, users.c.name.label("owner"))
        .join(users, users.c.id == jobs.c.owner_id)
        .where(jobs.c.id.in_(ids))
        .order_by(jobs.c.created_at.desc(), jobs.c.id.desc())
    )
    return [dict(row) for row in rows.mappings()]

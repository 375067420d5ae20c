"""Watched folders as records: creating, finding and changing them, and beginning a job because a folder has changed.

One server looks at a folder at a time: the one with its *lease*. A job begins in the transaction that stores what it
was begun for, and only for the holder of the lease, so a change never begins two jobs.

Functions take the connection of a transaction.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from comic_upscale.errors import SettingsError
from comic_upscale.server import audit, queue
from comic_upscale.server.accounts import Account, scopes_of
from comic_upscale.server.database.schema import is_over, jobs, now_ms, users, watches
from comic_upscale.server.database.schema import queue as queue_table
from comic_upscale.server.ids import new_id
from comic_upscale.server.jobs import create_folder_job, iso
from comic_upscale.server.library import may_use
from comic_upscale.server.quotas import QuotaError, check_quotas
from comic_upscale.server.settings import ServerSettings
from comic_upscale.watching.folder import pause_after_errors

MOST = 100
"""Watched folders of a server."""
LEASE_SECONDS = 60.0
RETRIED = frozenset(
    ("database", "device", "internal", "ledger", "ledgerbusy", "output", "storage", "weights")
)
"""Codes of failed jobs that may succeed without a change of the folder. They are tried again, later each time."""

_JOB = (
    jobs.c.status.label("job_status"),
    jobs.c.error_code.label("job_code"),
    jobs.c.error.label("job_error"),
    jobs.c.finished_at.label("job_finished_at"),
    jobs.c.pages_total.label("job_pages"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewWatch:
    """What a request asks for."""

    source: str
    """The real path of the folder."""
    output: str
    """The real path of the output folder."""
    params: Mapping[str, Any]
    """As `params.read_params` returns it."""
    settle: float
    """Seconds for which a file must not change before it is taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """What came of the wish to begin a job."""

    job_id: str | None = None
    """The job; None if none begins."""
    problem: str | None = None
    """Why none begins, in sentences; None if it waits for another job, or if another server took the folder over."""
    is_known: bool = False
    """Whether a job was begun for this very state of the folder before."""


def create(connection: Connection, account: Account, new: NewWatch) -> Mapping[str, Any]:
    """Store a watched folder, and return its row.

    Raises:
        SettingsError: another watched folder has the same output, or there are `MOST` of them.
    """
    # Two requests at a time would not see each other's row.
    connection.execute(sa.select(queue_table.c.id).where(queue_table.c.id == 1).with_for_update())
    outputs = list(connection.scalars(sa.select(watches.c.output)))
    if new.output in outputs:
        raise SettingsError(
            f"a watched folder has its results in {new.output} already: remove that one, or choose another output"
        )
    if len(outputs) >= MOST:
        raise SettingsError(
            f"a server watches at most {MOST} folders: remove one, or watch a folder above them"
        )
    watch_id = new_id()
    connection.execute(
        sa.insert(watches).values(
            id=watch_id, owner_id=account.user_id, input=new.source, output=new.output, params=dict(new.params),
            settle=new.settle, created_at=now_ms(),
        )
    )  # fmt: skip
    audit.record(connection, account, "watch.create", watch_id, input=new.source, output=new.output)
    return _one(connection, watch_id)


def find(connection: Connection, account: Account, watch_id: str) -> Mapping[str, Any] | None:
    """Return the row of a watched folder that the account may change, with its last job; None if there is none."""
    row = connection.execute(_rows().where(watches.c.id == watch_id)).mappings().first()
    if row is None or not (account.is_admin or row["owner_id"] == account.user_id):
        return None
    return dict(row)


def list_all(connection: Connection, owner_id: str | None = None) -> list[Mapping[str, Any]]:
    """Return watched folders with their last jobs, in the order of their paths.

    Args:
        connection: of the database.
        owner_id: whose folders; None for those of all users.
    """
    wanted = _rows().order_by(watches.c.input, watches.c.id)
    if owner_id is not None:
        wanted = wanted.where(watches.c.owner_id == owner_id)
    return [dict(row) for row in connection.execute(wanted).mappings()]


def set_paused(connection: Connection, account: Account, watch_id: str, *, paused: bool) -> None:
    """Pause or resume a watched folder. Resumed, it is looked at as if it had never been upscaled."""
    resumed = {"done": None, "has_results": False, "errors": 0, "holder": None, "lease_until": now_ms()}
    connection.execute(
        sa.update(watches)
        .where(watches.c.id == watch_id)
        .values(paused=paused, problem=None, **({} if paused else resumed))
    )
    audit.record(connection, account, "watch.pause" if paused else "watch.resume", watch_id)


def remove(connection: Connection, account: Account, watch_id: str) -> None:
    """Remove a watched folder. Its jobs and results stay."""
    row = connection.execute(
        sa.delete(watches).where(watches.c.id == watch_id).returning(watches.c.input)
    ).first()
    if row is not None:
        audit.record(connection, account, "watch.delete", watch_id, input=row.input)


def paths_watched(connection: Connection, paths: Collection[str]) -> set[str]:
    """Return those of some folders that are watched."""
    return set(connection.scalars(sa.select(watches.c.input).where(watches.c.input.in_(paths))))


def take(connection: Connection, holder: str, ids: Sequence[str]) -> set[str]:
    """Take or renew the leases of some watched folders, and return the ids of those that the holder has now."""
    free = sa.or_(watches.c.holder == holder, is_over(watches.c.lease_until, LEASE_SECONDS * 1000))
    taken = (
        sa.update(watches)
        .where(watches.c.id.in_(ids), ~watches.c.paused, free)
        .values(holder=holder, lease_until=now_ms() + int(LEASE_SECONDS * 1000))
    )
    return set(connection.scalars(taken.returning(watches.c.id)))


def end_leases(connection: Connection, holder: str | None = None) -> None:
    """End the leases of a server that stops; with no name those of all, if no other server can have one."""
    ended = sa.update(watches).values(lease_until=0)
    connection.execute(ended if holder is None else ended.where(watches.c.holder == holder))


def record(connection: Connection, holder: str, watch_id: str, **seen: Any) -> None:
    """Store what a look has found, if the holder still has the lease.

    Args:
        connection: in a transaction that writes.
        holder: the server that looked.
        watch_id: the watched folder.
        seen: columns.
    """
    connection.execute(
        sa.update(watches).where(watches.c.id == watch_id, watches.c.holder == holder).values(**seen)
    )


def may_try_again(row: Mapping[str, Any], now: int) -> bool:
    """Return whether the last job failed in a way that may have passed, and has waited for long enough."""
    return _is_retried(row) and now >= row["job_finished_at"] + int(pause_after_errors(row["errors"]) * 1000)


def is_unfinished(row: Mapping[str, Any]) -> bool:
    """Return whether the last job may have left pages out that it was begun for."""
    return row["job_id"] is not None and row["job_status"] != "completed"


def begin(
    connection: Connection,
    settings: ServerSettings,
    holder: str,
    watch_id: str,
    *,
    done: str,
    selection: Mapping[str, Any] | None,
) -> Begun:
    """Queue a job for a change, unless something is in its way.

    Args:
        connection: in a transaction that writes.
        settings: of the server, in force now.
        holder: the server that has seen the change.
        watch_id: the watched folder.
        done: the digest of the files once the job has looked at them.
        selection: the part of the folder that the job looks at; None for all of it.
    """
    held = sa.select(watches.c.id).where(
        watches.c.id == watch_id,
        watches.c.holder == holder,
        ~watches.c.paused,
        watches.c.lease_until > now_ms(),
    )
    if connection.execute(held.with_for_update()).first() is None:
        return Begun()
    row, now = _one(connection, watch_id), connection.scalar(sa.select(now_ms())) or 0
    if row["done"] == done and not _is_retried(row):
        return Begun(is_known=True)
    if _is_retried(row) and not may_try_again(row, now):
        return Begun()
    if queue.is_busy(connection, jobs.c.output == row["output"]):
        return Begun()
    account = _owner(connection, settings, row["owner_id"])
    if account is None:
        return Begun(problem="Its owner may not use the library any more, so no job begins.")
    if not account.is_admin:
        if queue.in_maintenance(connection):
            return Begun(problem="The server takes no uploads for now, so no job begins.")
        try:
            check_quotas(connection, account, 0)
        except QuotaError as error:
            return Begun(problem=f"No job begins: {error}.")
    job = create_folder_job(
        connection, account, source=row["input"], output=row["output"], params=row["params"], lane="batch",
        selection=selection,
    )  # fmt: skip
    audit.record(connection, account, "job.create", job["id"], input=row["input"], watch=watch_id)
    errors = row["errors"] + 1 if _is_retried(row) else 0
    connection.execute(
        sa.update(watches)
        .where(watches.c.id == watch_id)
        .values(done=done, job_id=job["id"], errors=errors, problem=None)
    )
    return Begun(job_id=job["id"])


def watch_json(row: Mapping[str, Any], now: int) -> dict[str, Any]:
    """Return a watched folder as the API shows it.

    Args:
        row: as `find` returns it.
        now: the time of the database.
    """
    problem = problem_of(row, now)
    return {
        "watch_id": row["id"],
        "owner": row["owner"],
        "input": row["input"],
        "output": row["output"],
        "params": row["params"],
        "settle": row["settle"],
        "state": state_of(row, problem),
        "problem": problem,
        "pages": row["pages"],
        "created_at": iso(row["created_at"]),
        "looked_at": iso(row["looked_at"]),
        "job_id": row["job_id"] if row["job_status"] is not None else None,
        "job_status": row["job_status"],
    }


def state_of(row: Mapping[str, Any], problem: str | None) -> str:
    """Return in a word how it is with a watched folder: ``paused``, ``working``, ``waiting`` or ``watching``."""
    if row["paused"]:
        return "paused"
    if row["job_status"] in ("queued", "running"):
        return "working"
    return "watching" if problem is None else "waiting"


def problem_of(row: Mapping[str, Any], now: int) -> str | None:
    """Return what keeps a watched folder from being looked at, or its job from success, in sentences; None if nothing.

    Args:
        row: as `find` returns it.
        now: the time of the database.
    """
    if row["paused"]:
        return None
    late = int(LEASE_SECONDS * 1000)
    if max(row["lease_until"], row["created_at"]) + late < now:
        return "No server looks at this folder. Start one with a --root above it."
    if row["problem"] is not None:
        return str(row["problem"])
    if not _is_retried(row):
        return None
    minutes = pause_after_errors(row["errors"]) / 60
    return f"The last job failed: {row['job_error']} It begins again {minutes:.0f} min after its end."


def _is_retried(row: Mapping[str, Any]) -> bool:
    return row["job_status"] == "failed" and row["job_code"] in RETRIED


def _rows() -> sa.Select[Any]:
    return (
        sa.select(watches, users.c.name.label("owner"), *_JOB)
        .join(users, users.c.id == watches.c.owner_id)
        .outerjoin(jobs, jobs.c.id == watches.c.job_id)
    )


def _one(connection: Connection, watch_id: str) -> Mapping[str, Any]:
    return dict(connection.execute(_rows().where(watches.c.id == watch_id)).mappings().one())


def _owner(connection: Connection, settings: ServerSettings, owner_id: str) -> Account | None:
    """Return the owner of a watched folder as who asks for its jobs; None if the owner may not."""
    row = connection.execute(
        sa.select(users.c.name, users.c.role).where(users.c.id == owner_id, ~users.c.disabled)
    ).first()
    if row is None:
        return None
    account = Account(user_id=owner_id, name=row.name, role=row.role, scopes=scopes_of(row.role))
    return account if may_use(settings, account) else None
